"""`dna lab`: layers from installed packages, and four experiments with them, end to end; how a maintainer checks a change.

    OUT/home/                   a home of its own: nothing is read from or written to the person's
       /kept/layers/NAME.json   which layer a package gave, and by which order
            /results/NAME.json  what an experiment found, and from what
       /lab.json                every figure (value, n, interval, standing, how), and what it was measured with
       /report.md, /plots/      the same to read

It goes on where it was stopped: a layer that is there is not trained again, and an experiment is measured again only when the program, a
library, the layers or the order differ from what it was measured with. One run at a time works in a folder.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path

import anyio

from clonedna import __version__
from clonedna.app.lab_experiments import WORK, Bench, Work
from clonedna.app.lab_layers import LabLayers
from clonedna.app.lab_page import write_report
from clonedna.app.lab_values import EXPERIMENTS, Experiment, LabFigure, LabLayer, LabOrder, LabReport, LabResult
from clonedna.app.minting import LIBRARIES
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.stages import told
from clonedna.app.workspace import held, now, require_space, write_atomic
from clonedna.core.block import not_available
from clonedna.core.canonical import canonical, digest, sha256
from clonedna.core.errors import DnaError, InputError, Interrupted, JobBusy
from clonedna.core.events import Emit, Note, StageProgress
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value

ROOM = 1 << 30
MOST_RESULT_BYTES = 8 << 20
MEASURED_WITH = (*LIBRARIES, "numpy", "peft")


class Kept(Value):
    """A result, and the digest of all that it depends on."""

    key: str
    result: LabResult


def lab_settings(settings: Settings, out: Path) -> Settings:
    """Those of a lab in ``out``: its own home and files, the program's own thresholds, taxonomy and database; the rest as set."""
    defaults = {
        "home",
        "index",
        "database_url",
        "genome_sources",
        "route_thresholds",
        "taxonomy_extension",
        "glossary_extension",
        "server",
        "token",
        "base",
    }
    usual = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
        if name in defaults
    }
    return settings.model_copy(update=usual | {"home": (out / "home").absolute(), "engine": "local"})


class Lab:
    """One lab. ``parts`` are of the lab's own home (``lab_settings``). ``work``: the experiments."""

    def __init__(self, parts: Parts, out: Path, emit: Emit, *, work: Mapping[Experiment, Work] = WORK) -> None:
        self.parts, self.out, self.emit, self.work = parts, out, emit, work
        self._layers = LabLayers(parts, out / "kept", program(), emit)

    def run(self, order: LabOrder) -> LabReport:
        """Build, measure, write ``lab.json``, ``report.md`` and the plots. Blocks.

        An experiment that cannot run is in the report, not available and with its reason, and the others run; what ``failed`` says is for
        the exit status. Raises ``InputError`` where ``out`` cannot be used, ``JobBusy`` beside another run of it, ``NoSpace``, and what
        stops a training.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.out} cannot be used: {error.strerror}", "give another folder with --out"
            ) from error
        require_space(self.out, max(ROOM, self.parts.settings.min_free_bytes))
        with held(self.out / ".lock", wait=0.5) as free:
            if not free:
                raise JobBusy(f"another lab is at work in {self.out}", "wait for it, or give another folder with --out")
            return self._run(order)

    def _run(self, order: LabOrder) -> LabReport:
        began = time.monotonic()
        layers = self._built(order)
        usable = tuple(one for one in layers if not one.why)
        base = self._base(order)
        key = digest(
            [
                order.base,
                order.seed,
                program(),
                _libraries(),
                self.parts.settings.encoder,
                [one.block for one in usable],
                base,
            ]
        )
        results = [self._result(name, order, usable, key) for name in EXPERIMENTS if name in order.experiments]
        work = sum(one.seconds for one in results) + passed(layers)
        report = LabReport(
            order=order, base=base, version=__version__, program=program(), libraries=_libraries(), machine=_machine(),
            encoder=self.parts.settings.encoder, layers=layers, results=tuple(results), seconds=round(time.monotonic() - began, 3),
            work_seconds=round(work, 3), at=now(),
        )  # fmt: skip
        write_atomic(self.out / "lab.json", canonical(report) + b"\n")
        with told(self.emit, "report") as counts:
            counts |= {"plots": write_report(self.out, report)}
        return report

    def _base(self, order: LabOrder) -> BaseInfo | None:
        """What the base is; ``None`` where it cannot be had, which every experiment that needs it says by itself."""
        with suppress(DnaError):
            return self.parts.engine(order.base).base
        return None

    def _built(self, order: LabOrder) -> tuple[LabLayer, ...]:
        began, there = time.monotonic(), 0
        with told(self.emit, "layers") as counts:

            def tell(layer: LabLayer) -> None:
                nonlocal there
                there += not layer.why
                left = round((order.layers - there) * (time.monotonic() - began) / there, 1) if there else None
                self.emit(
                    StageProgress(stage="layers", done=there, total=order.layers, unit="layers", eta_seconds=left)
                )
                if there and not layer.why:  # where no bar is shown, this is all that is seen of it
                    self.emit(
                        Note(
                            text=f"{there} of {order.layers} layers are there, about {left or 0:.0f} s left for the others"
                        )
                    )

            layers = self._layers.build(order.packages, order.layers, order, tell)
            counts |= {"there": sum(not one.why for one in layers), "refused": sum(bool(one.why) for one in layers)}
        for one in layers:
            if one.why:
                self.emit(Note(level="warning", text=f"no layer of {one.package}: {one.why}"))
            elif one.made_by not in ("", program()):
                self.emit(
                    Note(
                        text=f"{one.reference} was trained by another state of the program; for a new one: dna lab --out NEW"
                    )
                )
        made = sum(not one.why for one in layers)
        if made < order.layers:
            self.emit(
                Note(level="warning", text=f"{made} of {order.layers} layers are there; name more packages: --packages")
            )
        return layers

    def _result(self, name: Experiment, order: LabOrder, layers: tuple[LabLayer, ...], key: str) -> LabResult:
        place, wanted = self.out / "kept" / "results" / f"{name}.json", sha256(f"{key} {name}")
        kept = _kept(place)
        if kept is not None and kept.key == wanted:
            self.emit(Note(text=f"{name}: as measured at {kept.result.at}, nothing that it depends on has changed"))
            return kept.result.model_copy(update={"kept": True})
        began = time.monotonic()
        bench = Bench(self.parts, layers, order.base, order.seed, self.emit)
        try:
            with told(self.emit, name) as counts:
                found = anyio.run(self.work[name], bench)
                counts |= {"figures": len(found.figures)}
        except Interrupted:
            raise
        except DnaError as error:
            return self._failed(name, f"{error.code}: {error.message}", began)
        except Exception as error:  # a fault of one experiment is told with its reason; the others still run
            return self._failed(name, f"internal: {type(error).__name__}: {error}", began)
        found = found.model_copy(update={"seconds": round(time.monotonic() - began, 3), "at": now()})
        write_atomic(place, canonical(Kept(key=wanted, result=found)) + b"\n")
        return found

    def _failed(self, name: Experiment, why: str, began: float) -> LabResult:
        why = " ".join(why.split())[:500]
        self.emit(Note(level="warning", text=f"{name} could not run: {why}"))
        figures = (LabFigure(name=name, measure=not_available(why)),)
        return LabResult(
            experiment=name, figures=figures, error=why, seconds=round(time.monotonic() - began, 3), at=now()
        )


@cache
def program() -> str:
    """SHA-256 over the program's own Python files and data, by path."""
    root = Path(__file__).resolve().parents[1]
    wanted = (path for path in sorted(root.rglob("*")) if path.suffix in (".py", ".json", ".jsonl") and path.is_file())
    lines = (f"{path.relative_to(root).as_posix()} {sha256(path.read_bytes())}\n" for path in wanted)
    return sha256("".join(lines))


def passed(layers: Sequence[LabLayer]) -> float:
    """Seconds in which at least one of ``layers`` was being made; those of which it is not known when are added."""
    passed, until = sum(one.seconds for one in layers if not one.began), 0.0
    for one in sorted(layers, key=lambda one: one.began):
        if one.began:
            end = one.began + one.seconds
            passed += max(0.0, end - max(one.began, until))
            until = max(until, end)
    return passed


def _libraries() -> dict[str, str]:
    return {name: installed(name) for name in MEASURED_WITH}


def _machine() -> dict[str, str | int]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "python": sys.version.split()[0],
    }


def _kept(path: Path) -> Kept | None:
    try:
        return Kept.model_validate_json(path.read_bytes()) if path.stat().st_size <= MOST_RESULT_BYTES else None
    except (OSError, ValueError):
        return None
