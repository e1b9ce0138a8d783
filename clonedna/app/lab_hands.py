"""Hands of a lab: processes that make one layer at a time each. They end with the process that started them, however that ends.

Each is a process of its own, since a process makes one mint at a time, and a small base leaves a core idle. Nothing is lost by a hand's
end: what it made is in the lab's home, and its mint goes on behind the last finished stage.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from clonedna.app.lab_values import LabLayer
from clonedna.core.canonical import canonical
from clonedna.core.errors import DnaError, Internal, Interrupted, Unavailable, error_of
from clonedna.core.events import Emit

AGAIN = "free memory, or work with --processes 1; the same command goes on"
Make = Callable[[str, Emit], LabLayer]
"""A package's layer; tells how it goes. Raises a ``DnaError`` for what says nothing about the package."""
MakeHere = Callable[[], Make]
"""Gives the maker, in the process that makes. It is pickled, and so are layers and events."""


class Hand:
    """One process. Used by one thread at a time."""

    def __init__(self, make_here: MakeHere) -> None:
        """Raises ``Unavailable`` where no process can be started."""
        context = get_context("spawn")  # a fork would have the threads' locks, and none of the threads
        self._here, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, make_here), name="lab-hand", daemon=True)
        try:
            self._process.start()
        except OSError as error:
            self._here.close()
            raise Unavailable(f"no process could be started to make a layer ({error.strerror})", AGAIN) from None
        finally:
            there.close()

    def make(self, package: str, emit: Emit) -> LabLayer:
        """The layer, as ``Make`` gives it there. Raises what it raises, and ``Unavailable`` where the process has ended."""
        kind, value = self._heard(package, ask=True)
        while kind == "event":
            emit(value)
            kind, value = self._heard(package)
        if kind == "error":
            raise error_of(value) or Internal("a process of the lab failed", "please report this")
        return value

    def _heard(self, package: str, *, ask: bool = False) -> tuple[str, Any]:
        try:
            if ask:
                self._here.send(package)
            return self._here.recv()
        except (EOFError, OSError):
            self._process.join(1)
            raise Unavailable(
                f"a process that made the layer of {package} was ended (status {self._process.exitcode})",
                AGAIN,
            ) from None

    def end(self) -> None:
        """End it at once, as a kill would; whoever waits in ``make`` hears that."""
        self._process.kill()
        self._process.join()


class Hands:
    """As many processes as threads call ``make`` at once, each started when it is needed; all are ended when the context is left."""

    def __init__(self, make_here: MakeHere) -> None:
        self._make_here = make_here
        self._lock = threading.Lock()
        self._all: list[Hand] = []
        self._free: list[Hand] = []
        self._ended = False

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            for hand in self._all:
                hand.end()

    def make(self, package: str, emit: Emit) -> LabLayer:
        """By a process that is free, or a new one. Raises as ``Hand.make``."""
        with self._lock:
            if self._ended:
                raise Interrupted("the lab was stopped", "the same command goes on")
            if not self._free:
                self._free.append(hand := Hand(self._make_here))
                self._all.append(hand)
            hand = self._free.pop()
        layer = hand.make(package, emit)
        with self._lock:
            self._free.append(hand)
        return layer


def _work(there: Connection[Any, Any], make_here: MakeHere) -> None:
    """In the process: make what is asked for until nobody is left to ask."""
    # Ctrl-C is for who started it, and ends this too; what is started here does not inherit a handler, as it would what is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    one_at_a_time = threading.Lock()

    def tell(kind: str, value: object) -> None:
        try:
            with one_at_a_time:
                there.send((kind, value))
        except OSError:  # nobody is left to hear it: no failure of what is being made, which goes on another time
            os._exit(130)

    make: Make | None = None
    with suppress(EOFError, OSError):
        while True:
            package = there.recv()
            try:
                make = make or make_here()
                tell("layer", make(package, lambda event: tell("event", event)))
            except DnaError as error:
                tell("error", canonical(error.as_json()))
            except Exception as error:  # a fault of ours
                tell("error", canonical(Internal(f"{type(error).__name__}: {error}", "please report this").as_json()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(130)
