"""Versions that continue each other: what is new, what is held out, what is trained on again, and that no hold-out is ever trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clonedna.core.block import Recipe
from clonedna.core.errors import TooFewSpans
from clonedna.core.events import silent
from clonedna.core.fakes import FakeTeacher
from clonedna.core.work import Pair, Span
from clonedna.mint.continuing import Earlier, Heritage, divide_new, only_new, own_holdout, with_inherited
from clonedna.mint.divide import LEAK_SIMILAR, divide
from clonedna.mint.instruct import instruct
from clonedna.mint.overlap import apart
from clonedna.mint.sift import shingles, sift, similarity
from clonedna.mint.values import Divided, Sifted, Taught
from tests.values import REPOSITORY, collection, span

RECIPE = Recipe(replay_ratio=1.0)


def sifted(spans: Sequence[Span]) -> Sifted:
    given = collection(0).model_copy(update={"spans": tuple(spans)})
    return sift(given, max_tokens=1000)


def taught(divided: Divided) -> Taught:
    teacher = FakeTeacher()

    async def write() -> Taught:
        return await instruct(
            divided,
            REPOSITORY,
            "Ada Example",
            teacher=teacher,
            examiner=teacher,
            secret_in=lambda text: None,
            emit=silent,
        )

    return anyio.run(write)


def first(spans: Sequence[Span], recipe: Recipe = RECIPE) -> tuple[Pair, ...]:
    return apart(taught(divide(sifted(spans), recipe))).pairs


def following(spans: Sequence[Span], heritage: Heritage, recipe: Recipe = RECIPE) -> tuple[Pair, ...]:
    divided = divide_new(only_new(sifted(spans), heritage), recipe, heritage, "Ada Example")
    return apart(with_inherited(taught(divided), recipe, heritage)).pairs


def heritage(*versions: tuple[Pair, ...]) -> Heritage:
    """Of versions in their order, the last of which is continued."""
    made = [Earlier(id=f"{i:064x}", reference=f"ada@1.{i}.0", pairs=pairs) for i, pairs in enumerate(versions)]
    return Heritage(repository=REPOSITORY, identity_digest="d" * 64, licence="MIT", versions=tuple(reversed(made)))


def aged(numbers: Sequence[int], start: int = 0) -> list[Span]:
    """Spans of files of four, the later the newer."""
    newest = max(numbers)
    return [span(i, path=f"abacus/new_{start + i // 4}.py", age=newest - i) for i in numbers]


def split(pairs: Sequence[Pair], name: str) -> list[Pair]:
    return [pair for pair in pairs if pair.split == name]


def test_what_a_version_before_has_is_not_new() -> None:
    known = [span(i) for i in range(40)]
    before = heritage(first(known))
    renamed = known[3].text.replace("alpha", "aleph").replace("total", "whole")
    inside = known[5].text + "\n\n" + "".join(f"def more_{i}(): return {i}\n" for i in range(4))
    moved = known[7].model_copy(update={"path": "abacus/moved.py", "start": 900, "end": 910})
    longer = known[3].model_copy(update={"text": renamed, "sha256": "1" * 64, "path": "abacus/r.py"})
    holding = known[5].model_copy(update={"text": inside, "sha256": "2" * 64, "path": "abacus/i.py"})
    fresh = [span(i) for i in range(100, 110)]
    found = only_new(Sifted(repository=REPOSITORY, spans=(*known, moved, longer, holding, *fresh), refusals=()), before)
    assert found.spans == tuple(fresh)
    assert {refusal.reason for refusal in found.refusals} == {"not_new"}
    assert len(found.refusals) == 43


def test_an_edit_of_old_code_is_new_work() -> None:
    known = [span(i) for i in range(40)]
    edit = span(500).model_copy(update={"kind": "hunk", "before": known[2].text})
    found = only_new(Sifted(repository=REPOSITORY, spans=(edit,), refusals=()), heritage(first(known)))
    assert found.spans == (edit,)


def test_the_latest_files_are_held_out_whole() -> None:
    before = heritage(first([span(i) for i in range(40)]))
    made = divide_new(sifted(aged(range(100, 140))), RECIPE, before, "Ada Example")
    assert made.by == "file (the latest in time)"
    held = {one.path for one in made.holdout}
    assert held == {"abacus/new_34.py", "abacus/new_33.py"}
    assert not held & {one.path for one in made.train}
    assert max(one.age or 0 for one in made.holdout) < min(one.age or 0 for one in made.train)


def test_without_ages_files_are_drawn() -> None:
    before = heritage(first([span(i) for i in range(40)]))
    assert divide_new(sifted([span(i) for i in range(100, 140)]), RECIPE, before, "Ada Example").by == "file"


def test_too_little_says_how_much_there_is_and_how_much_is_needed() -> None:
    before = heritage(first([span(i) for i in range(40)]))
    said = "10 usable new spans by Ada Example since commit cccccccccccc of 2026-01-02; 24 are needed"
    with pytest.raises(TooFewSpans, match=said) as found:
        divide_new(sifted(aged(range(100, 110))), RECIPE, before, "Ada Example")
    assert found.value.facts == {"found": 10, "needed": 24}
    with pytest.raises(TooFewSpans, match=r"nothing new: .* that ada@1\.0\.0 does not have"):
        divide_new(sifted([]), RECIPE, before, "Ada Example")


@pytest.mark.parametrize(("ratio", "n"), [(0.0, 0), (0.5, 16), (1.0, 32), (9.0, 32)])
def test_training_pairs_of_the_version_before_are_trained_on_again(ratio: float, n: int) -> None:
    before = first([span(i) for i in range(40)])
    recipe = Recipe(replay_ratio=ratio)
    pairs = following(aged(range(100, 140)), heritage(before), recipe)
    again = [pair for pair in split(pairs, "train") if pair.ancestor]
    assert len(split(pairs, "train")) - len(again) == 32
    assert len(split(before, "train")) == 32
    assert len(again) == n
    assert {pair.id for pair in again} <= {pair.id for pair in split(before, "train")}
    assert pairs == following(aged(range(100, 140)), heritage(before), recipe)


def test_every_hold_out_stays_one_and_says_whose() -> None:
    one = first([span(i) for i in range(40)])
    two = following(aged(range(100, 140)), heritage(one))
    three = following(aged(range(200, 240)), heritage(one, two))
    names = [f"{i:064x}" for i in range(2)]
    assert {p.id for p in own_holdout(three, names[0])} == {p.id for p in own_holdout(one)}
    assert {p.id for p in own_holdout(three, names[1])} == {p.id for p in own_holdout(two)}
    assert len(own_holdout(three)) >= 8
    gone = heritage(one, two).model_copy(update={"versions": heritage(one, two).versions[:1], "gone": (names[0],)})
    assert {p.id for p in own_holdout(following(aged(range(200, 240)), gone), names[0])} == {p.id for p in own_holdout(one)}  # fmt: skip


def alike(one: str, other: str) -> bool:
    return one.strip() == other.strip() or similarity(shingles(one), shingles(other)) >= LEAK_SIMILAR


@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_over_three_versions_no_hold_out_is_trained_on_later_nor_the_other_way_round(seed: int) -> None:
    """Each version is also offered copies, near-copies and supersets of what the ones before it had."""
    draw = random.Random(seed)
    recipe = Recipe(replay_ratio=draw.choice([0.5, 1.0, 3.0]), seed=draw.randrange(9), min_spans=16)
    seen = [span(i) for i in range(draw.randrange(30, 45))]
    versions = [first(seen, recipe)]
    for generation in (1, 2):
        fresh = aged(range(1000 * generation, 1000 * generation + draw.randrange(28, 40)))
        disguised = [disguise(one, draw, generation) for one in draw.sample(seen, 14)]
        offered = [*fresh, *disguised]
        draw.shuffle(offered)
        versions.append(following(offered, heritage(*versions), recipe))
        seen += offered
    for later in range(3):
        trained = [pair.completion for pair in split(versions[later], "train")]
        held_out = [pair.completion for pair in own_holdout(versions[later])]
        assert trained
        assert len(held_out) >= 3
        for earlier in range(later + 1):
            held = [pair.completion for pair in own_holdout(versions[earlier])]
            assert not [(a, b) for a in held for b in trained if alike(a, b)]
            before = [pair.completion for pair in split(versions[earlier], "train")]
            assert not [(a, b) for a in held_out for b in before if alike(a, b)]


def disguise(one: Span, draw: random.Random, generation: int) -> Span:
    text = draw.choice(
        [
            one.text,
            one.text.replace("return a", f"return a + {draw.randrange(9)}"),
            one.text + f"\n\ndef added_{draw.randrange(99)}(x):\n    return x\n",
            one.text.replace("delta", "change"),
        ]
    )
    return one.model_copy(
        update={
            "text": text, "sha256": f"{draw.randrange(16**12):064x}", "path": f"abacus/copy_{generation}_{draw.randrange(6)}.py",
            "start": draw.randrange(1, 9000), "age": draw.randrange(50),
        }
    )  # fmt: skip
