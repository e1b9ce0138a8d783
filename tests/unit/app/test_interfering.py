"""Conflicts between blocks of a home: what is known without a base, what is observed and measured with one, what goes with a block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.audit import Audit
from clonedna.app.genome_judge import HomeJudge
from clonedna.app.guarding import beside_of, guard_recipe
from clonedna.app.interference_kept import InterferenceKept, Noted
from clonedna.app.interfering import Interfering
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.block import GuardRecipe, Lineage, Manifest, Measure, Recipe
from clonedna.core.canonical import canonical
from clonedna.core.errors import BlockNotFound, ConsentMissing, Corrupt, InputError, Overloaded, WrongBase
from clonedna.core.genome import CompatibilityNote
from clonedna.core.interference import Outcome
from clonedna.core.model import Example, LoraSpec
from clonedna.core.seams import Engine
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.genomes.interference import STACK, note_of
from tests.merges import add_block
from tests.unit.engine import small
from tests.values import ADA, pair

CODE = (
    "def area(w, h):\n    return w * h\n",
    "for n in names:\n    print(n)\n",
    "class Stack:\n    pass\n",
    "value = int(text)\n",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    opened = open_engine(str(small.make_base(tmp_path_factory.mktemp("base") / "base")), threads=1)
    yield opened
    anyio.run(opened.close)


@pytest.fixture
def parts(tmp_path: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Parts:
    made = Parts(Settings(home=tmp_path / "home", encoder="hashed"))

    def held(_: Parts, base: str) -> Engine:
        assert base in ("small", "here")
        return engine

    monkeypatch.setattr(Parts, "engine", held)
    return made


def block(parts: Parts, engine: LocalEngine, name: str, seed: int, **changes: Any) -> Manifest:
    """A block with a random adapter on the small base, and four pairs of its own."""
    pairs = [
        pair(f"{name}{i}", f"# {name}\n{code}", split="train" if i % 2 else "holdout") for i, code in enumerate(CODE)
    ]
    files = {"pairs.jsonl": b"".join(canonical(one) + b"\n" for one in pairs)}
    options: dict[str, Any] = {
        "fingerprint": engine.base.fingerprint, "base": "small", "shapes": engine._model.shapes, "size": 0.1, "files": files,
    } | changes  # fmt: skip
    return add_block(parts, name, seed, **options)


def kept(value: float) -> Measure:
    return Measure(value=value, status="measured", n=5, how="?")


def test_without_a_base_there_are_norms_cosines_and_kin(
    parts: Parts, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [block(parts, engine, name, seed).id for name, seed in (("ada", 1), ("bob", 2), ("twin", 1))]
    monkeypatch.setattr(Parts, "engine", lambda *_: pytest.fail("no base is needed"))
    found = anyio.run(Interfering(parts).conflicts, ["ada", "bob", "twin"])
    assert [(one.source, one.target) for one in found.pairs] == [(a, b) for a in ids for b in ids if a != b]
    assert {one.by for one in found.pairs} == {"norm_ratio"}
    assert all(one.phi.status == "not_available" and one.norm_ratio.value for one in found.pairs)
    (twins,) = found.kin
    assert {twins.one, *twins.of} == {ids[0], ids[2]}
    assert twins.kind == "same"
    assert set(found.without_inputs) == set(ids)
    assert all(len(one.modules) > 4 for one in found.pairs)


def test_what_is_observed_gives_phi_and_is_kept_until_the_block_goes(parts: Parts, engine: LocalEngine) -> None:
    one = block(parts, engine, "ada", 1)
    block(parts, engine, "bob", 2, size=0.2)
    work = Interfering(parts)
    found = anyio.run(lambda: work.conflicts(["ada", "bob"], observe=True))
    assert found.without_inputs == {}
    loud, soft = sorted(found.pairs, key=lambda pair: -(pair.phi.value or 0))
    assert (loud.target, loud.phi.status) == (one.id, "measured")
    assert (loud.phi.value or 0) > 1 > (soft.phi.value or 9)
    assert loud.by == "phi"
    again = anyio.run(work.conflicts, ["ada", "bob"])
    assert again.pairs == found.pairs
    kept_ = InterferenceKept(parts.settings.home)
    assert kept_.inputs(one.id) is not None
    assert [entry.about for entry in Audit(parts).page().entries if "observe" in str(entry.facts)] == [
        pair.id for pair in found.blocks[::-1]
    ]
    from clonedna.app.blocks import Blocks

    Blocks(parts).remove("ada")
    assert kept_.inputs(one.id) is None


def test_damaged_covariances_are_refused_and_made_again(parts: Parts, engine: LocalEngine) -> None:
    one = block(parts, engine, "ada", 1)
    block(parts, engine, "bob", 2)
    work = Interfering(parts)
    whole = anyio.run(lambda: work.conflicts(["ada", "bob"], observe=True))
    path = work.kept.place(one.id) / "covariance.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Corrupt):
        anyio.run(work.conflicts, ["ada", "bob"])
    told = HomeJudge(parts).conflicts(
        {two.id: parts.store.path(two.id) for two in whole.blocks}
    )  # a plan goes by the norms
    assert len(told) == 2
    assert all(two.phi.value is None and two.light != "unknown" and "norms" in two.why for two in told)
    assert anyio.run(lambda: work.conflicts(["ada", "bob"], observe=True)).pairs == whole.pairs


def test_a_plan_knows_kin_over_several_steps(parts: Parts, engine: LocalEngine) -> None:
    """Three generations whose weights say nothing: the youngest repeats the oldest."""
    ids: list[str] = []
    for seed, name in enumerate(("old", "middle", "young"), 1):
        lineage = Lineage(parents=tuple(ids[-1:]), relation="continued" if ids else "minted")
        ids.append(block(parts, engine, name, seed, lineage=lineage).id)
    stranger = block(parts, engine, "stranger", 4).id
    old, _, young = ids
    found = HomeJudge(parts).kin({one: parts.store.path(one) for one in (old, young, stranger)})
    assert found == {old: frozenset((young,)), young: frozenset((old,))}


def test_what_is_measured_is_noted_and_believed_first(parts: Parts, engine: LocalEngine) -> None:
    for name, seed in (("ada", 1), ("bob", 2)):
        block(parts, engine, name, seed)
    work = Interfering(parts)
    found = anyio.run(lambda: work.conflicts(["ada", "bob"], measured=True))
    assert found.index is not None
    assert set(found.retention) == {one.id for one in found.blocks}
    (noted,) = work.kept.notes()
    # Random adapters gain nothing: there is nothing to keep, and that is what the note says.
    assert {one.status for one in noted.note.retention} == {one.status for one in found.retention.values()}
    ids = [one.id for one in found.blocks]
    note = note_of(*ids, {ids[0]: kept(0.9), ids[1]: kept(0.1)}, (1.0, 1.0), base_fingerprint=engine.base.fingerprint)
    work.kept.note(Noted(note=note))
    assert [one.note for one in work.kept.notes()] == [note]
    lights = {one.target: (one.by, one.light) for one in anyio.run(work.conflicts, ["ada", "bob"]).pairs}
    assert lights == {ids[0]: ("note", "green"), ids[1]: ("note", "red")}


def test_a_card_of_one_s_own_comes_with_enough_measured_pairs(tmp_path: Path) -> None:
    work = InterferenceKept(tmp_path)
    for i in range(10):
        note = CompatibilityNote(
            first=f"{i:064x}", second=f"{i + 100:064x}", base_fingerprint="f", composition=STACK, weights=(1.0, 1.0),
            retention=(kept(0.5), kept(0.5)),
        )  # fmt: skip
        outcomes = tuple(Outcome(phi=(2 * i + j) / 10, norm_ratio=1.0, damage=(2 * i + j) / 20) for j in (0, 1))
        assert "in this home" not in work.card("f").fitted_on
        work.note(Noted(note=note, outcomes=outcomes))
    assert "in this home" in work.card("f").fitted_on
    assert work.card("f").n == 20
    assert "in this home" not in work.card("g").fitted_on
    work.forget(f"{3:064x}")
    assert len(work.notes()) == 9
    next((tmp_path / "interference" / "notes").iterdir()).write_text("{")
    assert len(work.notes()) == 8


@pytest.mark.parametrize("names", [[], ["ada"], ["ada", "ada"], ["ada"] * 33])
def test_too_few_too_many_and_twice_the_same_are_refused(parts: Parts, engine: LocalEngine, names: list[str]) -> None:
    block(parts, engine, "ada", 1)
    with pytest.raises(InputError):
        anyio.run(Interfering(parts).conflicts, names)


def test_other_bases_unknown_blocks_and_crowds_are_refused(parts: Parts, engine: LocalEngine) -> None:
    block(parts, engine, "ada", 1)
    block(parts, engine, "eve", 2, fingerprint="e" * 64)
    work = Interfering(parts)
    with pytest.raises(WrongBase):
        anyio.run(work.conflicts, ["ada", "eve"])
    with pytest.raises(BlockNotFound):
        anyio.run(work.conflicts, ["ada", "nobody"])
    work._quick = 2
    with pytest.raises(Overloaded):
        anyio.run(work.known, ["ada", "eve"])


# Beside others.


def test_a_guard_names_blocks_by_their_ids_and_has_weights_only_with_them(parts: Parts, engine: LocalEngine) -> None:
    one = block(parts, engine, "ada", 1)
    assert guard_recipe(parts, []) is None
    made = guard_recipe(parts, ["ada", "ada@1.0.0"], energy=5.0)
    assert made == GuardRecipe(neighbours=(one.id,), energy=5.0)
    for options in ({"kl": 1.0}, {"energy": 1.0}):
        with pytest.raises(InputError):
            guard_recipe(parts, [], **options)
    with pytest.raises(InputError):
        guard_recipe(parts, ["ada"], kl=0.0)
    with pytest.raises(BlockNotFound):
        guard_recipe(parts, ["nobody"])


def test_what_is_guarded_are_training_pairs_and_general_ones_never_the_hold_out(
    parts: Parts, engine: LocalEngine
) -> None:
    one = block(parts, engine, "ada", 1)
    consent = parts.consents.local_only((ADA,), "here")
    general = [Example(text="x", completion="y")]
    recipe = Recipe(guard=GuardRecipe(neighbours=(one.id,), energy=1.0, orthogonal=1.0))
    beside = anyio.run(beside_of, parts, recipe, engine, general, consent)
    assert beside is not None
    base, theirs = beside.guard
    assert (base.examples, base.layers) == (tuple(general), ())
    assert len(theirs.layers) == 1
    told = "".join(example.completion for example in theirs.examples)
    assert CODE[1].strip() in told
    assert CODE[0].strip() not in told
    assert (beside.covariances[0] / "covariance.safetensors").is_file()
    assert beside.orthogonal == theirs.layers
    trainer = anyio.run(lambda: engine.train(LoraSpec(rank=4), beside=beside))
    anyio.run(trainer.close)
    assert anyio.run(beside_of, parts, Recipe(), engine, general, consent) is None


def test_nothing_local_only_shapes_a_block_that_can_be_shared(parts: Parts, engine: LocalEngine) -> None:
    one = block(parts, engine, "ada", 1)
    recipe = Recipe(guard=GuardRecipe(neighbours=(one.id,)))
    shared = parts.consents.local_only((ADA,), "here").model_copy(update={"mode": "self"})
    with pytest.raises(ConsentMissing, match="local-only"):
        anyio.run(beside_of, parts, recipe, engine, [], shared)
