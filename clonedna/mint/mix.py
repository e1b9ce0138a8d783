"""The mix stage: what is trained beside the person's pairs, so that the base forgets less.

General pairs are the base's own answers to a bundled list of requests (self-synthesised rehearsal, Huang et al. 2024), tool-use
pairs are ours. Which source was used is named in the result and goes into the recipe.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import anyio

from clonedna.core.block import Recipe
from clonedna.core.events import Emit, StageProgress
from clonedna.core.model import Example, Message, SampleRequest
from clonedna.core.seams import Engine
from clonedna.mint.values import Mixed

ANSWER_TOKENS = 96
TEMPERATURE = 0.7
TOP_P = 0.95
AT_ONCE = 32
SOURCE = "self-synthesised rehearsal: the base's own answers to bundled requests"


@cache
def rehearsal_requests() -> tuple[tuple[Message, ...], ...]:
    """The bundled requests, in their order."""
    return tuple(tuple(Message.model_validate(m) for m in row["messages"]) for row in _rows("rehearsal_prompts.jsonl"))


@cache
def tool_use_pairs() -> tuple[Example, ...]:
    """The bundled tool-use pairs in the exact tool-call format."""
    return tuple(Example.model_validate(row) for row in _rows("tool_use.jsonl"))


def _rows(name: str) -> list[dict[str, Any]]:
    text = files("clonedna.mint").joinpath("data", name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


async def mix(engine: Engine, recipe: Recipe, candidate_pairs: int, *, emit: Emit) -> Mixed:
    """``base_instruct_ratio`` x ``candidate_pairs`` rehearsal answers and the recipe's tool-use pairs.

    Request i is answered with seed ``recipe.seed`` + i at temperature 0.7; beyond the list's end it starts again with new seeds.
    Empty answers are left out.
    """
    wanted = round(recipe.base_instruct_ratio * candidate_pairs)
    requests = rehearsal_requests()
    answers: list[str] = [""] * wanted

    async def answer(i: int) -> None:
        request = SampleRequest(
            messages=requests[i % len(requests)],
            max_tokens=ANSWER_TOKENS,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seed=recipe.seed + i,
        )
        answers[i] = "".join([chunk.text async for chunk in engine.sample(request)])

    for start in range(0, wanted, AT_ONCE):
        end = min(wanted, start + AT_ONCE)
        async with anyio.create_task_group() as group:
            for i in range(start, end):
                group.start_soon(answer, i)
        emit(StageProgress(stage="mix", done=end, total=wanted, unit="answers"))
    general = tuple(
        Example(messages=requests[i % len(requests)], completion=text) for i, text in enumerate(answers) if text.strip()
    )
    return Mixed(
        general=general,
        general_source=SOURCE if general else "none",
        tool_use=tool_use_pairs()[: recipe.tool_use_pairs],
    )
