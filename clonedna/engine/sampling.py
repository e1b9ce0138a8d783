"""Sampling: many requests decode together, and each gets the tokens it would get alone.

Prompts are run one by one. Decoding always runs steps of one width, a token for each request, filled up with idle ones: equal
shapes take equal paths through the matrix library, so a request's logits do not depend, to the last bit, on who is beside it. The
price is that a lone request computes the idle tokens too; an engine for one reader at a time is opened with width 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from clonedna.core.errors import DnaError, Internal
from clonedna.core.model import Layer, SampleChunk, SampleRequest
from clonedna.engine.model import LoadedModel, Path
from clonedna.engine.step import KeyValues, Part
from clonedna.engine.texts import Detokenizer, StopStrings, Texts

WIDTH = 8
ACTIVE = 64
PROMPT_TOKENS = 512
BEHIND = 256


Lease = Callable[
    [Sequence[Layer]], tuple[Path, Callable[[], None]]
]  # slots and weights of layers, and what gives them back


class Stream(Protocol):
    """Where a request's chunks go. ``closed``: nobody listens any more. ``behind``: chunks that were not taken yet."""

    closed: bool

    @property
    def behind(self) -> int: ...

    def put(self, item: SampleChunk | DnaError) -> None: ...


class Sampling:
    """One request on its way."""

    def __init__(self, request: SampleRequest, prompt: list[int], stream: Stream, texts: Texts) -> None:
        self.request, self.prompt, self.stream = request, prompt, stream
        self.path: Path = ()
        self.on_release: Callable[[], None] = _nothing
        self._texts = texts
        self._detokenizer = Detokenizer(texts)
        self._stop_strings = StopStrings(request.stop)
        self._generator = torch.Generator().manual_seed(request.seed % 2**63)
        self.cache: KeyValues | None = None
        self.last = 0
        self._count = 0
        self.finished = False

    def advance(self, logits: Tensor) -> None:
        """Choose the next token from ``logits`` ``[vocabulary]`` and pass on what it makes certain."""
        token = choose(logits, self.request, self._generator)
        if token in self._texts.stops:
            return self._end("stop", self._detokenizer.rest())
        self.last, self._count = token, self._count + 1
        text, found = self._stop_strings.add(self._detokenizer.add(token))
        logprob = float(logits[token] - torch.logsumexp(logits, 0)) if self.request.logprobs else None
        self.stream.put(SampleChunk(text=text, token=token, logprob=logprob))
        if found:
            return self._finish("stop", "")
        if self._count >= self.request.max_tokens or len(self.prompt) + self._count >= self._texts.context:
            return self._end("length", self._detokenizer.rest())
        return None

    def _end(self, reason: str, rest: str) -> None:
        text, found = self._stop_strings.add(rest)
        self._finish("stop" if found else reason, text if found else text + self._stop_strings.rest())

    def _finish(self, reason: str, text: str) -> None:
        self.stream.put(
            SampleChunk(text=text, finish=reason, prompt_tokens=len(self.prompt), completion_tokens=self._count)  # type: ignore[arg-type]
        )
        self.release()

    def cancel(self) -> None:
        if not self.finished:
            self._finish("cancelled", "")

    def fail(self, error: DnaError) -> None:
        if not self.finished:
            self.stream.put(error)
            self.release()

    def release(self) -> None:
        """Give back keys, values and adapters; safe to call again."""
        if not self.finished:
            self.finished, self.cache = True, None
            self.on_release()


def _nothing() -> None:
    """What is released when a request never held an adapter."""


class Sampler:
    """All requests of one engine; only the owner's thread calls it. At most ``ACTIVE`` decode at a time, the others wait in order."""

    def __init__(self, model: LoadedModel, lease: Lease, *, width: int = WIDTH) -> None:
        self._model = model
        self._lease = lease
        self._width = width
        self._waiting: deque[Sampling] = deque()
        self._active: list[Sampling] = []

    def add(self, sampling: Sampling) -> None:
        """Hold the request's adapters from now on, and let it wait for its turn."""
        try:
            sampling.path, sampling.on_release = self._lease(sampling.request.layers)
        except DnaError as error:
            sampling.fail(error)
        else:
            self._waiting.append(sampling)

    @property
    def busy(self) -> bool:
        """Whether a step would do something now (a reader that lags makes its request wait)."""
        return bool(self._waiting) or any(s.stream.closed or s.stream.behind < BEHIND for s in self._active)

    @property
    def lagging(self) -> bool:
        """Whether some request goes on as soon as its reader does."""
        return bool(self._active)

    @torch.inference_mode()
    def step(self) -> None:
        """Start waiting requests, up to some hundred prompt tokens, then one token for each active one."""
        for sampling in [*self._active, *self._waiting]:
            if sampling.stream.closed:
                sampling.release()
        self._waiting = deque(s for s in self._waiting if not s.finished)
        self._active = [s for s in self._active if not s.finished]
        room = PROMPT_TOKENS
        started: list[Sampling] = []
        while self._waiting and room > 0 and len(self._active) + len(started) < ACTIVE:
            sampling = self._waiting.popleft()
            room -= len(sampling.prompt)
            self._guarded([sampling], self._start)
            started.append(sampling)
        turn = sorted((s for s in self._active if s.stream.behind < BEHIND), key=lambda s: s.path)
        for first in range(0, len(turn), self._width):
            self._guarded(turn[first : first + self._width], self._decode)
        self._active = [s for s in (*self._active, *started) if not s.finished]

    def stop(self, error: DnaError | None = None) -> None:
        """End all requests: as cancelled, or with an error."""
        for sampling in [*self._active, *self._waiting]:
            if error is None:
                sampling.cancel()
            else:
                sampling.fail(error)
        self._active, self._waiting = [], deque()

    def _guarded(self, group: list[Sampling], work: Callable[[list[Sampling]], None]) -> None:
        try:
            work(group)
        except Exception as error:  # a fault of ours must reach those who wait, and spare the owner
            failure = (
                error if isinstance(error, DnaError) else Internal(f"sampling failed: {type(error).__name__}: {error}")
            )
            for sampling in group:
                sampling.fail(failure)

    def _start(self, group: list[Sampling]) -> None:
        for sampling in group:
            sampling.cache = self._model.cache()
            hidden = self._model.run([sampling.prompt], [Part(len(sampling.prompt), sampling.path)], [sampling.cache])
            sampling.advance(self._model.logits(hidden[-1:].expand(self._width, -1))[0])

    def _decode(self, group: list[Sampling]) -> None:
        idle = self._width - len(group)
        sequences = [[s.last] for s in group] + ([[0] * idle] if idle else [])
        caches = [s.cache for s in group] + ([None] if idle else [])
        hidden = self._model.run(sequences, [Part(self._width, self._columns(group))], caches)
        logits = self._model.logits(hidden)
        for sampling, own in zip(group, logits, strict=False):
            sampling.advance(own)

    def _columns(self, group: list[Sampling]) -> tuple[tuple[int, Tensor], ...]:
        """Every slot of the group with its weight for each request: 0 adds nothing, exactly."""
        columns: dict[int, Tensor] = {}
        for i, sampling in enumerate(group):
            for slot, weight in sampling.path:
                column = columns.setdefault(
                    slot, torch.zeros(self._width, 1, dtype=torch.float64, device=self._model.base.device)
                )
                column[i] += weight
        return tuple((slot, columns[slot]) for slot in sorted(columns))


def choose(logits: Tensor, request: SampleRequest, generator: torch.Generator) -> int:
    """A token id from fp32 ``logits`` ``[vocabulary]``: the greatest at temperature 0, else drawn from the nucleus.

    Nucleus: the most probable tokens until their sum reaches ``top_p`` (Holtzman et al. 2020). One uniform number per token, inverted
    on the cumulative sum in fp64, so the same seed gives the same tokens.
    """
    if request.temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits.double().cpu() / request.temperature, 0).sort(
        descending=True, stable=True
    )
    cumulative = probabilities.cumsum(0)
    kept = int((cumulative - probabilities < request.top_p).sum())
    point = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[kept - 1]
    return int(order[min(int(torch.searchsorted(cumulative, point, right=True)), kept - 1)])
