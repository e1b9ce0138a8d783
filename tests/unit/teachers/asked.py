"""Teachers for tests, and ways to ask them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio

from clonedna.core.errors import DnaError
from clonedna.core.work import About, Instruction, Span
from clonedna.sources.secrets import secret_in
from clonedna.teachers.asking import AskingTeacher
from clonedna.teachers.models import openai_teacher
from tests.unit.teachers.server import KEY

T = TypeVar("T")


def teacher_at(url: str, home: Path, **changes: Any) -> AskingTeacher:
    settings: dict[str, Any] = {
        "home": home, "url": url, "model": "grok-4", "key": KEY, "schema": "json_schema", "timeout": 5.0, "retries": 2, "at_once": 4,
        "prompt_price": None, "completion_price": None, "about": About(), "secret_in": secret_in,
    }  # fmt: skip
    return openai_teacher(**(settings | changes))


def using(make: Callable[[], AskingTeacher], work: Callable[[AskingTeacher], Awaitable[T]]) -> T:
    """Make a teacher in a loop of its own, work with it, close it."""

    async def run() -> T:
        teacher = make()
        try:
            return await work(teacher)
        finally:
            await teacher.close()

    return anyio.run(run)


async def ask_all(teacher: AskingTeacher, spans: Sequence[Span]) -> list[Instruction | DnaError]:
    answers: list[Any] = [None] * len(spans)

    async def one(i: int) -> None:
        try:
            answers[i] = await teacher.write_instruction(spans[i])
        except DnaError as error:
            answers[i] = error

    async with anyio.create_task_group() as group:
        for i in range(len(spans)):
            group.start_soon(one, i)
    return answers
