"""Files that a person names: read whole, within a bound, or refused with what to give instead."""

from __future__ import annotations

from pathlib import Path

from clonedna.core.errors import InputError, TooLarge


def read_given(path: Path, most: int, instead: str) -> bytes:
    """A file's bytes. Raises ``InputError`` when it cannot be read, ``TooLarge`` over ``most`` bytes; ``instead`` is the next step."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{str(path)[:200]!r} cannot be read: {error.strerror}", instead) from error
    if len(data) > most:
        raise TooLarge(f"{str(path)[:200]!r} has more than {most} bytes", instead)
    return data
