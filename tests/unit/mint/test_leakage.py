"""No training pair gives away what is held out: the same code, renamed code, code inside other code."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.block import Recipe
from clonedna.core.canonical import sha256
from clonedna.core.errors import TooFewSpans
from clonedna.core.work import Span
from clonedna.mint.divide import LEAK_SIMILAR, divide
from clonedna.mint.sift import (
    CONTAINED,
    MIN_SHINGLES,
    renaming,
    shingles,
    similarity,
    without_contained,
    without_near_duplicates,
)
from clonedna.mint.values import Divided, Sifted
from tests.values import REPOSITORY, span


def other(one: Span, text: str, path: str, **changes: object) -> Span:
    return one.model_copy(update={"text": text, "sha256": sha256(text), "path": path, **changes})


def renamed(one: Span, path: str) -> Span:
    """The same code with every name exchanged for another."""
    return other(one, re.sub(r"\b(?!def\b|return\b)[a-z_]\w*", lambda match: "x_" + match[0][::-1], one.text), path)


def mutated(one: Span, draw: random.Random, path: str) -> Span:
    """A copy of another kind each time: as it is, renamed, with a word changed, cut, or inside more code."""
    kind = draw.randrange(5)
    lines = one.text.splitlines(keepends=True)
    if kind == 0:
        return other(one, one.text, path)
    if kind == 1:
        return renamed(one, path)
    if kind == 2:
        return other(one, one.text.replace("return a", "return b"), path)
    if kind == 3:
        return other(one, "".join(lines[2:-1]), path, kind="hunk", before="x = 1\n")
    return other(one, one.text + span(1000 + draw.randrange(1000)).text, path, kind="hunk", before="x = 1\n")


def split(spans: list[Span], seed: int) -> Divided:
    return divide(
        Sifted(repository=REPOSITORY, spans=tuple(spans), refusals=()), Recipe(seed=seed, max_train_pairs=10_000)
    )


def leak(one: Span, held: Span) -> bool:
    """By the definition, pair by pair; no sketch and no index."""
    a, b = shingles(one.text), shingles(held.text)
    least = min(len(a), len(b))
    inside = least >= MIN_SHINGLES and len(a & b) >= CONTAINED * least
    return (
        inside
        or similarity(a, b) >= LEAK_SIMILAR
        or (renaming(one.text) != "" and renaming(one.text) == renaming(held.text))
    )


@settings(deadline=None, max_examples=12)
@given(
    count=st.integers(40, 80), copies=st.integers(1, 25), seed=st.integers(0, 3), draw=st.randoms(use_true_random=False)
)
def test_nothing_held_out_is_like_anything_trained_on(count: int, copies: int, seed: int, draw: random.Random) -> None:
    spans = [span(i) for i in range(count)]
    spans += [mutated(draw.choice(spans[:count]), draw, f"copies/c{i}.py") for i in range(copies)]
    try:
        result = split(spans, seed)
    except TooFewSpans:
        return
    held = [*result.holdout, *result.validation]
    assert not [(a.path, b.path) for a in result.train for b in held if leak(a, b)]
    assert not [(a.path, b.path) for a in result.validation for b in result.holdout if leak(a, b)]
    kept = len(result.train) + len(result.validation) + len(result.holdout)
    assert kept + len(result.refusals) == len(spans)


def test_without_the_check_the_copies_would_leak() -> None:
    """The definition sees each kind of copy, so that the property above can fail."""
    kinds = {i: mutated(span(1), _Fixed(i), "copy.py") for i in range(5)}
    assert all(leak(copy, span(1)) for copy in kinds.values())
    assert not leak(span(2), span(1))


class _Fixed(random.Random):
    """Draws this number."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.number = number

    def randrange(self, *arguments: int) -> int:  # type: ignore[override]
        return self.number


def test_a_renamed_copy_counts_once() -> None:
    kept, dropped = without_near_duplicates([span(1), renamed(span(1), "copy.py"), span(2)])
    assert [one.name for one in kept] == [span(1).name, span(2).name]
    assert [(one.path, like.path) for one, like in dropped] == [("copy.py", span(1).path)]


def test_renaming_is_one_for_one() -> None:
    code = "def f(a, b):\n" + "    a = a + b\n" * 10
    assert renaming(code) == renaming(code.replace("a", "c"))
    assert renaming(code) != renaming(code.replace("b", "a"))
    assert renaming(code) != renaming(code.replace("+", "-"))
    assert renaming("x = y\n") == ""


def test_what_a_hunk_replaced_gives_held_out_code_away() -> None:
    hunk = other(span(2), "x = 1\n", "a.py", kind="hunk", before=span(1).text)
    assert without_contained([hunk], [span(1)]) == ([], [(hunk, span(1))])
    assert without_contained([hunk], [span(3)]) == ([hunk], [])


@pytest.mark.parametrize("share", [0.6, 0.75, 0.95])
def test_similarity_is_settled_exactly(share: float) -> None:
    """Two texts that share so many of their words in a row are dropped from 0.8 on, not by a sketch's luck."""
    words = [f"w{i}" for i in range(400)]
    same = round(len(words) * 2 * share / (1 + share))
    one = other(span(1), " ".join(words), "a.py")
    two = other(span(1), " ".join(words[:same] + [f"v{i}" for i in range(len(words) - same)]), "b.py")
    near = similarity(shingles(one.text), shingles(two.text)) >= 0.8
    # Both are a row of different names: a renamed copy, unless something else stands in the middle.
    two = two.model_copy(update={"text": two.text + " +"})
    assert len(without_near_duplicates([one, two])[0]) == (1 if near else 2)
    assert near == (share > 0.8)
