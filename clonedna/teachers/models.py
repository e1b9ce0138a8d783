"""The two teachers that ask a model: `openai`, any OpenAI-compatible server, and `engine`, the base model of our own engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anyio

from clonedna.core.canonical import strict_json
from clonedna.core.model import Guide, Message, SampleRequest
from clonedna.core.seams import Engine
from clonedna.core.work import About
from clonedna.teachers.answers import bad
from clonedna.teachers.asking import Answer, AskingTeacher, Prices
from clonedna.teachers.cache import EXAMPLES, FOLDER, AnswerCache, Kept
from clonedna.teachers.client import OpenAIModel
from clonedna.teachers.examples import Written

BRIEF_TOKENS, MOST_TOKENS = 160, 1024
ENGINE_CODE = 900
ENGINE_AT_ONCE = 8


def openai_teacher(
    *, home: Path, url: str, model: str, key: str, schema: Literal["json_schema", "json_object"], timeout: float,
    retries: int, at_once: int, prompt_price: float | None, completion_price: float | None, about: About,
    secret_in: Callable[[str], str | None],
) -> AskingTeacher:  # fmt: skip
    """The `openai` teacher. Answers are kept under ``home``. Raises ``BadConfig`` for a key on an unencrypted wire."""
    server = OpenAIModel(
        url=url, model=model, key=key, schema=schema, timeout=timeout, retries=retries, at_once=at_once
    )
    return AskingTeacher(
        "openai", f"{model} at {server.host}", server, about=about, secret_in=secret_in, cache=AnswerCache(home / FOLDER, Kept),
        examples=AnswerCache(home / EXAMPLES, Written), prices=Prices(prompt_price, completion_price),
    )  # fmt: skip


def engine_teacher(
    *, home: Path, engine: Engine, about: About, secret_in: Callable[[str], str | None]
) -> AskingTeacher:
    """The `engine` teacher: it costs nothing and asks nobody, and is as good as the base is at prose (the bundled one is not)."""
    return AskingTeacher(
        "engine", engine.base.id, EngineModel(engine), about=about, secret_in=secret_in, cache=AnswerCache(home / FOLDER, Kept),
        examples=AnswerCache(home / EXAMPLES, Written), most_code=ENGINE_CODE,
    )  # fmt: skip


class EngineModel:
    """The base of an engine as a model that is asked: greedy, and held to the schema by its grammar."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        weights = engine.base.weights_digest or "unknown weights"
        self.identity = f"engine {engine.base.fingerprint} {weights}"
        self._limit = anyio.CapacityLimiter(ENGINE_AT_ONCE)

    async def ask(self, system: str, data: dict[str, Any], schema: dict[str, Any], *, brief: bool) -> Answer:
        """Raises ``BadAnswer``: ``cut`` where the base did not come to an end, ``not_json``."""
        request = SampleRequest(
            messages=(
                Message(role="system", content=system), Message(role="user", content=json.dumps(data, ensure_ascii=False)),
            ),
            max_tokens=BRIEF_TOKENS if brief else MOST_TOKENS, whole_prompt=True, guide=Guide(kind="json_schema", text=json.dumps(schema)),
        )  # fmt: skip
        async with self._limit:
            chunks = [chunk async for chunk in self._engine.sample(request)]
        if chunks[-1].finish != "stop":
            raise bad("cut")
        try:
            fields = strict_json("".join(chunk.text for chunk in chunks))
        except (ValueError, RecursionError):
            raise bad("not_json") from None
        if not isinstance(fields, dict):
            raise bad("not_json")
        return Answer(fields, chunks[-1].prompt_tokens, chunks[-1].completion_tokens)

    def known(self) -> None:
        """An engine has no questions that it refuses to understand."""

    async def close(self) -> None:
        """The engine is not ours to close."""
