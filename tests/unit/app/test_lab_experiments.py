"""The lab's experiments over blocks of a fake engine that learns single letters: shapes, reasons and bounds, not quality."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app import lab_experiments
from clonedna.app.bench_values import BenchOrder
from clonedna.app.genome_judge import HomeJudge
from clonedna.app.lab_experiments import EXEMPLARS, Bench, composition, interference, probe, retrieval
from clonedna.app.lab_page import picture_of
from clonedna.app.lab_values import LabLayer, LabResult
from clonedna.app.settings import Settings
from clonedna.core.errors import DnaError, InputError
from clonedna.core.events import StageProgress, silent
from clonedna.core.fakes import FakeEncoder
from clonedna.genomes.probing import Bar
from clonedna.genomes.retrieval_set import LayerText, Request, RetrievalSet
from tests.parts import FakeEngineParts
from tests.whose import add, pair, work

NAMES = ("ada", "bob", "cyd")
REQUESTS = ("adds letters", "bends metals", "cuts paper")


class LettersParts(FakeEngineParts):
    """With an encoder that needs no model."""

    @property
    def encoder(self) -> Any:  # type: ignore[override]
        return FakeEncoder()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Made-up blocks have no evaluation that would say what a pass is.
    monkeypatch.setattr(HomeJudge, "_bar", lambda *_: Bar(gain=0.05, n=3, how="stated"))
    parts = LettersParts(Settings(home=tmp_path / "home", min_free_bytes=0))
    layers: list[LabLayer] = []
    for habit, (name, request) in enumerate(zip(NAMES, REQUESTS, strict=True)):
        pairs = [*work(habit, held=12), *(pair(habit, number, "validation") for number in range(200, 206))]
        layers.append(LabLayer(package=name, block=add(parts, name, pairs).id, request=request))
    return Bench(parts, tuple(layers), "fake", 0, silent)


def values(result: LabResult) -> dict[str, float | None]:
    return {one.name: one.measure.value for one in result.figures}


def test_a_probe_lays_what_is_measured_beside_what_is_predicted(bench: Bench) -> None:
    heard: list[Any] = []
    found = anyio.run(probe, Bench(bench.parts, bench.layers, "fake", 0, heard.append))
    told = values(found)
    assert [one.measure.n for one in found.figures[:4]] == [3, 3, 6, 6]
    assert told["right layer at .90 or more"] is not None
    assert told["wrong layers at .60 or more"] is not None
    # No calibration is for this encoder: that is said, and is no zero.
    assert found.figures[-1].measure.status == "not_available"
    assert "no calibration" in found.figures[-1].measure.how
    assert [one.done for one in heard if isinstance(one, StageProgress) and one.stage == "probe"] == [1, 2, 3]


def test_who_cannot_be_asked_is_told(bench: Bench) -> None:
    some = (bench.layers[0].model_copy(update={"request": ""}), *bench.layers[1:])
    found = anyio.run(probe, Bench(bench.parts, some, "fake", 0, silent))
    assert found.figures[0].measure.n == 2
    assert any("ada: not asked" in note for note in found.notes)
    nobody = tuple(one.model_copy(update={"request": ""}) for one in bench.layers)
    with pytest.raises(InputError, match="nothing could be probed"):
        anyio.run(probe, Bench(bench.parts, nobody, "fake", 0, silent))


def test_held_out_pairs_are_bounded_and_never_twice(bench: Bench) -> None:
    held = bench.held(bench.layers[0], EXEMPLARS)
    assert len({one.completion for one in held}) == len(held) == 12
    assert {one.split for one in held} == {"holdout"}
    assert len(bench.held(bench.layers[0], 5)) == 5


def test_a_composition_measures_each_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_experiments, "BenchOrder", partial(BenchOrder, ways=("average", "sum", "gate", "svd")))
    found = anyio.run(composition, bench)
    told = values(found)
    assert "average mean" in told
    assert "gate worst" in told
    known = [one for one in found.figures if one.measure.value is not None]
    assert known
    assert all(one.measure.how for one in found.figures if one.measure.value is None)
    assert {one.label for one in found.points["kept"]} <= {one.name.removesuffix(" mean") for one in found.figures}
    assert picture_of(found) is not None


def test_what_an_engine_cannot_show_is_an_error_with_its_reason(bench: Bench) -> None:
    with pytest.raises(DnaError):  # the fake engine's adapters have no factors to compare
        anyio.run(interference, bench)


def test_retrieval_asks_for_layers_by_their_request(bench: Bench) -> None:
    layers = tuple(
        LayerText(id=f"l-{n}", text=text, languages=("python",), domain="web", split=split, form="line")
        for n, (text, split) in enumerate((("parses dates", "dev"), ("draws charts", "test"), ("sends mail", "test"), ("reads", "dev")))
    )  # fmt: skip
    requests: list[Request] = []
    for split, (first, second) in {"dev": ("l-0", "l-3"), "test": ("l-1", "l-2")}.items():
        for kind, wants in {
            "short": (first,),
            "paraphrase": (second,),
            "two-skill": (first, second),
            "absent": (),
        }.items():
            text = f"{split} {kind} wish"
            requests.append(Request(id=f"{split}-{kind}", kind=kind, text=text, wants=wants, domain="web", split=split))  # type: ignore[arg-type]
    queries = {"l-1": ("test short wish",), "l-2": ("test paraphrase wish",)}
    held = RetrievalSet(
        layers,
        tuple(requests),
        {one.id: (one.text,) for one in layers},
        {one.id: queries.get(one.id, ()) for one in layers},
    )

    async def work() -> LabResult:
        return await retrieval(bench, held)

    found = anyio.run(work)
    told = {one.name: one for one in found.figures}
    assert told["set short R@1"].aim == told["queried short R@1"].aim == "at least 0.98"
    assert told["queried short R@1"].measure.value == told["queried paraphrase R@1"].measure.value == 1.0
    assert told["lab R@1"].measure.n == 3
    assert told["lab R@5"].measure.value == 1.0
    assert picture_of(found, dark=True) is not None
