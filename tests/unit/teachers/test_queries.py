"""What people would type who look for a layer, as a teacher writes it: what is asked, and what of the answer is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import BadAnswer
from clonedna.sources.secrets import secret_in
from clonedna.teachers.answers import LONGEST_PHRASE
from clonedna.teachers.asking import AskingTeacher
from clonedna.teachers.queries import (
    MOST_NEEDS,
    MOST_QUERIES,
    MOST_SEARCHES,
    MOST_TEXT,
    QUERIES_SCHEMA,
    QUERIES_SYSTEM,
    Queried,
    sound_queries,
)
from tests.unit.teachers.asked import teacher_at, using
from tests.unit.teachers.server import KEY, Script, completion, serving

TEXT = "Python. works on session, mapper. uses sqlalchemy"
GOOD = {
    "searches": ["python orm", "sqlalchemy sessions"],
    "needs": ["Our classes should be kept in tables without queries in the code."],
}


def written(script: Script, home: Path, text: str = TEXT, **changes: Any) -> Queried:
    async def ask(teacher: AskingTeacher) -> Queried:
        return await teacher.queries(text)

    with serving(script) as url:
        return using(lambda: teacher_at(url, home, **changes), ask)


def test_what_is_asked_is_the_text_alone_and_searches_come_first(tmp_path: Path) -> None:
    script = Script(answer=lambda _: completion(GOOD))
    found = written(script, tmp_path)
    assert found.queries == (*GOOD["searches"], *GOOD["needs"])
    assert (found.dropped, found.prompt_tokens, found.completion_tokens) == ({}, 200, 20)
    (body,) = script.bodies
    assert body["messages"][0] == {"role": "system", "content": QUERIES_SYSTEM}
    assert json.loads(body["messages"][1]["content"]) == {"can": TEXT}
    assert body["response_format"]["json_schema"]["schema"] == QUERIES_SCHEMA
    assert not list(tmp_path.rglob("*.json")), "whose block it is keeps it"


def test_a_text_is_told_in_bounds_and_without_addresses(tmp_path: Path) -> None:
    script = Script(answer=lambda _: completion(GOOD))
    written(script, tmp_path, "mail ada@example.org " + "word " * 5000)
    told = json.loads(script.bodies[0]["messages"][1]["content"])["can"]
    assert len(told) <= MOST_TEXT
    assert "ada" not in told


def test_a_text_with_a_secret_is_not_sent(tmp_path: Path) -> None:
    script = Script(answer=lambda _: completion(GOOD))
    with pytest.raises(BadAnswer) as error:
        written(script, tmp_path, f"uses {KEY}")
    assert (error.value.facts["why"], script.bodies) == ("secret_in_question", [])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x", "length"), ("y " * LONGEST_PHRASE, "length"), ("two\nlines", "unseen_characters"), ("a ``` b", "markup"),
        ("ask ada@example.org", "email"), (f"the key {KEY}", "secret"), (7, "malformed"), (None, "malformed"),
        ("PYTHON ORM", "repeated"), ("a \u202e b", "unseen_characters"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_sound_is_left_out_and_counted(line: Any, why: str) -> None:
    found = sound_queries({"searches": ["python orm", line], "needs": GOOD["needs"]}, secret_in)
    assert (found.queries, found.dropped) == (("python orm", *GOOD["needs"]), {why: 1})


def test_there_are_no_more_than_were_asked_for() -> None:
    said = {"searches": [f"search {i}" for i in range(9)], "needs": [f"somebody needs {i}" for i in range(9)]}
    found = sound_queries(said, secret_in)
    assert len(found.queries) == MOST_QUERIES == MOST_SEARCHES + MOST_NEEDS
    assert found.dropped == {"too_many": 9 - MOST_SEARCHES + 9 - MOST_NEEDS}


LINES = st.none() | st.integers() | st.text() | st.lists(st.text() | st.integers() | st.none(), max_size=40)


@given(searches=LINES, needs=LINES)
def test_whatever_is_answered_stays_in_bounds(searches: Any, needs: Any) -> None:
    found = sound_queries({"searches": searches, "needs": needs}, secret_in)
    assert len(found.queries) <= MOST_QUERIES
    assert all(1 <= len(one) <= LONGEST_PHRASE and one == one.strip() for one in found.queries)


@pytest.mark.parametrize(
    ("answer", "why"), [({"searches": [], "needs": []}, "empty"), ({"searches": "x"}, "length"), ({}, "malformed")]
)
def test_an_answer_without_a_usable_line_is_an_error(answer: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(BadAnswer) as error:
        written(Script(answer=lambda _: completion(answer)), tmp_path)
    assert error.value.facts["why"] == why


def test_an_estimate_says_questions_tokens_and_by_the_prices_dollars(tmp_path: Path) -> None:
    with serving(Script()) as url:

        async def cost(teacher: AskingTeacher) -> Any:
            return teacher.queries_cost([TEXT] * 10)

        found = using(lambda: teacher_at(url, tmp_path, prompt_price=3.0, completion_price=15.0), cost)
    assert (found.calls, found.cost.status) == (10, "estimated")
    assert found.cost.value == pytest.approx((3 * found.prompt_tokens + 15 * found.completion_tokens) / 1e6)
