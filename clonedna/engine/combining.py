"""Arithmetic of adapters' parts in one module, without a model: what ``merging`` composes whole adapters with.

A module's part of an adapter is a ``Term``; a result is a pair ``(A, B)`` whose product ``B A`` it means. Where a full difference of
weights has to be formed, one is formed at a time: memory does not grow with the number of terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from clonedna.core.canonical import digest
from clonedna.core.merge import MergeSpec


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter's part of one module: ``weight * scale * B @ A`` with ``A [r, in]`` and ``B [out, r]``. ``key`` names the adapter."""

    key: str
    weight: float
    scale: float
    a: Tensor
    b: Tensor

    @property
    def factor(self) -> float:
        return self.weight * self.scale


def stacked(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """All factors of the weighted sum ``b @ a`` in fp64: ``(a [k, in], b [out, k])``."""
    return torch.cat([t.factor * t.a.double() for t in terms]), torch.cat([t.b.double() for t in terms], 1)


def truncate_factors(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of ``b @ a`` of this rank in the Frobenius norm (Eckart and Young 1936), without forming the product.

    ``b = Q_B R_B`` and ``a^T = Q_A R_A`` (``[out, k]``, ``[in, k]``, k = the ranks' sum), and ``R_B R_A^T = U S V^T`` is at most k x k:
    ``b a = (Q_B U) S (Q_A V)^T``. Gives ``(A [<= rank, in], B [out, <= rank])``.
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return balanced(q_b @ u, s, vh @ q_a.T, rank)


def balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``U S V^T`` of a rank as two factors of one size. The signs, which an SVD leaves open: each column's largest entry is positive."""
    u, root, vh = u[:, :rank], s[:rank].sqrt(), vh[:rank]
    largest = u.gather(0, u.abs().argmax(0, keepdim=True)).squeeze(0)
    signed = torch.where(largest < 0, -root, root)
    return signed[:, None] * vh, u * signed


def combine(
    rule: str,
    tensors: Callable[[], Iterable[Tensor]],
    weights: Sequence[float],
    spec: MergeSpec,
    drop: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Tensors of one shape as one, by ``linear`` or one of PEFT's four rules (``peft/utils/merge_utils.py``).

    ``tensors`` gives them one after the other, and is asked twice by ``ties``. ``ties`` (Yadav et al. 2023): the largest entries of each,
    the sign that wins at each place, the weighted mean of those that have it. ``magnitude_prune``: the largest entries, weighted and
    summed. ``dare_*`` (Yu et al. 2024): entries dropped by chance (``drop`` of the tensor and its place) and the rest divided by the
    density, then as ``linear`` or ``ties``.
    """

    def kept() -> Iterable[Tensor]:
        for place, tensor in enumerate(tensors()):
            if rule in ("ties", "magnitude_prune"):
                yield keep_largest(tensor, spec.density or 1.0)
            else:
                yield drop(tensor, place) if rule.startswith("dare") else tensor

    if not rule.endswith("ties"):
        return _added(weight * tensor for weight, tensor in zip(weights, kept(), strict=True))
    votes = _added(tensor.clone() if spec.majority == "total" else tensor.sign() for tensor in kept())
    elected = torch.where(votes >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for weight, tensor in zip(weights, kept(), strict=True):
        agree = tensor.sign() == elected
        total += weight * tensor * agree
        count += agree
    return total / count.clamp(min=1)


def _added(tensors: Iterable[Tensor]) -> Tensor:
    """Their sum, in the first one's memory."""
    total: Tensor | None = None
    for tensor in tensors:
        total = tensor if total is None else total.add_(tensor)
    assert total is not None
    return total


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """The tensor with all but its ``int(density * size)`` entries of largest magnitude set to zero."""
    if density >= 1:
        return tensor
    kept = torch.zeros_like(tensor).reshape(-1)
    kept[torch.topk(tensor.abs().reshape(-1), int(density * tensor.numel())).indices] = 1
    return tensor * kept.reshape(tensor.shape)


def dropper(spec: MergeSpec, terms: Sequence[Term], where: str) -> Callable[[Tensor, int], Tensor]:
    """Keeps each entry with the density's probability and divides by it. Drawn for each adapter and place apart, from the seed."""
    density = spec.density or 1.0

    def drop(tensor: Tensor, place: int) -> Tensor:
        draw = torch.Generator().manual_seed(int(digest([spec.seed or 0, terms[place].key, where])[:15], 16))
        return tensor * (torch.rand(tensor.shape, generator=draw) < density) / density

    return drop


def distance(terms: Sequence[Term], a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """``(|T|, |b a - T|, sum of the terms' own norms)``, Frobenius, in fp64, from thin factors: ``|P Q| = |R_P R_Q^T|``.

    One QR on each side serves all three: the columns of R that belong to some columns of P are those columns' own factor. Not by Gram
    matrices: their squares lose what lies below 1e-8 of the norm, and ``cat`` is nearly that near to its target.
    """
    all_a, all_b = stacked(terms)
    r_a = torch.linalg.qr(torch.cat([all_a, a.double()]).T, mode="r").R
    r_b = torch.linalg.qr(torch.cat([all_b, b.double()], 1), mode="r").R
    ranks = [len(term.a) for term in terms]
    own = [r_b[:, i : i + r] @ r_a[:, i : i + r].T for i, r in zip(accumulate(ranks, initial=0), ranks, strict=False)]
    wanted = r_b[:, : len(all_a)] @ r_a[:, : len(all_a)].T
    got = r_b[:, len(all_a) :] @ r_a[:, len(all_a) :].T
    return float(wanted.norm()), float((got - wanted).norm()), sum(float(one.norm()) for one in own)


def product_norm(a: Tensor, b: Tensor) -> float:
    """``|b a|`` (Frobenius) in fp64, from the factors."""
    r_a = torch.linalg.qr(a.double().T, mode="r").R
    r_b = torch.linalg.qr(b.double(), mode="r").R
    return float((r_b @ r_a.T).norm())
