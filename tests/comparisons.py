"""A made-up comparison, with everything that a page or a table may have to show; some of its text wants to be markup."""

from __future__ import annotations

import math
import random
from typing import Any

from clonedna.core.block import Measure, not_available
from clonedna.core.comparison import (
    Angles,
    Answer,
    Compared,
    Comparison,
    GroupSimilarity,
    ModuleSimilarity,
    ProbeCounts,
    SideBySide,
    SpanGain,
    WeightSimilarity,
)

HOSTILE = "<script>alert('x')</script> {{ 7 * 7 }} {% raw %} \u202e & \x1b[31m <img src=http://evil.example/x.png onerror=alert(1)>"
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _angles(draw: random.Random) -> Angles:
    mean = draw.uniform(60, 85)
    return Angles(
        n=16, mean=mean, largest=min(90.0, mean + 12), overlap=math.cos(math.radians(mean)) ** 2, by_chance=0.0625
    )


def _group(name: str, modules: int, draw: random.Random) -> GroupSimilarity:
    return GroupSimilarity(
        name=name, modules=modules, norm_a=2.5, norm_b=1.75, difference=2.9, cosine=draw.uniform(-0.1, 0.4), columns=_angles(draw),
        rows=_angles(draw),
    )  # fmt: skip


def _module(layer: int, kind: str, draw: random.Random) -> ModuleSimilarity:
    part = "attention" if kind in KINDS[:4] else "mlp"
    only = "a" if kind == "up_proj" and layer == 0 else None
    return ModuleSimilarity(
        module=f"model.layers.{layer}.{part}.{kind}", part=part, depth=layer, only=only, norm_a=0.5, norm_b=0.0 if only else 0.4,
        difference=0.6, cosine=None if only else draw.uniform(-0.4, 1.0), columns=None if only else _angles(draw),
        rows=None if only else _angles(draw),
    )  # fmt: skip


def measure(value: float, *, wide: float = 0.1, n: int = 90) -> Measure:
    return Measure(value=value, status="measured", n=n, split="probe", how="made up", ci95=(value - wide, value + wide))


def _measures(draw: random.Random) -> dict[str, Measure]:
    found = {
        "weights.cosine": measure(0.27),
        "weights.angle.columns": measure(71.2),
        "weights.angle.rows": measure(44.0),
    }
    for part in ("", ".a", ".b", ".general"):
        found[f"behaviour.pearson{part}"] = measure(draw.uniform(-0.2, 0.9))
        found[f"behaviour.spearman{part}"] = (
            not_available("2 spans") if part == ".b" else measure(draw.uniform(-0.2, 0.9))
        )
    for where in ("on_a", "on_b", "general"):
        for which in ("a", "b", "difference"):
            found[f"gain.{which}.{where}"] = measure(draw.uniform(-0.05, 0.25), wide=0.04)
    for side in ("a", "b", "base"):
        for person in ("person_a", "person_b"):
            found[f"style.{side}.{person}"] = Measure(
                value=draw.uniform(0.5, 1.4), status="measured", n=16, how="made up"
            )
    found |= {"style.answers": measure(0.8), "style.persons": measure(1.1)}
    return found | {"style.nearer.person_a": measure(0.2), "style.nearer.person_b": not_available("too few")}


def comparison(
    *, name: str = "ada", person: str = "Ada Example", text: str = HOSTILE, layers: int = 4, **changes: Any
) -> Comparison:
    """Two blocks that agree a little. ``text`` stands wherever third-party text may."""
    draw = random.Random(3)
    one = Compared(
        name=name, version="1.0.0", id="a" * 64, person=person, base="nano", base_fingerprint="f" * 64, rank=16, alpha=32.0,
        target_modules=KINDS, gate="accepted",
    )  # fmt: skip
    other = one.model_copy(update={"name": "bob", "version": "2.1.0", "id": "b" * 64, "person": text})
    modules = tuple(_module(layer, kind, draw) for layer in range(layers) for kind in KINDS)
    groups = tuple(
        _group(group, 7, draw) for group in ("attention", "mlp", "first third", "middle third", "last third")
    )
    answer = Answer(text=f"def area(width):\n    return width\n{text}", tokens=40, finish="length")
    made = Comparison(
        a=one, b=other, same_block=False, same_base=True, notes=(f"both started from the same random A; {text}",), unit="nats a token",
        seed=0, weights=WeightSimilarity(whole=_group("whole", len(modules), draw), groups=groups, modules=modules, only_a=(text,)),
        measures=_measures(draw), probe=ProbeCounts(holdout_a=34, holdout_b=27, general=48, trained=1, repeated=2, bounded=0),
        spans=tuple(
            SpanGain(id=f"{i}", of=("a", "b", "general")[i % 3], gain_a=draw.gauss(0.1, 0.15), gain_b=draw.gauss(0.05, 0.2))
            for i in range(109)
        ),
        answers=tuple(
            SideBySide(
                prompt=f"Write the Python function `area_{i}(width)`.\n\n{text}", of=("a", "b", "given")[i % 3], language="python",
                reference="" if i % 3 == 2 else f"def area_{i}(width):\n    {text}\n", base=answer, a=answer, b=answer,
            )
            for i in range(4)
        ),
    )  # fmt: skip
    return made.model_copy(update=changes)
