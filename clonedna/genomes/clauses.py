"""The parts of a request that each ask for something, in the words that they stand in.

A list ("colours, dates and YAML files") is taken apart at its commas and joining words; sentences at their ends, and at "and", "plus" or
"then" where what stands on both sides says something by itself. Words that are said not to be wanted are in no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clonedna.genomes.need_words import COMMA, HARD, JOINING, Word, says_nothing, shown

MOST_PARTS = 3
LISTED = 5
"""A member of a list has at most so many words."""
_JOINTS = frozenset({"and", "plus", "then", "also", "&"})
Span = range


@dataclass(frozen=True, slots=True)
class Clause:
    """Words from ``start`` to ``end`` (not included), and how they were written."""

    start: int
    end: int
    text: str


def clauses(said: Sequence[Word], named: Sequence[bool], under: Sequence[bool]) -> tuple[Clause, ...]:
    """The clauses of a request's words, in their order; every wanted word that says something is in one of them.

    ``named``: words that are in a skill's name; ``under``: words that are said not to be wanted.
    """
    listed = [one for one in _cut(said, named, range(len(said)), COMMA) if _has(one, said, under)]
    joined = len(_cut(said, named, range(len(said)), HARD)) > 1
    if len(listed) > (1 if joined else 2) and all(len(one) <= LISTED and _stands(one, said, named) for one in listed):
        return _written(listed, said, under)  # two that only a comma parts are rather one thing with two words for it
    found: list[Span] = []
    for sentence in _cut(said, named, range(len(said)), HARD, joints=False):
        pieces = [one for one in _cut(said, named, sentence, HARD) if _has(one, said, under)]
        apart = 1 < len(pieces) <= MOST_PARTS and all(_stands(one, said, named) for one in pieces)
        found += pieces if apart else [sentence] if pieces else []
    return _written(found, said, under)


def _cut(said: Sequence[Word], named: Sequence[bool], within: Span, stop: int, *, joints: bool = True) -> list[Span]:
    """The runs of ``within`` between stops of that strength or more, and (``joints``) between joining words."""
    found: list[Span] = []
    start = within.start
    for place in within:
        joint = joints and said[place].text in _JOINTS and not named[place]
        if joint or said[place].stop >= stop:
            found.append(range(start, place if joint else place + 1))
            start = place + 1
    return [one for one in (*found, range(start, within.stop)) if one]


def _has(one: Span, said: Sequence[Word], under: Sequence[bool]) -> bool:
    return any(not under[place] and not says_nothing(said[place]) for place in one)


def _stands(one: Span, said: Sequence[Word], named: Sequence[bool]) -> bool:
    """Whether it says something by itself: a name, or more than a word."""
    return len({(said[place].piece, said[place].part) for place in one}) > 1 or any(named[place] for place in one)


def _written(spans: Iterable[Span], said: Sequence[Word], under: Sequence[bool]) -> tuple[Clause, ...]:
    found: list[Clause] = []
    for one in spans:
        kept = [said[place] for place in one if not under[place]]
        while kept and kept[-1].text in JOINING:
            kept.pop()
        while kept and kept[0].text in JOINING:
            del kept[0]
        if kept:
            found.append(Clause(one.start, one.stop, shown(kept)))
    return tuple(found)
