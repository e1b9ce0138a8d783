"""The mix stage: what is trained beside the person's pairs, so that the base forgets less.

General pairs are drawn, seeded, from a source that the order names (`clonedna.mint.general`) or are the base's own answers to a bundled
list of requests (self-synthesised rehearsal, Huang et al. 2024). Tool-use pairs are ours. What was used goes into the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import anyio

from clonedna.core.block import GeneralPairs, Recipe
from clonedna.core.canonical import digest
from clonedna.core.errors import BadConfig, Unavailable
from clonedna.core.events import Emit, Note, StageProgress
from clonedna.core.model import Example, Message, SampleRequest
from clonedna.core.seams import Engine
from clonedna.mint.general import alpaca, from_file
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


async def mix(
    engine: Engine, recipe: Recipe, candidate_pairs: int, *, dataset: str, file: Path | None,
    secret_in: Callable[[str], str | None], emit: Emit,
) -> Mixed:  # fmt: skip
    """``base_instruct_ratio`` x ``candidate_pairs`` general pairs from ``recipe.general``, and the recipe's tool-use pairs.

    A source that was named and cannot be had is an error (``BadConfig``, ``Unavailable``, ``InputError``). Only ``auto`` goes on to the
    next: the hub's ``dataset``, ``file``, rehearsal; it says so, and the recipe has the one that was used.
    """
    wanted = round(recipe.base_instruct_ratio * candidate_pairs)
    source, how, general = "none", "none", ()
    if wanted:
        source, how, general = await _general(engine, recipe, wanted, dataset, file, secret_in, emit)
    if not general:
        source, how = "none", "none"
    return Mixed(
        general=general,
        general_source=how,
        tool_use=tool_use_pairs()[: recipe.tool_use_pairs],
        general_pairs=GeneralPairs(
            source=source, how=how, n=len(general), ratio=recipe.base_instruct_ratio, seed=recipe.seed, digest=digest(general)
        ),
    )  # fmt: skip


Drawn = tuple[Literal["alpaca-cleaned", "jsonl", "rehearsal"], str, tuple[Example, ...]]


async def _general(
    engine: Engine, recipe: Recipe, wanted: int, dataset: str, file: Path | None,
    secret_in: Callable[[str], str | None], emit: Emit,
) -> Drawn:  # fmt: skip
    most = min(recipe.max_tokens, engine.base.context)
    if recipe.general in ("alpaca-cleaned", "auto"):
        try:
            found = await anyio.to_thread.run_sync(lambda: alpaca(dataset, wanted, recipe.seed, most, secret_in))
            return "alpaca-cleaned", f"{dataset} from the hub, drawn with the recipe's seed", found
        except (BadConfig, Unavailable) as error:
            if recipe.general != "auto":
                raise
            emit(Note(level="warning", text=f"general pairs are not from the hub ({error.code})"))
    if recipe.general == "jsonl" or (recipe.general == "auto" and file is not None):
        if file is None:
            raise BadConfig("no file of general pairs is set", "set general_file (or DNA_GENERAL_FILE) to a JSONL file")
        found, name = await anyio.to_thread.run_sync(lambda: from_file(file, wanted, recipe.seed, most, secret_in))
        return "jsonl", f"a file of pairs, sha256 {name}, drawn with the recipe's seed", found
    if recipe.general == "auto":
        emit(Note(text="general pairs are the base's own answers to bundled requests"))
    return "rehearsal", SOURCE, await rehearse(engine, recipe.seed, wanted, emit=emit)


async def rehearse(engine: Engine, seed: int, wanted: int, *, emit: Emit) -> tuple[Example, ...]:
    """Request i is answered with seed ``seed`` + i at temperature 0.7; beyond the list's end it starts again with new seeds.

    Empty answers are left out.
    """
    requests = rehearsal_requests()
    answers: list[str] = [""] * wanted

    async def answer(i: int) -> None:
        request = SampleRequest(
            messages=requests[i % len(requests)], max_tokens=ANSWER_TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=seed + i
        )  # fmt: skip
        answers[i] = "".join([chunk.text async for chunk in engine.sample(request)])

    for start in range(0, wanted, AT_ONCE):
        end = min(wanted, start + AT_ONCE)
        async with anyio.create_task_group() as group:
            for i in range(start, end):
                group.start_soon(answer, i)
        emit(StageProgress(stage="mix", done=end, total=wanted, unit="answers"))
    return tuple(
        Example(messages=requests[i % len(requests)], completion=text) for i, text in enumerate(answers) if text.strip()
    )
