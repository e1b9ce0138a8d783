"""`dna jobs ls | show | logs | cancel | resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell

app = typer.Typer(
    name="jobs", no_args_is_help=True, help="Long things that run, stop and go on: list, watch, cancel, resume."
)
JobId = Annotated[str, typer.Argument(help="A job's id, or its beginning.", show_default=False)]


@app.command("ls")
def list_jobs(context: typer.Context, as_json: Json = False) -> None:
    """List all jobs, newest first."""
    state: State = context.obj
    views = state.jobs.views()
    if as_json:
        print_json(views)
        return
    rows = [[v.id, v.status, v.doing or (v.done[-1] if v.done else ""), v.block or v.target] for v in views]
    table("", ["job", "status", "stage", "block, or what it is minted from"], rows, whole=3)


@app.command()
def show(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show one job: stages done, what it is doing, how it ended."""
    state: State = context.obj
    view = state.jobs.view(state.jobs.find(job))
    if as_json:
        print_json(view)
        return
    rows = [
        ["status", view.status], ["target", view.target], ["authors", ", ".join(view.authors)], ["started", view.created_at],
        ["stages done", ", ".join(view.done)],
        ["doing", f"{view.doing} {view.percent or 0:.0f} %" if view.doing else ""], ["block", view.block or ""],
        ["error", f"{view.error.code}: {view.error.message}" if view.error else ""],
    ]  # fmt: skip
    table(view.id, ["", ""], rows)


@app.command()
def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print a job's events."""
    from clonedna.cli.progress import progress_sentence, sentence
    from clonedna.core.events import StageProgress

    state: State = context.obj
    for offset, at, event in state.jobs.follow(state.jobs.find(job), wait=follow):
        if as_json:
            print_json({"offset": offset, "at": at, "event": event})
            continue
        text = f"{event.stage:<9} {progress_sentence(event)}" if isinstance(event, StageProgress) else sentence(event)
        if text:
            print(f"{at}  {printable(text)}", flush=True)


@app.command()
def cancel(context: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Stop a job at its next step; what is finished stays, and it can be resumed."""
    state: State = context.obj
    workspace = state.jobs.find(job)
    state.jobs.cancel(workspace)
    if as_json:
        print_json(state.jobs.view(workspace))
    else:
        tell(f"cancelled: {workspace.id}; go on with: dna jobs resume {workspace.id}")


@app.command()
def resume(
    context: typer.Context,
    job: Annotated[
        str | None, typer.Argument(help="A job's id, or its beginning; default: the latest unfinished one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a job behind its last finished stage."""
    from clonedna.cli.minting import run_job, show_result

    state: State = context.obj
    workspace = state.jobs.find(job)
    reference = run_job(state, workspace, as_json)
    if not as_json:
        show_result(state, reference)
