"""Several adapters of one base as one adapter, without a model, and without large matrices where none is needed: PEFT's ways and two more.

The target is ``T = sum_i w_i s_i B_i A_i`` in each module; a module that an adapter does not have counts as zero there. Promises: the
same adapters, weights and spec give the same bytes, in whatever order they are named; ``cat`` is exact and ``svd`` the best of its rank,
up to the rounding of fp32; how far any result is from ``T`` is measured on the very numbers that are written.

How each method works (PEFT 0.21, ``tuners/lora/model.py``, has the same names and meaning):

    cat                        [w s A] stacked over [B] side by side: T itself, ranks add up
    svd                        T truncated to a rank (Eckart and Young 1936), from the factors alone
    linear                     A and B apart: (sum sqrt(w s) A)(sum sqrt(w s) B), which is not T: it has cross terms
    ties, dare_*, magnitude_prune          the rule applied to A and to B apart; adapters of one rank only
    ties_svd, dare_*_svd, magnitude_prune_svd   the rule applied to each adapter's s B A, as its paper means it, then truncated
    knots_ties                                  ties in a basis that all share (``knots.py``), then truncated
    regmean                                     the least-squares fit on what each adapter's modules read (``regmean.py``), then truncated

The arithmetic of one module is in ``combining.py``.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clonedna.core.errors import AdapterInvalid, InputError
from clonedna.core.merge import MergePart, MergeReport, MergeSpec, ModuleError
from clonedna.engine.adapters import WEIGHTS, Adapter, read_adapter, write_adapter
from clonedna.engine.combining import (
    Term,
    balanced,
    combine,
    distance,
    dropper,
    product_norm,
    stacked,
    truncate_factors,
)
from clonedna.engine.covariance import Covariances
from clonedna.engine.knots import knots_factors
from clonedna.engine.memory import require
from clonedna.engine.regmean import RIDGE, open_covariances, regmean_factors

MAX_RANK = 128
DENSITY = 0.5
WHOLE = ("knots_ties", "regmean")  # of the ranks' sum, unless a smaller one is asked for
CANCELLED = 1e-6  # of the adapters' norms: what is left of fp32 numbers that cancel out is rounding
SIX_DIGITS = ".6g"  # of a relative error: what two machines agree on
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


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
    fit, ranks that differ, a result of a rank over 128, of zero or not finite), ``AdapterInvalid``, ``NoMemory``, ``NoSpace``; for
    ``regmean`` also ``Corrupt`` and ``WrongBase`` for covariances that cannot be used.
    """
    began = time.monotonic()
    found = [(part, read_adapter(part.directory, own_shapes(part.directory), fingerprint)) for part in parts]
    read = sorted(((part.weight, adapter) for part, adapter in found), key=lambda one: (-one[0], one[1].info.digest))
    _refuse_unfit(read)
    modules = _modules([adapter for _, adapter in read])
    spec = _complete(spec, [adapter.info.rank for _, adapter in read])
    rank = _rank(spec, [adapter.info.rank for _, adapter in read])
    inputs = _inputs(found, spec, fingerprint)
    matrices: dict[str, tuple[Tensor, Tensor]] = {}
    norms: list[tuple[float, float, float]] = []
    formula: list[tuple[float, float, float]] = []
    written = 0.0
    for done, module in enumerate(modules, 1):
        terms = [
            Term(adapter.info.digest, weight, adapter.scale, *adapter.matrices[module])
            for weight, adapter in read
            if module in adapter.matrices
        ]
        exact = exact_factors(terms, spec, module, inputs)
        a, b = merge_module(terms, spec, rank, module) if exact is None else _cut(exact, spec, rank)
        if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise InputError(f"the merged {module} is not finite", "use smaller weights")
        matrices[module] = (a, b)
        norms.append(distance(terms, a, b))
        written += product_norm(a, b) ** 2
        if exact is not None:
            formula.append(distance([Term(module, 1.0, 1.0, *exact)], a, b))
        progress(done, len(modules))
    total, off, apart = (math.sqrt(sum(one[i] ** 2 for one in norms)) for i in (0, 1, 2))
    if total <= CANCELLED * apart or not any(bool(b.any()) and bool(a.any()) for a, b in matrices.values()):
        raise InputError("nothing is left of these adapters: they cancel out", "use other weights, or a higher density")
    write_adapter(out, matrices, rank=rank, alpha=rank, rslora=False, base=base, fingerprint=fingerprint)
    wanted, lost = (math.sqrt(sum(one[i] ** 2 for one in formula)) for i in (0, 1))
    return MergeReport(
        spec=spec, rank=rank, alpha=rank, target_modules=tuple(sorted({name.rpartition(".")[2] for name in modules})),
        relative_error=_digits(off / total), formula_error=_digits(lost / wanted) if wanted else None,
        norm=_digits(math.sqrt(written)), sum_norm=_digits(total),
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
        if not math.isfinite(weight):
            raise InputError(f"{weight} is no weight for {adapter.info.id}", "give a finite number")
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
    prunes = spec.method not in ("cat", "svd", "linear", "regmean")
    uses = {
        "rank": spec.method.endswith("svd") or spec.method in WHOLE, "density": prunes, "majority": "ties" in spec.method,
        "seed": "dare" in spec.method, "ridge": spec.method == "regmean",
    }  # fmt: skip
    for option, used in uses.items():
        if getattr(spec, option) is not None and not used:
            raise InputError(f"{spec.method} has no {option}", f"leave --{option} out, or choose another method")
    rank = sum(ranks) if spec.method in WHOLE else max(ranks)
    defaults = {"rank": min(rank, MAX_RANK), "density": DENSITY, "majority": "total", "seed": 0, "ridge": RIDGE}
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
    if spec.method in ("svd", *WHOLE) and rank > sum(ranks):
        raise InputError(
            f"rank {rank} is more than the {sum(ranks)} that the adapters have together", "use --method cat"
        )
    return rank


def _inputs(found: Sequence[tuple[MergePart, Adapter]], spec: MergeSpec, fingerprint: str) -> dict[str, Covariances]:
    """Of every adapter by its digest, for the method that needs them."""
    if spec.method != "regmean":
        return {}
    inputs: dict[str, Covariances] = {}
    for part, adapter in found:
        if part.covariance is None:
            raise InputError(
                f"regmean needs to know what the modules of {adapter.info.id} read",
                "observe it on exemplars, or use cat or svd",
            )
        inputs[adapter.info.digest] = open_covariances(part.covariance, fingerprint)
    return inputs


def exact_factors(
    terms: Sequence[Term], spec: MergeSpec, module: str = "", inputs: Mapping[str, Covariances] | None = None
) -> tuple[Tensor, Tensor] | None:
    """``(A [k, in], B [out, k])`` in fp64 whose product is the method's formula itself, where that is known from the factors.

    ``None`` for the rules that work entry by entry on A and B or on the whole difference.
    """
    if spec.method in ("cat", "svd"):
        return stacked(terms)
    if spec.method == "knots_ties":
        return knots_factors(terms, spec)
    if spec.method == "regmean":
        return regmean_factors(terms, inputs or {}, RIDGE if spec.ridge is None else spec.ridge, module)
    return None


def _cut(exact: tuple[Tensor, Tensor], spec: MergeSpec, rank: int) -> tuple[Tensor, Tensor]:
    """Exact factors in fp32, of this rank."""
    a, b = exact if spec.method == "cat" else truncate_factors(*exact, rank)
    return _padded(a, rank, 0), _padded(b, rank, 1)


def merge_module(terms: Sequence[Term], spec: MergeSpec, rank: int, module: str = "") -> tuple[Tensor, Tensor]:
    """``(A [rank, in], B [out, rank])`` in fp32 of one module; ``spec`` is complete and not ``regmean``, ``terms`` are not empty."""
    if (exact := exact_factors(terms, spec)) is not None:
        return _cut(exact, spec, rank)
    rule = spec.method.removesuffix("_svd")
    if spec.method == rule:
        roots = [math.sqrt(abs(t.factor)) for t in terms]
        signed = [math.copysign(root, t.factor) for root, t in zip(roots, terms, strict=True)]
        a = combine(rule, lambda: [t.a for t in terms], signed, spec, dropper(spec, terms, f"{module}.A"))
        b = combine(rule, lambda: [t.b for t in terms], roots, spec, dropper(spec, terms, f"{module}.B"))
    else:
        out, inside = terms[0].b.shape[0], terms[0].a.shape[1]
        require(8 * out * inside * 9, f"merging {module} by {spec.method}")
        weights = [t.weight for t in terms]
        # In fp64: which entries are the largest must not hang on the rounding of a product.
        whole = combine(
            rule, lambda: (t.scale * (t.b.double() @ t.a.double()) for t in terms), weights, spec, dropper(spec, terms, module)
        )  # fmt: skip
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        a, b = balanced(u, s, vh, rank)
    return _padded(a, rank, 0), _padded(b, rank, 1)


def _padded(tensor: Tensor, rank: int, side: int) -> Tensor:
    """fp32, with zeros up to ``rank`` along ``side``: one adapter has one rank in all modules."""
    missing = list(tensor.shape)
    missing[side] = rank - missing[side]
    return torch.cat([tensor.float(), torch.zeros(missing)], side)


def _digits(value: float) -> float:
    return float(format(value, SIX_DIGITS))
