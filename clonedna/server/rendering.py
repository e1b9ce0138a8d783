"""Sampled chunks as OpenAI's replies and stream events: chat (with tool calls) and plain completions.

A rendering belongs to one HTTP request. It takes ``(index, chunk)`` in the order they come; the choices of one prompt share its
``prompt_tokens``, which are counted once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from clonedna.app.blocks import Served
from clonedna.core.calls import CallArguments, CallReader, CallStarted, Piece, Words
from clonedna.core.errors import Internal
from clonedna.core.model import SampleChunk, TokenLogprob
from clonedna.server.replies import (
    CallDelta,
    Called,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    Delta,
    Finish,
    FunctionDelta,
    PromptDetails,
    Reply,
    TextChoice,
    TextLogprobs,
    TokenLogprobs,
    TopLogprob,
    Usage,
)


@dataclass(frozen=True)
class Shape:
    """What a rendering has to know of its request. ``n``: choices of each prompt."""

    model: str
    served: Served
    choices: int
    n: int = 1
    usage: bool = False
    tools: bool = False
    echo: tuple[str, ...] = ()


@dataclass
class _Choice:
    text: str = ""
    calls: list[Called] = field(default_factory=list[Called])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish: Finish | None = None
    reader: CallReader = field(default_factory=CallReader)


class _Rendering:
    """What both kinds share: the envelope and the count of tokens."""

    def __init__(self, shape: Shape, prefix: str) -> None:
        self._shape = shape
        # Read back, so that every field counts as set and is written.
        self._served = Served.model_validate(shape.served.model_dump())
        self._choices = [_Choice() for _ in range(shape.choices)]
        self._used: dict[int, SampleChunk] = {}
        self._told = False
        self._envelope: dict[str, Any] = {
            "id": f"{prefix}-{uuid4().hex}", "created": int(time.time()), "model": shape.model,
            "system_fingerprint": f"fp_{shape.served.base_fingerprint[:12]}",
        }  # fmt: skip

    def _finish(self, index: int, chunk: SampleChunk) -> None:
        if chunk.finish is not None:
            self._used[index] = chunk
            self._choices[index].finish = "length" if chunk.finish == "length" else "stop"

    def _usage(self) -> Usage:
        prompts = [chunk for index, chunk in self._used.items() if index % self._shape.n == 0]
        prompt = sum(chunk.prompt_tokens or 0 for chunk in prompts)
        made = sum(chunk.completion_tokens or 0 for chunk in self._used.values())
        cached = sum(chunk.cached_tokens or 0 for chunk in prompts)
        return Usage(
            prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )  # fmt: skip

    def _extra(self) -> dict[str, Any]:
        """What a stream's events carry beside their choices: the first says what served it; usage is ``null`` until the last."""
        extra: dict[str, Any] = {"usage": None} if self._shape.usage else {}
        if not self._told:
            self._told = True
            extra["served_by"] = self._served
        return extra

    def _finished(self, index: int) -> Finish:
        finish = self._choices[index].finish
        if finish is None:
            raise Internal("a choice ended without a reason", "please report it")
        return finish


class ChatRendering(_Rendering):
    """``chat.completion`` and its chunks."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, "chatcmpl")
        self._begun = [False] * shape.choices

    def add(self, index: int, chunk: SampleChunk) -> Sequence[ChatChunk]:
        choice = self._choices[index]
        pieces: list[Piece] = [Words(chunk.text)] if chunk.text else []
        if self._shape.tools:
            pieces = choice.reader.feed(chunk.text)
            pieces += choice.reader.end() if chunk.finish is not None else []
        self._keep(choice, pieces, chunk)
        self._finish(index, chunk)
        if choice.finish == "stop" and choice.calls:
            choice.finish = "tool_calls"
        deltas = [_delta(piece) for piece in pieces]
        if not self._begun[index]:
            self._begun[index] = True
            deltas.insert(0, Delta(role="assistant", content=""))
        if not deltas and chunk.logprob is not None:
            deltas.append(Delta(content=""))
        events = [self._event(index, delta) for delta in deltas]
        if chunk.logprob is not None:
            events[-1].choices[0].logprobs = ChatLogprobs(content=[_logprob(chunk.logprob)], refusal=None)
        if choice.finish is not None:
            events.append(self._event(index, Delta(), choice.finish))
        return events

    def whole(self) -> ChatCompletion:
        return ChatCompletion(
            **self._envelope, object="chat.completion", choices=[self._whole(i) for i in range(self._shape.choices)],
            usage=self._usage(), served_by=self._served,
        )  # fmt: skip

    def last(self) -> Sequence[ChatChunk]:
        if not self._shape.usage:
            return []
        return [ChatChunk(**self._envelope, object="chat.completion.chunk", choices=[], usage=self._usage())]

    def _keep(self, choice: _Choice, pieces: list[Piece], chunk: SampleChunk) -> None:
        for piece in pieces:
            match piece:
                case Words(text):
                    choice.text += text
                case CallStarted(_, call_id, name):
                    call = CalledFunction(name=name, arguments="")
                    choice.calls.append(Called(id=call_id, type="function", function=call))
                case CallArguments(_, text):
                    choice.calls[-1].function.arguments += text
        if chunk.logprob is not None:
            choice.logprobs.append(chunk.logprob)

    def _whole(self, index: int) -> ChatChoice:
        choice = self._choices[index]
        fields: dict[str, Any] = {"tool_calls": choice.calls} if choice.calls else {}
        content = None if choice.calls and not choice.text else choice.text
        listed = [_logprob(one) for one in choice.logprobs]
        return ChatChoice(
            index=index, message=Reply(role="assistant", content=content, refusal=None, **fields), finish_reason=self._finished(index),
            logprobs=ChatLogprobs(content=listed, refusal=None) if listed else None,
        )  # fmt: skip

    def _event(self, index: int, delta: Delta, finish: Finish | None = None) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=finish)
        return ChatChunk(**self._envelope, object="chat.completion.chunk", choices=[choice], **self._extra())


class TextRendering(_Rendering):
    """``text_completion``, whole and streamed. ``echo`` (a text for each prompt) stands before its choices."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, "cmpl")
        self._begun = [False] * shape.choices

    def add(self, index: int, chunk: SampleChunk) -> Sequence[Completion]:
        choice = self._choices[index]
        text = chunk.text
        if not self._begun[index]:
            self._begun[index] = True
            text = (self._shape.echo[index // self._shape.n] if self._shape.echo else "") + text
        start = len(choice.text)
        choice.text += text
        self._finish(index, chunk)
        if chunk.logprob is not None:
            choice.logprobs.append(chunk.logprob)
        if not (text or chunk.logprob or chunk.finish):
            return []
        logprobs = _old_logprobs([chunk.logprob], start) if chunk.logprob is not None else None
        made = TextChoice(index=index, text=text, logprobs=logprobs, finish_reason=choice.finish)
        return [Completion(**self._envelope, object="text_completion", choices=[made], **self._extra())]

    def whole(self) -> Completion:
        choices = [
            TextChoice(
                index=i, text=choice.text, finish_reason=self._finished(i),
                logprobs=_old_logprobs(choice.logprobs, 0) if choice.logprobs else None,
            )
            for i, choice in enumerate(self._choices)
        ]  # fmt: skip
        return Completion(
            **self._envelope, object="text_completion", choices=choices, usage=self._usage(), served_by=self._served
        )

    def last(self) -> Sequence[Completion]:
        if not self._shape.usage:
            return []
        return [Completion(**self._envelope, object="text_completion", choices=[], usage=self._usage())]


def _delta(piece: Piece) -> Delta:
    match piece:
        case Words(text):
            return Delta(content=text)
        case CallStarted(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            return Delta(tool_calls=[CallDelta(index=index, id=call_id, type="function", function=function)])
        case CallArguments(index, text):
            return Delta(tool_calls=[CallDelta(index=index, function=FunctionDelta(arguments=text))])


def _logprob(one: TokenLogprob) -> TokenLogprobs:
    top = [TopLogprob(token=t.text, logprob=t.logprob, bytes=list(t.bytes)) for t in one.top]
    return TokenLogprobs(token=one.text, logprob=one.logprob, bytes=list(one.bytes), top_logprobs=top)


def _old_logprobs(listed: Sequence[TokenLogprob], start: int) -> TextLogprobs:
    offsets: list[int] = []
    for one in listed:
        offsets.append(start)
        start += len(one.text)
    top = [{t.text: t.logprob for t in one.top} for one in listed]
    return TextLogprobs(
        tokens=[one.text for one in listed], token_logprobs=[one.logprob for one in listed],
        top_logprobs=top if any(top) else None, text_offset=offsets,
    )  # fmt: skip
