"""Tokens and pairing codes: how they look, how they are drawn, and what is kept of them.

    dnat_1f2e3d4c5b6a_<43 characters: 256 random bits><6 characters: CRC-32 of all before>

The beginning is ours alone, so that scanners for secrets find one that was committed (``sources/secrets.py`` knows it); the check sum tells
a mistyped one, or something else that begins like this, without asking a database. The 12 digits are its id: they are no secret.

Only SHA-256 digests are kept. A slow hash (as for passwords) would add nothing: 256 random bits cannot be guessed from a digest, whatever
one guess costs, and every request would pay for it. A pairing code has 100 random bits, lives for minutes, and is kept the same way.
"""

from __future__ import annotations

import re
import secrets
import zlib

from clonedna.core.canonical import sha256

PREFIX = "dnat_"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET, _SUM = 43, 6  # 62**43 > 2**256, 62**6 > 2**32
_SHAPE = re.compile(rf"({PREFIX}([0-9a-f]{{12}})_[0-9A-Za-z]{{{_SECRET}}})([0-9A-Za-z]{{{_SUM}}})")
# Crockford's base32: no letter that is taken for a digit.
_CODE = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_LENGTH, _GROUP = 20, 5
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_id() -> str:
    """An id for a token: 12 random hex digits."""
    return secrets.token_hex(6)


def new_token(token_id: str) -> str:
    """A token with a new secret under this id."""
    body = f"{PREFIX}{token_id}_{_written(secrets.randbits(256), _SECRET)}"
    return body + _sum(body)


def id_of(token: str) -> str | None:
    """The id in a token, or ``None`` for what is none (another shape, a wrong check sum). It says nothing about the secret."""
    found = _SHAPE.fullmatch(token)
    return found[2] if found and found[3] == _sum(found[1]) else None


def token_digest(token: str) -> str:
    """What is kept of a token."""
    return sha256(token)


def is_token(token: str, digest: str | None) -> bool:
    """Whether this is the token that ``digest`` is kept of; takes as long for none."""
    return secrets.compare_digest(token_digest(token), digest or "-" * 64)


def new_code() -> str:
    """A pairing code, in groups of five: ``7K3QM-...``."""
    drawn = "".join(secrets.choice(_CODE) for _ in range(_CODE_LENGTH))
    return "-".join(drawn[at : at + _GROUP] for at in range(0, _CODE_LENGTH, _GROUP))


def code_digest(typed: str) -> str | None:
    """What is kept of the code that somebody typed, in whichever case and grouping; ``None`` for what is no code."""
    code = typed[:100].strip().upper().translate(_READ_AS)
    return sha256(f"pairing:{code}") if len(code) == _CODE_LENGTH and set(code) <= set(_CODE) else None


def _sum(body: str) -> str:
    return _written(zlib.crc32(body.encode()), _SUM)


def _written(number: int, length: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits.rjust(length, _DIGITS[0])
