"""What a lab is asked, and what it says: every figure with its standing, whether an aim was reached, and what it was measured with."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from clonedna.core.block import Measure
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value

Experiment = Literal["retrieval", "probe", "composition", "interference"]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
LEAST_LAYERS, MOST_LAYERS = 3, 16
MOST_PACKAGES = 48
Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]


class LabOrder(Value):
    """``packages`` are tried in their order until so many ``layers`` passed the gate. ``pairs``: training pairs of a layer, at most;
    ``epochs`` over them. ``processes``: layers made at once, each in a process of its own; 1: one after another, in this one."""

    kind: Literal["lab"] = "lab"
    packages: tuple[Package, ...] = Field(min_length=LEAST_LAYERS, max_length=MOST_PACKAGES)
    layers: int = Field(default=12, ge=LEAST_LAYERS, le=MOST_LAYERS)
    experiments: tuple[Experiment, ...] = Field(default=EXPERIMENTS, min_length=1)
    base: str = Field(default="nano", max_length=500)
    pairs: int = Field(default=192, ge=24, le=1000)
    epochs: int = Field(default=2, ge=1, le=20)
    seed: int = Field(default=0, ge=0, lt=2**31)
    processes: int = Field(default=1, ge=1, le=16)


class LabLayer(Value):
    """A package's layer, or (``why``) why there is none. ``request``: what it is asked for by, in our own words; empty: it is not asked.

    ``made_by``: the program's digest when it was tried; ``began``: when, in seconds since 1970, and the ``seconds`` that it took;
    ``kept``: by an earlier run.
    """

    package: str
    version: str = ""
    block: str = ""
    reference: str = ""
    request: str = ""
    gain: Measure | None = None
    made_by: str = ""
    began: float = 0.0
    seconds: float = 0.0
    kept: bool = False
    why: str = ""


class LabFigure(Value):
    """``aim``: what is aimed at, in words, where something is; ``reached``: whether it was, ``None`` where that is not known."""

    name: str = Field(max_length=120)
    measure: Measure
    aim: str = ""
    reached: bool | None = None


class Point(Value):
    """A mark of a picture. ``group`` decides its colour, ``label`` is said in words beside it (third-party text)."""

    x: float
    y: float
    group: str = ""
    label: str = ""


class LabResult(Value):
    """What an experiment found. ``points``: the raw values behind its picture, by series; ``error``: why it could not run, where it could
    not. ``kept``: it was measured by an earlier run, at ``at``, and nothing that it depends on has changed."""

    experiment: Experiment
    figures: tuple[LabFigure, ...]
    points: dict[str, tuple[Point, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    at: str = ""
    kept: bool = False


class LabReport(Value):
    """``program``: SHA-256 over the program's own files, so that two reports can be told apart; ``seconds``: of this run, and
    ``work_seconds``: of all that is in the report, whichever run did it. ``failed``: experiments that could not run."""

    order: LabOrder
    base: BaseInfo | None
    version: str
    program: str
    libraries: dict[str, str]
    machine: dict[str, str | int]
    encoder: str
    layers: tuple[LabLayer, ...]
    results: tuple[LabResult, ...]
    seconds: float
    work_seconds: float
    at: str

    @property
    def failed(self) -> tuple[Experiment, ...]:
        return tuple(one.experiment for one in self.results if one.error)
