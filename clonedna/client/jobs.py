"""Jobs of a server: what ``app.job_desk`` does for those of this machine; and how to follow one to its end, through restarts."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from clonedna.app.job_asks import Ask
from clonedna.app.job_values import EventPage, JobEvent, JobPage, JobResult, JobView, Kind, Status
from clonedna.client.wire import Wire
from clonedna.core.errors import BadAnswer, InputError, JobNotFound, TimedOut, Unavailable
from clonedna.core.value import Value

JOBS = "/api/v1/jobs"
FILES = "/v1/files"
AWAY_SECONDS = 120.0  # how long a server that restarts may be away while its job is followed
PAUSE_SECONDS = 1.0
CHUNK = 1 << 16
SENDS = 3
ID = re.compile(r"^[a-z0-9-]{1,64}$")
V = TypeVar("V", JobView, JobEvent)


class _File(Value, extra="ignore"):
    id: str


class RemoteJobs:
    """Use cases over a server's jobs."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def start(self, ask: Ask, *, key: str | None = None) -> JobView:
        """Order a job. Sent again under one key when no answer came, so that it is one job all the same. Raises the server's errors."""
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        for turn in range(SENDS):
            try:
                return self._wire.post(JOBS, JobView, ask, headers=headers)
            except (Unavailable, TimedOut) as error:
                if turn == SENDS - 1 or error.code not in ("unavailable", "timed_out"):
                    raise
                self._wire.pause(PAUSE_SECONDS)
        raise AssertionError("the last turn returns or raises")

    def upload(self, path: Path) -> str:
        """Send a file of pairs or tasks; gives the id that an order names it by. Raises ``InputError``, and the server's errors."""
        boundary = secrets.token_hex(16)
        try:
            file = path.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", "give a JSONL file") from error
        with file:

            def pieces() -> Iterator[bytes]:
                yield _part(boundary, "purpose", "") + b"fine-tune\r\n" + _part(boundary, "file", path.name)
                while data := file.read(CHUNK):
                    yield data
                yield f"\r\n--{boundary}--\r\n".encode()

            kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            with self._wire.stream("POST", FILES, content=pieces(), headers=kind) as answer:
                data = answer.read()
        try:
            return _File.model_validate_json(data).id
        except ValidationError:
            raise BadAnswer("the server gave no id for the file", "is it a server of this program?") from None

    def list(
        self, *, after: str | None = None, limit: int = 50, status: Status | None = None, kind: Kind | None = None
    ) -> JobPage:
        """A page of jobs, newest first."""
        return self._wire.get(
            JOBS, JobPage, query={"after": after, "limit": limit, "status": status, "kind": kind}
        )  # fmt: skip

    def get(self, job_id: str) -> JobView:
        return self._wire.get(_path(job_id), JobView)

    def events(self, job_id: str, *, after: int = -1, limit: int = 1000) -> EventPage:
        """What the job said so far, behind offset ``after``."""
        return self._wire.get(f"{_path(job_id)}/events", EventPage, query={"after": after, "limit": limit})

    def result(self, job_id: str) -> JobResult:
        """What a job that ended well gives. Raises ``NotFound`` while there is nothing."""
        return self._wire.get(f"{_path(job_id)}/result", JobResult)

    def cancel(self, job_id: str) -> JobView:
        return self._wire.delete(_path(job_id), JobView)

    def resume(self, job_id: str) -> JobView:
        return self._wire.post(f"{_path(job_id)}/resume", JobView)

    def follow(self, job_id: str, *, after: int = -1) -> Iterator[JobEvent | JobView]:
        """What the job says, as it says it; last the job itself, once it says nothing more.

        A server that is away for less than ``AWAY_SECONDS`` is waited for, and nothing is missed or told twice.
        """
        away_since: float | None = None
        while True:
            try:
                for event in self._wire.events(f"{_path(job_id)}/events", str(after) if after >= 0 else None):
                    away_since = None
                    if event.event == "end":
                        yield _read(JobView, event.data)
                        return
                    line = _read(JobEvent, event.data)
                    after = line.offset
                    yield line
            except (Unavailable, TimedOut) as error:
                if error.code not in ("unavailable", "timed_out"):
                    raise
                away_since = away_since if away_since is not None else time.monotonic()
                if time.monotonic() - away_since > AWAY_SECONDS:
                    raise
            self._wire.pause(PAUSE_SECONDS)


def _read(kind: type[V], data: str) -> V:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        raise BadAnswer("an event is none of a job's", "is it a server of this program, of this version?") from None


def _path(job_id: str) -> str:
    """A job's own route. Raises ``JobNotFound`` for what no job is called."""
    if not ID.match(job_id):
        raise JobNotFound(f"no jobs match {job_id[:80]!r}", "see all jobs with: dna jobs ls")
    return f"{JOBS}/{job_id}"


def _part(boundary: str, name: str, filename: str) -> bytes:
    """The head of one part of a form; a name is written so that it cannot end the line or the quotes."""
    plain = "".join(c if c.isprintable() and c not in '"\\\r\n' else "_" for c in filename)[-255:]
    file = f'; filename="{plain}"\r\nContent-Type: application/octet-stream' if filename else ""
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
