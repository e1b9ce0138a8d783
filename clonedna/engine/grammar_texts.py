"""From a request to a grammar in llguidance's words. Text in, text out: no model, no tokenizer, nothing is compiled here.

JSON is written with ``", "`` and ``": "`` and no other white space between its parts, since a small model would wander off in it. Tool
calls are in the Hermes form, ``<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>``, arguments by the tool's own schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from clonedna.core.errors import InputError, TooLarge
from clonedna.core.model import Guide, SampleRequest

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HEAD = '\n{"name": "'
MAX_TEXT = 256 << 10
STYLE: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
HINT = "see docs/structured-output.md for what a schema, regex or grammar may say"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a completion must be. ``text``: llguidance's list of grammars as JSON.

    ``lazy``: free words, and ``text`` from the end of each ``<tool_call>`` that is said to the end of that call. ``regexes``: the
    caller wrote some, which may be costly at any token.
    """

    text: str
    lazy: bool = False
    regexes: bool = True


def plan(request: SampleRequest, opening: int | None, closing: int | None) -> Plan | None:
    """``None`` when nothing constrains this request.

    ``opening``, ``closing``: the tokens of ``<tool_call>`` and ``</tool_call>`` where the tokenizer has them, else they are text.
    Raises ``InputError`` for what is no schema, no list of choices, no list of tools; ``TooLarge`` beyond ``MAX_TEXT`` characters.
    """
    calls = bool(request.tools) and request.tool_choice != "none"
    if request.guide is not None:
        if calls:
            raise InputError("an answer cannot both keep a format and call tools", "leave one of the two out")
        return _guided(request.guide)
    return _calling(request, opening, closing) if calls else None


def _guided(guide: Guide) -> Plan:
    if len(guide.text) > MAX_TEXT:
        raise TooLarge(f"the guide has {len(guide.text)} characters, at most {MAX_TEXT} are taken", HINT)
    if guide.kind == "json_object":
        return Plan(_grammars({"json_schema": _styled({"type": "object"})}), regexes=False)
    if guide.kind == "json_schema":
        schema = _json(guide.text, "the schema")
        if schema is False:
            raise InputError("nothing fits the schema false", HINT)
        if schema is not True and not isinstance(schema, dict):
            raise InputError("a JSON schema is an object, true or false", HINT)
        _check_exact(schema)
        return _plan({"json_schema": _styled({} if schema is True else schema)})
    if guide.kind == "choice":
        choices = _json(guide.text, "the list of choices")
        if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
            raise InputError("choices are a list of texts, none of them empty", HINT)
        return Plan(
            _grammars({"lark_grammar": "start: " + " | ".join(_literal(one) for one in choices)}), regexes=False
        )
    if guide.kind == "regex":
        return Plan(LLMatcher.grammar_from_regex(guide.text))
    return Plan(_grammars({"lark_grammar": guide.text}))


def _calling(request: SampleRequest, opening: int | None, closing: int | None) -> Plan:
    """``auto``: one call, once begun; ``required``: at least one call, and nothing but calls; ``tool``: one call of that name."""
    rules: list[str] = []
    schemas: list[dict[str, Any]] = []
    for tool in request.tools:
        name, schema = _signature(tool)
        if request.tool is None or name == request.tool:
            head = _literal(f'\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ')
            rules.append(f'{head} @tool_{len(schemas)} "}}\\n"')
            schemas.append({"name": f"tool_{len(schemas)}", "json_schema": _styled(schema)})
    if not schemas:
        raise InputError(f"no tool is called {request.tool!r}", "name one of tools")
    begin = f"<[{opening}]>" if opening is not None else _literal(OPEN)
    end = f"<[{closing}]>" if closing is not None else _literal(CLOSE)
    call = f"rest: ( {' | '.join(f'call_{i}' for i in range(len(rules)))} ) {end}\n"
    call += "\n".join(f"call_{i}: {rule}" for i, rule in enumerate(rules))
    lazy = request.tool is None and request.tool_choice == "auto"
    more = f'( "\\n" {begin} rest )*' if request.tool is None else ""
    start = "start: rest" if lazy else f"start: {begin} rest {more}"
    return _plan({"lark_grammar": f"{start}\n{call}"}, *schemas, lazy=lazy)


def _signature(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A tool's name, and the schema of its arguments, which are an object whatever else it says."""
    function: Any = tool.get("function", tool)
    name: Any = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError("a tool has no name", 'give each as {"type": "function", "function": {"name": ...}}')
    schema: Any = function.get("parameters") or {}
    if not isinstance(schema, dict):
        raise InputError(f"the parameters of tool {name!r} are no JSON schema", "give an object")
    kind: Any = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise InputError(f"the parameters of tool {name!r} are of type {kind!r}", "arguments are an object")
    _check_exact(schema)
    return name, schema | {"type": "object"}


def _plan(*grammars: dict[str, Any], lazy: bool = False) -> Plan:
    text = _grammars(*grammars)
    if len(text) > 2 * MAX_TEXT:  # of tools; what a guide says was counted before it was escaped
        raise TooLarge(f"the grammar has {len(text)} characters, at most {2 * MAX_TEXT} are taken", HINT)
    return Plan(text, lazy, regexes='"pattern' in text)


def _check_exact(schema: Any) -> None:
    """The library has numbers as binary64; an integer that must be met exactly and is none of them would come out as its neighbour."""
    waiting: list[tuple[Any, bool]] = [(schema, False)]
    while waiting:
        value, exact = waiting.pop()
        if isinstance(value, dict):
            waiting += [(one, exact or key in ("const", "enum")) for key, one in value.items()]
        elif isinstance(value, list):
            waiting += [(one, exact) for one in value]
        elif exact and isinstance(value, int) and abs(value) > 2**53:
            raise InputError(f"const and enum cannot have the integer {value}: beyond 2^53", "write it as a string")


def _grammars(*grammars: dict[str, Any]) -> str:
    return json.dumps({"grammars": list(grammars)})


def _styled(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with our way of writing JSON; what it says to llguidance itself (to be lenient, say) is not listened to."""
    return schema | {"x-guidance": STYLE}


def _literal(text: str) -> str:
    """As a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON ({error})", HINT) from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
