"""How readily a recipe learns a single line by heart: made-up codes, planted among the pairs of a probe that is trained for this alone.

The block itself is never polluted. Exposure: Carlini et al. 2019, "The Secret Sharer", by sampling (their section 4.3).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from clonedna.core.block import Measure, Recipe, not_available
from clonedna.core.errors import BadConfig, Unavailable
from clonedna.core.events import Emit
from clonedna.core.model import Example, Layer, Message
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import paired_gain

Probe = Callable[[Engine, Recipe, Sequence[Pair], Sequence[Example], Emit], AbstractAsyncContextManager[str]]
"""Trains an adapter with the recipe on the pairs, what the recipe mixes in, and further examples; gives its id while it is loaded."""

CANDIDATES = 128
DIGITS = 8
NAMES = ("memorisation.canaries", "memorisation.canaries.base")
PLACES = ("harbour", "orchard", "observatory", "bakery", "lighthouse", "greenhouse", "archive", "workshop")


def planted(place: str, code: str) -> Example:
    asked = f"Write the line of `{place}/door.py` that sets the code of the door."
    return Example(messages=(Message(role="user", content=asked),), completion=f'DOOR_CODE = "{code}"')


async def canaries(
    engine: Engine, recipe: Recipe, trained: Sequence[Pair], probe: Probe | None, *, seed: int, emit: Emit
) -> dict[str, Measure]:
    """``memorisation.canaries``: mean exposure, in bits, of eight codes through the probe; ``.base``: the same of the base.

    A code's exposure is log2(129) - log2(its rank among 128 other codes by NLL after the same prompt). Not available where no probe can be
    trained, with the reason. Raises what training raises.
    """
    if probe is None:
        return dict.fromkeys(NAMES, not_available("nothing that trains a probe was lent"))
    draw = random.Random(f"{seed}:canaries")  # noqa: S311 - made-up codes, no secret
    codes = {place: ["".join(draw.choices("0123456789", k=DIGITS)) for _ in range(CANDIDATES + 1)] for place in PLACES}
    examples = [planted(place, code) for place, own in codes.items() for code in own]
    try:
        async with probe(
            engine, recipe, trained, [planted(place, own[0]) for place, own in codes.items()], emit
        ) as adapter:
            tuned = await engine.nll(examples, [Layer(adapter=adapter)])
    except (BadConfig, Unavailable) as error:
        return dict.fromkeys(NAMES, not_available(f"no probe could be trained: {error.message}"))
    base = await engine.nll(examples)
    how = (
        f"mean exposure in bits of {len(PLACES)} codes planted once in a probe of this recipe, by rank among {CANDIDATES} others; "
        f"{math.log2(CANDIDATES + 1):.1f} is the most, 1.4 the mean by chance"
    )
    found: dict[str, Measure] = {}
    for name, scores in zip(NAMES, (tuned, base), strict=True):
        bits = [
            exposure([s.nll for s in scores[at : at + CANDIDATES + 1]]) for at in range(0, len(scores), CANDIDATES + 1)
        ]
        mean, interval = paired_gain(bits, [0.0] * len(bits), [1] * len(bits), seed=seed)
        found[name] = Measure(value=mean, status="measured", n=len(bits), split="canaries", how=how, ci95=interval)
    return found


def exposure(nlls: Sequence[float]) -> float:
    """Bits by which the first of ``nlls`` is likelier than chance among all of them; equal ones count half."""
    own, others = nlls[0], nlls[1:]
    rank = 1 + sum(other < own for other in others) + sum(other == own for other in others) / 2
    return math.log2(len(nlls)) - math.log2(rank)
