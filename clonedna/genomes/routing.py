"""Which layer of a genome answers a conversation: decided from its words alone, the same each time, with nothing kept between requests.

A session is the conversation itself: each of the person's turns is looked at in order, and a layer that answers goes on answering until
another is better by the gate's hysteresis. A turn that is near no layer is the base's, and ends what was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clonedna.core.errors import InputError
from clonedna.core.genome import Gate
from clonedna.core.vectors import Vectors


class Routed(NamedTuple):
    """The place of the layer that answers (``None``: the base), and the cosine of the last turn with the nearest of all layers."""

    layer: int | None
    cosine: float


def routed(gate: Gate, turns: Vectors) -> Routed:
    """What answers the last of ``turns`` (``[n, dimension]``, oldest first). Raises ``InputError`` for none, or another encoder's."""
    if turns.encoder != gate.encoder or turns.rows.ndim != 2 or turns.rows.shape[1] != gate.dimension:
        raise InputError(
            f"this genome's gate reads vectors of {gate.encoder}, not of {turns.encoder}",
            "set that encoder, or assemble the genome again",
        )
    if not len(turns.rows):
        raise InputError("this genome chooses a layer by what is asked, and nothing is", "send a prompt of text")
    now: int | None = None
    nearest = 0.0
    for row in turns.rows.astype(np.float64):
        near = [float(np.max(np.array(one) @ row)) if one else -1.0 for one in gate.centroids]
        best = int(np.argmax(near))
        nearest = near[best]
        if nearest < gate.floor:
            now = None
        elif now is None or near[now] < gate.floor or nearest >= near[now] + gate.hysteresis:
            now = best
    return Routed(now, nearest)
