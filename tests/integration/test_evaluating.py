"""A block is examined again: what is stored comes out again, what it was trained on is flagged, and the block stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.evaluating import Evaluating
from clonedna.app.evaluations import Evaluated, Evaluations
from clonedna.app.jobs import Jobs
from clonedna.core.errors import BlockRejected, InputError, TooLarge
from clonedna.core.events import Note, silent
from clonedna.core.work import Pair
from tests.parts import FakeParts, order


@pytest.fixture(scope="module")
def minted(tmp_path_factory: pytest.TempPathFactory) -> FakeParts:
    parts = FakeParts(tmp_path_factory.mktemp("home"))
    jobs = Jobs(parts.settings, parts)
    assert jobs.run(jobs.create(order())[0], silent).status == "registered"
    return parts


def files(parts: FakeParts) -> dict[str, bytes]:
    folder = Path(Blocks(parts).show("ada-example").path)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pairs(parts: FakeParts, *splits: str) -> list[Pair]:
    return [pair for pair in Blocks(parts).pairs("ada-example") if pair.split in splits]


def written(path: Path, pairs: list[Pair]) -> Path:
    path.write_text("".join(json.dumps(pair.model_dump(mode="json")) + "\n" for pair in pairs), "utf-8")
    return path


def measured(parts: FakeParts, file: Path, heard: list[Any] | None = None) -> Evaluated:
    return anyio.run(
        lambda: Evaluating(parts, heard.append if heard is not None else silent).measure("ada-example", file)
    )


def test_measured_again_it_is_what_is_stored_and_the_block_is_untouched(minted: FakeParts) -> None:
    before = files(minted)
    done = anyio.run(lambda: Evaluating(minted, silent).examine("ada-example"))
    compared = {one.name: one for one in done.readings}
    assert done.reproduced is True
    assert compared["nll.delta"].drift == 0.0
    assert compared["nll.delta"].within is True
    assert compared["final_loss"].drift is None
    assert "trained" in compared["final_loss"].why
    assert files(minted) == before
    assert Blocks(minted).show("ada-example").again[0] == done


def test_an_evaluation_of_other_numbers_is_not_reproduced(minted: FakeParts) -> None:
    minted.engine("fake")._adapters.clear()  # type: ignore[attr-defined]
    whole = minted.engine("fake").load

    async def load(directory: Path, **options: Any) -> Any:
        info = await whole(directory, **options)
        minted.engine("fake")._adapters[info.id] = minted.engine("fake")._adapters[info.id] * 0.5  # type: ignore[attr-defined]
        return info

    minted.engine("fake").load = load  # type: ignore[method-assign]
    try:
        done = anyio.run(lambda: Evaluating(minted, silent).examine("ada-example"))
    finally:
        del minted.engine("fake").load  # type: ignore[attr-defined]
    assert done.reproduced is False
    assert next(one for one in done.readings if one.name == "nll.adapter").within is False
    assert next(one for one in done.readings if one.name == "nll.base").within is True


def test_training_pairs_are_flagged_in_every_form(minted: FakeParts, tmp_path: Path) -> None:
    heard: list[Any] = []
    trained = pairs(minted, "train")
    done = measured(minted, written(tmp_path / "train.jsonl", trained), heard)
    assert done.contaminated == 1.0
    assert {measure.split for measure in done.evaluation.measures.values()} == {"training data"}
    assert any(isinstance(event, Note) and event.level == "warning" for event in heard)
    near = [p.model_copy(update={"completion": p.completion.replace("return a", "return b")}) for p in trained[:6]]
    assert measured(minted, written(tmp_path / "near.jsonl", near)).overlaps == {"near": 6}
    inside = [p.model_copy(update={"completion": "\n".join(p.completion.splitlines()[2:-2])}) for p in trained[:6]]
    assert measured(minted, written(tmp_path / "inside.jsonl", inside)).contaminated == 1.0
    half = [*near[:3], *pairs(minted, "holdout")[:3]]
    assert measured(minted, written(tmp_path / "half.jsonl", half)).contaminated == 0.5


def test_held_out_pairs_are_not_flagged(minted: FakeParts, tmp_path: Path) -> None:
    done = measured(minted, written(tmp_path / "held.jsonl", pairs(minted, "holdout")))
    assert done.contaminated == 0.0
    assert {measure.split for measure in done.evaluation.measures.values()} == {"given"}
    stored = Blocks(minted).show("ada-example").evaluation.measures["nll.delta"]
    assert done.evaluation.measures["nll.delta"].value == stored.value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no pairs"),
        (b"{}\n", "line 1"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\n", "not JSON"),
    ],
)
def test_what_is_no_file_of_pairs_is_refused_without_showing_it(
    data: bytes, said: str, minted: FakeParts, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=said):
        measured(minted, tmp_path / "bad.jsonl")


def test_no_file_and_too_large_a_file(minted: FakeParts, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        measured(minted, tmp_path / "gone.jsonl")
    minted.settings = minted.settings.model_copy(update={"max_upload_bytes": 10})
    try:
        with pytest.raises(TooLarge):
            measured(minted, written(tmp_path / "large.jsonl", pairs(minted, "holdout")))
    finally:
        minted.settings = minted.settings.model_copy(update={"max_upload_bytes": 10**8})


def test_a_removed_block_takes_its_evaluations_with_it(tmp_path: Path) -> None:
    parts = FakeParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    reference = jobs.run(jobs.create(order())[0], silent)
    anyio.run(lambda: Evaluating(parts, silent).examine("ada-example"))
    assert Evaluations(tmp_path).of(reference.id)
    Blocks(parts).remove("ada-example")
    assert not Evaluations(tmp_path).of(reference.id)


def test_a_rejected_block_is_measured_only_when_asked(tmp_path: Path) -> None:
    parts = FakeParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    recipe = order().recipe.model_copy(update={"learning_rate": 1e-12})
    reference = jobs.run(jobs.create(order(recipe=recipe))[0], silent)
    assert reference.status == "rejected"
    with pytest.raises(BlockRejected):
        anyio.run(lambda: Evaluating(parts, silent).examine(reference.id))
    assert anyio.run(lambda: Evaluating(parts, silent).examine(reference.id, unsafe=True)).reproduced is True
