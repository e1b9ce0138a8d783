"""Compositions and their bench: on the fake engine what each way keeps, and on a small real one that every way can be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.bench_values import WAYS, BenchOrder, GenomeBench
from clonedna.app.benching import Benching
from clonedna.app.composing import Composing, spec_of
from clonedna.app.settings import Settings
from clonedna.core.errors import BlockRevoked, DnaError, InputError, LicenceNotAllowed, WrongBase
from clonedna.core.events import silent
from clonedna.core.fakes import FakeEncoder
from clonedna.core.genome import Composition
from clonedna.core.merge import Weighted
from clonedna.core.model import LoraSpec
from clonedna.core.seams import Engine
from clonedna.engine.local import open_engine
from tests.parts import FakeEngineParts
from tests.unit.engine import small
from tests.whose import RECIPE, add, pair, work

NAMES = ("ada", "bob", "cyd")


class LettersParts(FakeEngineParts):
    """With an encoder that needs no model."""

    def __init__(self, home: Path, engine: Engine | None = None) -> None:
        super().__init__(Settings(home=home, min_free_bytes=0))
        self._engine = engine or self._engine  # type: ignore[assignment]

    @property
    def encoder(self) -> Any:  # type: ignore[override]
        return FakeEncoder()


def said(habit: int, word: str, **options: Any) -> list[Any]:
    """One person's pairs, whose instructions have a word of their own that a gate can go by."""
    pairs = [*work(habit, **options), *(pair(habit, number, "validation") for number in range(200, 206))]
    return [one.model_copy(update={"instruction": f"{word} {word} {one.name}"}) for one in pairs]


@pytest.fixture
def three(tmp_path: Path) -> LettersParts:
    parts = LettersParts(tmp_path / "home")
    for habit, (name, word) in enumerate(zip(NAMES, ("zzz", "qqq", "www"), strict=True)):
        add(parts, name, said(habit, word))
    return parts


def bench(parts: LettersParts, *names: str, **options: Any) -> GenomeBench:
    return anyio.run(Benching(parts, silent).bench, BenchOrder(blocks=names or NAMES, **options))


def composing(parts: LettersParts, *parts_of: tuple[str, float]) -> Composing:
    return Composing(parts, [Weighted(reference=name, weight=weight) for name, weight in parts_of])


# What a request goes through.


def test_a_request_goes_through_what_the_composition_says(three: LettersParts) -> None:
    made = composing(three, ("ada", 0.5), ("bob", 2.0))
    anyio.run(made.load)
    ids = [layer.adapter for layer in made.layers]
    stack = made.through(Composition(kind="stack", method="cat"))
    assert [(layer.adapter, layer.weight) for layer in stack.layers] == [(ids[0], 0.5), (ids[1], 2.0)]
    gate = made.through(Composition(kind="route", method="gate"), (0.4, 0.6))
    assert [(layer.adapter, layer.weight) for layer in gate.layers] == [(ids[1], 2.0)]
    mixed = made.through(Composition(kind="route", method="mixture"), (0.4, 0.6))
    assert [layer.weight for layer in mixed.layers] == pytest.approx([0.2, 1.2])
    arrow = made.through(Composition(kind="route", method="arrow", top_k=1))
    assert arrow.mixture is not None
    assert (arrow.mixture.top_k, arrow.layers, len(arrow.mixture.layers)) == (1, (), 2)


@pytest.mark.parametrize(
    "composition",
    [
        Composition(kind="merge", method="svd"), Composition(kind="route", method="gate"), Composition(kind="stack", method="single"),
        Composition(kind="stack", method="ties"), Composition(kind="merge", method="regmean"),
    ],
)  # fmt: skip
def test_what_is_no_argument_of_a_request_is_refused(composition: Composition, three: LettersParts) -> None:
    made = composing(three, ("ada", 1.0), ("bob", 1.0))
    anyio.run(made.load)
    with pytest.raises(InputError) as raised:
        made.through(composition)
    assert raised.value.hint


def test_a_merge_has_the_options_of_its_composition() -> None:
    spec = spec_of(Composition(kind="merge", method="regmean", rank=12, ridge=0.5))
    assert (spec.method, spec.rank, spec.ridge) == ("regmean", 12, 0.5)
    assert spec_of(Composition(kind="merge", method="legacy_peft_linear")).method == "linear"
    with pytest.raises(InputError, match="makes no adapter"):
        spec_of(Composition(kind="route", method="arrow"))


def test_members_that_may_not_be_composed(three: LettersParts) -> None:
    def refused(kind: type[DnaError], *names: str) -> None:
        with pytest.raises(kind) as raised:
            composing(three, *((name, 1.0) for name in names))
        assert raised.value.hint

    refused(InputError, "ada", "ada")
    refused(InputError)
    add(three, "eve", work(3), license="GPL-2.0-only")
    add(three, "gus", work(3), license="GPL-3.0-only")
    refused(LicenceNotAllowed, "eve", "gus")
    add(three, "far", work(4), base_fingerprint="e" * 64)
    refused(WrongBase, "ada", "far")
    three.registry.revoke(three.registry.resolve("bob").id)
    refused(BlockRevoked, "ada", "bob")


# The bench.


def test_what_each_way_keeps_and_that_a_right_gate_keeps_all(three: LettersParts) -> None:
    found = bench(three, ways=("gate", "average", "sum", "tuned", "arrow", "mixture"))
    assert [one.block for one in found.members] == [f"{name}@1.0.0" for name in NAMES]
    assert all(one.pairs == 10 and one.files == 5 and (one.gain.value or 0) > 0 for one in found.members)
    ways = {one.way: one for one in found.ways}
    assert all(one.mean.value is not None and not one.why for one in found.ways)
    assert ways["gate"].note.endswith("30 of 30 pairs")
    assert ways["gate"].mean.value == pytest.approx(1.0) == found.routed.value
    for one in found.ways:
        values = [measure.value for measure in one.retention]
        assert one.worst.value == min(v for v in values if v is not None)
        assert len(one.retention) == len(one.gain) == 3
        for kept, gained, member in zip(one.retention, one.gain, found.members, strict=True):
            assert kept.value == pytest.approx((gained.value or 0) / (member.gain.value or 1))
            assert kept.ci95 is not None
            assert kept.ci95[0] <= (kept.value or 0) <= kept.ci95[1]
    assert (ways["average"].mean.value or 0) < 1
    assert ways["tuned"].weights != ways["average"].weights == pytest.approx((1 / 3,) * 3)
    assert "probes" in ways["tuned"].note
    assert list((three.settings.home / "staging").iterdir()) == []


def test_tuning_sees_nothing_that_is_held_out(three: LettersParts, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen, real = three.engine("fake"), list[str](), three.engine("fake").nll
    tuned = [False]

    async def nll(examples: Any, layers: Any = (), **more: Any) -> Any:
        if tuned[0]:
            seen.extend(example.completion for example in examples)
        return await real(examples, layers, **more)

    from clonedna.app import benching

    tune = benching.tune

    async def told(*given: Any, **more: Any) -> Any:
        tuned[0] = True
        try:
            return await tune(*given, **more)
        finally:
            tuned[0] = False

    monkeypatch.setattr(benching, "tune", told)
    monkeypatch.setattr(engine, "nll", nll)
    bench(three, ways=("tuned",))
    held = {one.completion.removesuffix("\n") for habit in range(3) for one in work(habit) if one.split == "holdout"}
    assert seen
    assert not held & set(seen)
    trained = {one.completion.removesuffix("\n") for habit in range(3) for one in work(habit) if one.split == "train"}
    assert not trained & set(seen)
    add(three, "new", work(3))
    (way,) = bench(three, "ada", "new", ways=("tuned",)).ways
    assert "new@1.0.0 has no validation pairs" in way.why


def test_a_way_that_cannot_be_made_says_why_and_the_others_are_measured(three: LettersParts) -> None:
    """The fake engine's adapters have no matrices to merge."""
    found = bench(three, ways=("svd", "average"))
    svd, average = found.ways
    assert svd.why.startswith("adapter_invalid: ")
    assert svd.mean.value is None
    assert average.mean.value is not None
    assert average.norm is None


def test_pairs_that_a_member_was_trained_on_are_left_out(three: LettersParts) -> None:
    own = said(3, "xxx")
    add(three, "dee", own, trained_on=own)
    copied = [one.model_copy(update={"split": "train"}) for one in own if one.split == "holdout"][:4]
    add(three, "eve", [*said(4, "yyy"), *copied])
    found = bench(three, "dee", "eve", ways=("average",))
    assert [(one.pairs, one.left_out) for one in found.members] == [(6, 4), (10, 0)]


def test_blocks_that_cannot_be_benched(three: LettersParts) -> None:
    add(three, "new", [one for one in work(3) if one.split == "train"])
    with pytest.raises(InputError, match="no held-out pairs"):
        bench(three, "ada", "new")
    with pytest.raises(DnaError):
        bench(three, "ada", "nobody")


# Every way, on a real engine.


def test_every_way_is_made_on_a_real_engine(tmp_path: Path) -> None:
    engine = open_engine(str(small.make_base(tmp_path / "base")), threads=1)
    parts = LettersParts(tmp_path / "home", engine)
    try:
        for habit, name in enumerate(NAMES[:2]):
            lora = LoraSpec(rank=4 if habit else 8, alpha=16, target_modules=("q_proj", "down_proj"))
            recipe = RECIPE.model_copy(update={"lora": lora, "learning_rate": 0.05, "epochs": 3})
            add(parts, name, said(habit, name, training=6, held=3), recipe=recipe)
        found = bench(parts, *NAMES[:2], pairs=4, exemplars=4)
        assert [one.way for one in found.ways] == list(WAYS)
        why = {one.way: one.why for one in found.ways if one.why}
        assert why.keys() == {"legacy_peft_linear"}, why
        assert "one rank" in why["legacy_peft_linear"]
        ways = {one.way: one for one in found.ways}
        assert ways["average"].norm == pytest.approx((ways["sum"].norm or 0) / 2, rel=1e-3)
        assert ways["average"].relative_error == 0
        assert all(one.bytes for one in found.ways if not one.why)
        assert ways["gate"].norm is None
        held = [one.id for one in engine.status.adapters]
        assert len(held) == 2
    finally:
        anyio.run(engine.close)
