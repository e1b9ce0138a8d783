"""What is sent to vLLM's ``/v1/completions`` and how its answers are read. Arithmetic on values: no server is needed to test it.

Prompts go out as tokens and completions come back as tokens (``return_token_ids``); text, stop strings and what a turn's end is are
decided here, by the same code as in the local engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from clonedna.core.errors import InputError, Unavailable
from clonedna.core.model import Guide, SampleChunk, SampleRequest, TokenLogprob
from clonedna.engine.texts import Detokenizer, Row, StopStrings, Texts

_KIND = {"json_schema": "json", "regex": "regex", "choice": "choice", "lark": "grammar"}
_FINISH = {"stop": "stop", "length": "length", "abort": "cancelled"}


def sample_body(request: SampleRequest, prompt: Sequence[int], texts: Texts, vocabulary: int) -> dict[str, Any]:
    """The request without its model. Everything that the server may have a default of its own for is said.

    ``ignore_eos`` forbids the tokens that end a completion, as the local engine does: vLLM's ``min_tokens`` is what forbids them.
    """
    room = min(request.max_tokens, texts.context - len(prompt))
    body: dict[str, Any] = {
        "prompt": list(prompt), "max_tokens": room, "stream": True, "stream_options": {"include_usage": True},
        "return_token_ids": True, "return_tokens_as_token_ids": True, "stop_token_ids": sorted(texts.stops),
        "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k, "min_p": request.min_p,
        "presence_penalty": request.presence_penalty, "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty, "ignore_eos": request.ignore_eos,
        "min_tokens": room if request.ignore_eos else 0,
    }  # fmt: skip
    if request.temperature > 0:
        body["seed"] = request.seed % 2**63
    if request.logprobs:
        body["logprobs"] = request.top_logprobs
    if bias := {str(token): value for token, value in request.logit_bias if 0 <= token < vocabulary}:
        body["logit_bias"] = bias
    calls = bool(request.tools) and request.tool_choice != "none"
    if request.guide is not None and calls:
        raise InputError(
            "vLLM takes a guide or tools in one request, not both", "leave one out, or use the local engine"
        )
    if request.guide is not None:
        body["structured_outputs"] = guided(request.guide)
    elif calls:
        body["structured_outputs"] = {"structural_tag": json.dumps(call_grammar(request))}
    return body


def guided(guide: Guide) -> dict[str, Any]:
    """vLLM's ``structured_outputs`` for a guide. Raises ``InputError`` for a schema or choice that is not JSON."""
    if guide.kind == "json_object":
        return {"json_object": True}
    value: Any = guide.text
    if guide.kind in ("json_schema", "choice"):
        try:
            value = json.loads(guide.text)
        except ValueError as error:
            raise InputError(f"the guide's {guide.kind} is not JSON ({error})", "give JSON") from error
    return {_KIND[guide.kind]: value}


def call_grammar(request: SampleRequest) -> dict[str, Any]:
    """A structural tag that keeps each ``<tool_call>`` well-formed: a known name, and arguments that fit its schema.

    ``auto``: words until a call begins; ``required``: a call comes first; ``tool``: one call of that name, and nothing after it.
    """
    tags: list[dict[str, Any]] = []
    for given in request.tools:
        function: dict[str, Any] = given.get("function", given)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise InputError("a tool has no name", 'give each as {"type": "function", "function": {"name": ...}}')
        if request.tool is None or name == request.tool:
            begin = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": '
            schema = function.get("parameters") or {"type": "object"}
            content = {"type": "json_schema", "json_schema": schema}
            tags.append({"type": "tag", "begin": begin, "content": content, "end": "}\n</tool_call>"})
    if not tags:
        raise InputError(f"no tool is called {request.tool!r}", "name one of the tools that are given")
    must = request.tool is not None or request.tool_choice == "required"
    form = {
        "type": "triggered_tags", "triggers": ["<tool_call>"], "tags": tags, "at_least_one": must,
        "stop_after_first": request.tool is not None,
    }  # fmt: skip
    return {"type": "structural_tag", "format": form}


class Answer:
    """A completion as it comes in: events of the server in, chunks for the caller out."""

    def __init__(self, request: SampleRequest, prompt: Sequence[int], texts: Texts) -> None:
        self._request, self._texts, self._prompt = request, texts, len(prompt)
        self._detokenizer, self._stops = Detokenizer(texts), StopStrings(request.stop)
        self._count, self._cached = 0, None
        self._finish: str | None = None
        self.ended = False

    def add(self, event: dict[str, Any]) -> Iterable[SampleChunk]:
        """One chunk for each token of this event. Afterwards ``ended`` says whether a stop string was found, or all has been told."""
        usage: Any = event.get("usage")
        if isinstance(usage, dict):
            details: Any = cast("dict[str, Any]", usage).get("prompt_tokens_details") or {}
            self._cached = details.get("cached_tokens")
        for choice in event.get("choices") or ():
            yield from self._choice(choice)
            if self.ended:
                return

    def _choice(self, choice: dict[str, Any]) -> Iterable[SampleChunk]:
        tokens: list[int] | None = choice.get("token_ids")
        if tokens is None:
            raise Unavailable("the server gives no token ids", "use vLLM 0.32 or one that knows return_token_ids")
        reason = choice.get("finish_reason")
        if reason is not None:
            self._finish = _FINISH.get(reason)
            if self._finish is None:
                raise Unavailable(f"vLLM ended a request with {reason!r}", "see the server's log, then ask again")
        told: dict[str, Any] = choice.get("logprobs") or {}
        for at, token in enumerate(tokens):
            if token in self._texts.stops and not self._request.ignore_eos:
                return  # the end of the turn is no part of the completion, and nothing comes after it
            self._count += 1
            text, found = self._stops.add(self._detokenizer.add(token))
            yield SampleChunk(
                text=text, token=token, logprob=self._logprob(token, told, at) if self._request.logprobs else None
            )
            if found:
                self._finish, self.ended = "found", True
                return

    def last(self) -> SampleChunk:
        """What is left, the reason and the usage."""
        if self._finish is None:
            raise Unavailable("vLLM's answer ended without a reason", "see the server's log, then ask again")
        text, finish = "", self._finish
        if finish == "found":
            finish = "stop"
        elif finish != "cancelled":
            text, found = self._stops.add(self._detokenizer.rest())
            text, finish = (text, "stop") if found else (text + self._stops.rest(), finish)
        return SampleChunk(
            text=text, finish=finish, prompt_tokens=self._prompt, completion_tokens=self._count, cached_tokens=self._cached  # type: ignore[arg-type]
        )  # fmt: skip

    def _logprob(self, token: int, told: dict[str, Any], at: int) -> TokenLogprob:
        try:
            own = float(told["token_logprobs"][at])
            likeliest = [(_token(key), float(value)) for key, value in (told["top_logprobs"][at] or {}).items()]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Unavailable(f"vLLM's logprobs cannot be read ({error!r})", "use vLLM 0.32") from error
        likeliest.sort(key=lambda pair: -pair[1])
        top = tuple(self._told(*pair) for pair in likeliest[: self._request.top_logprobs])
        return self._told(token, own).model_copy(update={"top": top})

    def _told(self, token: int, logprob: float) -> TokenLogprob:
        piece = self._texts.piece(token)
        return TokenLogprob(token=token, text=piece.decode("utf-8", "replace"), bytes=tuple(piece), logprob=logprob)


def _token(key: str) -> int:
    return int(key.removeprefix("token_id:"))


def nll_body(row: Row) -> dict[str, Any]:
    """The request without its model: all tokens but the last as a prompt, and what the last would have cost as the next one.

    So a row as long as the context fits, which vLLM's rule of at least one token to come would not allow otherwise.
    """
    return {
        "prompt": list(row.ids[:-1]), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "logprobs": 1,
        "logprob_token_ids": [row.ids[-1]], "return_tokens_as_token_ids": True, "stream": False,
    }  # fmt: skip


def nll_of(told: dict[str, Any], row: Row) -> float:
    """Summed nats of the row's scored tokens. Raises ``Unavailable`` when the answer lacks one."""
    try:
        choice = told["choices"][0]
        inside = [
            float(choice["prompt_logprobs"][at][str(row.ids[at])]["logprob"])
            for at in range(row.start, len(row.ids) - 1)
        ]
        last = {_token(key): float(value) for key, value in choice["logprobs"]["top_logprobs"][0].items()}[row.ids[-1]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Unavailable(
            f"vLLM's answer lacks the probability of a token ({error!r})", "use vLLM 0.32 or newer"
        ) from error
    return -sum([*inside, last])
