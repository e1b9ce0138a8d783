"""Does the block still call a tool when it should, in the format that the server reads?

Prompts are the bundled general set's own that want a call. Sampling is greedy and free: no grammar holds the model's hand, as it does in
the server when tools are offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache

from clonedna.core.block import Measure
from clonedna.core.calls import OPEN, CallArguments, CallReader, CallStarted, Words
from clonedna.core.model import Example, Layer, SampleRequest
from clonedna.core.seams import Engine
from clonedna.evals.asking import ask_all
from clonedna.evals.bootstrap import paired_share, wilson
from clonedna.evals.forgetting import general_set

ANSWER_TOKENS = 96
_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)


@cache
def call_prompts() -> tuple[Example, ...]:
    """The bundled prompts whose answer is a call."""
    return tuple(example for _, example in general_set() if example.completion.startswith(OPEN))


async def tool_calls(
    engine: Engine, adapter: str, prompts: Sequence[Example] | None = None, *, seed: int = 0
) -> dict[str, Measure]:
    """``tool_calls.adapter``, ``tool_calls.base``: share of prompts that are answered with a call that parses; ``tool_calls.fall``: the
    base's share minus the adapter's, with a paired bootstrap interval.

    A call parses when the server's reader takes it for one, it names a tool that was offered, and its arguments are a JSON object. What it
    asks for is not judged. A share of 0 on both sides says that the base cannot call, not that nothing was forgotten.
    """
    prompts = call_prompts() if prompts is None else prompts
    tuned, base = [await _answers(engine, prompts, layers) for layers in ((Layer(adapter=adapter),), ())]
    n, how = len(prompts), "greedy, without a grammar: share of bundled prompts answered with a call that parses"

    def measured(value: float, what: str, ci95: tuple[float, float]) -> Measure:
        return Measure(value=value, status="measured", n=n, split="general", how=f"{what}; {how}", ci95=ci95)

    fall, interval = paired_share(base, tuned, seed=seed)
    return {
        "tool_calls.adapter": measured(sum(tuned) / n, "through the adapter", wilson(sum(tuned), n)),
        "tool_calls.base": measured(sum(base) / n, "base", wilson(sum(base), n)),
        "tool_calls.fall": measured(fall, "base minus adapter, 95 % paired bootstrap", interval),
    }


async def _answers(engine: Engine, prompts: Sequence[Example], layers: tuple[Layer, ...]) -> list[bool]:
    requests = [
        SampleRequest(messages=one.messages, layers=layers, max_tokens=ANSWER_TOKENS, temperature=0.0)
        for one in prompts
    ]
    said = await ask_all(engine, requests, [_no_call] * len(requests))
    return [parses("".join(pieces), offered(one)) for pieces, one in zip(said, prompts, strict=True)]


def _no_call(pieces: list[str]) -> bool:
    """Whether this cannot become a call and nothing else any more."""
    text = "".join(pieces).lstrip()
    return not (text.startswith(OPEN) or OPEN.startswith(text))


def offered(example: Example) -> frozenset[str]:
    """Names of the tools that the prompt's system turn lists."""
    listed = _TOOLS.search(example.messages[0].content)
    lines = listed[1].splitlines() if listed else []
    return frozenset(json.loads(line)["function"]["name"] for line in lines)


def parses(text: str, tools: frozenset[str]) -> bool:
    """Whether ``text`` is calls and nothing else: each of a tool in ``tools``, with a JSON object for arguments."""
    reader = CallReader()
    pieces = [*reader.feed(text), *reader.end()]
    names = [piece.name for piece in pieces if isinstance(piece, CallStarted)]
    if not names or any(isinstance(piece, Words) for piece in pieces) or not set(names) <= tools:
        return False
    arguments = [
        "".join(p.text for p in pieces if isinstance(p, CallArguments) and p.index == i) for i in range(len(names))
    ]
    return text.rstrip().endswith("</tool_call>") and all(_is_object(one) for one in arguments)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
