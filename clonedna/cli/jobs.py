"""`dna jobs ls | show | follow | logs | cancel | resume`, here and on a server; `dna worker`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.job_values import JobEvent, JobView

app = typer.Typer(
    name="jobs", no_args_is_help=True, help="Long things that run, stop and go on: list, follow, cancel, resume."
)
JobId = Annotated[str, typer.Argument(help="A job's id, or its beginning.", show_default=False)]
LOOK_SECONDS = 0.3


@app.command("ls")
def list_jobs(
    context: typer.Context,
    status: Annotated[
        Literal["queued", "running", "interrupted", "finished", "failed", "cancelled"] | None,
        typer.Option(help="Only those that stand so."),
    ] = None,
    kind: Annotated[
        Literal["mint", "evaluate", "identity", "compare", "merge", "genome", "bench"] | None,
        typer.Option(help="Only those of a kind."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="Those behind this one.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    state: State = context.obj
    page = state.desk.list(after=after, limit=limit, status=status, kind=kind)
    if as_json:
        print_json(page.jobs)
        return
    rows = [[v.id, v.kind, v.status, v.doing or (v.done[-1] if v.done else ""), v.block or v.target] for v in page.jobs]
    table("", ["job", "kind", "status", "stage", "block, or what it is made from"], rows, whole=4)
    if page.next:
        tell(f"and more: dna jobs ls --after {page.next}")


@app.command()
def show(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show one job: stages done, what it is doing, how it ended."""
    state: State = context.obj
    view = state.desk.get(job)
    if as_json:
        print_json(view)
        return
    rows = [
        ["kind", view.kind], ["status", view.status], ["target", view.target], ["authors", ", ".join(view.authors)],
        ["started", view.created_at], ["stages done", ", ".join(view.done)],
        ["doing", f"{view.doing} {view.percent or 0:.0f} %" if view.doing else ""], ["block", view.block or ""],
        ["error", f"{view.error.code}: {view.error.message}" if view.error else ""],
    ]  # fmt: skip
    table(view.id, ["", ""], rows)


@app.command()
def follow(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show a job's progress until it ends, and how it ended. Ctrl-C leaves the job to go on."""
    from clonedna.cli.following import raise_for

    state: State = context.obj
    view = _followed(state, job, as_json)
    raise_for(view)
    if not as_json:
        tell(f"{view.id}: {view.status}{f', {view.block}' if view.block else ''}")


def _followed(state: State, job: str, as_json: bool) -> JobView:
    from clonedna.app.job_values import JobView
    from clonedna.cli.following import end
    from clonedna.cli.progress import listener

    if state.client is not None:
        return end(state, state.desk.get(job).id, events=as_json, lines=True)
    with listener(as_json) as listen:
        for told in _watched(state, job):
            if isinstance(told, JobView):
                return told
            if as_json:
                print_json(told)
            else:
                listen(told.event)
    raise AssertionError("a job that is followed has an end")


def _watched(state: State, job: str) -> Iterator[JobEvent | JobView]:
    """What a job of this machine says, and last the job itself."""
    watching = state.own_desk.watch(job)
    while True:
        told, ended = watching.look()
        yield from told
        if ended is not None:
            yield ended
            return
        time.sleep(LOOK_SECONDS)


@app.command()
def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print a job's events, with their times."""
    state: State = context.obj
    after, job_id = -1, state.desk.get(job).id
    while True:
        page = state.desk.events(job_id, after=after)
        for line in page.events:
            after = line.offset
            _print_line(line, as_json)
        if page.ended or (not page.events and not follow):
            return
        if not page.events:
            time.sleep(LOOK_SECONDS if state.client is None else 1.0)


def _print_line(line: JobEvent, as_json: bool) -> None:
    from clonedna.cli.progress import progress_sentence, sentence
    from clonedna.core.events import StageProgress

    if as_json:
        print_json(line)
        return
    event = line.event
    text = f"{event.stage:<9} {progress_sentence(event)}" if isinstance(event, StageProgress) else sentence(event)
    if text:
        print(f"{line.at}  {printable(text)}", flush=True)


@app.command()
def cancel(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Stop a job at its next step; what is finished stays, and it can be resumed."""
    state: State = context.obj
    view = state.desk.cancel(job)
    if as_json:
        print_json(view)
    elif view.status in ("finished", "failed"):
        tell(f"{view.id} has {view.status} already")
    else:
        tell(f"cancelled: {view.id}; go on with: dna jobs resume {view.id}")


@app.command()
def resume(
    context: typer.Context,
    job: Annotated[
        str | None, typer.Argument(help="A job's id, or its beginning; default: the latest unfinished one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a job behind its last finished stage: here in this command, on a server in its turn."""
    from clonedna.cli.following import followed
    from clonedna.cli.minting import carry_out, show_result
    from clonedna.core.errors import InputError

    state: State = context.obj
    if state.client is not None:
        if job is None:
            raise InputError("which job?", "see: dna jobs ls", param="job")
        view = state.desk.resume(job)
        block = followed(state, view.id, events=as_json).block
    else:
        block = carry_out(state, state.jobs.find(job), as_json)
    if not as_json and block is not None:
        show_result(state, block)


def worker(
    context: typer.Context,
    queue: Annotated[Literal["train"], typer.Option(help="Which jobs: all that servers and --queue order.")] = "train",
    parallel: Annotated[
        int | None, typer.Option(min=1, max=64, help="So many at once; default: parallel_training.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base whose jobs it takes: nano, a folder, or a hub name.")
    ] = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Stop when nothing waits or runs here any more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Carry out the jobs of this home beside its server, on this machine or another one that shares the home (docs/jobs.md).

    The first TERM or Ctrl-C lets what runs stop at a checkpoint, the second stops at once; another worker goes on with it.
    """
    from clonedna.app.logs import configure
    from clonedna.app.worker import Worker

    state: State = context.obj
    settings = state.parts.settings
    configure(form=settings.log_format, level=settings.log_level)
    made = Worker(state.parts, base or settings.base, parallel=parallel)
    made.heed()

    def ready() -> None:
        if as_json:
            print_json({"queue": queue, "base": made.base, "parallel": made.parallel})
        tell(f"taking jobs of {made.base}, {made.parallel} at a time, from {settings.jobs_directory}")

    done = made.run(ready, until_empty=until_empty)
    if as_json:
        print_json({"worked_on": done})
