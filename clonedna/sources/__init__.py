"""The public record: git today. Nothing leaves this room without its URL, commit, path, line range, author and licence."""
