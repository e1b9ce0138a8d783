"""What a process writes into its log: one line for each thing that happened, for a person or as JSON, with the ids it belongs to.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "event": "request", "logger": "...", "request_id": "...", "job": "...", ...}

Promises: a line never holds the body of a request, the values of its query, or what somebody wrote; fields are names, numbers and codes of
ours. Of an exception its class and the places in our code are written, not its words: those may quote what was asked. What a library
says is written from ``warning`` on, and cut. The ids are context variables: tasks and the worker threads that they start carry them.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import IO, Any, Literal

from clonedna.core.events import JobFailed, JobFinished, StageFinished, StageStarted

MOST_CHARACTERS = 1000
MOST_FRAMES = 20
OURS = ("clonedna", "uvicorn")  # what these say from the chosen level on; others from warning on
Field = str | int | float | bool | None
Level = Literal["debug", "info", "warning", "error"]
STOPPED = frozenset({"interrupted", "cancelled"})
log = logging.getLogger(__name__)


@dataclass
class Asked:
    """The request that is being answered: its id, and the code of the error that it ended in."""

    id: str
    code: str | None = None


REQUEST: ContextVar[Asked | None] = ContextVar("request", default=None)
JOB: ContextVar[str | None] = ContextVar("job", default=None)


@contextmanager
def about_job(job: str) -> Generator[None]:
    """Every line written inside names this job."""
    token = JOB.set(job)
    try:
        yield
    finally:
        JOB.reset(token)


def tell(logger: logging.Logger, level: Level, event: str, /, **fields: Field) -> None:
    """Write one line. ``fields``: names, numbers and codes of ours, never what somebody wrote."""
    logger.log(getattr(logging, level.upper()), event, extra={"event": event, "fields": fields})


def heard(event: object) -> None:
    """What a running job says of itself, as lines; its notes and its failure's words are in its own event log alone."""
    if isinstance(event, StageStarted):
        tell(log, "info", "stage_started", stage=event.stage)
    elif isinstance(event, StageFinished):
        tell(log, "info", "stage_finished", stage=event.stage, seconds=event.seconds)
    elif isinstance(event, JobFinished):
        tell(log, "info", "job_finished", status=event.status, seconds=event.seconds)
    elif isinstance(event, JobFailed):
        stopped = event.code in STOPPED
        tell(log, "info" if stopped else "warning", "job_stopped" if stopped else "job_failed", code=event.code)


class Lines(logging.Formatter):
    """One line a record: JSON, or ``time level event key=value ...``."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=False, default=str)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "event"))
        del fields["logger"]
        return " ".join([head, *(f"{key}={_plain(value)}" for key, value in fields.items())])


def configure(*, form: Literal["json", "text"], level: Level, stream: IO[str] | None = None) -> None:
    """Let this process' log be written in this form, to standard error by default. For what runs for long, not for a command."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(as_json=form == "json"))
    root = logging.getLogger()
    root.handlers = [handler]
    chosen = getattr(logging, level.upper())
    root.setLevel(max(chosen, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(chosen)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told: dict[str, Field] | None = getattr(record, "fields", None)
    event = getattr(record, "event", None)
    found: dict[str, Any] = {
        "time": at, "level": record.levelname.casefold(), "event": event or "message", "logger": record.name,
    }  # fmt: skip
    asked, job = REQUEST.get(), JOB.get()
    found |= {"request_id": asked.id} if asked else {}
    found |= {"job": job} if job else {}
    if event is None:
        found["message"] = record.getMessage()[:MOST_CHARACTERS]
    found |= {key: value for key, value in (told or {}).items() if value is not None}
    if record.exc_info and record.exc_info[0] is not None:
        found["exception"], found["at"] = record.exc_info[0].__name__, _places(record.exc_info)
    return found


def _places(info: Any) -> list[str]:
    """Where it happened, the innermost place last; no words of the exception, no values."""
    frames = traceback.extract_tb(info[2])[-MOST_FRAMES:]
    return [f"{'/'.join(PurePath(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}" for frame in frames]


def _plain(value: Any) -> str:
    """A value in a line of text: quoted where it could be taken for more than one, or end the line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
