"""Structured output: a request's grammar decides which tokens may come next, so that what comes out parses.

By llguidance (Earley parser over the tokenizer's own vocabulary). A completion that ends with ``stop`` fits its guide from the first
character to the last; one that ends with ``length`` was cut. JSON is written with ``", "`` and ``": "`` and no other white space between
its parts: a small model would otherwise wander off in it. No ``$ref`` is ever fetched. Keywords of JSON Schema that the library cannot
keep are refused by name; annotations (``title``, ``description``, ``default``, ``examples``) bind nothing.

Tool calls are in the Hermes form, ``<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>``, arguments by the tool's own schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clonedna.core.errors import InputError, Internal
from clonedna.core.model import Guide, SampleRequest

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_TEXT = 256 << 10
STYLE: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
HINT = "see docs/structured-output.md for what a schema, regex or grammar may say"


class Grammars:
    """One base's tokenizer, prepared for grammars. ``stops`` end a completion; ``vocabulary`` is the width of the logits. Thread-safe."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: Collection[int], vocabulary: int) -> None:
        size = max(vocabulary, len(tokenizer))
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(stops))
        added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
        self._open, self._close = added.get(OPEN), added.get(CLOSE)
        self._limits = LLParserLimits(verbose_errors=False)

    def compile(self, request: SampleRequest) -> Guidance | None:
        """What guides this request; ``None`` when nothing does. Raises ``InputError`` with what is wrong in schema, regex or grammar."""
        if request.guide is not None:
            if request.tools and request.tool_choice != "none":
                raise InputError("an answer cannot both keep a format and call tools", "leave one of the two out")
            return Guidance(self._matcher(self._grammar(request.guide)))
        if not request.tools or request.tool_choice == "none":
            return None
        calls = self._calls(request.tools, request.tool)
        if request.tool_choice == "required" or request.tool is not None:
            return Guidance(self._matcher(f"start: {self._opening} body\n{calls}"))
        if self._open is None:  # plain text: the parser itself looks for the opening words
            lazy = f"start: call* rest\nrest: TEXT\nTEXT: /(.|\\n)*/\nhead[lazy]: TEXT {json.dumps(OPEN)}\ncall: head one\n{calls}"
            return Guidance(self._matcher(lazy))
        rest = self._matcher(f"start: body\n{calls}")
        return Guidance(rest, trigger=self._open)

    @property
    def _opening(self) -> str:
        return OPEN if self._open is not None else json.dumps(OPEN)

    def _calls(self, tools: Sequence[dict[str, Any]], named: str | None) -> str:
        """Rules ``one`` (what follows an opening up to its closing) and ``body`` (one, and any number of further calls)."""
        schemas: list[dict[str, Any]] = []
        for tool in tools:
            function = tool.get("function", tool)
            name = function.get("name")
            if not isinstance(name, str):
                raise InputError("a tool has no name", "give tools as OpenAI's API has them")
            if named is None or name == named:
                schemas.append(
                    {
                        "type": "object", "required": ["name", "arguments"], "additionalProperties": False,
                        "properties": {"name": {"const": name}, "arguments": function.get("parameters") or {"type": "object"}},
                    }
                )  # fmt: skip
        if not schemas:
            raise InputError(f"no tool is called {named!r}", "name one of the tools")
        # A tool's own $defs are reached from its own root: each schema is a grammar by itself.
        rules = [f"call_{i}: %json {self._schema(json.dumps(schema))}" for i, schema in enumerate(schemas)]
        closing = CLOSE if self._close is not None else json.dumps(CLOSE)
        choice = " | ".join(f"call_{i}" for i in range(len(schemas)))
        return "\n".join(
            [f'one: "\\n" ( {choice} ) "\\n" {closing}', f'body: one ( "\\n" {self._opening} one )*', *rules]
        )

    def _grammar(self, guide: Guide) -> str:
        if len(guide.text) > MAX_TEXT:
            raise InputError(f"the guide has {len(guide.text)} characters, at most {MAX_TEXT} are taken", HINT)
        if guide.kind == "json_object":
            return LLMatcher.grammar_from_json_schema('{"type": "object"}', overrides=STYLE)  # type: ignore[arg-type]
        if guide.kind == "json_schema":
            return LLMatcher.grammar_from_json_schema(self._schema(guide.text), overrides=STYLE)  # type: ignore[arg-type]
        if guide.kind == "regex":
            return LLMatcher.grammar_from_regex(guide.text)
        if guide.kind == "choice":
            choices = _json(guide.text, "the list of choices")
            if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
                raise InputError("choices are a list of strings, none of them empty", HINT)
            return "start: " + " | ".join(json.dumps(one) for one in choices)
        return LLMatcher.grammar_from_lark(guide.text)

    @staticmethod
    def _schema(text: str) -> str:
        """The schema with this module's way of writing JSON in it; only objects and booleans are schemas."""
        schema = _json(text, "the schema")
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        if not isinstance(schema, dict):
            raise InputError("a JSON schema is an object", HINT)
        return json.dumps(schema | {"x-guidance": STYLE})

    def _matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise InputError(f"this cannot guide an answer: {matcher.get_error().strip().splitlines()[0][:300]}", HINT)
        return matcher


class Guidance:
    """The state of one request. ``trigger``: the token that begins what is guided; until it comes, all tokens are free."""

    def __init__(self, matcher: LLMatcher, trigger: int | None = None) -> None:
        self._matcher, self._trigger = matcher, trigger
        self._free = trigger is not None

    def mask(self) -> Tensor | None:
        """Bool ``[vocabulary]``, true where a token may come next; ``None``: any. Raises ``InputError`` when the grammar asks too much."""
        if self._free:
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise InputError(f"the guide became too complex: {self._error()}", HINT)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little").view(np.bool_))

    def accept(self, token: int) -> None:
        """Go on with the token that was chosen. Raises ``Internal`` for one that was not allowed."""
        if self._free:
            self._free = token != self._trigger
        elif not self._matcher.consume_token(token):
            raise Internal(f"token {token} does not fit the guide: {self._error()}")

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return not self._free and self._matcher.is_stopped()

    def _error(self) -> str:
        return (self._matcher.get_error().strip().splitlines() or ["no reason given"])[0][:300]


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON ({error})", HINT) from error
