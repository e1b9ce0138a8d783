"""A job on a server, seen from here: ordered, followed with the same progress as one that runs here, left alone by Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import typer
from pydantic import BaseModel

from clonedna.cli.context import State, print_json, tell

if TYPE_CHECKING:
    from clonedna.app.job_asks import Ask
    from clonedna.app.job_values import JobResult, JobView
    from clonedna.client.jobs import RemoteJobs

INTERRUPTED = 130
A = TypeVar("A", bound=BaseModel)


def remote(state: State) -> RemoteJobs:
    """The jobs of the server that was named."""
    assert state.client is not None
    return state.client.jobs


def order(state: State, ask: Ask, *, events: bool = False, silent: bool = False) -> JobResult:
    """Order a job there and follow it to its end. Raises what the job ended in.

    ``events``: they are printed as JSON lines; ``silent``: nothing of them is. Ctrl-C leaves the job to go on.
    """
    view = remote(state).start(ask)
    tell(f"job {view.id} on {state.settings.server}: it goes on without this command")
    return followed(state, view.id, events=events, silent=silent)


def followed(state: State, job_id: str, *, events: bool = False, silent: bool = False) -> JobResult:
    """Follow a job to its end; gives its result. Raises what it ended in."""
    raise_for(end(state, job_id, events=events, silent=silent))
    return remote(state).result(job_id)


def end(state: State, job_id: str, *, events: bool, silent: bool = False, lines: bool = False) -> JobView:
    """Show what a job says until it says no more; the job as it is then. ``lines``: as lines of its log, with their offsets."""
    from clonedna.app.job_values import JobView
    from clonedna.cli.progress import listener

    try:
        with listener(events) as listen:
            for told in remote(state).follow(job_id):
                if isinstance(told, JobView):
                    return told
                if lines and events:
                    print_json(told)
                elif not silent:
                    listen(told.event)
    except KeyboardInterrupt:
        left(state, job_id)
    raise AssertionError("a job that is followed has an end")


def left(state: State, job_id: str) -> None:
    """Say that the job goes on, and how to come back to it or stop it; leave with the exit status of an interrupt."""
    where = f"dna --server {state.settings.server} jobs"
    tell(f"\njob {job_id} goes on\n  follow it: {where} follow {job_id}\n  stop it:   {where} cancel {job_id}")
    raise typer.Exit(INTERRUPTED)


def raise_for(view: JobView) -> None:
    """Raises what a job failed with, as what it was there; ``Cancelled`` for one that somebody stopped."""
    import json

    from clonedna.core.errors import Cancelled, Interrupted, Unavailable, error_of

    if view.status == "cancelled":
        raise Cancelled(f"job {view.id} was cancelled", f"go on with: dna jobs resume {view.id}")
    if view.status == "interrupted":
        raise Interrupted(f"job {view.id} is not being worked on", f"go on with: dna jobs resume {view.id}")
    if view.error is not None:
        told = {"code": view.error.code, "message": view.error.message, "hint": view.error.hint, "job": view.id}
        raise error_of(json.dumps({"error": told}).encode()) or Unavailable(view.error.message, view.error.hint)


def asked(kind: type[A], **fields: Any) -> A:
    """The ask of these fields. Raises ``InputError`` naming the one that cannot be."""
    from pydantic import ValidationError

    from clonedna.core.errors import InputError

    try:
        return kind.model_validate({"kind": get_args(kind.model_fields["kind"].annotation)[0], **fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {first['msg']}", "see the command's --help", param=where) from None


def value_of(result: JobResult, kind: Any) -> Any:
    """A result's value as ``kind``. Raises ``BadAnswer`` for anything else."""
    from pydantic import ValidationError

    from clonedna.core.errors import BadAnswer

    try:
        return kind.model_validate(result.value)
    except ValidationError:
        raise BadAnswer(
            f"the result of job {result.job} is not what was asked for", "is it a server of this version?"
        ) from None


def uploaded(state: State, path: Path | None) -> str | None:
    """The id that the server gave a file of this machine."""
    return None if path is None else remote(state).upload(path)


def refuse_base(on: str | None) -> None:
    """A server has its own base. Raises ``InputError``."""
    from clonedna.core.errors import InputError

    if on is not None:
        raise InputError("a server measures on its own base", "leave --on out, or leave out --server", param="on")
