"""Several adapters of one base as one adapter: PEFT's ways of combining, without a model and without large matrices where none is needed.

The target is ``T = sum_i w_i s_i B_i A_i`` in each module; a module that an adapter does not have counts as zero there. Promises: the
same adapters, weights and spec give the same bytes, in whatever order they are named; ``cat`` is exact and ``svd`` the best of its rank,
up to the rounding of fp32; how far any result is from ``T`` is measured on the very numbers that are written.

How each method works (PEFT 0.21, ``tuners/lora/model.py``, has the same names and meaning):

    cat                        [w s A] stacked over [B] side by side: T itself, ranks add up
    svd                        T truncated to a rank (Eckart and Young 1936), from the factors alone
    linear                     A and B apart: (sum sqrt(w s) A)(sum sqrt(w s) B), which is not T: it has cross terms
    ties, dare_*, magnitude_prune          the rule applied to A and to B apart; adapters of one rank only
    ties_svd, dare_*_svd, magnitude_prune_svd   the rule applied to each adapter's s B A, as its paper means it, then truncated
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clonedna.core.canonical import digest
from clonedna.core.errors import AdapterInvalid, InputError
from clonedna.core.merge import MergePart, MergeReport, MergeSpec, ModuleError
from clonedna.engine.adapters import WEIGHTS, Adapter, read_adapter, write_adapter
from clonedna.engine.memory import require

MAX_RANK = 128
DENSITY = 0.5
CANCELLED = 1e-6  # of the adapters' norms: what is left of fp32 numbers that cancel out is rounding
SIX_DIGITS = ".6g"  # of a relative error: what two machines agree on
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


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


def merge_adapters(
    parts: Sequence[MergePart],
    out: Path,
    spec: MergeSpec,
    *,
    base: str,
    fingerprint: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MergeReport:
    """Write the merge of ``parts`` into ``out`` in PEFT's format (fp32, scale 1). ``progress`` hears modules done and in all.

    ``fingerprint`` is the base's that all parts must be for: files that name another raise ``WrongBase``. No base is loaded, so which
    modules it has is taken from the adapters themselves, and loading the result checks it. Raises ``InputError`` (options that do not
    fit, ranks that differ, a result of a rank over 128, of zero or not finite), ``AdapterInvalid``, ``NoMemory``, ``NoSpace``.
    """
    began = time.monotonic()
    read = [(part.weight, read_adapter(part.directory, own_shapes(part.directory), fingerprint)) for part in parts]
    read.sort(key=lambda one: (-one[0], one[1].info.digest))
    _refuse_unfit(read)
    modules = _modules([adapter for _, adapter in read])
    spec = _complete(spec, [adapter.info.rank for _, adapter in read])
    rank = _rank(spec, [adapter.info.rank for _, adapter in read])
    matrices: dict[str, tuple[Tensor, Tensor]] = {}
    norms: list[tuple[float, float, float]] = []
    for done, module in enumerate(modules, 1):
        terms = [
            Term(adapter.info.digest, weight, adapter.scale, *adapter.matrices[module])
            for weight, adapter in read
            if module in adapter.matrices
        ]
        a, b = merge_module(terms, spec, rank, module)
        if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise InputError(f"the merged {module} is not finite", "use smaller weights")
        matrices[module] = (a, b)
        norms.append(distance(terms, a, b))
        progress(done, len(modules))
    total, off, apart = (math.sqrt(sum(one[i] ** 2 for one in norms)) for i in (0, 1, 2))
    if total <= CANCELLED * apart or not any(bool(b.any()) and bool(a.any()) for a, b in matrices.values()):
        raise InputError("nothing is left of these adapters: they cancel out", "use other weights, or a higher density")
    write_adapter(out, matrices, rank=rank, alpha=rank, rslora=False, base=base, fingerprint=fingerprint)
    return MergeReport(
        spec=spec, rank=rank, alpha=rank, target_modules=tuple(sorted({name.rpartition(".")[2] for name in modules})),
        relative_error=_digits(off / total),
        modules=tuple(
            ModuleError(module=module, relative_error=_digits(e / t) if t else None)
            for module, (t, e, _) in zip(modules, norms, strict=True)
        ),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def own_shapes(directory: Path) -> dict[str, tuple[int, int]]:
    """``(in, out)`` of the modules that an adapter's file has both factors for, from its header alone. Raises ``AdapterInvalid``."""
    sides: dict[str, dict[str, list[int]]] = {}
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
            for key in tensors.keys():  # noqa: SIM118 - not a mapping
                if (match := _KEY.match(key)) and len(shape := tensors.get_slice(key).get_shape()) == 2:
                    sides.setdefault(match["module"], {})[match["side"]] = [int(side) for side in shape]
    except (OSError, SafetensorError) as error:
        raise AdapterInvalid(
            f"{WEIGHTS} of {directory.name} cannot be read ({error})", "get the adapter again"
        ) from error
    return {module: (found["A"][1], found["B"][0]) for module, found in sides.items() if len(found) == 2}


def _refuse_unfit(read: Sequence[tuple[float, Adapter]]) -> None:
    if not read:
        raise InputError("nothing to merge", "name at least one adapter")
    for weight, adapter in read:
        if not math.isfinite(weight) or weight == 0:
            raise InputError(f"{weight} is no weight for {adapter.info.id}", "give a number other than 0")
    twice = [key for key, count in Counter(adapter.info.digest for _, adapter in read).items() if count > 1]
    if twice:
        raise InputError(f"adapter {twice[0][:12]} is named twice", "name it once, with the sum of its weights")


def _modules(adapters: Sequence[Adapter]) -> list[str]:
    """All modules in the order of a base (numbers as numbers). Raises ``AdapterInvalid`` when they cannot be those of one base."""
    shapes: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        for module, (a, b) in adapter.matrices.items():
            shape = (a.shape[1], b.shape[0])
            if shapes.setdefault(module, shape) != shape:
                raise AdapterInvalid(
                    f"{module} is {list(shape)} in {adapter.info.id}, but {list(shapes[module])} in another",
                    "merge adapters of one base",
                )
    # The format names a target for all layers at once.
    counts = Counter(module.rpartition(".")[2] for module in shapes)
    if len(set(counts.values())) > 1:
        raise AdapterInvalid(
            f"the adapters cover modules in different numbers of layers: {', '.join(f'{n} {m}' for m, n in counts.items())}",
            "merge adapters that adapt a module in every layer",
        )
    return in_order(shapes)


def in_order(modules: Iterable[str]) -> list[str]:
    """Names of modules in the order of a base: numbers as numbers."""
    return sorted(modules, key=lambda name: [int(bit) if bit.isdigit() else bit for bit in re.split(r"(\d+)", name)])


def _complete(spec: MergeSpec, ranks: Sequence[int]) -> MergeSpec:
    """The spec with its defaults, without anything that the method does not use. Raises ``InputError``."""
    prunes = spec.method not in ("cat", "svd", "linear")
    uses = {
        "rank": spec.method.endswith("svd"), "density": prunes, "majority": "ties" in spec.method, "seed": "dare" in spec.method,
    }  # fmt: skip
    for option, used in uses.items():
        if getattr(spec, option) is not None and not used:
            raise InputError(f"{spec.method} has no {option}", f"leave --{option} out, or choose another method")
    defaults = {"rank": min(max(ranks), MAX_RANK), "density": DENSITY, "majority": "total", "seed": 0}
    missing = {key: defaults[key] for key, used in uses.items() if used and getattr(spec, key) is None}
    return spec.model_copy(update=missing)


def _rank(spec: MergeSpec, ranks: Sequence[int]) -> int:
    """The result's rank. Raises ``InputError``."""
    if spec.method == "cat":
        rank = sum(ranks)
    elif spec.rank is not None:
        rank = spec.rank
    elif len(set(ranks)) == 1:
        rank = ranks[0]
    else:
        other = "svd" if spec.method == "linear" else f"{spec.method}_svd"
        raise InputError(
            f"{spec.method} needs adapters of one rank; these have {', '.join(map(str, ranks))}",
            f"use --method {other}",
        )
    if rank > MAX_RANK:
        raise InputError(
            f"the result would have rank {rank}; at most {MAX_RANK} is served", "use --method svd --rank 64"
        )
    if spec.method == "svd" and rank > sum(ranks):
        raise InputError(
            f"rank {rank} is more than the {sum(ranks)} that the adapters have together", "use --method cat"
        )
    return rank


def merge_module(terms: Sequence[Term], spec: MergeSpec, rank: int, module: str = "") -> tuple[Tensor, Tensor]:
    """``(A [rank, in], B [out, rank])`` in fp32 of one module; ``spec`` is complete, ``terms`` are not empty."""
    rule = spec.method.removesuffix("_svd")
    if spec.method == "cat":
        a, b = torch.cat([t.factor * t.a.double() for t in terms]), torch.cat([t.b for t in terms], 1)
    elif spec.method == "svd":
        a, b = truncate_factors(*_stacked(terms), rank)
    elif spec.method == rule:
        roots = [math.sqrt(abs(t.factor)) for t in terms]
        signed = [math.copysign(root, t.factor) for root, t in zip(roots, terms, strict=True)]
        a = combine(rule, [t.a for t in terms], signed, spec, _dropper(spec, terms, f"{module}.A"))
        b = combine(rule, [t.b for t in terms], roots, spec, _dropper(spec, terms, f"{module}.B"))
    else:
        out, inside = terms[0].b.shape[0], terms[0].a.shape[1]
        require(4 * out * inside * (3 * len(terms) + 4), f"merging {module} by {spec.method}")
        deltas = [t.scale * (t.b @ t.a) for t in terms]
        whole = combine(rule, deltas, [t.weight for t in terms], spec, _dropper(spec, terms, module))
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        a, b = _balanced(u, s, vh, rank)
    return _padded(a, rank, 0), _padded(b, rank, 1)


def truncate_factors(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of ``b @ a`` of this rank in the Frobenius norm (Eckart and Young 1936), without forming the product.

    ``b = Q_B R_B`` and ``a^T = Q_A R_A`` (``[out, k]``, ``[in, k]``, k = the ranks' sum), and ``R_B R_A^T = U S V^T`` is at most k x k:
    ``b a = (Q_B U) S (Q_A V)^T``. Gives ``(A [<= rank, in], B [out, <= rank])``.
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _balanced(q_b @ u, s, vh @ q_a.T, rank)


def _balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``U S V^T`` of a rank as two factors of one size. The signs, which an SVD leaves open: each column's largest entry is positive."""
    u, root, vh = u[:, :rank], s[:rank].sqrt(), vh[:rank]
    largest = u.gather(0, u.abs().argmax(0, keepdim=True)).squeeze(0)
    signed = torch.where(largest < 0, -root, root)
    return signed[:, None] * vh, u * signed


def combine(
    rule: str,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    spec: MergeSpec,
    drop: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Tensors of one shape as one, by ``linear`` or one of PEFT's four rules (``peft/utils/merge_utils.py``).

    ``ties`` (Yadav et al. 2023): the largest entries of each, the sign that wins at each place, the weighted mean of those that have it.
    ``magnitude_prune``: the largest entries, weighted and summed. ``dare_*`` (Yu et al. 2024): entries dropped by chance (``drop`` of
    the tensor and its place) and the rest divided by the density, then as ``linear`` or ``ties``.
    """
    if rule in ("ties", "magnitude_prune"):
        tensors = [keep_largest(tensor, spec.density or 1.0) for tensor in tensors]
    elif rule.startswith("dare"):
        tensors = [drop(tensor, place) for place, tensor in enumerate(tensors)]
    stacked = torch.stack(list(tensors))
    weighted = stacked * torch.tensor(weights, dtype=stacked.dtype)[:, None, None]
    if not rule.endswith("ties"):
        return weighted.sum(0)
    signs = stacked.sign()
    votes = (stacked if spec.majority == "total" else signs).sum(0)
    agree = signs == torch.where(votes >= 0, 1.0, -1.0)
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """The tensor with all but its ``int(density * size)`` entries of largest magnitude set to zero."""
    if density >= 1:
        return tensor
    kept = torch.zeros_like(tensor).reshape(-1)
    kept[torch.topk(tensor.abs().reshape(-1), int(density * tensor.numel())).indices] = 1
    return tensor * kept.reshape(tensor.shape)


def _dropper(spec: MergeSpec, terms: Sequence[Term], where: str) -> Callable[[Tensor, int], Tensor]:
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
    all_a, all_b = _stacked(terms)
    r_a = torch.linalg.qr(torch.cat([all_a, a.double()]).T, mode="r").R
    r_b = torch.linalg.qr(torch.cat([all_b, b.double()], 1), mode="r").R
    ranks = [len(term.a) for term in terms]
    own = [r_b[:, i : i + r] @ r_a[:, i : i + r].T for i, r in zip(accumulate(ranks, initial=0), ranks, strict=False)]
    wanted = r_b[:, : len(all_a)] @ r_a[:, : len(all_a)].T
    got = r_b[:, len(all_a) :] @ r_a[:, len(all_a) :].T
    return float(wanted.norm()), float((got - wanted).norm()), sum(float(one.norm()) for one in own)


def _stacked(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """All factors of ``T = b @ a`` in fp64: ``(a [k, in], b [out, k])``."""
    return torch.cat([t.factor * t.a.double() for t in terms]), torch.cat([t.b.double() for t in terms], 1)


def _padded(tensor: Tensor, rank: int, side: int) -> Tensor:
    """fp32, with zeros up to ``rank`` along ``side``: one adapter has one rank in all modules."""
    missing = list(tensor.shape)
    missing[side] = rank - missing[side]
    return torch.cat([tensor.float(), torch.zeros(missing)], side)


def _digits(value: float) -> float:
    return float(format(value, SIX_DIGITS))
