"""Examples of a skill that a teacher writes: what is asked, what of the answer is used, and that nothing is asked twice."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import DnaError, Unauthorised
from clonedna.sources.secrets import secret_in
from clonedna.teachers.answers import MOST_CODE
from clonedna.teachers.asking import AskingTeacher
from clonedna.teachers.cache import EXAMPLES, FOLDER, purge
from clonedna.teachers.examples import (
    AT_ONCE,
    EXAMPLES_SCHEMA,
    EXAMPLES_SYSTEM,
    MOST_QUESTIONS,
    Written,
    grown,
)
from tests.unit.teachers.asked import teacher_at, using
from tests.unit.teachers.server import KEY, Script, completion, serving

WORDS = ("SQL queries for reports, and nothing else", "sql")
GOOD = {
    "task": "Count the orders of each customer this year.",
    "answer": "SELECT customer, count(*)\nFROM orders\nGROUP BY 1\n",
}


def example(i: int) -> dict[str, str]:
    return {
        "task": f"Sum the sales of region number {i} by month.",
        "answer": f"SELECT month, sum(x)\nFROM r{i}\nGROUP BY 1;",
    }


def eight(body: dict[str, Any]) -> dict[str, Any]:
    """As many as were asked for, none that was had."""
    asked = json.loads(body["messages"][1]["content"])
    start = len(asked["had"])
    return completion({"examples": [example(start + i) for i in range(asked["count"])]})


def written(script: Script, home: Path, most: int = 16, words: tuple[str, ...] = WORDS, **changes: Any) -> Written:
    async def ask(teacher: AskingTeacher) -> Written:
        return await teacher.examples(words, most)

    with serving(script) as url:
        return using(lambda: teacher_at(url, home, **changes), ask)


def test_what_is_asked_is_the_words_alone_in_two_questions(tmp_path: Path) -> None:
    script = Script(answer=eight)
    found = written(script, tmp_path)
    assert [one.task for one in found.examples] == [example(i)["task"] for i in range(16)]
    assert (found.questions, found.dropped, found.prompt_tokens, found.completion_tokens) == (2, {}, 400, 40)
    first, second = script.bodies
    assert first["messages"][0] == {"role": "system", "content": EXAMPLES_SYSTEM}
    assert first["response_format"]["json_schema"]["schema"] == EXAMPLES_SCHEMA
    assert json.loads(first["messages"][1]["content"]) == {"skill": list(WORDS), "count": AT_ONCE, "had": []}
    assert json.loads(second["messages"][1]["content"])["had"] == [example(i)["task"] for i in range(8)]


def test_it_is_asked_once_and_kept_apart_from_what_is_about_people(tmp_path: Path) -> None:
    script = Script(answer=eight)

    async def twice(teacher: AskingTeacher) -> list[Any]:
        return [await teacher.examples(WORDS, 16), await teacher.examples(WORDS, 16), teacher.examples_cost(WORDS, 16)]

    with serving(script) as url:
        one, two, cost = using(lambda: teacher_at(url, tmp_path), twice)
        again = using(lambda: teacher_at(url, tmp_path), twice)
        assert (one == two == again[0], cost.calls, len(script.bodies)) == (True, 0, 2)
        using(lambda: teacher_at(url, tmp_path, model="grok-5"), twice)
    assert len(script.bodies) == 4, "another model is another question"
    files = [path for path in (tmp_path / EXAMPLES).rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert KEY not in "".join(path.read_text() for path in files)
    assert not (tmp_path / FOLDER).exists()
    purge(tmp_path, ["0" * 64])
    assert len([path for path in (tmp_path / EXAMPLES).rglob("*") if path.is_file()]) == 2


def test_an_estimate_says_questions_tokens_and_by_the_prices_dollars(tmp_path: Path) -> None:
    with serving(Script()) as url:

        async def cost(teacher: AskingTeacher) -> Any:
            return teacher.examples_cost(WORDS, 16)

        found = using(lambda: teacher_at(url, tmp_path, prompt_price=3.0, completion_price=15.0), cost)
        free = using(lambda: teacher_at(url, tmp_path), cost)
    assert (found.calls, found.cost.status, free.cost.value) == (2, "estimated", None)
    assert found.cost.value == pytest.approx((3 * found.prompt_tokens + 15 * found.completion_tokens) / 1e6)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"task": "short"}, "length"), ({"task": "x y z " * 200}, "length"), ({"answer": "x"}, "length"),
        ({"answer": "y = 1\n" * MOST_CODE}, "length"), ({"answer": "```sql\nSELECT 1 FROM a\n```"}, "markup"),
        ({"task": "Write to ada@example.org about the sums."}, "email"), ({"answer": "a = 1\u202e and more\n"}, "unseen_characters"),
        ({"answer": f"key = '{KEY}0123456789abcdef0123'\nopen(key)\n"}, "secret"), ({"task": 3}, "malformed"), ({"more": "x"}, "malformed"),
        ({"task": "Give SELECT customer, count(*) FROM orders GROUP BY 1 as it is."}, "leak"),
    ],
)  # fmt: skip
def test_what_is_not_sound_is_left_out_and_counted(bad: dict[str, Any], why: str) -> None:
    found = grown(Written(), {"examples": [GOOD | bad, example(1)]}, 16, secret_in)
    assert ([one.task for one in found.examples], found.dropped) == ([example(1)["task"]], {why: 1})


def test_repeats_and_what_is_over_are_left_out() -> None:
    first = grown(Written(), {"examples": [GOOD, GOOD]}, 2, secret_in)
    assert (len(first.examples), first.dropped) == (1, {"repeated": 1})
    second = grown(first, {"examples": [GOOD | {"task": GOOD["task"].upper()}, example(1), example(2)]}, 2, secret_in)
    assert (len(second.examples), second.dropped) == (2, {"repeated": 2, "too_many": 1})


LEAF = st.none() | st.integers() | st.text(max_size=40)
NAMES = st.sampled_from(["examples", "task", "answer", "x"])


@given(
    st.recursive(LEAF, lambda one: st.lists(one, max_size=4) | st.dictionaries(NAMES, one, max_size=4), max_leaves=12)
)
def test_any_answer_is_counted_and_never_an_error(said: Any) -> None:
    fields = said if isinstance(said, dict) else {"examples": said}
    found = grown(Written(), fields, 16, secret_in)
    assert len(found.examples) <= 16
    assert found.examples or found.dropped or fields.get("examples") == []


@pytest.mark.parametrize("answer", [lambda body: completion("no JSON"), lambda body: completion({"examples": []})])
def test_useless_answers_end_after_a_few_questions_and_do_not_stay(
    tmp_path: Path, answer: Callable[[dict[str, Any]], Any]
) -> None:
    script = Script(answer=answer)

    async def ask(teacher: AskingTeacher) -> Written:
        return await teacher.examples(WORDS, 16)

    with serving(script) as url:
        for times in (1, 2):  # too little came: it is tried anew
            found = using(lambda: teacher_at(url, tmp_path), ask)
            assert (found.examples, found.questions, len(script.bodies)) == ((), MOST_QUESTIONS, times * MOST_QUESTIONS)


def test_what_was_answered_before_a_failure_is_kept_and_the_rest_asked_later(tmp_path: Path) -> None:
    def once(body: dict[str, Any]) -> Any:
        return (401, {}, b"{}") if len(script.bodies) == 2 else eight(body)

    script = Script(answer=once)
    with serving(script) as url:

        async def ask(teacher: AskingTeacher) -> Written:
            return await teacher.examples(WORDS, 16)

        async def cost(teacher: AskingTeacher) -> int:
            return teacher.examples_cost(WORDS, 16).calls

        with pytest.raises(Unauthorised):
            using(lambda: teacher_at(url, tmp_path), ask)
        assert using(lambda: teacher_at(url, tmp_path), cost) == 1
        found = using(lambda: teacher_at(url, tmp_path), ask)
    assert [one.task for one in found.examples] == [example(i)["task"] for i in range(16)]
    assert (len(script.bodies), found.questions, found.prompt_tokens) == (3, 2, 400)


def test_a_refused_key_is_an_error_and_a_secret_is_not_asked(tmp_path: Path) -> None:
    refused = Script(answer=lambda body: (401, {}, b"{}"))
    with pytest.raises(Unauthorised):
        written(refused, tmp_path)
    silent = Script(answer=eight)
    found = written(silent, tmp_path, words=("use ghp_" + "a1B2c3D4" * 4 + "e5F6 to sign in",))
    assert (found.dropped, silent.bodies) == ({"secret_in_question": 1}, [])
    assert not (tmp_path / EXAMPLES).exists()
    assert issubclass(Unauthorised, DnaError)
