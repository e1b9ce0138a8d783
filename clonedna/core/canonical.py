"""Canonical JSON (RFC 8785) and the digests taken over it.

One serialisation for everything that is hashed or signed, so that two machines that hold equal values hold equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785
from pydantic import BaseModel


def plain(value: Any) -> Any:
    """A value as plain JSON types (dict, list, str, int, float, bool, None)."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of ``value``. Raises ``rfc8785.CanonicalizationError`` for NaN, infinities and integers over 2**53."""
    return rfc8785.dumps(plain(value))


def lasting(value: BaseModel) -> dict[str, Any]:
    """A value as plain JSON types: its ``format``, if it has one, and all that is not as it is by default.

    What is signed or named by its digest, and read again by later versions, is written so: a field that they add changes none of it.
    """
    told = value.model_dump(mode="json", include={"format"})
    return told | value.model_dump(mode="json", exclude_defaults=True)


def digest(value: Any) -> str:
    """Hex SHA-256 over the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sha256(data: bytes | str) -> str:
    """Hex SHA-256 of bytes, or of a text's UTF-8 bytes."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


class DuplicateKey(ValueError):
    """A JSON object names the same key twice: two readers could see two different values."""


def strict_json(data: bytes | str) -> Any:
    """Parse JSON and refuse duplicate keys and NaN/Infinity. Raises ``ValueError`` (``DuplicateKey`` among them)."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, item in items:
            if key in seen:
                raise DuplicateKey(f"duplicate key {key!r}")
            seen[key] = item
        return seen

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(data, object_pairs_hook=pairs, parse_constant=constant)
