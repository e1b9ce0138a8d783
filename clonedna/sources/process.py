"""Git as a subprocess that a hostile repository cannot turn against us.

No hooks, no external diff, no textconv, no file-system monitor, no pager, no prompts, no lazy fetches, no configuration of the system;
bounds on time and output. What git prints is data.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from clonedna.core.errors import GitFailed, NoSpace, TimedOut

HARDENED = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false", "-c", "core.attributesFile=/dev/null",
    "-c", "protocol.ext.allow=never", "-c", "protocol.allow=user", "-c", "submodule.recurse=false", "-c", "diff.external=",
    "-c", "core.pager=cat", "-c", "core.sshCommand=ssh -oBatchMode=yes", "-c", "credential.helper=", "-c", "gc.auto=0",
    "-c", "core.quotePath=false", "-c", "log.showSignature=false", "-c", "safe.directory=*",
)  # fmt: skip
MAX_OUTPUT = 256_000_000


class Git:
    """Runs git for one repository directory (work tree or bare)."""

    def __init__(self, directory: Path | None, *, timeout: float) -> None:
        self.directory, self.timeout = directory, timeout

    def run(self, *arguments: str, stdin: bytes | None = None, timeout: float | None = None) -> bytes:
        """Standard output of one git command. Raises ``GitFailed`` (with git's last line), ``TimedOut``, ``NoSpace``."""
        try:
            done = subprocess.run(
                self.command(*arguments), input=stdin if stdin is not None else b"", capture_output=True, env=environment(),
                timeout=timeout or self.timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TimedOut(
                f"git {arguments[0]} took longer than {timeout or self.timeout:.0f} s", "raise the setting git_timeout"
            ) from None
        except FileNotFoundError:
            raise GitFailed("git is not installed", "install git and try again") from None
        if done.returncode:
            raise failure(arguments[0], done.stderr)
        if len(done.stdout) > MAX_OUTPUT:
            raise GitFailed(f"git {arguments[0]} printed more than {MAX_OUTPUT} bytes", "use a smaller repository")
        return done.stdout

    def text(self, *arguments: str, timeout: float | None = None) -> str:
        return self.run(*arguments, timeout=timeout).decode("utf-8", "replace")

    def command(self, *arguments: str) -> list[str]:
        where = ["-C", str(self.directory)] if self.directory else []
        return ["git", *where, *HARDENED, *arguments]

    def blobs(self, names: Sequence[str], most: int) -> Iterator[tuple[str, bytes | None]]:
        """``(name, content)`` of objects, from one process; ``None`` for what is missing, no blob, or over ``most`` bytes."""
        with subprocess.Popen(
            self.command("cat-file", "--batch-command", "--buffer"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment(),
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                for name in names:
                    process.stdin.write(b"info " + name.encode() + b"\nflush\n")
                    process.stdin.flush()
                    head = process.stdout.readline().split()
                    if len(head) != 3 or head[1] != b"blob" or int(head[2]) > most:
                        yield name, None
                        continue
                    process.stdin.write(b"contents " + name.encode() + b"\nflush\n")
                    process.stdin.flush()
                    size = int(process.stdout.readline().split()[2])
                    data = process.stdout.read(size)
                    process.stdout.read(1)
                    yield name, data
            finally:
                process.kill()


def environment() -> dict[str, str]:
    """What git may see: no configuration of system or user, no prompts, one language."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "SSH_AUTH_SOCK", "TMPDIR", "LANG") if key in os.environ}
    proxies = {
        key: value for key, value in os.environ.items() if key.casefold() in ("https_proxy", "http_proxy", "no_proxy")
    }
    certificates = {key: os.environ[key] for key in ("GIT_SSL_CAINFO", "SSL_CERT_FILE") if key in os.environ}
    return kept | proxies | certificates | {
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C.UTF-8",
        "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_LITERAL_PATHSPECS": "1", "GIT_PAGER": "cat",
        "GIT_ATTR_NOSYSTEM": "1",
    }  # fmt: skip


def failure(what: str, stderr: bytes) -> GitFailed | NoSpace:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith(("fatal:", "error:"))),
        lines[-1] if lines else "no message",
    )
    if "No space left" in last:
        return NoSpace(f"git {what}: {last}", "free some space and try again")
    return GitFailed(f"git {what}: {last[:300]}", "check that the repository is whole: git fsck")
