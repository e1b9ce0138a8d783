"""Whether a block's own pairs beside a question help: the likelihood of its held-out code with and without them, and in two forms.

    python -m bench.shown_pairs BLOCK [--home HOME] [--base nano] [--most 1024]

The questions are the tasks of the block's held-out pairs, the pairs shown are those that chat would show (never held-out ones). ``turns``:
as turns that were answered before, the way chat does it; ``system``: as examples in a system message; ``first``: the best one alone, as a
turn. A difference is in nats a token, below zero is better, with a 95 % interval over the pairs. Only loads and measures: nothing is
written. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from bench.common import stamp
from clonedna.app.blocks import Blocks
from clonedna.app.chat_prompt import Prompt
from clonedna.app.parts import Parts
from clonedna.app.retrieval import MOST_CHARACTERS, Retrieval, Shown
from clonedna.app.settings import Settings
from clonedna.core.model import Example, Layer, Message
from clonedna.core.work import Pair

LONGEST = 600  # characters of a held-out answer that are measured
FORMS = ("none", "turns", "first", "system")


def prompts(question: str, shown: Sequence[Shown]) -> dict[str, tuple[Message, ...]]:
    """The same question in each form."""
    plain = Prompt(question=question).messages
    examples = "\n".join(f"\nTask: {one.task}\n```{one.language}\n{one.code}\n```" for one in shown)
    told = Message(role="system", content=f"Code that you wrote before, as examples of your style:\n{examples}")
    return {
        "none": plain, "turns": Prompt(question=question, shown=tuple(shown)).messages,
        "first": Prompt(question=question, shown=tuple(shown[:1])).messages, "system": (told, *plain) if shown else plain,
    }  # fmt: skip


def difference(with_pairs: Sequence[float], without: Sequence[float]) -> dict[str, Any]:
    """Mean of the differences, and half of its 95 % interval (normal approximation)."""
    each = [a - b for a, b in zip(with_pairs, without, strict=True)]
    return {
        "nats_a_token": round(statistics.mean(each), 4),
        "ci95": round(1.96 * statistics.stdev(each) / len(each) ** 0.5, 4),
    }


async def measure(parts: Parts, block: str, base: str, most: int) -> dict[str, Any]:
    """Of the block and of its base, for each form."""
    blocks = Blocks(parts)
    opened = await blocks.open(block, base=base, unsafe=True)
    held: list[Pair] = [one for one in blocks.pairs(block) if one.split == "holdout" and not one.messages]
    found = [Retrieval(parts).find(opened.served.layers, one.instruction, most=most) for one in held]
    result: dict[str, Any] = {"pairs": len(held), "with_something_shown": sum(map(bool, found))}
    sides: dict[str, tuple[Layer, ...]] = {"block": (opened.layer,), "base": ()}
    for side, layers in sides.items():
        losses: dict[str, list[float]] = {form: [] for form in FORMS}
        for pair, shown in zip(held, found, strict=True):
            asked = prompts(pair.instruction, shown)
            examples = [Example(messages=asked[form], completion=pair.completion[:LONGEST]) for form in FORMS]
            for form, score in zip(FORMS, await opened.engine.nll(examples, layers), strict=True):
                losses[form].append(score.nll / score.tokens)
        result[side] = {"none": round(statistics.mean(losses["none"]), 4)}
        result[side] |= {form: difference(losses[form], losses["none"]) for form in FORMS[1:]}
    await parts.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--base", default="nano")
    parser.add_argument("--most", type=int, default=MOST_CHARACTERS)
    given = parser.parse_args()
    parts = Parts(Settings(home=given.home) if given.home else Settings())
    print(json.dumps(stamp("shown_pairs") | anyio.run(measure, parts, given.block, given.base, given.most)))


if __name__ == "__main__":
    main()
