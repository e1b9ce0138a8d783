"""What an adapter is trained beside: further terms of its loss that keep it from what others do, added to its gradient at each step.

With the new adapter's ``D = s B A`` in a module, and others that are frozen:

    guard       w_g mean over tokens KL(p(.|others) || p(.|others + new)) of the examples that are guarded (some at each step, in turn)
    energy      w_e mean over layers i and modules m of  tr(D C_i D^T) / tr(W C_i W^T),  C_i = E[h h^T] of what m reads on i's examples
    orthogonal  w_o mean over layers i and modules m of  |A_i A^T|_F^2   (O-LoRA: Wang et al. 2023, their L_orth)

The guard is on the others' examples, where these may be seen; the energy needs their covariances alone, and the base's weights in the
open. What is guarded at step t follows from the spec's seed and t, so that a training that goes on does what one without a break does.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from clonedna.core.errors import Corrupt, InputError
from clonedna.core.model import Beside
from clonedna.engine.adapters import Adapter
from clonedna.engine.covariance import Covariances
from clonedna.engine.loss import divergence
from clonedna.engine.memory import require
from clonedna.engine.model import STEP_TOKENS, LoadedModel, steps_of
from clonedna.engine.packed import Part
from clonedna.engine.slots import Factors, Term
from clonedna.engine.step import Linear
from clonedna.engine.texts import Row

Weighed = tuple[Adapter, float]


class Trained(Protocol):
    """The adapter that is trained, as far as its further terms need it."""

    scale: float
    matrices: dict[str, tuple[Tensor, Tensor]]

    def factors(self, linear: Linear) -> Factors | None: ...


class Frozen:
    """``packed.Term`` of adapters that are only read: their factors laid side by side."""

    def __init__(self, parts: Sequence[Weighed], device: str) -> None:
        self._factors: dict[str, Factors] = {}
        for name in {name for adapter, _ in parts for name in adapter.matrices}:
            own = [
                (adapter.matrices[name], weight * adapter.scale)
                for adapter, weight in parts
                if name in adapter.matrices
            ]
            a, b = torch.cat([a for (a, _), _ in own]), torch.cat([b.t() * scale for (_, b), scale in own])
            self._factors[name] = Factors(a.to(device), b.to(device), 1.0)

    def factors(self, linear: Linear) -> Factors | None:
        return self._factors.get(linear.name)


class Together:
    """``packed.Term`` of frozen layers and the one that is trained."""

    def __init__(self, frozen: Frozen, trained: Term) -> None:
        self._frozen, self._trained = frozen, trained

    def factors(self, linear: Linear) -> Factors | None:
        one, other = self._frozen.factors(linear), self._trained.factors(linear)
        if one is None or other is None:
            return one or other
        return Factors(torch.cat([one.a, other.a]), torch.cat([one.b * one.scale, other.b * other.scale]), 1.0)


class Company:
    """The others of one training. Raises ``InputError`` when nothing of ``beside`` has a weight."""

    def __init__(
        self, beside: Beside, guard: Sequence[tuple[Sequence[Row], Sequence[Weighed]]], others: Sequence[Adapter],
        inputs: Sequence[Covariances], seed: int,
    ) -> None:  # fmt: skip
        self._beside, self._guard, self._others, self._inputs = beside, guard, others, inputs
        # A row and which of the guards it is of, in an order of the seed's: what is drawn at each step goes round in it.
        self._order = [(row, i) for i, (rows, _) in enumerate(guard) for row in rows if row.scored]
        random.Random(f"{seed}:guard").shuffle(self._order)  # noqa: S311 - a seeded order, no secret
        weights = (
            (beside.guard_weight, self._order), (beside.energy_weight, inputs), (beside.orthogonal_weight, others)
        )  # fmt: skip
        if not any(weight and given for weight, given in weights):
            raise InputError(
                "training beside others has nothing to keep to",
                "give guard examples, covariances or layers, and a weight",
            )
        self._terms: list[Frozen | None] = []
        self._energies: list[dict[str, tuple[Tensor, Tensor | None, float]]] = []

    @property
    def bytes(self) -> int:
        """Estimate of what is held besides the adapter."""
        guard = sum(
            matrix.numel()
            for _, parts in self._guard
            for adapter, _ in parts
            for pair in adapter.matrices.values()
            for matrix in pair
        )
        return 4 * (guard + sum(one.width(name) ** 2 for one in self._inputs for name in one.modules))

    def settle(self, model: LoadedModel) -> None:
        """Bring everything to the model's device. Raises ``Corrupt`` for covariances of other modules, ``InputError`` where the energies
        of the base cannot be known."""
        device = model.base.device
        self._terms = [Frozen(parts, device) if parts else None for _, parts in self._guard]
        longest = max((len(row.ids) for row, _ in self._order), default=0)
        if longest > STEP_TOKENS:
            require(8 * longest * model.vocabulary, f"a guard example of {longest} tokens")
        if self._beside.energy_weight:
            self._energies = [_settled(one, model) for one in self._inputs]

    @property
    def _guards(self) -> bool:
        return bool(self._order and self._beside.guard_weight)

    def gradients(self, model: LoadedModel, trained: Trained, limit: int, steps: int) -> Generator[None, None, None]:
        """Add the gradient of all terms to ``trained``'s; yields between steps. ``steps``: of its optimiser, so far."""
        if (penalty := self.penalty(trained)) is not None:
            penalty.backward()
        if not self._guards:
            return
        count = min(self._beside.guard_examples, len(self._order))
        chosen = [self._order[(steps * count + i) % len(self._order)] for i in range(count)]
        tokens = sum(row.scored for row, _ in chosen)
        for run in steps_of([(i, row) for row, i in chosen], limit):
            rows = [row for _, row in run]
            terms = [self._terms[i] for i, _ in run]
            loss = self._beside.guard_weight * self.divergences(model, trained, rows, terms).sum() / tokens
            loss.backward()
            yield

    def divergences(
        self, model: LoadedModel, trained: Trained, rows: Sequence[Row], terms: Sequence[Frozen | None]
    ) -> Tensor:
        """KL in nats for each scored token of ``rows``: of the layers in ``terms``, against them and ``trained`` together."""
        sequences, places, start = [row.ids[:-1] for row in rows], list[int](), 0
        for row in rows:
            places += range(start + row.start - 1, start + len(row.ids) - 1)
            start += len(row.ids) - 1
        both = [trained if term is None else Together(term, trained) for term in terms]
        with torch.no_grad():
            before = model.run(sequences, [Part(len(ids), term) for ids, term in zip(sequences, terms, strict=True)])
        after = model.run(sequences, [Part(len(ids), term) for ids, term in zip(sequences, both, strict=True)])
        chosen = torch.tensor(places, device=after.device)
        return divergence(after.index_select(0, chosen), before.index_select(0, chosen), model.head)

    def penalty(self, trained: Trained) -> Tensor | None:
        """The terms that are functions of the matrices alone; ``None``: there are none."""
        terms: list[Tensor] = []
        if self._energies:
            each = [energy(trained, known) for known in self._energies]
            terms.append(self._beside.energy_weight * torch.stack(each).mean())
        if self._others and self._beside.orthogonal_weight:
            terms.append(self._beside.orthogonal_weight * overlap(trained, self._others))
        return torch.stack(terms).sum() if terms else None


def energy(trained: Trained, known: dict[str, tuple[Tensor, Tensor | None, float]]) -> Tensor:
    """Mean over the modules of ``tr(D C D^T) / tr(W C W^T)``: of the base's ``W`` the latter is ``known`` beside ``C`` (or its sketch)."""
    shares: list[Tensor] = []
    for name, (a, b) in trained.matrices.items():
        main, diagonal, whole = known[name]
        if diagonal is None:
            core = a @ main @ a.T
        else:
            low = a @ main.T
            core = low @ low.T + (a * diagonal) @ a.T
        shares.append(trained.scale**2 * ((b.T @ b) * core).sum() / whole)
    return torch.stack(shares).mean()


def overlap(trained: Trained, others: Sequence[Adapter]) -> Tensor:
    """Mean over the others' modules that ``trained`` has, too, of ``|A_i A^T|_F^2``."""
    found = [
        (adapter.matrices[name][0].to(a.device) @ a.T).square().sum()
        for adapter in others
        for name, (a, _) in trained.matrices.items()
        if name in adapter.matrices
    ]
    return torch.stack(found).mean() if found else 0.0 * next(iter(trained.matrices.values()))[0].sum()


def _settled(covariances: Covariances, model: LoadedModel) -> dict[str, tuple[Tensor, Tensor | None, float]]:
    """By module ``C`` (or its factors and diagonal) in fp32 on the model's device, and ``tr(W C W^T)``. At least a trillionth of |W|^2."""
    missing = sorted(model.shapes.keys() - covariances.modules)
    if missing:
        raise Corrupt(f"there is no covariance of {missing[0]}", "observe the layer's examples again, on this base")
    found: dict[str, tuple[Tensor, Tensor | None, float]] = {}
    for name, linear in model.linears.items():
        base = linear.base
        if not isinstance(base, nn.Linear) or not base.weight.is_floating_point() or base.weight.dim() != 2:
            raise InputError(
                f"{name} of this base is not held as a plain matrix", "load the base unquantised to penalise energies"
            )
        weight = base.weight.detach().double()
        whole = float(covariances.through(name, weight).diagonal().sum())
        main, diagonal = covariances.parts(name)
        device = model.base.device
        found[name] = (
            main.to(device),
            None if diagonal is None else diagonal.to(device),
            max(whole, 1e-12 * float(weight.square().sum())),
        )
    return found
