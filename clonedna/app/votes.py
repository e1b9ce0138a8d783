"""Votes on answers whose authors were hidden: kept one a line, so that whoever stops in the middle keeps what was given.

    votes/<16 digits of one block's id>-<16 of the other's>.jsonl

A line holds ids, digests, a choice and a time: no prompt, no answer, no name of a person. The two blocks are read in either order.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from clonedna.app.workspace import now, space_errors
from clonedna.core.block import DIGEST_PATTERN, Manifest, Measure, not_available
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.comparison import PromptOf, SideBySide
from clonedna.core.errors import InputError
from clonedna.core.value import Value
from clonedna.evals.bootstrap import wilson

Shown = Literal["a", "b", "base"]
OTHER = {"a": "b", "b": "a"}


class Vote(Value):
    """``a``, ``b``: block ids. ``prompt``: SHA-256 of its text; ``of``: whose held-out work it asks for; ``order``: as it was shown.

    ``choice``: whose answer is more like the person; ``none``: cannot tell.
    """

    a: str = Field(pattern=DIGEST_PATTERN)
    b: str = Field(pattern=DIGEST_PATTERN)
    prompt: str = Field(pattern=DIGEST_PATTERN)
    of: PromptOf
    seed: int
    order: tuple[Shown, ...] = Field(min_length=2, max_length=3)
    choice: Literal["a", "b", "base", "none"]
    at: str

    def turned(self) -> Vote:
        """The same vote with the two blocks named the other way round."""
        order = tuple(OTHER.get(one, one) for one in self.order)
        changes = {
            "a": self.b, "b": self.a, "of": OTHER.get(self.of, self.of), "order": order, "choice": OTHER.get(self.choice, self.choice),
        }  # fmt: skip
        return Vote.model_validate(self.model_dump() | changes)


class Tally(Value):
    """What the votes on two blocks say. ``prompts``: different ones that were voted on; ``damaged``: lines that are no votes.

    ``for_a``: the first block's share of the votes for one of the two; ``own``: of such votes on a person's held-out work, the share for
    that person's own block.
    """

    a: str
    b: str
    votes: int
    prompts: int
    damaged: int
    a_chosen: int
    b_chosen: int
    base_chosen: int
    undecided: int
    for_a: Measure
    own: Measure


class Question(Value):
    """One thing to vote on: answers in the order they are shown, without names. ``person``: who they are to be like."""

    number: int
    total: int
    person: str
    prompt: str
    reference: str
    answers: tuple[str, ...]


class Votes:
    """The kept votes of one home."""

    def __init__(self, home: Path) -> None:
        self._root = home / "votes"

    def path(self, a: str, b: str) -> Path:
        return self._root / f"{'-'.join(one[:16] for one in sorted((a, b)))}.jsonl"

    def add(self, vote: Vote) -> None:
        """Append one line, whole, and wait until the disk has it. Raises ``NoSpace``; then nothing of it stays."""
        path = self.path(vote.a, vote.b)
        line = canonical(vote) + b"\n"
        with space_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                end = os.lseek(file, 0, os.SEEK_END)
                if end and os.pread(file, 1, end - 1) != b"\n":  # the last writer was killed inside a line
                    line = b"\n" + line
                try:
                    if os.write(file, line) < len(line):
                        raise OSError(errno.ENOSPC, "the line did not fit", str(path))
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, end)
                    raise
            finally:
                os.close(file)

    def read(self, a: str, b: str) -> tuple[tuple[Vote, ...], int]:
        """All votes on these two, with ``a`` as the first, and how many lines are none."""
        try:
            lines = self.path(a, b).read_bytes().splitlines()
        except FileNotFoundError:
            return (), 0
        found: list[Vote] = []
        for line in lines:
            try:
                vote = Vote.model_validate(strict_json(line))
            except ValueError:
                continue
            if (vote.a, vote.b) == (a, b):
                found.append(vote)
            elif (vote.a, vote.b) == (b, a):
                found.append(vote.turned())
        return tuple(found), len(lines) - len(found)


class Ballot:
    """Questions about two blocks, each in an order of its own, and where their votes go. Equal answers are not put to a vote.

    ``skipped``: prompts that both blocks answered with the same text. Raises ``InputError`` when nothing is left.
    """

    def __init__(
        self, a: Manifest, b: Manifest, answers: Sequence[SideBySide], seed: int, votes: Votes, *, with_base: bool,
        draw: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.a, self.b, self.seed, self._votes = a, b, seed, votes
        told = [one for one in answers if one.a.text != one.b.text]
        self.skipped = len(answers) - len(told)
        if not told:
            raise InputError("both blocks give the same answers to these prompts", "try another --seed or --prompt")
        draw = draw or random.SystemRandom()
        self._asked = told
        self._orders: list[tuple[Shown, ...]] = []
        for _ in told:
            order: list[Shown] = ["a", "b", "base"] if with_base else ["a", "b"]
            draw.shuffle(order)
            self._orders.append(tuple(order))

    @property
    def questions(self) -> tuple[Question, ...]:
        people = {"a": self.a.candidate.name, "b": self.b.candidate.name, "given": self.a.candidate.name}
        return tuple(
            Question(
                number=i, total=len(self._asked), person=people[asked.of], prompt=asked.prompt, reference=asked.reference,
                answers=tuple(getattr(asked, one).text for one in order),
            )
            for i, (asked, order) in enumerate(zip(self._asked, self._orders, strict=True), 1)
        )  # fmt: skip

    def vote(self, number: int, choice: int) -> None:
        """Keep the vote on question ``number`` (from 1): the answer in place ``choice`` (from 1), or 0 for none. It is on disk afterwards.

        Raises ``InputError`` for a place that is not there, ``NoSpace``.
        """
        asked, order = self._asked[number - 1], self._orders[number - 1]
        if not 0 <= choice <= len(order):
            raise InputError(f"{choice} is no answer", f"choose 1 to {len(order)}, or 0 if you cannot tell")
        self._votes.add(
            Vote(
                a=self.a.id, b=self.b.id, prompt=sha256(asked.prompt), of=asked.of, seed=self.seed, order=order,
                choice=order[choice - 1] if choice else "none", at=now(),
            )
        )  # fmt: skip

    def tally(self) -> Tally:
        return tally(self.a, self.b, self._votes)


def tally(a: Manifest, b: Manifest, kept: Votes) -> Tally:
    """What all kept votes on the two blocks say."""
    votes, damaged = kept.read(a.id, b.id)
    return counted(a.id, b.id, votes, damaged, one_person=a.candidate.name == b.candidate.name)


def counted(a: str, b: str, votes: tuple[Vote, ...], damaged: int, *, one_person: bool) -> Tally:
    """``one_person``: both blocks are of the same person, so that neither is the other's stranger."""
    chosen = [vote.choice for vote in votes]
    for_a, for_b = chosen.count("a"), chosen.count("b")
    of_work = [vote for vote in votes if vote.of != "given" and vote.choice in ("a", "b")]
    own = sum(vote.choice == vote.of for vote in of_work)
    return Tally(
        a=a, b=b, votes=len(votes), prompts=len({vote.prompt for vote in votes}), damaged=damaged, a_chosen=for_a, b_chosen=for_b,
        base_chosen=chosen.count("base"), undecided=chosen.count("none"),
        for_a=_share(for_a, for_a + for_b, "votes for the first block, of those for one of the two"),
        own=not_available("both blocks are of one person")
        if one_person
        else _share(own, len(of_work), "votes for the person's own block, of those for one of the two on held-out work"),
    )  # fmt: skip


def _share(k: int, n: int, what: str) -> Measure:
    if n == 0:
        return not_available("nobody has chosen between the two yet")
    low, high = wilson(k, n)
    return Measure(
        value=k / n, status="measured", n=n, split="votes", how=f"{what}; 95 % Wilson interval", ci95=(low, high)
    )
