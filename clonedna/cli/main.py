"""The `dna` command: settings, the commands, and the one place where an error becomes a line and an exit status.

Imports of libraries that take time stand inside the commands, so that `dna --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clonedna import __version__
from clonedna.cli import (
    archives,
    blocks,
    calibration,
    catalogue,
    chatting,
    comparing,
    consent,
    details,
    developers,
    doctor,
    evals,
    genome_bench,
    genome_plans,
    genomes,
    interfering,
    jobs,
    keys,
    lab,
    merging,
    minting,
    people,
    personas,
    profiles,
    serving,
    sharing,
    teams,
    tokens,
    upkeep,
    versions,
)
from clonedna.cli.context import State
from clonedna.cli.recording import recorded
from clonedna.core.errors import DnaError

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="dna", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Mint, examine and talk to .dna blocks: LoRA adapters that carry one person's way of writing code.",
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dna {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Where blocks, keys and jobs are kept (DNA_HOME).")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A settings file to use instead of ./dna.toml and the user's.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="A server to work on instead of this machine: its URL (DNA_SERVER, DNA_TOKEN).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = state = State(home=home, config=config, server=server)
    context.call_on_close(state.close)
    context.with_resource(recorded(lambda: state.change))


minting.add_to(app)
catalogue.add_to(app)
blocks.add_to(app)
chatting.add_to(app)
details.add_to(app)
versions.add_to(app)
evals.add_to(app)
comparing.add_to(app)
archives.add_to(app)
sharing.add_to(app)
upkeep.add_to(app)
merging.add_to(app)
serving.add_to(app)
profiles.add_to(app)
people.add_to(app)
consent.add_to(app)
developers.add_to(app)
doctor.add_to(app)
genome_plans.add_to(app)
genomes.add_to(app)
calibration.add_to(genomes.genome_app)
interfering.add_to(genomes.genome_app)
genome_bench.add_to(genomes.genome_app)
lab.add_to(app)
tokens.add_to(app)
app.add_typer(jobs.app, name="jobs")
app.command()(jobs.worker)
app.add_typer(keys.app, name="keys")
app.add_typer(teams.app, name="team")
app.add_typer(personas.app, name="persona")


def main() -> None:
    """Run, and leave with the error's own exit status."""
    as_json = "--json" in sys.argv[1:]
    try:
        status: Any = app(standalone_mode=False)
    except DnaError as error:
        _say(error, as_json)
        status = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\ninterrupted: nothing is half-written\n")
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        usage = _usage(error)
        if usage is None:
            raise
        _say_usage(*usage, as_json)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _say(error: DnaError, as_json: bool) -> None:
    if as_json:
        import json

        sys.stdout.write(json.dumps(error.as_json(), ensure_ascii=False) + "\n")
        return
    sys.stderr.write(f"error[{error.code}]: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  next: {error.hint}\n")


def _usage(error: Exception) -> tuple[str, str] | None:
    """Message and command of a wrong command line, whichever of typer's own classes it is."""
    show = getattr(error, "format_message", None)
    if show is None:
        return None
    where = getattr(error, "ctx", None)
    return show(), where.command_path if where is not None else "dna"


def _say_usage(message: str, command: str, as_json: bool) -> None:
    from clonedna.core.errors import InputError

    _say(InputError(message, f"see: {command} --help"), as_json)


if __name__ == "__main__":
    main()
