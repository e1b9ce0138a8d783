"""What the person wrote becomes the task; what the task shows is not in the answer, and the answer is the person's bytes."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.canonical import sha256
from clonedna.core.work import Instruction, Span
from clonedna.mint.instruct import make_pair
from clonedna.teachers.forms import completion_of, form_of
from clonedna.teachers.own_words import OwnWords
from tests.values import REPOSITORY, span

LINE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30)


@st.composite
def any_span(draw: st.DrawFn) -> Span:
    """A span of any lines (odd separators, no last newline, empty ones among them), of each kind and form."""
    lines = draw(st.lists(LINE, min_size=3, max_size=9))
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n", "\r\n"]))
    kind = draw(st.sampled_from(["function", "method", "class", "hunk"]))
    start = draw(st.integers(1, 5000))
    body = draw(st.none() | st.integers(start + 1, start + 2))
    return span(
        1, text=text, sha256=sha256(text), start=start, end=start + text.count("\n"), kind=kind, body_start=body,
        docstring=draw(LINE) if body else "", comment=draw(LINE), subject=draw(LINE), before=draw(LINE) if kind == "hunk" else None,
    )  # fmt: skip


def written(one: Span) -> Instruction:
    return anyio.run(OwnWords().write_instruction, one)


@given(any_span())
@settings(max_examples=150, deadline=None)
def test_a_completion_is_the_span_s_bytes_from_a_line_on(one: Span) -> None:
    made = written(one)
    pair = make_pair(one, made, "train", REPOSITORY, "Ada Example", "own-words")
    assert one.text.endswith(pair.completion)
    cut = one.text[: len(one.text) - len(pair.completion)]
    assert cut == "" or cut.endswith("\n")
    assert one.start + cut.count("\n") == made.completion_start == pair.provenance.start
    assert pair.provenance.sha256 == sha256(pair.completion)
    assert pair.completion == completion_of(one), "every teacher cuts at the same line"


@pytest.mark.parametrize("words", ["Sums up the orders.", "SUMS UP\tthe orders."])
def test_words_that_stand_in_the_answer_are_not_in_the_task(words: str) -> None:
    text = 'def total(orders):\n    """Sums up the orders."""\n    return sum(orders)\n'
    one = span(
        2, text=text, sha256=sha256(text), start=1, end=3, body_start=None, docstring="", name="total", arguments=("orders",),
        comment=words, subject=words,
    )  # fmt: skip
    assert "sums" not in written(one).text.casefold()
    assert "total(orders)" in written(one).text


def test_words_that_stand_outside_are_the_task() -> None:
    one = span(2, docstring="", body_start=None, comment="Adds the day's orders.", subject="report a day's sum")
    assert "About: Adds the day's orders." in written(one).text
    assert "Commit: report a day's sum" in written(one).text


def test_a_body_s_head_is_shown_and_not_learnt() -> None:
    one = next(span(i) for i in range(50) if form_of(span(i)) == "body")
    made = written(one)
    assert f'"""{one.text.split(chr(34) * 3)[1]}"""' in made.text
    assert '"""' not in completion_of(one)
    assert made.completion_start == one.body_start


def test_a_change_shows_the_lines_before_and_its_subject() -> None:
    one = span(9, kind="hunk", before="x = 1\ny = 2\n", subject="count from two")
    made = written(one)
    assert made.form == "change"
    assert made.text.endswith("```python\nx = 1\ny = 2\n```")
    assert "Commit: count from two" in made.text
    assert completion_of(one) == one.text


def test_an_address_in_a_comment_is_left_out() -> None:
    one = span(2, docstring="", body_start=None, comment="Ask someone@example.net about the rounding.")
    assert "@" not in written(one).text
    assert "about the rounding" in written(one).text
