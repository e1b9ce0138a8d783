"""One thread owns a model. Everybody else hands it work and awaits the result, from whichever event loop they are in.

Work is done in the order it comes, one step at a time; between two steps sampling requests get their next tokens, so neither a long
measurement nor a training batch holds up an answer. While requests run, ``duty`` is the share of the time that work may take: after a
step of work the requests go on until they have had the rest. An error belongs to the work that caused it; the owner goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from clonedna.core.errors import DnaError, Internal, Unavailable
from clonedna.engine.requests import Sampling
from clonedna.engine.sampling import Sampler

WAITING = 4096
LINGER = 0.003  # seconds that a job with a key waits for its like
LAG = 0.02  # seconds between looks at a reader that has not taken its chunks

Work = Callable[[list[Any]], "Generator[None, None, list[Any]] | list[Any]"]


@dataclass(slots=True, eq=False)
class Job:
    """``work`` on ``payload``. Jobs with the same work and different keys that wait side by side are done together, in one call.

    A job without a key may be given up between its steps once nobody waits for it; one with a key is always finished.
    """

    work: Work
    payload: Any
    key: int | None = None
    future: Future[Any] = field(default_factory=Future)
    abandoned: bool = False


class Owner:
    """The thread, its inbox and its loop. ``expected()``: how many jobs with keys may come at about the same time. ``flush()`` is
    called when chunks may have been put into streams."""

    def __init__(
        self, sampler: Sampler, expected: Callable[[], int], flush: Callable[[], None], *, threads: int, name: str, duty: float
    ) -> None:  # fmt: skip
        self._expected, self._flush, self._duty = expected, flush, duty
        self._debt = 0.0  # seconds that requests have still to get before work goes on
        self._sampler = sampler
        self._threads = threads
        self._inbox: queue.Queue[Job | Sampling | None] = queue.Queue(WAITING)
        self._jobs: deque[Job] = deque()
        self._running: tuple[list[Job], Generator[None, None, list[Any]]] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    async def call(self, work: Work, payload: Any, key: int | None = None, *, sure: bool = False) -> Any:
        """Have ``work([payload])[0]`` done by the owner. Raises what it raises, ``Unavailable`` when the engine is closed or full.

        ``sure``: it is done also when the caller is cancelled before its turn has come.
        """
        job = Job(work, payload, key)
        self.put(job)
        try:
            result = asyncio.wrap_future(job.future)
            return await (asyncio.shield(result) if sure else result)
        except asyncio.CancelledError:
            job.abandoned = True
            raise

    @property
    def inbox(self) -> int:
        """About how much has come in and was not looked at yet."""
        return self._inbox.qsize()

    @property
    def closed(self) -> bool:
        return self._closing or not self._thread.is_alive()

    def put(self, item: Job | Sampling) -> None:
        """Raises ``Unavailable`` at once rather than wait."""
        if self.closed:
            raise Unavailable("this engine is closed", "open it again")
        try:
            self._inbox.put_nowait(item)
        except queue.Full:
            raise Unavailable(
                f"the engine has {WAITING} requests waiting", "try again later, or send fewer at once"
            ) from None

    def close(self, timeout: float = 60.0) -> bool:
        """Finish the running step, cancel what waits, end the thread. Whether it ended in time."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # a full inbox keeps the owner awake by itself
            self._inbox.put_nowait(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # Everything below runs in the owner's thread.

    def _loop(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while self._receive():
                self._turn()
            self._sampler.stop()
            self._flush()
            self._fail_all(Unavailable("the engine was closed before this was done", "open it again"))
        except BaseException as error:  # the loop itself is at fault: nobody may wait for ever
            failure = Internal(f"the engine's owner stopped: {type(error).__name__}: {error}")
            self._closing = True
            self._sampler.stop(failure)
            self._flush()
            self._fail_all(failure)
            raise

    def _turn(self) -> None:
        """A step of work, if its share is not used up, and a step of the requests."""
        if self._debt <= 0 or not self._sampler.busy:
            began = time.monotonic()
            self._advance()
            self._debt = (time.monotonic() - began) * (1 - self._duty) / self._duty
        if self._sampler.busy:
            began = time.monotonic()
            self._sampler.step()
            self._flush()
            self._debt -= time.monotonic() - began

    def _receive(self) -> bool:
        """Take what came in; wait when there is nothing to do. False when the engine closes."""
        idle = not (self._jobs or self._running or self._sampler.busy)
        try:
            if idle:
                self._sort(self._inbox.get(timeout=LAG if self._sampler.lagging else None))
            while True:
                self._sort(self._inbox.get_nowait())
        except queue.Empty:
            return not self._closing

    def _sort(self, item: Job | Sampling | None) -> None:
        if isinstance(item, Sampling):
            self._sampler.add(item)
        elif item is not None:
            self._jobs.append(item)

    def _advance(self) -> None:
        """One step of the running job, or the start of the next."""
        if self._running is None:
            group = self._next_group()
            if not group:
                return None
            try:
                begun = group[0].work([job.payload for job in group])
            except Exception as error:
                return _fail(group, error)
            if isinstance(begun, list):
                return _give(group, begun)
            self._running = group, begun
        group, steps = self._running
        if all(job.abandoned and job.key is None for job in group):
            steps.close()
            self._running = None
            return None
        try:
            next(steps)
        except StopIteration as done:
            self._running = None
            _give(group, done.value)
        except Exception as error:
            self._running = None
            _fail(group, error)
        return None

    def _next_group(self) -> list[Job]:
        group: list[Job] = []
        deadline = time.monotonic() + LINGER
        while True:
            while self._jobs and (not group or _joins(self._jobs[0], group)):
                job = self._jobs.popleft()
                if job.future.set_running_or_notify_cancel():
                    group.append(job)
            wait = deadline - time.monotonic()
            if not group or group[0].key is None or self._jobs or len(group) >= self._expected() or wait <= 0:
                return group
            try:
                self._sort(self._inbox.get(timeout=wait))
            except queue.Empty:
                return group

    def _fail_all(self, error: DnaError) -> None:
        if self._running is not None:
            _fail(self._running[0], error)
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, Sampling):
                item.fail(error)
            elif item is not None:
                self._jobs.append(item)
        _fail([job for job in self._jobs if job.future.set_running_or_notify_cancel()], error)


def _joins(job: Job, group: list[Job]) -> bool:
    return job.key is not None and job.work == group[0].work and job.key not in {other.key for other in group}


def _give(group: list[Job], results: list[Any]) -> None:
    for job, result in zip(group, results, strict=True):
        job.future.set_result(result)


def _fail(group: list[Job], error: Exception) -> None:
    if not isinstance(error, DnaError):
        failure = Internal(f"{type(error).__name__}: {error}", "please report this")
        failure.__cause__ = error
        error = failure
    for job in group:
        job.future.set_exception(error)
