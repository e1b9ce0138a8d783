"""Random JSON schemas of the kinds that structured output is asked for. The same seed gives the same schema; something always fits it."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]
PATTERNS = [
    r"^[a-z]{2,6}-\d{1,3}$", r"^(foo|bar)+$", r"^[A-Z][a-z]*( [A-Z][a-z]*)?$", r"\d{2}", r"^#[0-9a-f]{6}$", r"^é[à-ü]{1,4}$", r"^\S+@\S+$",
    r'^"?\\n{0,2}$',
]  # fmt: skip
FORMATS = ["uuid", "ipv4", "ipv6", "email", "hostname", "duration"]
TEXTS = [
    "red",
    "a b",
    "",
    'say "hi"',
    "line\nbreak",
    "back\\slash",
    "naïve",
    "日本",
    "🙂",
    "</tool_call>",
    "null",
    "\u0001",
    "a/b~c",
]
NAMES = ["id", "name", "tags", "größe", 'quo"te', "with space", "a/b", "$ref", "x" * 30, "日本", "type"]


def schema(seed: int, *, tight: bool = False) -> Schema:
    """Nested objects, arrays, bounds, enums, patterns, references; an object, list or value at the root.

    ``tight``: so that even a model that never closes a string comes to an end soon.
    """
    draw = random.Random(seed)
    defs: dict[str, Schema] = {}
    if draw.random() < 0.4:
        defs["leaf"] = value(draw, 0, {})
        defs["node"] = {
            "type": "object", "required": ["value"], "additionalProperties": False,
            "properties": {"value": {"$ref": "#/$defs/leaf"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
        }  # fmt: skip
    root = thing(draw, 0, defs) if draw.random() < 0.7 else value(draw, 3, defs)
    made = {**root, "$defs": defs} if defs else root
    return tightened(made) if tight else made


def tightened(part: Any) -> Any:
    if isinstance(part, list):
        return [tightened(one) for one in part]
    if not isinstance(part, dict):
        return part
    part = {key: one if key in ("const", "enum") else tightened(one) for key, one in part.items()}
    kinds = part["type"] if isinstance(part.get("type"), list) else [part.get("type")]
    if "string" in kinds:
        part.setdefault("maxLength", 12)
    if "integer" in kinds or "number" in kinds:
        part = {
            "type": part["type"],
            "minimum": 0,
            "maximum": 50,
            "multipleOf": 1,
            **({"maxLength": 9} if "string" in kinds else {}),
        }
    if "array" in kinds:
        part["maxItems"] = part["minItems"] + 1
    if "object" in kinds:
        part["additionalProperties"] = False
    if "next" in part.get("properties", {}):
        part["properties"] = {"value": part["properties"]["value"], "next": {"type": "null"}}
    return part


def value(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    kinds = [text, text, number, integer, choice, constant, flag, nothing, union, several]
    if depth > 0:
        kinds += [thing, thing, many, many, pair]
    if defs:
        kinds += [reference]
    return draw.choice(kinds)(draw, depth - 1, defs)


def thing(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    names = draw.sample(NAMES, draw.randint(0 if depth < 0 else 1, 4))
    made: Schema = {"type": "object", "properties": {name: value(draw, max(depth, 2) - 1, defs) for name in names}}
    made["required"] = [name for name in names if draw.random() < 0.6]
    made["additionalProperties"] = False if draw.random() < 0.8 else value(draw, 0, {})
    if draw.random() < 0.3:
        made["title"], made["description"], made["default"] = "T", "words", {}
    return made


def many(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    low = draw.randint(0, 3)
    made: Schema = {"type": "array", "items": value(draw, depth, defs), "minItems": low}
    return made | ({"maxItems": low + draw.randint(0, 4)} if draw.random() < 0.8 else {})


def pair(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"type": "array", "prefixItems": [value(draw, depth, defs) for _ in range(2)], "items": False, "minItems": 2}


def text(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    kind = draw.randint(0, 3)
    if kind == 0:
        return {"type": "string", "pattern": draw.choice(PATTERNS), "maxLength": 30}
    if kind == 1:
        low = draw.randint(0, 10)
        return {"type": "string", "minLength": low, "maxLength": low + draw.randint(0, 20)}
    if kind == 2:
        return {"type": "string", "format": draw.choice(FORMATS), "maxLength": 60}
    return {"type": "string"}


def integer(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    made: Schema = {"type": "integer"}
    low = draw.randint(-1000, 1000)
    if draw.random() < 0.6:
        made[draw.choice(["minimum", "exclusiveMinimum"])] = low
    if draw.random() < 0.6:
        made[draw.choice(["maximum", "exclusiveMaximum"])] = low + draw.randint(10, 5000)
    if draw.random() < 0.2:
        made["multipleOf"] = draw.choice([2, 3, 5, 7])
    return made


def number(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    low = round(draw.uniform(-100, 100), draw.randint(0, 3))
    made: Schema = {"type": "number"}
    if draw.random() < 0.6:
        made["minimum"] = low
    if draw.random() < 0.6:
        made["maximum"] = round(low + draw.uniform(1, 50), 2)
    return made


def choice(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"enum": draw.sample([*TEXTS, 1, -7, 2.5, True, None, [1, "a"], {"k": [None]}], draw.randint(1, 6))}


def constant(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"const": draw.choice([*TEXTS, 0, 12, -0.5, False, None, [], {}, {"a": 1, "b": "c"}])}


def flag(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"type": "boolean"}


def nothing(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"type": "null"}


def union(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"anyOf": [value(draw, depth, defs) for _ in range(draw.randint(2, 3))]}


def several(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"type": draw.sample(["string", "integer", "boolean", "null"], 2), "description": "one of two"}


def reference(draw: random.Random, depth: int, defs: dict[str, Schema]) -> Schema:
    return {"$ref": f"#/$defs/{draw.choice(sorted(defs))}"}
