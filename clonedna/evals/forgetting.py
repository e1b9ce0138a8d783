"""What an adapter costs on code and text that have nothing to do with the person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from clonedna.core.block import Measure
from clonedna.core.model import Example, Layer
from clonedna.core.seams import Engine
from clonedna.evals.bootstrap import paired_gain


@cache
def general_set() -> tuple[tuple[str, Example], ...]:
    """The bundled general set: ``(part, example)`` with parts ``code``, ``prose`` and ``tool_use``; written for this purpose."""
    rows: list[tuple[str, Example]] = []
    for line in files("clonedna.evals").joinpath("data/general.jsonl").read_text("utf-8").splitlines():
        fields = json.loads(line)
        rows.append((fields.pop("part"), Example.model_validate(fields)))
    return tuple(rows)


def general_prompts() -> tuple[str, ...]:
    """What the general set's users say, in its order: prompts that are about nobody's work."""
    return tuple("\n".join(one.content for one in row.messages if one.role == "user") for _, row in general_set())


async def forgetting(
    engine: Engine, adapter: str, rows: Sequence[tuple[str, Example]] | None = None, *, seed: int = 0
) -> dict[str, Measure]:
    """``forgetting``: rise of the mean NLL on the general set, relative to the base's; one more measure for each part.

    0.02 means that the adapter explains general text 2 % worse; negative values mean better. The interval is the paired bootstrap's.
    """
    rows = general_set() if rows is None else rows
    base = await engine.nll([example for _, example in rows])
    tuned = await engine.nll([example for _, example in rows], [Layer(adapter=adapter)])
    result: dict[str, Measure] = {}
    for part in ("", *sorted({part for part, _ in rows})):
        chosen = [(b, t) for (p, _), b, t in zip(rows, base, tuned, strict=True) if part in ("", p)]
        tokens = [b.tokens for b, _ in chosen]
        mean = sum(b.nll for b, _ in chosen) / sum(tokens)
        gain, (low, high) = paired_gain([b.nll for b, _ in chosen], [t.nll for _, t in chosen], tokens, seed=seed)
        result[f"forgetting.{part}" if part else "forgetting"] = Measure(
            value=-gain / mean, status="measured", n=len(chosen), split="general",
            how="(nll.adapter - nll.base) / nll.base on the bundled general set", ci95=(-high / mean, -low / mean),
        )  # fmt: skip
    return result
