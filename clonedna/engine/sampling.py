"""The scheduler: which requests run in the next step. Requests join and leave at any step; each gets the tokens it would get alone.

A request waits until there is a lane for all it may become, computes its prompt in pieces of ``PIECE`` tokens (skipping those that
an earlier request left behind), then one token a step. Only the owner's thread comes here, but for ``gone`` and the counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clonedna.core.errors import DnaError, Internal, Overloaded
from clonedna.engine.batch import BatchStep, Piece, Token
from clonedna.engine.exact import ROWS
from clonedna.engine.lanes import Lanes
from clonedna.engine.mixing import Mixer, seed_of
from clonedna.engine.model import LoadedModel
from clonedna.engine.prefixes import PIECE, Prefixes, names_of
from clonedna.engine.requests import Sampling
from clonedna.engine.stacks import Stacks
from clonedna.engine.statistics import Statistics

RUNNING = 256
PROMPT_ALONE = 1024  # prompt tokens in a step that decodes nothing
PROMPT_BESIDE = 256  # and in one that does
BEHIND = 256


class Sampler:
    """All requests of one engine. ``training()``: whether an adapter is being trained beside them."""

    def __init__(
        self, model: LoadedModel, stacks: Stacks, mixer: Mixer, lanes: Lanes, prefixes: Prefixes, statistics: Statistics,
        training: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._model, self._stacks, self._mixer, self._lanes, self._prefixes = model, stacks, mixer, lanes, prefixes
        self._statistics, self._training = statistics, training
        self._waiting: deque[Sampling] = deque()
        self._running: list[Sampling] = []
        self._gone: deque[str] = deque()

    def add(self, sampling: Sampling) -> None:
        sampling.names = names_of(seed_of(sampling.lease.key, sampling.request.mixture), sampling.prompt)
        self._waiting.append(sampling)

    def gone(self, adapter: str) -> None:
        """From any thread: what lies in slots for this adapter is to be freed."""
        self._gone.append(adapter)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def places(self) -> int:
        """How many more may start at once, as far as is known: none while others wait."""
        return 0 if self._waiting else max(0, RUNNING - len(self._running))

    @property
    def busy(self) -> bool:
        """Whether a step would do something now (a reader that lags makes its request wait)."""
        return bool(self._waiting) or any(s.stream.closed or s.stream.behind < BEHIND for s in self._running)

    @property
    def lagging(self) -> bool:
        """Whether some request goes on as soon as its reader does."""
        return bool(self._running)

    @torch.inference_mode()
    def step(self) -> None:
        """Start what can be started, then one pass: pieces of prompts, and the next token of each request that has begun."""
        self.sweep()
        self._admit()
        turn = [s for s in self._running if s.started and s.stream.behind < BEHIND]
        pieces = self._pieces(PROMPT_BESIDE if turn else PROMPT_ALONE)
        if not turn and not pieces:
            return
        try:
            self._run(pieces, turn)
        except Exception as error:  # a fault of ours must reach those who wait, and spare the owner
            failure = _failure(error)
            for sampling in {id(s): s for s in (*turn, *(s for s, _ in pieces))}.values():
                sampling.fail(failure)
        self.sweep()

    def stop(self, error: DnaError | None = None) -> None:
        """End all requests: as cancelled, or with an error."""
        for sampling in [*self._running, *self._waiting]:
            if error is None:
                sampling.cancel()
            else:
                sampling.fail(error)
        self.sweep()

    @torch.inference_mode()
    def sweep(self) -> None:
        """Take back what finished requests, and those whose reader left, hold."""
        for sampling in [*self._running, *self._waiting]:
            if sampling.stream.closed:
                sampling.finished = True
            if sampling.finished:
                if sampling.lane is not None:
                    self._lanes.give(sampling.lane)
                self._mixer.leave(sampling.block)
                sampling.lane = sampling.block = None
                sampling.lease.release()
                self._statistics.ended(sampling)
        self._running = [s for s in self._running if not s.finished]
        self._waiting = deque(s for s in self._waiting if not s.finished)
        for _ in range(len(self._gone)):
            adapter = self._gone.popleft()
            if not self._stacks.drop(adapter):
                self._gone.append(adapter)  # still in use

    def _admit(self) -> None:
        while self._waiting and len(self._running) < RUNNING:
            sampling = self._waiting[0]
            tokens = len(sampling.prompt) + sampling.room
            if not self._lanes.fits(tokens):
                return
            try:
                if sampling.block is None:
                    sampling.block = self._mixer.use(sampling.lease, sampling.request.mixture)
                sampling.lane = self._lanes.take(tokens)
                sampling.cached = self._prefixes.restore(sampling.names, sampling.lane)
            except Exception as error:
                if isinstance(error, Overloaded) and self._running:
                    return  # a slot comes free when a running request ends
                sampling.fail(_failure(error))
                self.sweep()
                continue
            self._waiting.popleft()
            self._running.append(sampling)

    def _pieces(self, room: int) -> list[tuple[Sampling, Piece]]:
        """The next pieces of prompts, first come first served; each ends where a multiple of ``PIECE`` or the prompt ends."""
        pieces: list[tuple[Sampling, Piece]] = []
        for sampling in self._running:
            lane = sampling.lane
            if lane is None or sampling.started:
                continue
            for start in range(lane.length, len(sampling.prompt), PIECE):
                if room <= 0:
                    return pieces
                ids = sampling.prompt[start : start + PIECE]
                pieces.append((sampling, Piece(ids, lane, sampling.block)))
                room -= len(ids)
        return pieces

    def _run(self, pieces: Sequence[tuple[Sampling, Piece]], turn: Sequence[Sampling]) -> None:
        tokens = [Token(s.last, s.lane, s.block) for s in turn if s.lane is not None]
        step = BatchStep([piece for _, piece in pieces], tokens, self._model.lengths, self._model.base.device)
        hidden = step.run(self._model.decoder)
        for sampling, piece in pieces:
            self._remember(sampling, len(piece.ids))
        begun = [(s, row) for (s, _), row in zip(pieces, step.last, strict=True) if s.started]
        begun = [(s, row) for s, row in begun if row == max(other for one, other in begun if one is s)]
        wanted = [*begun, *zip(turn, step.order, strict=True)]
        if wanted:
            self._choose([s for s, _ in wanted], hidden, [row for _, row in wanted])

    def _remember(self, sampling: Sampling, tokens: int) -> None:
        """Keep every whole piece that this step finished, for requests that begin alike."""
        lane = sampling.lane
        if lane is None or tokens < PIECE:
            return
        for number, name in enumerate(sampling.names):
            if sampling.cached <= number * PIECE and (number + 1) * PIECE <= lane.length and number >= sampling.kept:
                self._prefixes.keep(name, lane, number * PIECE)
                sampling.kept = number + 1

    def _choose(self, turn: Sequence[Sampling], hidden: Tensor, rows: Sequence[int]) -> None:
        padded = [*rows, *[rows[-1]] * (-len(rows) % ROWS)]
        logits = self._model.logits(hidden.index_select(0, torch.tensor(padded, device=hidden.device)))[: len(rows)]
        greatest: list[int] = logits.argmax(-1).tolist()
        now, training = time.monotonic(), self._training()
        for sampling, own, token in zip(turn, logits, greatest, strict=True):
            self._statistics.token(sampling, now, training=training)
            try:
                sampling.advance(own, token)
            except Exception as error:  # of this request alone, a grammar's, say
                sampling.fail(_failure(error))


def _failure(error: Exception) -> DnaError:
    return error if isinstance(error, DnaError) else Internal(f"sampling failed: {type(error).__name__}: {error}")
