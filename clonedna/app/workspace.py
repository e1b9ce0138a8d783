"""A job's directory: its order, the results of its finished stages, its event log, its lock and its wish to be cancelled.

    jobs/<id>/order.json       what was asked, and when
             /queued.json      where it is not of the process that gave it: whose engine it needs
             /events.jsonl     one event a line, numbered: what every face reads
             /stages/<n>.json  result of a finished stage (canonical JSON, digest known to the durable workflow)
             /given/<sha256>   files of pairs that the order names by content
             /training/<n>     mints that an assembly makes, each as a job's
             /checkpoints      where the training stands
             /adapter, /block  work in progress
             /value.json       what it found, where it made no block
             /result.json      how it ended

Everything is written to a temporary name and renamed, so a killed process leaves whole files only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import Cancelled, Internal, JobBusy, NoSpace
from clonedna.core.events import Emit, StageProgress, event_adapter
from clonedna.core.value import Value

V = TypeVar("V", bound=Value)
PROGRESS_SECONDS = 0.25
LOCK_SECONDS = 1.0


class Workspace:
    """One job's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.id = directory.name

    @property
    def adapter(self) -> Path:
        return self.directory / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def given(self, digest: str) -> bytes:
        """The given file with this SHA-256. Raises ``Internal`` when it is not there or is another."""
        try:
            data = (self.directory / "given" / digest).read_bytes()
        except OSError as error:
            raise Internal(f"job {self.id}: a given file cannot be read: {error}", "start the mint again") from error
        if sha256(data) != digest:
            raise Internal(f"job {self.id}: a given file was changed", "start the mint again")
        return data

    @property
    def block(self) -> Path:
        return self.directory / "block"

    def write(self, name: str, value: Any) -> str:
        """Write canonical JSON atomically; gives its sha256. Raises ``NoSpace``."""
        data = canonical(value)
        write_atomic(self.directory / name, data)
        return sha256(data)

    def read(self, name: str, kind: type[V]) -> V:
        """Read back what ``write`` wrote. Raises ``Internal`` when it is not there or is something else."""
        try:
            return kind.model_validate_json((self.directory / name).read_bytes())
        except (OSError, ValueError) as error:
            raise Internal(f"job {self.id}: {name} cannot be read: {error}", "start the mint again") from error

    def exists(self, name: str) -> bool:
        return (self.directory / name).exists()

    @contextmanager
    def lock(self, *, wait: float = LOCK_SECONDS) -> Generator[None]:
        """Hold this job: one thread of one process at a time. The kernel lets go of it when the process dies. Raises ``JobBusy``.

        ``wait``: seconds to try; whoever only looks whether the job runs holds it for an instant, too.
        """
        with held(self.directory / "lock", wait=wait) as free:
            if not free:
                raise JobBusy(f"job {self.id} is running already", f"watch it with: dna jobs follow {self.id}")
            yield

    def running(self) -> bool:
        try:
            with self.lock(wait=0):
                return False
        except JobBusy:
            return True
        except FileNotFoundError:  # removed by a revocation
            return False

    def stopped(self) -> None:
        """Raises ``Cancelled`` when somebody asked the job to stop."""
        if self.exists("cancel"):
            raise Cancelled(f"job {self.id} was cancelled", f"go on with: dna jobs resume {self.id}")

    def emitter(self, listen: Emit, stopped: Callable[[], None] | None = None) -> Emit:
        """An ``Emit`` that appends to the log and tells ``listen``; every call is also where a job that should stop does.

        ``stopped`` raises ``Interrupted`` for that; by default it is this workspace's own.
        """
        check = stopped or self.stopped
        log = self.directory / "events.jsonl"
        if log.exists() and not log.read_bytes().endswith(b"\n"):  # the last writer was killed inside a line
            with space_errors(log), log.open("ab") as handle:
                handle.write(b"\n")
        offset = sum(1 for _ in self.events())
        last = 0.0

        def emit(event: Any) -> None:
            nonlocal offset, last
            check()
            if (
                isinstance(event, StageProgress)
                and event.done < event.total
                and time.monotonic() - last < PROGRESS_SECONDS
            ):
                return
            last = time.monotonic()
            line = {"offset": offset, "at": now(), "event": event.model_dump(mode="json")}
            with space_errors(log), log.open("ab") as handle:
                handle.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            offset += 1
            listen(event)

        return emit

    def events(self, start: int = 0) -> Iterator[tuple[int, str, Any]]:
        """``(offset, time, event)`` from ``start`` on; a half-written last line is not one yet."""
        try:
            lines = (self.directory / "events.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        yield from _read(lines, start)

    def tail(self, after: int = -1) -> Tail:
        """The log's lines behind ``after``, read piece by piece as they come."""
        return Tail(self.directory / "events.jsonl", after)

    def clean(self) -> None:
        """Remove what only a running job needs (the person's code among it); order, events and result stay."""
        for name in ("stages", "given", "checkpoints", "adapter", "block", "training"):
            shutil.rmtree(self.directory / name, ignore_errors=True)


class Tail:
    """Reads a job's log from where it was read to last; a half-written last line is not one yet."""

    def __init__(self, log: Path, after: int) -> None:
        self._log, self._next, self._position = log, after + 1, 0

    def read(self) -> list[tuple[int, str, Any]]:
        """``(offset, time, event)`` of the lines that have come since."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._position)
                data = log.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        found = list(_read(whole.split(b"\n")[:-1], self._next))
        if found:
            self._next = found[-1][0] + 1
        return found


def _read(lines: Iterable[bytes], start: int) -> Iterator[tuple[int, str, Any]]:
    for line in lines:
        try:
            fields = json.loads(line)
            offset, at, event = fields["offset"], fields["at"], event_adapter.validate_python(fields["event"])
        except (ValueError, KeyError):  # a line cut by a kill, followed by later ones
            continue
        if offset >= start:
            yield offset, at, event


@contextmanager
def held(path: Path, *, wait: float) -> Generator[bool]:
    """Hold a lock file, one thread of one process at a time; gives whether it was had within ``wait`` seconds.

    The kernel lets go of it when the process dies, on whichever machine: the file system must know ``flock`` (docs/jobs.md).
    """
    deadline = time.monotonic() + wait
    with path.open("a") as handle:
        while not _take(handle):
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(0.01)
        yield True


def _take(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_atomic(path: Path, data: bytes) -> None:
    """Write, fsync, rename. Raises ``NoSpace``; the old content stays in any failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with space_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def space_errors(path: Path) -> Generator[None]:
    """``ENOSPC`` and ``EDQUOT`` as ``NoSpace``, naming the disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left on the disk of {path.parent}", "free some space, then: dna jobs resume"
            ) from error
        raise


def require_space(directory: Path, needed: int) -> None:
    """Raises ``NoSpace`` when less than ``needed`` bytes are free where ``directory`` is (or will be)."""
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise NoSpace(
            f"{free // 1_000_000} MB are free on the disk of {directory}; {needed // 1_000_000} MB are needed",
            "free some space, then: dna jobs resume (or choose another DNA_HOME)", free=free, needed=needed,
        )  # fmt: skip


@contextmanager
def naming(home: Path) -> Generator[None]:
    """Held, by one process of this home at a time, from where a block's version is chosen until the version is taken."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)  # the directory itself is locked: no further file
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for as long as a manifest is signed and written
        yield
    finally:
        os.close(descriptor)
