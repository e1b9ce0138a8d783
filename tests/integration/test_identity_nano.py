"""Whose style is it, on the bundled base: adapters of made-up people tell them apart; adapters of shuffled authors do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from clonedna.core.block import Recipe
from clonedna.core.events import silent
from clonedna.core.model import Layer, LoraSpec
from clonedna.core.work import Pair
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.evals.identity import Held, Identified, Person, identify, score_all
from clonedna.evals.likelihood import example_of, file_of
from clonedna.mint.training import train
from tests.whose import work

PEOPLE, HELD = 4, 4
RECIPE = Recipe(epochs=2, batch_tokens=512, learning_rate=5e-3, lora=LoraSpec(rank=4, alpha=8))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    made = open_engine("nano", threads=1)
    yield made
    anyio.run(made.close)


def split(pairs: Sequence[Pair], name: str) -> list[Pair]:
    return [pair for pair in pairs if pair.split == name]


async def identified(engine: LocalEngine, trained_on: Sequence[Sequence[Pair]], folder: Path) -> Identified:
    adapters: list[str] = []
    for i, pairs in enumerate(trained_on):
        at = folder / str(i)
        examples = [example_of(pair) for pair in pairs]
        await train(engine, RECIPE, examples, [], at / "adapter", checkpoints=at / "kept", emit=silent)
        adapters.append((await engine.load(at / "adapter")).id)
    held = [split(work(habit, held=HELD), "holdout") for habit in range(PEOPLE)]
    base, *blocks = await score_all(engine, [pair for one in held for pair in one], adapters, emit=silent)
    alone = await engine.nll([example_of(pair) for pair in held[1]], [Layer(adapter=adapters[2])])
    assert [score.nll for score in alone] == pytest.approx(
        [score.nll for score in blocks[2][HELD : 2 * HELD]], abs=1e-3
    )
    rows = [
        Held(
            pair=pair.id, person=person, file=file_of(pair), tokens=base[HELD * person + i].tokens, base=base[HELD * person + i].nll,
            blocks=tuple(block[HELD * person + i].nll for block in blocks),
        )
        for person, one in enumerate(held) for i, pair in enumerate(one)
    ]  # fmt: skip
    people = [Person(name=str(i), handle=str(i), own=(i,)) for i in range(PEOPLE)]
    return identify([str(i) for i in range(PEOPLE)], people, rows)


def test_adapters_tell_people_apart_and_those_of_shuffled_authors_do_not(engine: LocalEngine, tmp_path: Path) -> None:
    own = [split(work(habit, training=4), "train") for habit in range(PEOPLE)]
    mixed = [pair for one in own for pair in one]
    shuffled = [mixed[i::PEOPLE] for i in range(PEOPLE)]  # as many pairs each, one of everybody
    found = anyio.run(identified, engine, own, tmp_path / "own")
    nobody = anyio.run(identified, engine, shuffled, tmp_path / "shuffled")
    assert found.verdict.kind == "identity"
    assert found.measures["identification.people"].value == 1.0
    assert (found.measures["identification.files"].value or 0) >= 0.9
    assert nobody.verdict.kind != "identity"
    assert (nobody.measures["identification.files"].value or 0) <= 0.6
    for one, other in zip(found.people, nobody.people, strict=True):
        assert one.margin.value is not None
        assert other.margin.value is not None
        assert one.margin.value > 5 * abs(other.margin.value)
