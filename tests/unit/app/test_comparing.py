"""Comparing as a use case: real store, registry and keys; fake engines; the algebra of weights is tested where it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app import comparing
from clonedna.app.comparing import CompareOrder, Comparing
from clonedna.core.block import GateVerdict, Lineage, Manifest
from clonedna.core.canonical import canonical, sha256
from clonedna.core.comparison import Comparison, GroupSimilarity, WeightSimilarity
from clonedna.core.errors import BlockNotFound, BlockRejected, ConsentMissing, InputError, UnknownBase, WrongBase
from clonedna.core.events import StageFinished, StageProgress
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import Example
from clonedna.core.seams import Engine
from clonedna.core.work import Identity, Instruction, Pair, Split
from clonedna.mint.instruct import make_pair
from tests.merges import add_block
from tests.parts import FakeParts
from tests.values import ADA, REPOSITORY, span

BOB = Identity(name="Bob Sample", email="bob@example.org")
FAKE, OTHER = FakeEngine().base.fingerprint, sha256("another base")


class TwoBases(FakeParts):
    """A base called ``fake``, and ``other``."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._other = FakeEngine()
        self._other.base = self._other.base.model_copy(update={"id": "other", "fingerprint": OTHER})

    def engine(self, base: str) -> Engine:
        if base not in ("fake", "other"):
            raise UnknownBase(f"no base {base}", "give another")
        return self._other if base == "other" else self._engine


def pairs(numbers: Sequence[int], split: Split) -> list[Pair]:
    made = []
    for number in numbers:
        one = span(number)
        instruction = Instruction(form="whole", text=f"Write {one.name}.", completion_start=one.start)
        made.append(make_pair(one, instruction, split, REPOSITORY, ADA.name, "fake"))
    return made


def add(
    parts: FakeParts, name: str, held: Sequence[int], trained: Sequence[int], *, folder: Path, rate: float = 0.01, **changes: Any
) -> Manifest:  # fmt: skip
    """A registered block of the fake engine, trained on its own training pairs."""
    own = [*pairs(trained, "train"), *pairs(held, "holdout")]

    async def train() -> None:
        trainer = FakeTrainer()
        await trainer.forward_backward(
            [Example(text="", completion=one.completion) for one in own if one.split == "train"]
        )
        await trainer.optim_step(rate)
        await trainer.save(folder / name)

    anyio.run(train)
    files = {"pairs.jsonl": b"".join(canonical(one) + b"\n" for one in own)}
    files |= {one: (folder / name / one).read_bytes() for one in ("adapter_config.json", "adapter_model.safetensors")}
    return add_block(parts, name, 1, **({"fingerprint": FAKE, "files": files} | changes))


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, str]]:
    """What was asked of the comparison of weights, which gives a fixed answer."""
    asked: list[tuple[Path, Path, str]] = []
    whole = GroupSimilarity(
        name="whole", modules=1, norm_a=1, norm_b=1, difference=1, cosine=0.5, columns=None, rows=None
    )

    def compare(a: Path, b: Path, *, fingerprint: str, progress: Callable[[int, int], None]) -> WeightSimilarity:
        asked.append((a, b, fingerprint))
        progress(1, 1)
        return WeightSimilarity(whole=whole, groups=(), modules=())

    real = comparing.factory
    monkeypatch.setattr(comparing, "factory", lambda seam, name: compare if seam == "compare" else real(seam, name))
    return asked


@pytest.fixture
def parts(tmp_path: Path, weighed: object) -> TwoBases:
    made = TwoBases(tmp_path / "home")
    add(made, "ada", range(12), range(40, 60), folder=tmp_path)
    add(made, "bob", range(20, 30), range(60, 80), folder=tmp_path, person=BOB, rate=0.001)
    return made


def compare(parts: FakeParts, a: str, b: str, *, listen: Any = lambda event: None, **options: Any) -> Comparison:
    return anyio.run(Comparing(parts, listen).compare, CompareOrder(a=a, b=b, prompts=2, **options))


def test_everything_is_found_and_told(parts: TwoBases, weighed: list[Any]) -> None:
    heard: list[Any] = []
    found = compare(parts, "ada", "bob", listen=heard.append, given=("Write a haiku.",))
    assert [e.stage for e in heard if isinstance(e, StageFinished)] == [
        "blocks",
        "weights",
        "load",
        "behaviour",
        "answers",
    ]
    assert {e.stage for e in heard if isinstance(e, StageProgress) and e.eta_seconds is not None} == {
        "behaviour",
        "answers",
    }
    assert weighed[0][2] == FAKE
    assert (found.a.name, found.b.person, found.same_base, found.same_block) == ("ada", "Bob Sample", True, False)
    assert found.measures["weights.cosine"].value == 0.5
    assert found.probe is not None
    assert (found.probe.holdout_a, found.probe.holdout_b, found.probe.trained) == (12, 10, 0)
    assert len(found.spans) == 22 + found.probe.general
    assert [one.of for one in found.answers] == ["a", "b", "given"]
    assert found.answers[2].prompt == "Write a haiku."
    assert not [name for name, m in found.measures.items() if m.value is None and not m.how]
    assert found.measures["style.answers"].status == "not_available"
    assert "prompts" in found.measures["style.answers"].how
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_a_block_is_like_itself(parts: TwoBases) -> None:
    found = compare(parts, "ada", "ada@1.0.0")
    assert found.same_block
    assert found.notes == ("both are one and the same block",)
    assert found.measures["behaviour.pearson"].value == pytest.approx(1)
    assert found.probe is not None
    assert found.probe.repeated == 12
    assert all(one.a == one.b for one in found.answers)


def test_weights_alone_load_no_base(parts: TwoBases, tmp_path: Path) -> None:
    add(parts, "far", [1], [2], folder=tmp_path, base="nowhere")
    found = compare(parts, "ada", "far", weights_only=True)
    assert (found.measures["weights.cosine"].value, found.probe, found.answers) == (0.5, None, ())


def test_blocks_of_two_bases_are_compared_by_behaviour_only(
    parts: TwoBases, tmp_path: Path, weighed: list[Any]
) -> None:
    add(parts, "eve", range(30, 40), range(80, 90), folder=tmp_path, base="other", fingerprint=OTHER)
    found = compare(parts, "ada", "eve")
    assert weighed == []
    assert (found.weights, found.same_base, found.unit) == (None, False, "bits a byte")
    assert found.measures["weights.cosine"].status == "not_available"
    assert "bits a byte" in found.notes[0]
    assert found.measures["behaviour.pearson"].status == "measured"
    assert all(one.base_b is not None for one in found.answers)
    assert "style.base_b.person_b" in found.measures


def test_other_weights_of_one_architecture_are_another_base(
    parts: TwoBases, tmp_path: Path, weighed: list[Any]
) -> None:
    add(parts, "one", [1, 2], [3], folder=tmp_path, base_weights_digest="1" * 64)
    add(parts, "two", [4, 5], [6], folder=tmp_path, base_weights_digest="2" * 64)
    found = compare(parts, "one", "two", weights_only=True)
    assert weighed == []
    assert not found.same_base
    assert "other weights" in found.notes[0]
    assert "does not say which weights" in " ".join(compare(parts, "ada", "one", weights_only=True).notes)


def test_what_ancestors_trained_on_is_left_out_too(parts: TwoBases, tmp_path: Path) -> None:
    ada = parts.registry.resolve("ada")
    lineage = Lineage(parents=(ada.id, "0" * 64), relation="continued")
    add(parts, "next", [40, 41, 90], [100], folder=tmp_path, lineage=lineage)
    found = compare(parts, "next", "bob")
    assert found.probe is not None
    assert (found.probe.holdout_a, found.probe.trained) == (1, 2)
    assert "next@1.0.0: 1 of its ancestors" in " ".join(found.notes)


def test_a_base_elsewhere_is_named_once_for_both(parts: TwoBases, tmp_path: Path) -> None:
    for name, held in (("far", [1, 2]), ("away", [4, 5])):
        add(parts, name, held, [6], folder=tmp_path, base="nowhere")
    with pytest.raises(UnknownBase):
        compare(parts, "far", "away")
    assert compare(parts, "far", "away", on="fake").same_base
    with pytest.raises(WrongBase):
        compare(parts, "far", "away", on="other")


def test_what_may_not_be_used_is_refused(parts: TwoBases, tmp_path: Path) -> None:
    with pytest.raises(BlockNotFound):
        compare(parts, "ada", "nobody")
    bad = add(parts, "bad", [1], [2], folder=tmp_path, gate=GateVerdict(status="rejected", reasons=("no gain",)))
    with pytest.raises(BlockRejected):
        compare(parts, "ada", bad.id[:12], weights_only=True)
    found = compare(parts, "ada", bad.id[:12], weights_only=True, unsafe=True)
    assert "bad@1.0.0 was rejected by its gate" in found.notes
    record = parts.consents.local_only((ADA,), REPOSITORY.url).model_copy(update={"uses": ("mint",)})
    add(parts, "kept", [1], [2], folder=tmp_path, consent=record)
    with pytest.raises(ConsentMissing):
        compare(parts, "ada", "kept", weights_only=True)


@pytest.mark.parametrize("text", [[""], ["  \n"], ["x" * 8001], ["x"] * 65])
def test_a_prompt_that_is_none_is_refused_before_anything_is_loaded(parts: TwoBases, text: list[str]) -> None:
    with pytest.raises(InputError, match="prompt"):
        compare(parts, "nobody", "ada", given=tuple(text))


def test_a_ballot_of_two_blocks(parts: TwoBases) -> None:
    order = CompareOrder(a="ada", b="bob", prompts=4)

    async def work() -> int:
        ballot = await Comparing(parts).ballot(order, with_base=True)
        for question in ballot.questions:
            assert len(question.answers) == 3
            assert question.reference
            ballot.vote(question.number, 1)
        return len(ballot.questions)

    given = anyio.run(work)
    assert given >= 1
    assert Comparing(parts).tally(order).votes == given
    assert Comparing(parts).tally(CompareOrder(a="bob", b="ada")).votes == given


def test_one_block_is_no_ballot(parts: TwoBases) -> None:
    with pytest.raises(InputError, match="one and the same"):
        anyio.run(lambda: Comparing(parts).ballot(CompareOrder(a="ada", b="ada@1.0.0"), with_base=False))
