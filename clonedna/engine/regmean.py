"""RegMean on what adapters add (Jin et al. 2023, "Dataless knowledge fusion", its closed form, on differences instead of weights).

In each module the merge ``M`` is the ridge regression that gives, on what adapter i's module reads, what ``w_i dW_i`` gives there:

    M = (sum_i w_i dW_i C_i) (sum_i C_i + lambda I)^-1,    C_i = E[h h^T] over i's exemplars,    lambda = ridge * trace(sum_i C_i) / in

A module that an adapter does not have counts as ``dW_i = 0`` there, with its ``C_i``. Since ``dW_i = s_i B_i A_i``, M has rank
``sum_i r_i`` and factors ``[B_1 ... B_n]`` and ``[w_i s_i A_i C_i]_i (...)^-1``: no difference is formed, and one ``C_i`` at a time held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clonedna.core.errors import Corrupt, InputError
from clonedna.engine.combining import Term
from clonedna.engine.covariance import FILE, Covariances, refuse_other
from clonedna.engine.memory import require

RIDGE = 0.01


class _OnDisk(Mapping[str, Tensor]):
    """Tensors of a safetensors file by name, each read when it is asked for. Raises ``Corrupt`` for one that is not finite fp32."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
            self.metadata: dict[str, str] = tensors.metadata() or {}
            self._names = frozenset(str(name) for name in tensors.keys() if name != "count")  # noqa: SIM118 - not a mapping

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, framework="pt") as tensors:  # pyright: ignore[reportUnknownVariableType]
            found: Tensor = tensors.get_tensor(name)
        if found.dtype != torch.float32 or not bool(torch.isfinite(found).all()):
            raise Corrupt(f"{FILE}: {name[:80]} is not finite, or no float of 32 bits", "observe it again")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_covariances(directory: Path, fingerprint: str) -> Covariances:
    """The covariances in ``directory``, read module by module. Raises ``Corrupt`` (missing, damaged), ``WrongBase``."""
    try:
        tensors = _OnDisk(directory / FILE)
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"{FILE} cannot be read ({type(error).__name__})", "observe it again") from error
    refuse_other(tensors.metadata, fingerprint)
    return Covariances(tensors, 0)


def regmean_factors(
    terms: Sequence[Term], inputs: Mapping[str, Covariances], ridge: float, module: str
) -> tuple[Tensor, Tensor]:
    """``(A [k, in], B [out, k])`` in fp64 with ``B A`` the formula above; k is the sum of the terms' ranks.

    ``inputs``: of every adapter of the merge by its key, whether it has this module or not. Raises ``Corrupt`` for a covariance that is
    missing or of another width, ``InputError`` where the sum cannot be inverted, ``NoMemory``.
    """
    inside = terms[0].a.shape[1]
    wide = sum(len(term.a) for term in terms)
    require(8 * inside * (4 * inside + 3 * wide), f"merging {module} by regmean")
    total = torch.zeros(inside, inside, dtype=torch.float64)
    through: dict[str, Tensor] = {}
    own = {term.key: term for term in terms}
    for key in sorted(inputs):
        if inputs[key].width(module) != inside:
            raise Corrupt(
                f"the covariance of {module} has {inputs[key].width(module)} inputs, not {inside}", "observe it again"
            )
        one = inputs[key].dense(module).double()
        total += one
        if (term := own.get(key)) is not None:
            through[key] = term.factor * term.a.double() @ one
    total.diagonal().add_(ridge * float(total.trace()) / inside)
    factor, fault = torch.linalg.cholesky_ex(total)
    if int(fault):
        raise InputError(
            f"the covariances of {module} cannot be inverted: too few exemplars",
            "give a ridge above 0, or more exemplars",
        )
    above = torch.cat([through[term.key] for term in terms])
    return torch.cholesky_solve(above.T, factor).T, torch.cat([term.b.double() for term in terms], 1)
