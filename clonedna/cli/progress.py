"""How a running job looks: a bar on a terminal, a line a stage elsewhere, JSON lines when asked. All three read the same events."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from clonedna.cli.context import printable, tell
from clonedna.core.events import JobFailed, JobFinished, Note, StageFinished, StageProgress, StageStarted

Listener = Callable[[Any], None]


@contextmanager
def listener(as_json: bool) -> Generator[Listener]:
    """What to hand to a job as its ``listen``."""
    if as_json:
        yield _json_line
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield plain_line


def _json_line(event: Any) -> None:
    sys.stdout.write(json.dumps(event.model_dump(mode="json"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain_line(event: Any) -> None:
    """One line for what is over; progress inside a stage is not printed, and a failure is told once, where the command ends."""
    text = None if isinstance(event, JobFailed) else sentence(event)
    if text:
        tell(text)


def sentence(event: Any) -> str | None:
    """An event in words, or nothing for starts and progress."""
    match event:
        case StageFinished():
            counts = "  ".join(f"{key} {value}" for key, value in event.counts.items())
            return printable(f"{event.stage:<9} {event.seconds:>7.2f} s  {counts}")
        case Note():
            return printable(f"{'note' if event.level == 'info' else 'warning'}: {event.text}")
        case JobFinished():
            return f"{event.status}{f': {event.block}' if event.block else ''} in {event.seconds:.1f} s"
        case JobFailed():
            return printable(f"failed[{event.code}]: {event.message}")
        case _:
            return None


def progress_sentence(event: StageProgress) -> str:
    """Stage, share, rate, time left, loss."""
    parts = [f"{event.done}/{event.total} {event.unit}"]
    if event.rate:
        parts.append(f"{event.rate:,.0f}/s")
    if event.eta_seconds is not None:
        parts.append(f"about {event.eta_seconds:.0f} s left")
    if event.loss is not None:
        parts.append(f"loss {event.loss:.3f}")
    return "  ".join(parts)


@contextmanager
def _bar() -> Generator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"), console=console, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("starting", total=None, detail="")

        def show(event: Any) -> None:
            if isinstance(event, StageStarted):
                progress.reset(task, description=event.stage, total=None, detail="")
            elif isinstance(event, StageProgress):
                progress.update(task, completed=event.done, total=event.total, detail=progress_sentence(event))
            text = None if isinstance(event, JobFailed) else sentence(event)
            if text:
                console.print(Text(text))

        yield show
