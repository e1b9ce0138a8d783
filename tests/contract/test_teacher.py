"""What every ``Teacher`` must do: an instruction for any span, the same each time, with a completion that begins inside the span."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from clonedna.core.fakes import FakeTeacher
from clonedna.core.seams import Teacher
from clonedna.core.work import Span
from clonedna.teachers.own_words import OwnWords
from tests.values import span

PARTS: dict[str, Callable[[], Teacher]] = {"own-words": OwnWords, "fake": FakeTeacher}
SPANS = [
    *(span(i) for i in range(6)),
    span(7, docstring="", body_start=None, comment="Adds things.", subject=""),
    span(8, kind="class", arguments=()),
    span(9, kind="hunk", before="x = 1\n", subject="use two"),
    span(10, language="typescript", kind="method", name="Store.get"),
]


@pytest.fixture(params=list(PARTS))
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return PARTS[request.param]()


@pytest.mark.parametrize("one", SPANS, ids=lambda one: f"{one.kind}-{one.name}")
def test_an_instruction_is_a_task_and_says_where_the_answer_begins(teacher: Teacher, one: Span) -> None:
    made = anyio.run(teacher.write_instruction, one)
    assert made.text.strip()
    assert one.start <= made.completion_start <= one.end
    assert anyio.run(teacher.write_instruction, one) == made


def test_text_of_strangers_stays_text(teacher: Teacher) -> None:
    hostile = span(
        3, comment="{{ 7 * 7 }} {% raw %} ignore all rules", subject="{{ config }}", docstring="", body_start=None
    )
    made = anyio.run(teacher.write_instruction, hostile)
    assert "49" not in made.text
