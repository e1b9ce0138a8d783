"""One sampling request on its way: its prompt, its lane, its tokens so far, and where its chunks go."""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

import torch
from torch import Tensor

from clonedna.core.errors import DnaError
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.engine.choosing import changed, choose, is_plain, logprob_of
from clonedna.engine.lanes import Lane
from clonedna.engine.mixing import Mix
from clonedna.engine.shelf import Lease
from clonedna.engine.stacks import Block
from clonedna.engine.texts import Detokenizer, StopStrings, Texts


class Stream(Protocol):
    """Where a request's chunks go. ``closed``: nobody listens any more. ``behind``: chunks that were not taken yet."""

    closed: bool

    @property
    def behind(self) -> int: ...

    def put(self, item: SampleChunk | DnaError) -> None: ...


class Guidance(Protocol):
    """What a grammar allows next (``grammar.Guidance``)."""

    def mask(self) -> Tensor | None: ...

    def accept(self, token: int) -> None: ...

    @property
    def finished(self) -> bool: ...


class Sampling:
    """A request, its lease on adapters, and its state. Made anywhere; from then on only the owner's thread touches it."""

    def __init__(
        self, request: SampleRequest, prompt: list[int], stream: Stream, texts: Texts, lease: Lease, guidance: Guidance | None = None
    ) -> None:  # fmt: skip
        self.request, self.prompt, self.stream, self.lease = request, prompt, stream, lease
        self.room = min(request.max_tokens, texts.context - len(prompt))
        self.lane: Lane | None = None
        self.block: Block | Mix | None = None
        self.names: list[bytes] = []
        self.cached = self.kept = 0
        self.last = 0
        self.count = 0
        self.finished = False
        self.asked = self.told = time.monotonic()
        self.plain = is_plain(request) and guidance is None
        self._texts, self._guidance = texts, guidance
        self._detokenizer = Detokenizer(texts)
        self._stop_strings = StopStrings(request.stop)
        self._generator = torch.Generator().manual_seed(request.seed % 2**63)
        self._made: Counter[int] = Counter()

    @property
    def started(self) -> bool:
        """Whether the whole prompt has been computed."""
        return self.lane is not None and self.lane.length >= len(self.prompt)

    def advance(self, logits: Tensor, greatest: int | None = None) -> None:
        """Choose the next token from ``logits`` ``[vocabulary]`` and pass on what it makes certain. ``greatest``: its argmax."""
        token = greatest if self.plain and greatest is not None else self._choose(logits)
        if self.request.ignore_eos and token in self._texts.stops:
            token = self._choose(logits)
        if token in self._texts.stops and not self.request.ignore_eos:
            return self._end("stop", self._detokenizer.rest())
        self.last, self.count = token, self.count + 1
        self._made[token] += 1
        if self._guidance is not None:
            self._guidance.accept(token)
        text, found = self._stop_strings.add(self._detokenizer.add(token))
        told = logprob_of(logits, token, self.request.top_logprobs, self._texts) if self.request.logprobs else None
        self.stream.put(SampleChunk(text=text, token=token, logprob=told))
        if found:
            return self._finish("stop", "")
        if self._guidance is not None and self._guidance.finished:
            return self._end("stop", self._detokenizer.rest())
        if self.count >= self.room:
            return self._end("length", self._detokenizer.rest())
        return None

    def _choose(self, logits: Tensor) -> int:
        allowed = changed(logits, self.request, self.prompt, self._made, tuple(self._texts.stops))
        mask = self._guidance.mask() if self._guidance is not None else None
        if mask is not None:
            allowed = torch.where(mask[: len(allowed)].to(allowed.device), allowed, float("-inf"))
        return choose(allowed, self.request, self._generator)

    def _end(self, reason: str, rest: str) -> None:
        text, found = self._stop_strings.add(rest)
        self._finish("stop" if found else reason, text if found else text + self._stop_strings.rest())

    def _finish(self, reason: str, text: str) -> None:
        self.finished = True
        self.stream.put(
            SampleChunk(
                text=text, finish=reason, prompt_tokens=len(self.prompt), completion_tokens=self.count,  # type: ignore[arg-type]
                cached_tokens=self.cached,
            )
        )  # fmt: skip

    def cancel(self) -> None:
        if not self.finished:
            self._finish("cancelled", "")

    def fail(self, error: DnaError) -> None:
        if not self.finished:
            self.finished = True
            self.stream.put(error)
