"""What is held out is held out whole, before anything is generated."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.block import Recipe
from clonedna.core.errors import TooFewSpans
from clonedna.mint.divide import divide
from clonedna.mint.sift import sift
from clonedna.mint.values import Divided, Sifted
from tests.values import REPOSITORY, collection, span


def divided(count: int, seed: int = 0, **changes: object) -> Divided:
    return divide(sift(collection(count, **changes), max_tokens=1000), Recipe(seed=seed))


@given(count=st.integers(30, 90), seed=st.integers(0, 5))  # of fewer, whole files do not always make the least hold-out
@settings(max_examples=15, deadline=None)
def test_no_file_is_in_two_splits_and_nothing_is_lost(count: int, seed: int) -> None:
    result = divided(count, seed)
    paths = [{s.path for s in part} for part in (result.train, result.validation, result.holdout)]
    assert result.by == "file"
    assert not paths[0] & paths[1]
    assert not paths[0] & paths[2]
    assert not paths[1] & paths[2]
    assert len(result.train) + len(result.validation) + len(result.holdout) + len(result.refusals) == count


@pytest.mark.parametrize("count", [24, 30, 60, 200])
def test_holdout_is_a_fifth_and_never_fewer_than_eight(count: int) -> None:
    assert len(divided(count).holdout) >= max(8, round(0.2 * count))


def test_the_same_seed_holds_out_the_same_and_another_seed_something_else() -> None:
    assert divided(80) == divided(80)
    assert divided(80).holdout != divided(80, seed=1).holdout


def test_one_file_is_held_out_by_definition_and_says_so() -> None:
    result = divided(40, path="one.py")
    assert result.by == "definition"
    assert len(result.holdout) >= 8
    assert not {s.name for s in result.holdout} & {s.name for s in result.train}


def test_methods_of_a_class_stay_together_when_held_out_by_definition() -> None:
    spans = [span(i, path="one.py") for i in range(40)]
    spans = [s.model_copy(update={"name": f"Class{i // 4}.{s.name}", "kind": "method"}) for i, s in enumerate(spans)]
    result = divide(Sifted(repository=REPOSITORY, spans=tuple(spans), refusals=()), Recipe())
    assert not {s.name.split(".")[0] for s in result.holdout} & {s.name.split(".")[0] for s in result.train}


def test_too_few_says_how_many_and_how_many_are_needed() -> None:
    with pytest.raises(TooFewSpans) as error:
        divided(23)
    assert error.value.facts == {"found": 23, "needed": 24}
    assert "23" in error.value.message
    assert "24" in error.value.message


def test_copies_of_held_out_code_are_dropped_from_training() -> None:
    base = sift(collection(60), max_tokens=1000)
    held = divide(base, Recipe()).holdout
    copies = tuple(s.model_copy(update={"path": f"zz/copy_{i}.py"}) for i, s in enumerate(held))
    result = divide(Sifted(repository=REPOSITORY, spans=base.spans + copies, refusals=()), Recipe())
    texts = {s.text for s in result.holdout}
    assert not [s for s in result.train if s.text in texts]
    assert {r.reason for r in result.refusals} == {"held_out_duplicate"}


def test_training_is_capped_by_the_recipe() -> None:
    result = divide(sift(collection(120), max_tokens=1000), Recipe(max_train_pairs=20, max_holdout_pairs=10))
    assert len(result.train) == 20
    assert len(result.holdout) == 10
