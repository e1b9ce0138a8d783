"""What layers are beside each other, from their factors alone: sizes, inner products, energies on a neighbour's inputs, weight sketches.

With ``D_i = s_i B_i A_i`` in a module, and ``C_i = E[h h^T]`` of what the module reads on i's examples (``covariance.py``), in fp64:

    |D_i|_F^2   = s_i^2 tr((B_i^T B_i)(A_i A_i^T))
    <D_i, D_j>  = s_i s_j tr((B_i^T B_j)(A_j A_i^T))
    E_{j|i}     = E|D_j h|^2 = s_j^2 tr(B_j (A_j C_i A_j^T) B_j^T)

No ``D`` is formed: all products are of r x r' matrices. The weight sketch is linear in ``D``: the canonical ``D = sum_k sigma_k u_k v_k^T``
(thin QR of both factors, SVD of the r x r core) goes term by term through a tensor sketch (Pham & Pagh 2013): count sketches of ``u`` and
``v`` with hashes and signs drawn for each module, convolved by FFT, summed over modules. So equal updates have equal sketches whatever
factors, rank or alpha they are written in, and the sketch of a sum is the sum of the sketches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clonedna.core.errors import AdapterInvalid, InputError
from clonedna.core.interference import Pairwise, WeightSketch
from clonedna.engine.adapters import Adapter, read_adapter
from clonedna.engine.comparing import DIRECTION, Update, inner
from clonedna.engine.covariance import Covariances, read_covariances
from clonedna.engine.merging import in_order, own_shapes

DIMENSION = 4096
MOST_LAYERS = 32
Layer = tuple[Path, Path | None]


def pairs_of(layers: Sequence[Layer], *, fingerprint: str) -> dict[tuple[int, int], Pairwise]:
    """Every ordered pair ``(source, target)`` of ``layers``: each the folder of its PEFT files, and of its covariances, if there is one.

    Raises ``InputError`` for more than 32, ``AdapterInvalid`` (also for modules of other shapes), ``WrongBase``, ``Corrupt``, ``NoMemory``.
    """
    if len(layers) > MOST_LAYERS:
        raise InputError(f"{len(layers)} layers are too many to look at in pairs", f"name at most {MOST_LAYERS}")
    read = [read_adapter(path, own_shapes(path), fingerprint) for path, _ in layers]
    _refuse_unlike(read)
    found: dict[tuple[int, int], Pairwise] = {}
    own = [norms(adapter) for adapter in read]
    for target, (_, folder) in enumerate(layers):
        covariances = None if folder is None else read_covariances(folder, fingerprint)
        on_target = [None if covariances is None else energies(adapter, covariances) for adapter in read]
        for source in range(len(layers)):
            if source != target:
                inners = (
                    {**found[target, source].inner}
                    if (target, source) in found
                    else inner_products(read[source], read[target])
                )
                found[source, target] = Pairwise(
                    norms=_beside(own[source], own[target]), inner=inners,
                    energies=None if (a := on_target[source]) is None or (b := on_target[target]) is None else _beside(a, b),
                )  # fmt: skip
    return found


def norms(adapter: Adapter) -> dict[str, float]:
    """``|s B A|_F`` of each module."""
    return {name: math.sqrt(max(0.0, inner(one, one))) for name, one in _updates(adapter).items()}


def inner_products(first: Adapter, second: Adapter) -> dict[str, float]:
    """``<D, D'>`` of each module that both have."""
    x, y = _updates(first), _updates(second)
    return {name: inner(x[name], y[name]) for name in in_order(x.keys() & y.keys())}


def energies(adapter: Adapter, covariances: Covariances) -> dict[str, float]:
    """``E|D h|^2`` of each module on inputs with these second moments. Raises ``Corrupt`` for a module without them."""
    found: dict[str, float] = {}
    for name, one in _updates(adapter).items():
        core = covariances.through(name, one.a)
        found[name] = max(0.0, one.scale**2 * float(((one.b.T @ one.b) * core).sum()))
    return found


def sketch_of(directory: Path, *, fingerprint: str, seed: int = 0) -> WeightSketch:
    """The weight sketch of the PEFT files in ``directory``. Raises ``AdapterInvalid``, ``WrongBase``, ``NoMemory``."""
    return weight_sketch(read_adapter(directory, own_shapes(directory), fingerprint), seed=seed)


def weight_sketch(adapter: Adapter, *, seed: int = 0) -> WeightSketch:
    """Of an adapter that was read. Sketches of another ``seed`` mean nothing beside these."""
    total, squares = torch.zeros(DIMENSION, dtype=torch.float64), 0.0
    for name, one in _updates(adapter).items():
        columns, rows = canonical(one)
        if not columns.shape[1]:
            continue
        squares += float(columns.square().sum())
        spectrum = torch.fft.rfft(_counted(columns, f"{seed}:{name}:out")) * torch.fft.rfft(
            _counted(rows, f"{seed}:{name}:in")
        )
        total += torch.fft.irfft(spectrum.sum(0), n=DIMENSION)
    length = float(total.norm())
    row = total / length if length else total
    return WeightSketch(row.float().numpy(), math.sqrt(squares))


def canonical(one: Update) -> tuple[Tensor, Tensor]:
    """``(sigma_k u_k [out, k], v_k [in, k])`` of an update; directions below the rounding of its fp32 factors are left out."""
    q_b, r_b = torch.linalg.qr(one.b)
    q_a, r_a = torch.linalg.qr(one.a.T)
    u, s, vh = torch.linalg.svd(one.scale * (r_b @ r_a.T), full_matrices=False)
    kept = s > DIRECTION * s.max() if len(s) else s > 0
    return (q_b @ u[:, kept]) * s[kept], q_a @ vh[kept].T


def _counted(columns: Tensor, key: str) -> Tensor:
    """Count sketch (Charikar, Chen & Farach-Colton 2002) of each column ``[n, k]`` -> ``[k, DIMENSION]``."""
    draw = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
    places = torch.randint(0, DIMENSION, (columns.shape[0],), generator=draw)
    signs = 2.0 * torch.randint(0, 2, (columns.shape[0],), generator=draw).double() - 1.0
    counted = torch.zeros(columns.shape[1], DIMENSION, dtype=torch.float64)
    return counted.index_add_(1, places, (columns * signs[:, None]).T.contiguous())


def _updates(adapter: Adapter) -> dict[str, Update]:
    return {
        name: Update(adapter.scale, *(matrix.double() for matrix in adapter.matrices[name]))
        for name in in_order(adapter.matrices)
    }


def _beside(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    return {name: (first.get(name, 0.0), second.get(name, 0.0)) for name in in_order({*first, *second})}


def _refuse_unlike(read: Sequence[Adapter]) -> None:
    shapes: dict[str, tuple[int, int]] = {}
    for adapter in read:
        for name, (a, b) in adapter.matrices.items():
            shape = a.shape[1], b.shape[0]
            if shapes.setdefault(name, shape) != shape:
                raise AdapterInvalid(
                    f"{name} is {list(shape)} in one adapter, {list(shapes[name])} in another",
                    "compare adapters of one base",
                )
