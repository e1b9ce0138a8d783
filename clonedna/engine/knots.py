"""KnOTS: TIES in a basis that the adapters share (Stoica et al. 2024, "Model merging with SVD to tie the KnOTS").

With ``[dW_1 ... dW_n] = U S [V_1 ... V_n]`` (an SVD of the differences side by side, each ``[out, in]``), what is merged by TIES are the
``V_i`` ``[k, in]``, and the result is ``U S V``. Computed from the factors: the differences are never formed, and one ``V_i`` at a time is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from clonedna.core.merge import MergeSpec
from clonedna.engine.combining import Term, combine
from clonedna.engine.memory import require

NEGLIGIBLE = 1e-9  # of the largest singular value: a direction below it is rounding, and TIES would count its entries like any other


def knots_factors(terms: Sequence[Term], spec: MergeSpec) -> tuple[Tensor, Tensor]:
    """``(A [k, in], B [out, k])`` in fp64 with ``B A`` the KnOTS-TIES merge; k is at most the ranks' sum.

    ``dW_i = s_i B_i A_i`` without its weight; weights multiply the ``V_i`` after the vote, as in ``ties``.

    ``[B_1 ... B_n] = Q_B R_B`` and ``A_i^T = Q_i R_i``, so ``[dW_1 ... dW_n] = Q_B [R_B,i s_i R_i^T]_i diag(Q_i^T)``, and the SVD of the
    small matrix in the middle is the large one's, with ``Q_B U`` and ``V_i Q_i^T``.
    """
    inside, wide = terms[0].a.shape[1], sum(len(term.a) for term in terms)
    require(8 * (6 * wide * inside + 2 * wide * (wide + len(terms[0].b))), "merging by knots_ties")
    q_b, r_b = torch.linalg.qr(torch.cat([term.b.double() for term in terms], 1))
    ranks = [len(term.a) for term in terms]
    spans = [slice(start, start + rank) for start, rank in zip(accumulate(ranks, initial=0), ranks, strict=False)]
    rows = [torch.linalg.qr(term.a.double().T) for term in terms]  # [in, r'], [r', r] with r' = min(in, r)
    small = torch.cat([t.scale * r_b[:, span] @ r.T for t, span, (_, r) in zip(terms, spans, rows, strict=True)], 1)
    u, s, vh = torch.linalg.svd(small, full_matrices=False)
    kept = s > NEGLIGIBLE * s.max()
    u, s, vh = u[:, kept], s[kept], vh[kept]
    widths = [q.shape[1] for q, _ in rows]

    def shared() -> Iterator[Tensor]:
        for start, width, (q, _) in zip(accumulate(widths, initial=0), widths, rows, strict=False):
            yield vh[:, start : start + width] @ q.T

    if not bool(kept.any()):
        return torch.zeros(1, inside, dtype=torch.float64), torch.zeros(len(q_b), 1, dtype=torch.float64)
    merged = combine("ties", shared, [term.weight for term in terms], spec, lambda tensor, _: tensor)
    return s[:, None] * merged, q_b @ u
