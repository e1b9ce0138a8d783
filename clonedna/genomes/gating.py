"""A small logistic gate over encoder vectors: the share of each layer in answering a request, from its words alone.

Multinomial logistic regression with a ridge (Böhning 1992 gives the bound on its curvature), fitted by accelerated gradient steps
(Nesterov 1983) of a fixed number: the same vectors give the same gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clonedna.core.errors import InputError
from clonedna.core.genome import LogisticGate
from clonedna.core.vectors import Vectors

RIDGE = 1e-3
STEPS = 400
Floats = NDArray[np.float64]


def fit_gate(vectors: Vectors, labels: Sequence[int], layers: int) -> LogisticGate:
    """A gate that tells ``layers`` layers apart: ``labels`` says which one each row of ``vectors`` belongs to.

    Every layer counts the same, however many rows it has. Raises ``InputError`` for a layer without a row.
    """
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=layers)
    if len(labels) != len(vectors.rows) or len(counts) != layers or not counts.all():
        raise InputError("a gate needs examples of every layer", "give each layer a request that it is for")
    x = np.hstack([vectors.rows.astype(np.float64), np.ones((len(labels), 1))])
    wanted = np.eye(layers)[np.asarray(labels)]
    weight = (1 / (layers * counts))[np.asarray(labels)][:, None]
    step = 1 / (0.5 * float(np.linalg.eigvalsh((weight * x).T @ x)[-1]) + RIDGE)
    now = ahead = np.zeros((layers, x.shape[1]))
    for number in range(STEPS):
        gradient = ((_softmax(x @ ahead.T) - wanted) * weight).T @ x + RIDGE * ahead
        new = ahead - step * gradient
        ahead = new + number / (number + 3) * (new - now)
        now = new
    rounded = np.round(now, 6)
    return LogisticGate(
        encoder=vectors.encoder,
        weights=tuple(tuple(map(float, row)) for row in rounded[:, :-1]),
        bias=tuple(map(float, rounded[:, -1])),
    )


def shares(gate: LogisticGate, vectors: Vectors) -> Floats:
    """``[n, layers]``: each request's shares, which add up to 1. Raises ``InputError`` for another encoder's vectors."""
    weights = np.array(gate.weights)
    if vectors.encoder != gate.encoder or vectors.rows.shape[1] != weights.shape[1]:
        raise InputError(
            f"this gate reads vectors of {gate.encoder}, not of {vectors.encoder}", "fit it again with this encoder"
        )
    return _softmax(vectors.rows.astype(np.float64) @ weights.T + np.array(gate.bias))


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
