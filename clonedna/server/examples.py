"""An example of what a JSON schema describes: what it says itself (``examples``, ``default``, ``const``), else a plausible value.

Names that occur all over the API have values that fit together (``ada``, version ``1.0.0``). A test checks that each example made here
is what its schema allows.
"""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]
DEEPEST = 12
_DIGEST, _TIME = "0f1e2d3c" * 8, "2026-01-31T12:00:00Z"
NAMED: dict[str, Any] = {
    "name": "ada", "handle": "ada", "block": "ada@1.0.0", "reference": "ada", "version": "1.0.0", "base": "nano", "base_model": "nano",
    "model": "ada", "licence": "MIT", "license": "MIT", "scope": "read", "title": "A thread", "role": "user", "path": "README.md",
    "code": "block_not_found", "message": "no block 'adda'; closest: ada", "hint": "see all blocks with: dna ls",
    "content": "Write a function that adds two numbers.", "prompt": "def add(", "text": "Write a loop.",
    "url": "https://example.org/ada/shapes", "email": "ada@example.org", "job": "mint-20260131-120000000-0f1e2d",
    "id": _DIGEST, "sha256": _DIGEST, "digest": _DIGEST, "key_id": _DIGEST, "commit": _DIGEST[:40], "created_at": _TIME, "at": _TIME,
}  # fmt: skip
FORMATS: dict[str, Any] = {
    "date-time": "2026-01-31T12:00:00Z", "date": "2026-01-31", "uri": "https://example.org", "email": "ada@example.org",
    "uuid": "00000000-0000-4000-8000-000000000000", "binary": "(bytes)", "path": "README.md",
}  # fmt: skip
# What a string with a pattern can be: the first that fits.
CANDIDATES = (
    "ada", "1.0.0", "ada@1.0.0", _DIGEST, _DIGEST[:40], _DIGEST[:32], _DIGEST[:16], _DIGEST[:8], "7", "MIT", _TIME, "ada/shapes",
    "https://example.org", "mint-20260131-120000000-0f1e2d", "thread-" + _DIGEST[:16], "team-" + _DIGEST[:16], "AAAA", "cpu",
    "dna_" + "A" * 43, "ABCD-EFGH-JKLM-NPQR", "+0.1",
)  # fmt: skip


def example(schema: Json, schemas: Json, name: str = "", depth: int = 0) -> Any:
    """A value that ``schema`` allows; ``schemas`` are what it may refer to, ``name`` the field it is for."""
    if "$ref" in schema:
        called = schema["$ref"].rpartition("/")[2]
        return example(schemas[called], schemas, name, depth + 1)
    if schema.get("examples"):
        return schema["examples"][0]
    for key in ("example", "const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    if schema.get("enum"):
        return NAMED[name] if NAMED.get(name) in schema["enum"] else schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            kinds = [kind for kind in schema[key] if kind.get("type") != "null"] or schema[key]
            return example(kinds[0], schemas, name, depth + 1)
    return _of_type(schema, schemas, name, depth)


def _of_type(schema: Json, schemas: Json, name: str, depth: int) -> Any:
    match schema.get("type"):
        case "object":
            return _object(schema, schemas, depth)
        case "array":
            return _array(schema, schemas, name, depth)
        case "string":
            return _string(schema, name)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return {}


def _object(schema: Json, schemas: Json, depth: int) -> Json:
    """All required fields, and the others while it is not deep."""
    required = schema.get("required", [])
    fields = schema.get("properties", {})
    return {
        key: example(kind, schemas, key, depth + 1)
        for key, kind in fields.items()
        if key in required or (depth < 3 and not _nothing(kind))
    }


def _nothing(schema: Json) -> bool:
    """A field that is null unless it is given: left out."""
    return ("default" in schema and schema["default"] is None) or any(
        one.get("type") == "null" for one in schema.get("anyOf", [])
    )


def _array(schema: Json, schemas: Json, name: str, depth: int) -> list[Any]:
    if schema.get("prefixItems"):
        return [example(kind, schemas, name, depth + 1) for kind in schema["prefixItems"]]
    least = int(schema.get("minItems", 0))
    if depth > DEEPEST and not least:
        return []
    one = example(schema.get("items", {}), schemas, name.removesuffix("s"), depth + 1)
    return [one] * max(1, least)


def _string(schema: Json, name: str) -> str:
    known = FORMATS.get(schema.get("format", "")) or NAMED.get(name)
    text = known if isinstance(known, str) else name or "text"
    if pattern := schema.get("pattern"):
        return next((one for one in (text, *CANDIDATES) if re.search(pattern, one)), text)
    least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1 << 30))
    return text.ljust(least, "x")[:most]


def _number(schema: Json) -> int | float:
    least = schema.get("minimum", schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else None)
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = 1 if least is None else max(1, least)
    return value if most is None or value < most else (least if least is not None else most)
