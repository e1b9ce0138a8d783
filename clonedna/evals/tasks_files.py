"""Programming tasks as values: the bundled ones, and files in the formats of HumanEval (Chen et al. 2021) and MBPP (Austin et al. 2021).

Here is also how an answer becomes a program. Nothing is run in this room: a program is text until a sandbox has it. Reading is bounded,
and a line that is no task is an error with its number.
"""

from __future__ import annotations

import ast
import json
import warnings
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from clonedna.core.errors import InputError, TooLarge
from clonedna.core.model import Message
from clonedna.core.value import Value

MOST_BYTES, MOST_TASKS, MOST_FIELD, MOST_TESTS = 20_000_000, 2000, 100_000, 100
FORMATS = "the two formats are in docs/sandbox.md"
STOPS = ("\n```", "\nif __name__", "\nassert ", "\nprint(", "<|im_")
"""Where an answer ends at the latest."""


class Task(Value):
    """``prompt``: what is shown, Python source that ends where the answer goes on (``code``), or a request in words; ``entry_point``: the
    function that is asked for. ``setup`` runs before the answer, ``test`` after it; neither is shown beyond what ``prompt`` says.
    ``reference`` passes, ``wrong`` (where there is one) does not: both as the model would answer.
    """

    id: str
    form: Literal["code", "words"]
    prompt: str
    entry_point: str
    setup: str = ""
    test: str
    reference: str
    wrong: str = ""

    def message(self) -> Message:
        """What both sides are asked, in the words of the mint's own requests."""
        if self.form == "code":
            request = f"Write the body of this Python function from `{self.entry_point}.py`.\n\n```python\n{self.prompt.rstrip()}\n```"
        else:
            request = self.prompt
        return Message(role="user", content=request)

    def program(self, answer: str) -> str:
        """The whole program of an answer: it ends without an error where the answer is right."""
        return f"{self.setup}\n{self._solution(answer)}\n\n{self.test}\n"

    def _solution(self, answer: str) -> str:
        code = cut(answer)
        if self.form == "words" or f"def {self.entry_point}(" in code:
            # A whole function: what stands before the one that was asked for (imports, helpers) is kept.
            before = self.prompt[: self.prompt.rfind(f"def {self.entry_point}(")] if self.form == "code" else ""
            return f"{before}\n{code}"
        return f"{self.prompt.rstrip()}\n{indented(code)}"


def cut(answer: str) -> str:
    """The code of an answer: inside its first fence, and not beyond the first stop sequence.

    A single fence behind code is the end of a block that the answer did not open.
    """
    before, _, behind = answer.partition("```")
    language, _, inside = behind.partition("\n")
    if language.strip().casefold() in ("python", "py", "python3") or (behind and not before.strip()):
        answer = inside
    elif "```" in behind:
        answer = behind.partition("\n")[2]
    ends = [at for stop in STOPS if (at := answer.find(stop)) >= 0]
    return answer[: min(ends)] if ends else answer


def indented(body: str) -> str:
    """A function's body, four blanks in, whether the answer indented it or not."""
    lines = body.strip("\n").split("\n")
    if lines[0][:1] in (" ", "\t") or not lines[0]:
        return "\n".join(lines)
    # Of an answer that goes on behind an indent of ours, the first line alone has none.
    second = next((line for line in lines[1:] if line.strip()), "")
    deep = len(second) - len(second.lstrip()) >= (8 if lines[0].rstrip().endswith(":") else 4)
    return "\n".join([f"    {lines[0]}", *(line if deep or not line.strip() else f"    {line}" for line in lines[1:])])


@cache
def bundled_tasks() -> tuple[Task, ...]:
    """Those that come with the package."""
    return parse_tasks(files("clonedna.evals").joinpath("data/tasks.jsonl").read_text("utf-8"), "the bundled tasks")


def load_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a JSONL file in HumanEval's format (task_id, prompt, entry_point, canonical_solution, test) or MBPP's (task_id, text,
    code, test_list, test_setup_code, challenge_test_list). Raises ``InputError`` with the line, ``TooLarge``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"the tasks cannot be read: {error.strerror}", "give a JSONL file of HumanEval or MBPP"
        ) from None
    if len(data) > MOST_BYTES:
        raise TooLarge(f"the file of tasks has more than {MOST_BYTES} bytes", "give a part of it")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("the file of tasks is no UTF-8 text", "give it as plain JSONL, unpacked") from None
    return parse_tasks(text, path.name)


def parse_tasks(text: str, name: str) -> tuple[Task, ...]:
    """``load_tasks`` of a text that is called ``name`` in errors."""
    found: dict[str, Task] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{where} is no JSON", "one JSON object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"{where} is no JSON object", "one JSON object a line")
        task = _task(cast(dict[str, Any], row), where)
        if task.id in found:
            raise InputError(f"{where}: the task {task.id!r} is there twice", "give each task its own task_id")
        found[task.id] = task
        if len(found) > MOST_TASKS:
            raise TooLarge(f"{name} has more than {MOST_TASKS} tasks", "give a part of it")
    if not found:
        raise InputError(f"{name} has no task", "one JSON object a line, in the format of HumanEval or MBPP")
    return tuple(found.values())


def _task(row: dict[str, Any], where: str) -> Task:
    if "prompt" in row and "entry_point" in row:
        prompt, entry = _text(row, "prompt", where), _text(row, "entry_point", where)
        if not entry.isidentifier() or f"def {entry}(" not in prompt:
            raise InputError(
                f"{where}: the prompt has no function {entry[:60]!r}", "entry_point names the function of the prompt"
            )
        return Task(
            id=_text(row, "task_id", where), form="code", prompt=prompt, entry_point=entry,
            test=f"{_text(row, 'test', where)}\n\ncheck({entry})", reference=_text(row, "canonical_solution", where),
            wrong=_text(row, "wrong_solution", where, ""),
        )  # fmt: skip
    if "test_list" in row and ("text" in row or "prompt" in row):
        shown, hidden = _texts(row, "test_list", where), _texts(row, "challenge_test_list", where)
        if not shown:
            raise InputError(f"{where}: test_list is empty", "a task needs at least one assert")
        code = _text(row, "code", where)
        request = _text(row, "text" if "text" in row else "prompt", where)
        return Task(
            id=_text(row, "task_id", where), form="words", entry_point=_tested(shown[0], code),
            prompt="\n".join([request, "", "Your code must pass:", "", "```python", *shown, "```"]),
            setup=_text(row, "test_setup_code", where, ""), test="\n".join([*shown, *hidden]), reference=code,
        )  # fmt: skip
    raise InputError(
        f"{where} is neither a task of HumanEval (prompt, entry_point, test) nor of MBPP (text, code, test_list)",
        FORMATS,
    )


def _text(row: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A field that is text (or a whole number, as MBPP's ids are)."""
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > MOST_FIELD:
        raise InputError(f"{where}: {key} must be text of at most {MOST_FIELD} characters", FORMATS)
    return str(value)


def _texts(row: dict[str, Any], key: str, where: str) -> list[str]:
    value = row.get(key, [])
    if not isinstance(value, list) or len(value) > MOST_TESTS:
        raise InputError(f"{where}: {key} must be a list of at most {MOST_TESTS} texts", FORMATS)
    return [_text({key: one}, key, where) for one in value]


def _tested(test: str, code: str) -> str:
    """The function of ``code`` that ``test`` calls; its last one where that cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a stranger's literals look like is not our reader's business
            trees = ast.parse(code), ast.parse(test)
        defined = [node.name for node in trees[0].body if isinstance(node, ast.FunctionDef)]
        called = {node.id for node in ast.walk(trees[1]) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return next((name for name in defined if name in called), defined[-1] if defined else "")
