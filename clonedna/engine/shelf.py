"""The adapters an engine knows: on disk, in memory, leased by requests. Safe to use from any thread.

An adapter is known from its first ``put`` until ``remove``. Its matrices may make room for others (``paging.py``) and are then read
again from the same files when a request asks for them; files that have changed since are refused. A leased adapter never leaves memory.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clonedna.core.errors import AdapterInvalid, InputError, NoMemory, NotFound, Overloaded
from clonedna.core.model import AdapterInfo, Layer, Residency
from clonedna.engine.adapters import Adapter
from clonedna.engine.paging import Held, Policy
from clonedna.engine.stacks import Key

Read = Callable[[Path], Adapter]


@dataclass(slots=True, eq=False)
class _Place:
    info: AdapterInfo
    directory: Path
    owner: str
    priority: float
    adapter: Adapter | None = None
    uses: int = 0
    hits: int = 0
    loads: int = 0
    evictions: int = 0
    used: float = field(default_factory=time.monotonic)
    loaded: float = 0.0
    removed: bool = False
    reading: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, eq=False)
class Lease:
    """Adapters with their weights, held in memory until ``release``; releasing twice does nothing."""

    key: Key
    parts: tuple[tuple[Adapter, float], ...]
    _release: Callable[[], None]
    _released: bool = False

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._release()


class Shelf:
    """``read`` reads and checks a directory. ``gone`` is told the id of every adapter that leaves memory (from any thread)."""

    def __init__(self, read: Read, budget: int, gone: Callable[[str], None]) -> None:
        self._read, self._gone = read, gone
        self._policy = Policy(budget)
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._swaps: deque[float] = deque(maxlen=512)
        self.hits = self.loads = self.evictions = 0

    def put(self, directory: Path, owner: str, priority: float) -> AdapterInfo:
        """Read an adapter's files and know it from now on; the same files again change only owner and priority.

        Raises ``AdapterInvalid``, ``WrongBase``, ``NoMemory`` (also when it alone is more than the budget), ``Overloaded``.
        """
        if not 0 <= priority <= 1:
            raise InputError(f"priority {priority} is not between 0 and 1", "0.5 is usual; above 0.9 pins the adapter")
        began = time.perf_counter()
        adapter = self._read(directory)
        with self._lock:
            place = self._places.get(adapter.info.id)
            if place is None:
                place = _Place(adapter.info, directory, owner, priority)
                self._admit(place, adapter, began)
                self._places[adapter.info.id] = place
            place.owner, place.priority, place.directory = owner, priority, directory
            place.used = time.monotonic()
        return adapter.info

    def remove(self, adapter: str) -> None:
        with self._lock:
            place = self._places.pop(adapter, None)
            if place is not None:
                place.removed = True
        if place is not None:
            self._gone(adapter)

    def lease(self, layers: Sequence[Layer]) -> Lease:
        """Hold ``layers`` in memory, reading back what had made room. An adapter named twice counts with the sum of its weights.

        May wait for the disk. Raises ``NotFound`` for an id that is not known, ``Overloaded`` when what is in use leaves no room.
        """
        weights: dict[str, float] = {}
        for layer in layers:
            if not math.isfinite(layer.weight):
                raise InputError(f"layer {layer.adapter!r} has weight {layer.weight}", "give a finite weight")
            weights[layer.adapter] = weights.get(layer.adapter, 0.0) + layer.weight
        held: list[_Place] = []
        parts: list[tuple[Adapter, float]] = []
        try:
            for name in sorted(weights):
                place = self._hold(name)
                held.append(place)
                parts.append((self._present(place), weights[name]))
        except BaseException:
            self._let_go(held)
            raise
        key = tuple((adapter.info.id, weight) for adapter, weight in parts)
        return Lease(key, tuple(parts), lambda: self._let_go(held))

    def _hold(self, name: str) -> _Place:
        with self._lock:
            place = self._places.get(name)
            if place is None:
                raise NotFound(f"no adapter {name!r} is loaded in this engine", "load its directory first")
            place.uses += 1
            place.used = time.monotonic()
            hit = place.adapter is not None
            self._policy.asked(name, hit, place.used)
            if hit:
                place.hits += 1
                self.hits += 1
            return place

    def _present(self, place: _Place) -> Adapter:
        with place.reading:  # several requests for the same adapter read it once
            if place.adapter is not None:
                return place.adapter
            began = time.perf_counter()
            adapter = self._read(place.directory)
            if adapter.info.digest != place.info.digest:
                raise AdapterInvalid(
                    f"the files of adapter {place.info.id} have changed since it was loaded", "load it again"
                )
            with self._lock:
                self._admit(place, adapter, began)
            return adapter

    def _let_go(self, held: Sequence[_Place]) -> None:
        with self._lock:
            for place in held:
                place.uses -= 1
                place.used = time.monotonic()

    def _admit(self, place: _Place, adapter: Adapter, began: float) -> None:
        """Give ``adapter`` room in memory. The lock is held."""
        now, size = time.monotonic(), adapter.info.bytes
        if size > self._policy.budget:
            raise NoMemory(
                f"adapter {place.info.id} has {size >> 20} MiB, {self._policy.budget >> 20} MiB are set for adapters",
                "raise adapter_bytes",
            )
        held = [self._held(other) for other in self._places.values() if other.adapter is not None]
        victims = self._policy.victims(held, size, now)
        if victims is None:
            raise Overloaded(
                f"no room for adapter {place.info.id}: all others are in use or pinned", "ask again later, or raise adapter_bytes",
                retry_after=1,
            )  # fmt: skip
        if victims and not self._policy.admits(place.priority, now):
            raise Overloaded(
                "adapters are put out of memory faster than they are used", "raise adapter_bytes, or send fewer kinds of requests",
                retry_after=10,
            )  # fmt: skip
        for name in victims:
            self._places[name].adapter = None
            self._places[name].evictions += 1
            self.evictions += 1
            self._policy.evicted(now)
            self._gone(name)
        place.adapter, place.loaded = adapter, now
        place.loads += 1
        self.loads += 1
        self._swaps.append((time.perf_counter() - began) * 1e3)

    @staticmethod
    def _held(place: _Place) -> Held:
        return Held(
            place.info.id, place.info.bytes, place.owner, place.priority, place.used, place.loaded, place.uses > 0
        )

    @property
    def swaps(self) -> list[float]:
        """Milliseconds of the latest loads: from the request to the matrices in memory."""
        with self._lock:
            return list(self._swaps)

    @property
    def thrashing(self) -> bool:
        with self._lock:
            return self._policy.thrashing(time.monotonic())

    @property
    def budget(self) -> int:
        return self._policy.budget

    def residencies(self, in_slots: set[str]) -> tuple[Residency, ...]:
        now = time.monotonic()
        with self._lock:
            return tuple(
                Residency(
                    id=p.info.id, digest=p.info.digest,
                    state="disk" if p.adapter is None else "slot" if p.info.id in in_slots else "memory",
                    rank=p.info.rank, bytes=p.info.bytes, owner=p.owner, priority=p.priority,
                    pinned=p.priority > 0.9, uses=p.uses, hits=p.hits, loads=p.loads, evictions=p.evictions,
                    idle=round(now - p.used, 3),
                )
                for p in self._places.values()
            )  # fmt: skip
