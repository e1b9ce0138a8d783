"""Near-duplicates count once, and what is too long is refused with the reason."""

from __future__ import annotations

from clonedna.core.work import Collection
from clonedna.mint.sift import sift, without_near_duplicates
from tests.values import REPOSITORY, collection, span


def of(*spans: object) -> Collection:
    return Collection(repository=REPOSITORY, spans=tuple(spans), refusals=(), files_seen=1, files_used=1, lines_owned=1)  # type: ignore[arg-type]


def test_different_code_stays() -> None:
    assert len(sift(collection(50), max_tokens=1000).spans) == 50


def test_the_same_code_with_one_word_changed_counts_once() -> None:
    first = span(1)
    second = first.model_copy(update={"path": "other.py", "text": first.text.replace("return a", "return b")})
    result = sift(of(first, second), max_tokens=1000)
    assert [s.path for s in result.spans] == [first.path]
    assert [(r.path, r.reason) for r in result.refusals] == [("other.py", "near_duplicate")]


def test_code_of_today_wins_over_the_hunk_that_made_it() -> None:
    today = span(1, path="z.py")
    hunk = today.model_copy(update={"kind": "hunk", "path": "a.py", "before": "x = 1\n"})
    assert [s.kind for s in sift(of(hunk, today), max_tokens=1000).spans] == ["function"]


def test_too_long_is_refused_with_the_limit() -> None:
    result = sift(of(span(1)), max_tokens=64)
    assert not result.spans
    assert result.refusals[0].reason == "too_long"
    assert "192 bytes" in result.refusals[0].detail


def test_the_order_of_input_does_not_matter() -> None:
    spans = list(collection(30).spans)
    assert sift(of(*spans), max_tokens=1000).spans == sift(of(*reversed(spans)), max_tokens=1000).spans


def test_against_drops_what_is_like_the_others() -> None:
    kept, dropped = without_near_duplicates([span(1), span(2)], against=[span(1, path="held.py")])
    assert [s.name for s in kept] == [span(2).name]
    assert dropped[0][1].path == "held.py"
