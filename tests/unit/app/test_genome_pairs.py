"""Evidence for skills: which pairs are of a skill, where they come from, and what could be trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from clonedna.app import genome_pairs
from clonedna.app.focus import floor_of, focused
from clonedna.app.genome_pairs import Evidences, of_blocks, sound
from clonedna.app.orders import order_of
from clonedna.app.papers import consent_of
from clonedna.core.block import GivenFile, Recipe, Teaching
from clonedna.core.canonical import sha256
from clonedna.core.errors import InputError, TooFewSpans
from clonedna.core.events import Event, Note, silent
from clonedna.core.genome import Skill
from clonedna.core.vectors import Vectors
from clonedna.core.work import Example, Pair
from clonedna.engine.hashed import HashedEncoder
from clonedna.genomes.probing import MOST
from clonedna.mint.values import Taught
from clonedna.teachers.examples import Written
from tests.genomes import GenomeParts, SourceParts, given_lines, skilled
from tests.values import pair


def given(data: bytes) -> GivenFile:
    return GivenFile(sha256=sha256(data), name="pairs.jsonl", bytes=len(data))


def skills(*texts: str) -> tuple[Skill, ...]:
    return tuple(Skill(text=one, weight=1 / len(texts)) for one in texts)


def test_each_given_example_goes_to_the_skill_that_it_is_nearest_to(tmp_path: Path) -> None:
    data = given_lines("write sql queries", "ab") + given_lines("draw plots", "cd")
    finder = Evidences(GenomeParts(tmp_path), "nano", seed=0)
    found = finder.given(skills("sql queries", "plots"), finder.read(data, given(data), "MIT"))
    assert [one.origin for one in found] == ["given", "given"]
    for one, word in zip(found, ("sql", "plots"), strict=True):
        assert one.held
        assert all(word in held.instruction for held in one.held)
        assert one.order is not None
        assert one.order.given is not None
        assert set(one.files) == {one.order.given.training.sha256}
        trained = one.files[one.order.given.training.sha256].decode()
        assert all(word in line for line in trained.splitlines())


def test_too_few_to_train_on_are_still_some_to_measure_on(tmp_path: Path) -> None:
    data = given_lines("sql", "ab", 9)
    finder = Evidences(GenomeParts(tmp_path), "nano", seed=0)
    (one,) = finder.given(skills("sql"), finder.read(data, given(data), "MIT"))
    assert (one.order, len(one.held)) == (None, 9)
    assert "at least 10" in one.why
    with pytest.raises(InputError):
        finder.read(b"x", given(b"x"), "MIT")


def test_a_source_of_the_settings_is_read_as_a_mint_reads_it(tmp_path: Path) -> None:
    parts = SourceParts(tmp_path, genome_sources=("nowhere",))
    evidences = Evidences(parts, "nano", seed=0)
    near, far = evidences.sources(skills("Write the Python function alpha beta", "quantum chemistry"))
    assert not evidences.refused
    assert near.origin == "source"
    assert near.held
    assert all(one.split == "holdout" for one in near.held)
    assert near.order is not None
    assert (near.order.focus, near.order.target) == ("Write the Python function alpha beta", "nowhere")
    assert (far.origin, far.order) == ("none", None)
    assert not list((tmp_path / "staging").iterdir())


class Elsewhere(HashedEncoder):
    """What it reads leaves this machine; it keeps what it was told."""

    elsewhere = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.told += texts
        return super().encode(texts)


def test_an_encoder_on_another_machine_is_told_nothing_that_is_local_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Elsewhere()
    monkeypatch.setattr(genome_pairs, "order_of", lambda *a, **k: order_of(*a, **k | {"consent": "local-only"}))
    monkeypatch.setattr(SourceParts, "encoder", encoder)
    parts = SourceParts(tmp_path, genome_sources=("nowhere",))
    block = skilled(parts, "ada", "alpha", "abc").id
    path = parts.store.path(block)
    assert consent_of(path).mode == "local-only"
    evidences = Evidences(parts, "nano", seed=0)
    (one,) = evidences.sources(skills("alpha"))
    assert (one.origin, [out.code for out in evidences.refused]) == ("none", ["consent_missing"])
    encoder.told.clear()
    (held,) = evidences.library(skills("alpha"), [[(block, path, 0.5)]])
    assert (held.origin, encoder.told) == ("none", [])


def test_a_source_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    evidences = Evidences(GenomeParts(tmp_path, genome_sources=("/nothing/here",)), "nano", seed=0)
    (one,) = evidences.sources(skills("sql"))
    assert one.origin == "none"
    assert [(out.name, out.code) for out in evidences.refused] == [("/nothing/here", "not_a_repository")]


def of_block(name: str, count: int) -> tuple[Pair, ...]:
    return tuple(pair(f"{name}{i}", f"{name} = {i}\n", split="holdout") for i in range(count))


def origins(held: Sequence[Pair]) -> dict[str, int]:
    return Counter(one.id.rstrip("0123456789") for one in held)


def test_near_copies_of_one_block_leave_room_for_others() -> None:
    loud, right, far = of_block("loud", 40), of_block("right", 40), of_block("far", 40)
    cosines = {one.id: 0.9 for one in loud} | {one.id: 0.3 for one in right} | {one.id: 0.1 for one in far}
    found = of_blocks(cosines, [("loud", 0.1, loud), ("right", 0.5, right), ("far", 0.6, far)])
    assert (found.origin, origins(found.held)) == ("library", {"loud": MOST // 2, "right": MOST // 2})
    few = loud[:3]
    found = of_blocks(cosines, [("loud", 0.6, few), ("right", 0.5, right), ("far", 0.6, far)])
    assert (found.origin, origins(found.held)) == ("library", {"loud": 3, "right": MOST // 2}), (
        "three of them set no floor"
    )


def test_of_pairs_that_are_as_near_those_count_whose_block_was_trained_on_what_is_nearer() -> None:
    blocks = [of_block(name, 40) for name in ("one", "two", "three")]
    cosines = {one.id: 0.3 for some in blocks for one in some}
    near = {"one": 0.3, "two": 0.5, "three": 0.4}
    found = of_blocks(cosines, [(name, near[name], some) for name, some in zip(near, blocks, strict=True)])
    assert origins(found.held) == {"two": MOST // 2, "three": MOST // 2}


def test_what_is_far_from_the_nearest_does_not_fill_up() -> None:
    right, far = of_block("right", 12), of_block("far", 40)
    cosines = {one.id: 0.5 for one in right} | {one.id: 0.3 for one in far}
    for like, there in ((0.5, {"right": 12, "far": MOST // 2}), (0.3, {"right": 12})):
        assert origins(of_blocks(cosines, [("right", 0.5, right), ("far", like, far)]).held) == there


@pytest.mark.parametrize(
    ("nearest", "others", "origin"), [(0.24, 0.24, "none"), (0.26, 0.16, "library"), (0.26, 0.14, "none")]
)
def test_one_pair_says_that_there_is_something_and_eight_that_it_can_be_measured(
    nearest: float, others: float, origin: str
) -> None:
    some = of_block("ada", 12)
    cosines = {one.id: others for one in some} | {some[0].id: nearest}
    found = of_blocks(cosines, [("ada", 0.5, some)])
    assert (found.origin, bool(found.held), f"nearest: {nearest}" in found.why) == (
        origin,
        origin == "library",
        origin == "none",
    )


def test_what_is_near_is_told_by_the_nearest() -> None:
    assert floor_of([0.5, 0.1]) == pytest.approx(0.3)
    assert floor_of([0.2]) > 1
    assert floor_of([]) > 1


def test_a_training_for_a_gap_keeps_its_pairs_alone(tmp_path: Path) -> None:
    parts = GenomeParts(tmp_path)
    pairs = tuple(pair(f"{word}-{i}", f"{word}{i}", task=f"{word} {i}", split=split) for word in ("sql", "plots") for i in range(14) for split in ("train", "holdout"))  # fmt: skip  # noqa: E501
    pairs = tuple(one.model_copy(update={"id": f"{one.id}-{one.split}"}) for one in pairs)
    kept = focused(parts, Taught(by="example", pairs=pairs, refusals=(), teacher="given"), "sql", Recipe())
    assert {one.instruction.split()[0] for one in kept.pairs if one.split == "train"} == {"sql"}
    assert {one.reason for one in kept.refusals} == {"not_of_the_skill"}
    with pytest.raises(TooFewSpans):
        focused(parts, Taught(by="example", pairs=pairs, refusals=(), teacher="given"), "quantum", Recipe())


def test_exemplars_are_each_answer_once() -> None:
    pairs = [pair(f"p{i}", "same" if i % 2 else f"own {i}") for i in range(10)]
    assert [one.id for one in sound(pairs)] == ["p0", "p1", "p2", "p4", "p6", "p8"]
    assert sound([pair("a", "  "), pair("b", "x" * 50_000)]) == ()
    assert len(sound([pair(f"p{i}", f"{i}") for i in range(99)])) == 32


class Writer:
    """A teacher that writes ``count`` examples of each skill, and keeps what it was told."""

    name = "fake"

    def __init__(self, count: int, calls: int = 2) -> None:
        self.count, self.calls = count, calls
        self.told: list[tuple[str, ...]] = []

    def examples_cost(self, words: Sequence[str], most: int) -> Teaching:
        return Teaching(teacher=self.name, model="m at host", calls=self.calls, prompt_tokens=10, completion_tokens=20)

    async def examples(self, words: Sequence[str], most: int) -> Written:
        self.told.append(tuple(words))
        made = tuple(Example(task=f"{words[0]} {i}", answer=f"answer {i}\n") for i in range(self.count))
        dropped = {} if self.count == most else {"leak": most - self.count}
        return Written(examples=made, dropped=dropped, prompt_tokens=5, completion_tokens=7)

    async def close(self) -> None:
        """Nothing is open."""


def test_a_teacher_is_told_the_words_and_what_it_writes_is_measured_on_alone(tmp_path: Path) -> None:
    notes: list[Event] = []
    writer = Writer(16)
    evidences = Evidences(GenomeParts(tmp_path), "nano", seed=0)
    one, two = anyio.run(evidences.asked, skills("sql queries", "plots"), writer, notes.append)
    assert writer.told == [("sql queries",), ("plots",)]
    assert [note.text for note in notes if isinstance(note, Note)] == [
        *(
            f"asking fake (m at host) for 16 examples of {text!r}: 2 questions, about 30 tokens (estimated)"
            for text in ("sql queries", "plots")
        ),
        *(
            f"16 examples of {text!r} can be used (5 + 7 tokens, as it counted them)"
            for text in ("sql queries", "plots")
        ),
    ]
    assert (one.origin, len(one.held), one.order, one.training, one.files) == ("teacher", 16, None, 0, {})
    assert {pair.split for pair in one.held} == {"holdout"}
    assert not {pair.id for pair in one.held} & {pair.id for pair in two.held}
    again, _ = anyio.run(evidences.asked, skills("sql queries", "plots"), Writer(16, calls=0), notes.append)
    assert (again, len(notes)) == (one, 4), "what is kept is asked without a word, and is the same evidence"


def test_too_few_examples_are_no_evidence_and_it_says_why(tmp_path: Path) -> None:
    evidences = Evidences(GenomeParts(tmp_path), "nano", seed=0)
    (one,) = anyio.run(evidences.asked, skills("sql queries"), Writer(5), silent)
    assert (one.origin, one.held) == ("none", ())
    assert one.why == "fake (m at host) wrote 5 examples that can be used, and 8 are needed (dropped: 11 leak)"
