"""Files that the settings name to extend what the program brings: read within bounds, refused with the setting to correct."""

from __future__ import annotations

from pathlib import Path

from clonedna.core.errors import BadConfig


def read_extension(path: Path, most: int, setting: str) -> bytes:
    """The bytes of the file that ``setting`` names, at most ``most`` and one more. Raises ``BadConfig`` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise BadConfig(
            f"cannot read {path}, which {setting} names: {error.strerror}", f"correct {setting}, or remove it"
        ) from None
