"""Programming tasks: pass@k, cutting of answers, both file formats, and no run without a sandbox. Every reference passes, no wrong one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.core.errors import InputError, SandboxUnavailable, TooLarge
from clonedna.core.fakes import FakeEngine, FakeSandbox, no_sandbox
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.sandbox import Ran
from clonedna.core.seams import OpenSandbox
from clonedna.evals import tasks_files
from clonedna.evals.tasks import NAMES, pass_at_k, passes, tasks
from clonedna.evals.tasks_files import Task, bundled_tasks, cut, indented, load_tasks, parse_tasks
from clonedna.mint.mix import rehearsal_requests, tool_use_pairs
from clonedna.sandbox.trial import Sandboxes

ADD = Task(
    id="add", form="code", prompt='def add(a, b):\n    """The sum."""\n', entry_point="add",
    test="def check(f):\n    assert f(1, 2) == 3\n\ncheck(add)", reference="    return a + b", wrong="    return a - b",
)  # fmt: skip
HUMANEVAL = {
    "task_id": "Made/0", "prompt": "def twice(x):\n", "entry_point": "twice", "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}  # fmt: skip
MBPP = {
    "task_id": 11, "text": "Write a function to double a number.",
    "code": "import math\r\ndef half(x): return x/2\r\ndef twice(x):\r\n  return 2*x",
    "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"], "test_setup_code": "unit = 1",
    "challenge_test_list": ["assert twice(-1) == -2"],
}  # fmt: skip


def by_all_draws(n: int, correct: int, k: int) -> float:
    draws = list(itertools.combinations(range(n), k))
    return sum(any(one < correct for one in draw) for draw in draws) / len(draws)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (5, 2), (8, 5), (10, 10)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, k: int) -> None:
    for correct in range(n + 1):
        assert pass_at_k(n, correct, k) == pytest.approx(by_all_draws(n, correct, k))


def test_pass_at_k_of_many_answers_does_not_overflow_and_nonsense_is_refused() -> None:
    assert pass_at_k(100_000, 1, 1000) == pytest.approx(0.01)
    for bad in ((0, 0, 1), (3, 4, 1), (3, 1, 4), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(*bad)


@pytest.mark.parametrize(
    "answer",
    [
        "    return a + b",
        "return a + b",
        "return a + b\n```\nThat is the sum.",
        "```python\n    return a + b\n```\nThe body returns the sum.",
        "Here it is:\n\n```python\ndef add(a, b):\n    return a + b\n```",
        "def add(a, b):\n    return a + b\n\nprint(add(1, 1))",
        "total = a + b\n    return total",
        "if a:\n        return a + b\n    return b",
        "if a:\n    return a + b\nreturn b",
        "    return a + b\n\nif __name__ == '__main__':\n    raise SystemExit(1)",
    ],
)
def test_an_answer_becomes_a_program_however_it_is_written(answer: str) -> None:
    space: dict[str, Any] = {}
    exec(ADD.program(answer), space)  # ours, from the list above
    assert space["add"](2, 2) == 4


def test_imports_before_the_function_are_kept_for_a_whole_answer() -> None:
    task = ADD.model_copy(update={"prompt": "import math\n\n\ndef add(a, b):\n"})
    assert task.program("def add(a, b):\n    return math.fsum((a, b))").lstrip().startswith("import math")


def test_cutting_and_indenting() -> None:
    assert cut("x = 1\nassert x\n") == "x = 1"
    assert cut("a\n```\nb") == "a"
    assert indented("x = 1\n\ny = 2") == "    x = 1\n\n    y = 2"
    assert indented("") == ""


def test_there_are_enough_bundled_tasks_and_no_prompt_tells_its_answer() -> None:
    chosen = bundled_tasks()
    assert len(chosen) >= 30
    for task in chosen:
        assert task.wrong
        shown = task.message().content
        assert task.reference.strip() not in shown
        assert task.test not in shown
        assert shown.startswith("Write the body of this Python function from `")
        assert max(map(len, task.prompt.splitlines())) <= 140


def words(text: str) -> set[tuple[str, ...]]:
    """Runs of five words."""
    found = re.findall(r"\w+|[^\w\s]", text)
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def test_bundled_tasks_do_not_overlap_what_blocks_are_trained_on_beside_a_persons_code() -> None:
    requests = [message.content for messages in rehearsal_requests() for message in messages]
    requests += ["\n".join([*(m.content for m in e.messages), e.completion]) for e in tool_use_pairs()]
    trained, names = [words(text) for text in requests], set(re.findall(r"\w+(?=\()", "\n".join(requests)))
    for task in bundled_tasks():
        assert task.entry_point not in names
        own = words(task.prompt + task.reference)
        assert max(len(own & seen) / len(own) for seen in trained) < 0.25, task.id


def test_bundled_tasks_hold_no_address_and_no_secret() -> None:
    text = "".join(task.model_dump_json() for task in bundled_tasks())
    assert "@" not in text
    assert "http" not in text


@pytest.fixture(scope="module")
def open_sandbox() -> OpenSandbox:
    sandboxes = Sandboxes()
    try:
        anyio.run(sandboxes.open).close()
    except SandboxUnavailable as error:
        pytest.skip(error.message)
    return sandboxes.open


@pytest.mark.slow
def test_every_reference_passes_and_every_wrong_one_fails_in_the_sandbox(open_sandbox: OpenSandbox) -> None:
    found: dict[str, tuple[bool, bool]] = {}

    async def one(task: Task) -> None:
        right = await passes(open_sandbox, task, task.reference)
        found[task.id] = right, await passes(open_sandbox, task, task.wrong)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            for task in bundled_tasks():
                group.start_soon(one, task)

    anyio.run(work)
    assert len(found) == len(bundled_tasks())
    assert {name: pair for name, pair in found.items() if pair != (True, False)} == {}


@pytest.mark.parametrize(
    "answer",
    [
        "    import os\n    os._exit(0)",
        "    raise SystemExit(0)",
        "    return (",
        "    print('0' * 100)",
    ],
)
def test_leaving_early_is_no_way_to_pass(open_sandbox: OpenSandbox, answer: str) -> None:
    assert not anyio.run(passes, open_sandbox, ADD, answer)


def test_both_formats_are_read_and_run(open_sandbox: OpenSandbox) -> None:
    code, words = parse_tasks(f"{json.dumps(HUMANEVAL)}\n\n{json.dumps(MBPP)}\n", "x")
    assert (code.form, code.entry_point, words.form, words.id, words.entry_point) == (
        "code",
        "twice",
        "words",
        "11",
        "twice",
    )
    assert "assert twice(-1)" not in words.message().content
    assert "assert twice(0)" in words.message().content
    for task in (code, words):
        assert anyio.run(passes, open_sandbox, task, task.reference)
        assert not anyio.run(passes, open_sandbox, task, "    return 0")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 is no JSON object"),
        ("[" * 100_000, "line 2 is no JSON"),
        ('{"a": 1}', "neither"),
        (json.dumps(HUMANEVAL | {"entry_point": "other"}), "no function 'other'"),
        (json.dumps(HUMANEVAL | {"test": None}), "test must be text"),
        (json.dumps({k: v for k, v in HUMANEVAL.items() if k != "canonical_solution"}), "canonical_solution"),
        (json.dumps(MBPP | {"test_list": []}), "test_list is empty"),
        (json.dumps(MBPP | {"test_list": "assert 1"}), "test_list must be a list"),
        (json.dumps(MBPP | {"code": "x" * 100_001}), "at most"),
        (json.dumps(HUMANEVAL | {"task_id": "first"}), "twice"),
    ],
)
def test_what_is_no_task_is_named_with_its_line(line: str, said: str) -> None:
    first = json.dumps(HUMANEVAL | {"task_id": "first"})
    with pytest.raises(InputError, match="line 2") as caught:
        parse_tasks(f"{first}\n{line}\n", "tasks.jsonl")
    assert said in caught.value.message
    assert caught.value.hint


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "tasks.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        load_tasks(place)
    place.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_tasks(place)
    place.write_text("\n\n")
    with pytest.raises(InputError, match="has no task"):
        load_tasks(place)
    place.write_text("".join(json.dumps(HUMANEVAL | {"task_id": str(i)}) + "\n" for i in range(4)))
    assert [task.id for task in load_tasks(place)] == ["0", "1", "2", "3"]
    monkeypatch.setattr(tasks_files, "MOST_TASKS", 3)
    with pytest.raises(TooLarge, match="more than 3 tasks"):
        load_tasks(place)
    monkeypatch.setattr(tasks_files, "MOST_BYTES", 10)
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        load_tasks(place)


class Answers(FakeEngine):
    """Through an adapter, the answers that were given to it, by seed; the base always fails."""

    def __init__(self, given: Sequence[str]) -> None:
        super().__init__()
        self.given, self.asked = given, list[SampleRequest]()

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        self.asked.append(request)
        yield SampleChunk(text=self.given[request.seed % len(self.given)] if request.layers else "    pass")
        yield SampleChunk(finish="stop")


async def believing() -> FakeSandbox:
    """Passes whatever program holds the word ``right``: the arithmetic is looked at here, not the running."""

    def python(program: str, files: dict[str, bytes], stdin: bytes) -> Ran:
        good = b"right" in files["program.py"]
        return Ran(status=0 if good else 1, stdout=f"\n{stdin.decode()}" if good else "", seconds=0.0)

    return FakeSandbox(python)


def test_block_and_base_are_asked_the_same_and_the_gain_is_their_difference() -> None:
    engine = Answers(["    right", "    wrong", "    wrong", "    wrong", "    right"])
    chosen = [ADD.model_copy(update={"id": str(i)}) for i in range(6)]
    found = anyio.run(lambda: tasks(engine, "a", believing, chosen, samples=5, seed=0))
    assert found["tasks.pass_at_1"].value == pytest.approx(0.4)
    assert found["tasks.base.pass_at_1"].value == 0.0
    assert found["tasks.gain"].value == pytest.approx(0.4)
    assert found["tasks.pass_at_5"].value == 1.0
    assert {m.n for m in found.values()} == {6}
    assert {m.status for m in found.values()} == {"measured"}

    def asked(layers: bool) -> list[tuple[object, ...]]:
        return sorted((r.seed, r.messages[0].content, r.temperature) for r in engine.asked if bool(r.layers) == layers)

    assert asked(True) == asked(False)
    assert {r.temperature for r in engine.asked} == {0.8}


def test_one_answer_is_greedy_and_nothing_right_is_an_honest_zero() -> None:
    engine = Answers(["    wrong"])
    found = anyio.run(lambda: tasks(engine, "a", believing, [ADD]))
    assert [found[name].value for name in NAMES] == [0.0, 0.0, 0.0]
    assert {r.temperature for r in engine.asked} == {0.0}
    low, high = found["tasks.pass_at_1"].ci95 or (1.0, 0.0)
    assert low == 0.0
    assert high > 0.5, "one task says little"
    assert found["tasks.gain"].ci95 is None
    assert "no interval" in found["tasks.gain"].how


def test_the_gain_has_a_paired_interval_over_tasks() -> None:
    chosen = [ADD.model_copy(update={"id": str(i), "entry_point": "right" if i % 3 else "add"}) for i in range(30)]
    chosen = [one.model_copy(update={"prompt": f"def {one.entry_point}(a, b):\n"}) for one in chosen]
    found = anyio.run(lambda: tasks(Answers(["    return a"]), "a", believing, chosen))
    assert found["tasks.pass_at_1"].value == found["tasks.base.pass_at_1"].value == pytest.approx(2 / 3)
    assert found["tasks.gain"].value == 0.0
    mixed = anyio.run(lambda: tasks(Answers(["    right"]), "a", believing, chosen))
    low, high = mixed["tasks.gain"].ci95 or (0.0, 0.0)
    assert mixed["tasks.gain"].value == pytest.approx(1 / 3)
    assert 0.0 < low < 1 / 3 < high < 1.0


@pytest.mark.parametrize("lent", [None, no_sandbox])
def test_no_sandbox_no_run(lent: OpenSandbox | None) -> None:
    engine = Answers(["    right"])
    found = anyio.run(lambda: tasks(engine, "a", lent, [ADD]))
    assert set(found) == set(NAMES)
    assert {m.status for m in found.values()} == {"not_available"}
    assert all("sandbox" in m.how for m in found.values())
    assert engine.asked == [], "nothing is asked of the model"


def test_a_sandbox_that_fails_later_makes_it_not_available() -> None:
    opened: list[int] = []

    async def fails_later() -> FakeSandbox:
        opened.append(1)
        return await (believing if len(opened) < 3 else no_sandbox)()

    found = anyio.run(lambda: tasks(Answers(["    right"]), "a", fails_later, [ADD] * 5))
    assert {m.status for m in found.values()} == {"not_available"}
