"""The lab's flow on a fake engine: what is built, kept, left out and told. What its figures mean is measured on the bundled base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedna.app import lab as labs
from clonedna.app import lab_experiments, lab_hands
from clonedna.app.lab import Lab, lab_settings
from clonedna.app.lab_experiments import Bench, figure, part
from clonedna.app.lab_layers import LabLayers
from clonedna.app.lab_page import aims_of, code, page
from clonedna.app.lab_values import EXPERIMENTS, Experiment, LabFigure, LabLayer, LabOrder, LabReport, LabResult, Point
from clonedna.app.settings import Settings
from clonedna.cli.main import app
from clonedna.core.block import Measure, not_available
from clonedna.core.canonical import strict_json
from clonedna.core.errors import Corrupt, Internal, JobBusy, Refused
from clonedna.core.events import Note, silent
from clonedna.core.fakes import FakeEncoder
from tests.cli import CliRunner
from tests.packages import install
from tests.parts import FakeEngineParts

NAMES = ("abacus", "nowhere", "neither")


class LabParts(FakeEngineParts):
    """Fake engine, real packages in a folder, and an encoder that needs no model."""

    @property
    def encoder(self) -> Any:  # type: ignore[override]
        return FakeEncoder()


@pytest.fixture
def parts(tmp_path: Path) -> LabParts:
    (tmp_path / "base").mkdir()
    install(tmp_path / "installed", "abacus", metadata="License-Expression: MIT\nSummary: Abacus counts beads\n")
    return LabParts(Settings(home=tmp_path / "out" / "home", packages=tmp_path / "installed", min_free_bytes=0))


def order(tmp_path: Path, **changes: Any) -> LabOrder:
    fields: dict[str, Any] = {"packages": NAMES, "layers": 3, "base": str(tmp_path / "base"), "epochs": 1, "pairs": 24}
    return LabOrder(**(fields | changes))


class Counted:
    """Experiments that only count how often they ran. ``broken``: raise this."""

    def __init__(self, broken: dict[str, Exception] | None = None) -> None:
        self.ran: list[str] = []
        self.broken = broken or {}

    def work(self) -> dict[Experiment, Callable[[Bench], Any]]:
        return {name: self._one(name) for name in EXPERIMENTS}

    def _one(self, name: Experiment) -> Callable[[Bench], Any]:
        async def work(bench: Bench) -> LabResult:
            self.ran.append(name)
            if name in self.broken:
                raise self.broken[name]
            measure = Measure(value=len(bench.layers), status="measured", n=1, how="counted")
            return LabResult(experiment=name, figures=(LabFigure(name="layers", measure=measure),))

        return work


def report_of(parts: LabParts, tmp_path: Path, counted: Counted, wanted: LabOrder, emit: Any = silent) -> LabReport:
    return Lab(parts, tmp_path / "out", emit, work=counted.work()).run(wanted)


def test_it_builds_measures_and_goes_on_where_it_was_stopped(
    parts: LabParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, wanted = Counted({"composition": Refused("nothing to compose")}), order(tmp_path)
    first = report_of(parts, tmp_path, counted, wanted)
    assert counted.ran == list(EXPERIMENTS)
    assert [one.package for one in first.layers] == list(NAMES)
    assert [bool(one.why) for one in first.layers] == [False, True, True]
    assert not any(one.request for one in first.layers)  # nobody wrote one for made-up packages
    assert parts.registry.resolve(first.layers[0].block).consent_mode == "local-only"
    # What failed is in every face with its reason, and the others were measured.
    assert first.failed == ("composition",)
    kept = LabReport.model_validate(strict_json((tmp_path / "out" / "lab.json").read_bytes()))
    assert kept == first
    assert not any(one.kept for one in kept.layers)
    assert kept.results[2].figures[0].measure.status == "not_available"
    assert "nothing to compose" in (tmp_path / "out" / "report.md").read_text()
    assert first.work_seconds > 0

    # Again: no training, and only what failed is tried again.
    monkeypatch.setattr(LabLayers, "_made", lambda *_: pytest.fail("a layer that is there was trained again"))
    counted.ran.clear()
    counted.broken.clear()
    second = report_of(parts, tmp_path, counted, wanted)
    assert counted.ran == ["composition"]
    assert second.failed == ()
    assert [one.kept for one in second.results] == [True, True, False, True]
    assert [one.block for one in second.layers] == [one.block for one in first.layers]
    assert [one.kept for one in second.layers] == [True, False, False]
    assert second.layers[0].seconds == first.layers[0].seconds

    # Another state of the program: all is measured anew, by the layers that are there, and that is said.
    monkeypatch.setattr(labs, "program", lambda: "another")
    counted.ran.clear()
    told: list[Any] = []
    third = report_of(parts, tmp_path, counted, order(tmp_path, experiments=("probe",)), told.append)
    assert counted.ran == ["probe"]
    assert [one.experiment for one in third.results] == ["probe"]
    assert any(isinstance(one, Note) and "another state of the program" in one.text for one in told)


def test_packages_that_give_no_layer_are_told_and_the_next_ones_tried(
    parts: LabParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "installed", "granite", files={"granite/a.py": "x = 1\n"})
    install(tmp_path / "installed", "marble", metadata="License-Expression: GPL-3.0-only\n", licence=None)
    names = ("granite", "marble", "nowhere", "abacus")
    told: list[Any] = []
    report = report_of(
        parts, tmp_path, Counted(), order(tmp_path, packages=names, experiments=("retrieval",)), told.append
    )
    why = {one.package: one.why for one in report.layers}
    assert why["granite"].startswith("too_few_spans")
    assert why["marble"].startswith("licence")
    assert why["nowhere"] == "it is not installed"
    assert why["abacus"] == ""
    assert all(any(name in one.text for one in told if isinstance(one, Note)) for name in names[:3])

    # They would give none again from the same program, and are tried again by another.
    tried: list[str] = []

    def made(_: LabLayers, package: str, *__: Any) -> Any:
        tried.append(package)
        raise Refused("still nothing")

    monkeypatch.setattr(LabLayers, "_made", made)
    again = report_of(parts, tmp_path, Counted(), order(tmp_path, packages=names, experiments=("retrieval",)))
    assert ({one.package: one.why for one in again.layers}, tried) == (why, [])
    monkeypatch.setattr(labs, "program", lambda: "another")
    report_of(parts, tmp_path, Counted(), order(tmp_path, packages=names, experiments=("retrieval",)))
    assert tried == ["granite", "marble"]


def test_layers_made_at_once_are_those_made_one_after_another(
    parts: LabParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bead", "cord"):
        install(tmp_path / "installed", name, metadata="License-Expression: MIT\n")
    told: list[Any] = []
    names, wanted = ("abacus", "nowhere", "bead", "cord"), order(tmp_path, processes=2)  # cord is not needed
    layers = LabLayers(parts, tmp_path, "program", told.append)
    found = layers.build(names, 2, wanted, told.append)
    assert [one.package for one in found] == list(names[:3])
    assert {one.package for one in told if isinstance(one, LabLayer)} == set(names[:3])
    for name in ("abacus", "bead"):  # heard from their processes
        assert any(isinstance(one, Note) and one.text.startswith(f"{name}: train ") for one in told)
    assert all(parts.registry.resolve(one.block).name == one.package for one in found if not one.why)
    assert sorted(one.name for one in (tmp_path / "layers").iterdir()) == ["abacus.json", "bead.json"]

    # What is there is there for any number of processes, and needs none.
    monkeypatch.setattr(LabLayers, "_made", lambda *_: pytest.fail("a layer that is there was made again"))
    monkeypatch.setattr(lab_hands.Hand, "__init__", lambda *_: pytest.fail("a process was started for nothing"))
    for one in (wanted, wanted.model_copy(update={"processes": 1})):
        assert [layer.kept for layer in layers.build(names, 2, one, told.append)] == [True, False, True]

    monkeypatch.undo()
    other = LabParts(parts.settings.model_copy(update={"home": tmp_path / "other"}))
    alone = LabLayers(other, tmp_path / "other", "program", silent).build(
        names[:1], 1, wanted.model_copy(update={"processes": 1}), told.append
    )
    assert alone[0].gain == found[0].gain


def test_time_in_which_layers_were_made_is_counted_once() -> None:
    spans = ((100.0, 10.0), (105.0, 10.0), (106.0, 1.0), (200.0, 5.0))
    layers = [LabLayer(package=f"p{i}", began=began, seconds=seconds) for i, (began, seconds) in enumerate(spans)]
    assert labs.passed(layers) == 20
    assert labs.passed([*layers, LabLayer(package="old", seconds=7)]) == 27
    assert labs.passed([]) == 0


def test_a_fault_of_one_experiment_does_not_take_the_others(parts: LabParts, tmp_path: Path) -> None:
    install(tmp_path / "installed", "dahlia", files={"dahlia/a.py": "x = 1\n"})
    counted = Counted(
        {"retrieval": KeyError("vector"), "probe": Corrupt("a broken file"), "interference": Internal("no")}
    )
    wanted = order(tmp_path, packages=("nowhere", "neither", "dahlia"))
    report = report_of(parts, tmp_path, counted, wanted)
    assert counted.ran == list(EXPERIMENTS)
    assert report.failed == ("retrieval", "probe", "interference")
    assert "KeyError" in report.results[0].error
    assert report.results[1].error == "corrupt: a broken file"


def test_one_run_at_a_time(parts: LabParts, tmp_path: Path) -> None:
    class Again(Counted):
        def _one(self, name: Experiment) -> Callable[[Bench], Any]:
            async def work(_: Bench) -> LabResult:
                with pytest.raises(JobBusy):
                    report_of(parts, tmp_path, Counted(), wanted)
                return LabResult(experiment=name, figures=())

            return work

    wanted = order(tmp_path, packages=("nowhere", "neither", "none"), experiments=("retrieval",))
    assert report_of(parts, tmp_path, Again(), wanted).failed == ()


def test_too_few_layers_are_a_reason(parts: LabParts, tmp_path: Path) -> None:
    wanted = order(
        tmp_path, packages=("nowhere", "neither", "none"), experiments=("probe", "composition", "interference")
    )
    report = Lab(parts, tmp_path / "out", silent, work=lab_experiments.WORK).run(wanted)
    assert report.failed == ("probe", "composition", "interference")
    assert all("layers, 0 are there" in one.error for one in report.results)


def test_its_home_is_its_own(tmp_path: Path) -> None:
    theirs = Settings(
        home=tmp_path / "mine", base="other", server="http://127.0.0.1:1", genome_sources=("x",), threads=2
    )
    made = lab_settings(theirs, tmp_path / "out")
    assert made.home == tmp_path / "out" / "home"
    assert (made.base, made.server, made.genome_sources, made.threads) == ("nano", None, (), 2)
    assert made.database_url is None


def test_aims_are_reached_missed_or_not_known() -> None:
    high, low = (Measure(value=value, status="measured", n=9, how="counted") for value in (0.99, 0.04))
    assert figure("set short R@1", high).reached is True
    assert figure("set short R@1", low).reached is False
    assert figure("wrong layers at .60 or more", low).reached is True
    assert figure("wrong layers at .60 or more", high).reached is False
    assert figure("set short R@1", not_available("no")).reached is None
    assert (figure("anything", high).aim, figure("anything", high).reached) == ("", None)
    assert part([], "counted", "nothing there").status == "not_available"
    assert part([True, False], "counted", "").value == 0.5


def test_the_page_holds_third_party_text_in_spans() -> None:
    assert code("a`b|c\nd\x1b[0m") == "`a\N{RIGHT SINGLE QUOTATION MARK}b/c d [0m`"
    found = figure("set short R@1", Measure(value=0.5, status="measured", n=2, how="counted", ci95=(0.25, 0.75)))
    points = {"kept": (Point(x=0, y=0.5),)}
    result = LabResult(experiment="retrieval", figures=(found,), points=points, notes=("<b>|`",), seconds=1)
    wanted = LabOrder(packages=("a", "b", "c"))
    report = LabReport(
        order=wanted, base=None, version="1", program="p" * 64, libraries={}, machine={}, encoder="hashed", layers=(), results=(result,),
        seconds=1, work_seconds=1, at="",
    )  # fmt: skip
    text = page(report, {"retrieval"})
    assert "| retrieval | set short R@1 | at least 0.98 | 0.500 | missed |" in text
    assert "`<b>/\N{RIGHT SINGLE QUOTATION MARK}`" in text
    assert 'srcset="plots/retrieval-dark.svg"' in text
    assert [name for name, _ in aims_of(report)] == ["retrieval"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--only", "everything"), "experiments"), (("--layers", "2"), "layers"), (("--packages", "rich,../x,y"), "packages"),
        (("--pairs", "1"), "pairs"), (("--seed", "-1"), "seed"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_made(tmp_path: Path, arguments: tuple[str, ...], field: str) -> None:
    done = CliRunner().invoke(app, ["lab", "--out", str(tmp_path / "out"), *arguments])
    assert done.exception is not None
    assert field in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_figures_are_json(parts: LabParts, tmp_path: Path) -> None:
    wanted = order(tmp_path, packages=("nowhere", "neither", "none"), experiments=("retrieval",))
    report_of(parts, tmp_path, Counted(), wanted)
    told = json.loads((tmp_path / "out" / "lab.json").read_text())
    assert set(told["results"][0]["figures"][0]["measure"]) == {"value", "status", "n", "split", "how", "ci95"}
