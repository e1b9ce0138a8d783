"""Votes: one line each, kept at once, read in either order; a tally that says how sure it is."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.votes import Ballot, Vote, Votes, tally
from clonedna.core.block import Manifest
from clonedna.core.canonical import canonical, sha256
from clonedna.core.comparison import Answer, SideBySide
from clonedna.core.errors import InputError, NoSpace
from tests.unit.store.making import manifest

A, B = "a" * 64, "b" * 64


def block(which: str, person: str) -> Manifest:
    made = manifest({}, "k" * 64, name=which)
    return made.model_copy(update={"id": which * 64, "candidate": made.candidate.model_copy(update={"name": person})})


ADA, BOB = block("a", "Ada Example"), block("b", "Bob Sample")


def vote(choice: str, *, of: str = "a", prompt: str = "x", **changes: Any) -> Vote:
    fields = {
        "a": A,
        "b": B,
        "prompt": sha256(prompt),
        "of": of,
        "seed": 0,
        "order": ("b", "a"),
        "choice": choice,
        "at": "2026-01-01T00:00:00Z",
    }
    return Vote.model_validate(fields | changes)


def answers(n: int, *, same: int = 0) -> list[SideBySide]:
    said = [Answer(text=text, tokens=1, finish="stop") for text in ("by a", "by b", "by base")]
    return [
        SideBySide(prompt=f"task {i}", of=("a", "b", "given")[i % 3], a=said[0], b=said[0] if i < same else said[1], base=said[2])
        for i in range(n)
    ]  # fmt: skip


def test_what_was_given_is_read_back_in_either_order(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    given = [vote("a"), vote("b", of="b"), vote("none", of="given"), vote("base", order=("base", "a", "b"))]
    for one in given:
        votes.add(one)
    assert votes.read(A, B) == (tuple(given), 0)
    turned, _ = votes.read(B, A)
    assert [v.choice for v in turned] == ["b", "a", "none", "base"]
    assert [v.of for v in turned] == ["b", "a", "given", "b"]
    assert turned[3].order == ("base", "b", "a")
    assert [v.turned() for v in turned] == given
    assert votes.path(A, B) == votes.path(B, A)


def test_a_vote_of_both_orders_counts_for_the_same_block(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    votes.add(vote("a"))
    votes.add(vote("b", a=B, b=A))
    assert tally(ADA, BOB, votes).a_chosen == 2
    assert tally(BOB, ADA, votes).b_chosen == 2


def test_a_line_that_was_cut_costs_no_other_vote(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    votes.add(vote("a"))
    with votes.path(A, B).open("ab") as file:
        file.write(canonical(vote("b"))[:40])
    votes.add(vote("none"))
    found, damaged = votes.read(A, B)
    assert [v.choice for v in found] == ["a", "none"]
    assert damaged == 1
    assert tally(ADA, BOB, votes).damaged == 1


def test_a_full_disk_leaves_no_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = Votes(tmp_path)
    votes.add(vote("a"))
    before = votes.path(A, B).read_bytes()
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(NoSpace):
        votes.add(vote("b"))
    assert votes.path(A, B).read_bytes() == before


def test_no_votes_are_no_number(tmp_path: Path) -> None:
    found = tally(ADA, BOB, Votes(tmp_path))
    assert (found.votes, found.for_a.value, found.own.value) == (0, None, None)
    assert found.for_a.status == "not_available"


def test_the_tally_counts_what_was_chosen(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    for choice, of in (
        [("a", "a")] * 5 + [("b", "b")] * 3 + [("a", "b")] * 2 + [("none", "a"), ("base", "b"), ("a", "given")]
    ):
        votes.add(vote(choice, of=of, prompt=f"{choice}{of}"))
    found = tally(ADA, BOB, votes)
    assert (found.votes, found.a_chosen, found.b_chosen, found.base_chosen, found.undecided) == (13, 8, 3, 1, 1)
    assert (found.for_a.value, found.for_a.n) == (pytest.approx(8 / 11), 11)
    assert (found.own.value, found.own.n) == (pytest.approx(8 / 10), 10)
    low, high = found.own.ci95 or (0, 0)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))  # Wilson 1927
    assert found.prompts == 6
    assert tally(ADA, block("b", "Ada Example"), votes).own.status == "not_available"


# A ballot.


def test_answers_come_without_names_in_every_order(tmp_path: Path) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    for seed in range(60):
        ballot = Ballot(ADA, BOB, answers(3), 0, Votes(tmp_path), with_base=True, draw=random.Random(seed))
        for question in ballot.questions:
            seen[question.answers] += 1
            assert sorted(question.answers) == ["by a", "by b", "by base"]
    assert len(seen) == 6
    assert max(seen.values()) < 2 * min(seen.values()) + 10


def test_a_vote_is_on_disk_before_the_next_question_and_names_nobody(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    ballot = Ballot(ADA, BOB, answers(3), 7, votes, with_base=False)
    assert [q.person for q in ballot.questions] == ["Ada Example", "Bob Sample", "Ada Example"]
    for question in ballot.questions[:2]:
        ballot.vote(question.number, question.answers.index("by b") + 1)
    found, _ = votes.read(A, B)
    assert [(v.choice, v.of, v.seed, v.prompt) for v in found] == [
        ("b", "a", 7, sha256("task 0")),
        ("b", "b", 7, sha256("task 1")),
    ]
    text = votes.path(A, B).read_text()
    assert not [word for word in ("Ada", "Bob", "task", "by a") if word in text]
    assert ballot.tally().b_chosen == 2


def test_zero_is_cannot_tell_and_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    ballot = Ballot(ADA, BOB, answers(1), 0, votes, with_base=False)
    ballot.vote(1, 0)
    for choice in (-1, 3):
        with pytest.raises(InputError):
            ballot.vote(1, choice)
    assert [v.choice for v in votes.read(A, B)[0]] == ["none"]


def test_equal_answers_are_not_put_to_a_vote(tmp_path: Path) -> None:
    ballot = Ballot(ADA, BOB, answers(4, same=3), 0, Votes(tmp_path), with_base=False)
    assert (ballot.skipped, [q.prompt for q in ballot.questions]) == (3, ["task 3"])
    with pytest.raises(InputError, match="same answers"):
        Ballot(ADA, BOB, answers(2, same=2), 0, Votes(tmp_path), with_base=False)
