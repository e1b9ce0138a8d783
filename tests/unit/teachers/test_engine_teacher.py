"""The engine as a teacher: held to the schema, greedy, kept, and dropped where it says nothing usable."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clonedna.core.errors import BadAnswer
from clonedna.core.fakes import FakeEngine
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.work import About, Instruction
from clonedna.sources.secrets import secret_in
from clonedna.teachers.asking import SCHEMA, SYSTEM
from clonedna.teachers.models import engine_teacher
from tests.unit.teachers.asked import ask_all, using
from tests.values import span


class Scripted(FakeEngine):
    """Says ``text``, in pieces, and keeps what it was asked."""

    def __init__(self, text: str, finish: str = "stop") -> None:
        super().__init__()
        self.text, self.finish = text, finish
        self.asked: list[SampleRequest] = []

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        self.asked.append(request)
        for start in range(0, len(self.text), 7):
            yield SampleChunk(text=self.text[start : start + 7])
        yield SampleChunk(finish=self.finish, prompt_tokens=90, completion_tokens=9)  # type: ignore[arg-type]


GOOD = '{"instruction": "Write what the project needs here."}'


def test_it_is_asked_with_a_guide_and_quoted_data_once(tmp_path: Path) -> None:
    engine = Scripted(GOOD)

    def make() -> object:
        return engine_teacher(home=tmp_path, engine=engine, about=About(), secret_in=secret_in)

    first = using(make, lambda teacher: ask_all(teacher, [span(1), span(2)]))  # type: ignore[arg-type]
    again = using(make, lambda teacher: ask_all(teacher, [span(1), span(2)]))  # type: ignore[arg-type]
    assert first == again
    assert all(isinstance(answer, Instruction) for answer in first)
    assert len(engine.asked) == 2
    for request in engine.asked:
        assert request.guide is not None
        assert (request.guide.kind, json.loads(request.guide.text)) == ("json_schema", SCHEMA)
        assert (request.temperature, request.layers, request.tools) == (0, (), ())
        assert request.messages[0].content == SYSTEM
        assert len(json.loads(request.messages[1].content)["code"]) <= 900


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [(GOOD, "length", "cut"), ("Sure", "stop", "not_json"), ("[]", "stop", "not_json"), ('{"instruction": "Hm"}', "stop", "length")],
)  # fmt: skip
def test_what_it_says_badly_is_dropped(tmp_path: Path, text: str, finish: str, why: str) -> None:
    (answer,) = using(
        lambda: engine_teacher(home=tmp_path, engine=Scripted(text, finish), about=About(), secret_in=secret_in),
        lambda teacher: ask_all(teacher, [span(1)]),
    )
    assert isinstance(answer, BadAnswer)
    assert answer.facts["why"] == why


def test_it_costs_nothing_that_is_known(tmp_path: Path) -> None:
    async def took(teacher: object) -> object:
        await ask_all(teacher, [span(1)])  # type: ignore[arg-type]
        return teacher.teaching  # type: ignore[attr-defined]

    made = using(
        lambda: engine_teacher(home=tmp_path, engine=Scripted(GOOD), about=About(), secret_in=secret_in),
        took,  # type: ignore[arg-type]
    )
    assert (made.teacher, made.model, made.calls, made.prompt_tokens) == ("engine", "fake", 1, 90)
    assert made.cost.status == "not_available"
