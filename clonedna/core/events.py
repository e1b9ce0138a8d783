"""What a job says while it runs: a closed union, written to one log that every face reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from clonedna.core.value import Value


class StageStarted(Value):
    kind: Literal["stage_started"] = "stage_started"
    stage: str


class StageProgress(Value):
    """``done`` of ``total`` units; ``rate`` in units a second; ``eta_seconds`` is an estimate from that rate; ``loss`` in nats a token."""

    kind: Literal["stage_progress"] = "stage_progress"
    stage: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    eta_seconds: float | None = None
    loss: float | None = None


class StageFinished(Value):
    kind: Literal["stage_finished"] = "stage_finished"
    stage: str
    seconds: float
    counts: dict[str, int | float | str] = Field(default_factory=dict)


class Note(Value):
    """A sentence for the person watching; never third-party text beyond names and paths."""

    kind: Literal["note"] = "note"
    level: Literal["info", "warning"] = "info"
    text: str


class JobFinished(Value):
    """``block`` is what the job made, empty where it made none: ``status`` is then ``done``, and its result is a value."""

    kind: Literal["job_finished"] = "job_finished"
    block: str = ""
    status: Literal["registered", "rejected", "done"]
    seconds: float


class JobFailed(Value):
    kind: Literal["job_failed"] = "job_failed"
    code: str
    message: str
    hint: str = ""


Event = Annotated[
    StageStarted | StageProgress | StageFinished | Note | JobFinished | JobFailed, Field(discriminator="kind")
]
Emit = Callable[["StageStarted | StageProgress | StageFinished | Note | JobFinished | JobFailed"], None]

event_adapter: TypeAdapter[StageStarted | StageProgress | StageFinished | Note | JobFinished | JobFailed] = TypeAdapter(
    Event
)


def silent(event: object) -> None:
    """An ``Emit`` that drops what it hears."""
