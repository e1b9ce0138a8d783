"""Training of slots: several adapters' gradients from one pass over the frozen base, and a step of AdamW for each by itself.

The loss of a job is the mean over all completion tokens of its batch: sum of nats / number of tokens. Prompt tokens are in no term.
Jobs share a pass and nothing else: rows of different slots stand in the same matrix products of the base, each slot's own matrices
see its own rows only. A slot that is trained beside others (``beside.py``) adds the gradient of its further terms after its own examples'.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from clonedna.core.errors import InputError
from clonedna.core.model import LoraSpec, Score, StepLoss
from clonedna.engine.adapters import lora_scale
from clonedna.engine.beside import Company
from clonedna.engine.memory import give_back, require
from clonedna.engine.model import STEP_TOKENS, LoadedModel, row_nlls, score_rows, steps_of, total_scored
from clonedna.engine.packed import Part
from clonedna.engine.slots import Factors
from clonedna.engine.step import Linear
from clonedna.engine.texts import Row

Matrices = dict[str, tuple[Tensor, Tensor]]


@dataclass(slots=True, eq=False, weakref_slot=True)
class TrainedSlot:
    """An adapter that is being trained: its matrices (leaves with a gradient) by module, its scale and its optimiser.

    ``company``: the others that it shall leave be.
    """

    spec: LoraSpec
    number: int
    scale: float
    matrices: Matrices
    optimiser: torch.optim.AdamW
    ready: bool = field(default=False)
    company: Company | None = None

    @property
    def steps(self) -> int:
        """Of the optimiser, so far."""
        state: dict[str, Any] = self.optimiser.state.get(self.parameters[0], {})
        return int(state["step"]) if state else 0

    @property
    def parameters(self) -> list[Tensor]:
        return [matrix for pair in self.matrices.values() for matrix in pair]

    def factors(self, linear: Linear) -> Factors | None:
        pair = self.matrices.get(linear.name)
        return None if pair is None else Factors(pair[0], pair[1].t(), self.scale)


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a training stands: matrices, and for each the two moments and the count of AdamW's steps (0: none yet)."""

    matrices: Matrices
    moments: Mapping[str, Tensor]
    steps: int


class Training:
    """What the owner's thread does for trainers: each method takes the payloads of jobs done together and gives their results."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._next = 0
        self._open: WeakSet[TrainedSlot] = WeakSet()  # one that nobody holds any more is closed by that
        # Short enough that requests are not held up for long, and a function of the base alone: a step's cut shows in the last bits.
        parameters = sum(parameter.numel() for parameter in model.base.model.parameters())
        self._limit = (
            STEP_TOKENS if parameters < 16 << 20 else STEP_TOKENS // 2 if parameters < 256 << 20 else STEP_TOKENS // 4
        )

    @property
    def slots(self) -> int:
        return len(self._open)

    def open(self, payloads: list[tuple[LoraSpec, Saved | None, Company | None]]) -> list[TrainedSlot]:
        """Raises ``NoMemory`` when the estimate does not fit."""
        opened: list[TrainedSlot] = []
        for spec, saved, company in payloads:
            need = training_bytes(self._model, spec) + (company.bytes if company is not None else 0)
            require(need, f"training rank {spec.rank} on base {self._model.base.id!r}")
            opened.append(_open_slot(self._model, spec, self._next, saved))
            if company is not None:
                company.settle(self._model)
                opened[-1].company = company
            self._next += 1
            self._open.add(opened[-1])
        return opened

    def require(self, rows: Sequence[Row]) -> None:
        """Raise ``NoMemory`` for a row that is too long: before its batch is joined with those of others, so that only it fails."""
        if (tokens := max((len(row.ids) for row in rows), default=0)) > STEP_TOKENS:
            require(activation_bytes(self._model, tokens), f"a training example of {tokens} tokens")

    def gradients(self, jobs: list[tuple[TrainedSlot, list[Row]]]) -> Generator[None, None, list[StepLoss]]:
        return _forward_backward(self._model, jobs, self._limit)

    def step(self, payloads: list[tuple[TrainedSlot, float]]) -> list[None]:
        return [_optim_step(trained, rate) for trained, rate in payloads]

    def score(self, payloads: list[tuple[TrainedSlot, list[Row]]]) -> Generator[None, None, list[tuple[Score, ...]]]:
        results: list[tuple[Score, ...]] = []
        for trained, rows in payloads:
            results.append((yield from score_rows(self._model, rows, trained, self._limit)))
        return results

    def saved(self, slots: list[TrainedSlot]) -> list[Saved]:
        """Each slot as it is now, copied. Raises ``InputError`` when a gradient waits for its step: it would be lost."""
        return [_saved(trained) for trained in slots]

    def close(self, slots: list[TrainedSlot]) -> list[None]:
        for trained in slots:
            self._open.discard(trained)
        return [None] * len(slots)


def _open_slot(model: LoadedModel, spec: LoraSpec, number: int, saved: Saved | None) -> TrainedSlot:
    """A new slot as PEFT initialises it: ``A`` uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5)), ``B`` zero; or as it was saved.

    Each module's ``A`` is drawn from a generator of its own, seeded by the spec's seed and the module's name, so nothing else that
    runs can change it. Raises ``InputError`` when no module of the base is targeted.
    """
    matrices: Matrices = {}
    device = model.base.device
    for name, (inside, outside) in model.shapes.items():
        if name.rpartition(".")[2] not in spec.target_modules:
            continue
        if saved is not None:
            a, b = saved.matrices[name]
        else:
            seed = int.from_bytes(hashlib.sha256(f"{spec.seed}:{name}".encode()).digest()[:7], "big")
            a = torch.empty(spec.rank, inside).uniform_(
                -1 / math.sqrt(inside), 1 / math.sqrt(inside), generator=torch.Generator().manual_seed(seed)
            )
            b = torch.zeros(outside, spec.rank)
        matrices[name] = (a.to(device).requires_grad_(), b.to(device).requires_grad_())
    if not matrices:
        raise InputError("no module is targeted by this adapter", "name at least one target module")
    parameters = [matrix for pair in matrices.values() for matrix in pair]
    optimiser = torch.optim.AdamW(
        parameters, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True
    )
    trained = TrainedSlot(spec, number, lora_scale(spec.alpha, spec.rank, rslora=spec.rslora), matrices, optimiser)
    if saved is not None and saved.steps:
        for name, parameter in _named(trained):
            optimiser.state[parameter] = {
                "step": torch.tensor(float(saved.steps), device=device),
                "exp_avg": saved.moments[f"{name}.exp_avg"].to(device),
                "exp_avg_sq": saved.moments[f"{name}.exp_avg_sq"].to(device),
            }
    return trained


def _named(trained: TrainedSlot) -> list[tuple[str, Tensor]]:
    return [
        (f"{name}.{side}", m) for name, pair in trained.matrices.items() for side, m in zip("AB", pair, strict=True)
    ]


def _saved(trained: TrainedSlot) -> Saved:
    if trained.ready:
        raise InputError("a gradient waits for its step", "call optim_step before saving")
    moments: dict[str, Tensor] = {}
    steps = 0
    for name, parameter in _named(trained):
        state: dict[str, Any] = trained.optimiser.state.get(parameter, {})
        if state:
            steps = int(state["step"])
            moments |= {f"{name}.{key}": state[key].detach().clone() for key in ("exp_avg", "exp_avg_sq")}
    matrices = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in trained.matrices.items()}
    return Saved(matrices, moments, steps)


def _forward_backward(
    model: LoadedModel, jobs: Sequence[tuple[TrainedSlot, Sequence[Row]]], limit: int
) -> Generator[None, None, list[StepLoss]]:
    """Add each job's gradient to its own slot; yields between steps. Jobs must be of different slots.

    ``d loss_j / d theta_j`` with ``loss_j = sum(nll_j) / tokens_j`` over the job's whole batch, however many steps it takes.
    """
    counts = [total_scored(rows) for _, rows in jobs]
    scores = [[Score(nll=0.0, tokens=0, bytes=row.bytes) for row in rows] for _, rows in jobs]
    places = [(j, i) for j, (_, rows) in enumerate(jobs) for i, row in enumerate(rows) if row.scored]
    for run in steps_of([(n, jobs[j][1][i]) for n, (j, i) in enumerate(places)], limit):
        if len(jobs) > 1:
            give_back()
        rows = [row for _, row in run]
        owners = [places[n][0] for n, _ in run]
        nlls = row_nlls(model, rows, _parts(rows, [jobs[j][0] for j in owners]))
        loss = torch.stack([nll.sum() / counts[j] for nll, j in zip(nlls, owners, strict=True)]).sum()
        loss.backward()
        for (n, row), nll in zip(run, nlls, strict=True):
            j, i = places[n]
            scores[j][i] = Score(nll=float(nll.detach().double().sum()), tokens=row.scored, bytes=row.bytes)
        yield
    for (trained, _), count in zip(jobs, counts, strict=True):
        if trained.company is not None and count > 0:
            yield from trained.company.gradients(model, trained, limit, trained.steps)
        trained.ready = trained.ready or count > 0
    return [
        StepLoss(loss_sum=sum(score.nll for score in own), tokens=count, per_example=tuple(own))
        for own, count in zip(scores, counts, strict=True)
    ]


def _parts(rows: Sequence[Row], slots: Sequence[TrainedSlot]) -> list[Part]:
    """Neighbouring rows of one slot make one part."""
    parts: list[Part] = []
    for row, slot in zip(rows, slots, strict=True):
        tokens = len(row.ids) - 1
        if parts and parts[-1].term is slot:
            parts[-1] = Part(parts[-1].rows + tokens, slot)
        else:
            parts.append(Part(tokens, slot))
    return parts


def _optim_step(trained: TrainedSlot, learning_rate: float) -> None:
    """Clip this slot's gradient to the spec's norm (0 = not at all), one step of AdamW (Loshchilov & Hutter 2019), gradient to zero."""
    if not trained.ready:
        raise InputError(
            "there is no gradient to step on", "call forward_backward with at least one completion token first"
        )
    if trained.spec.clip > 0:
        torch.nn.utils.clip_grad_norm_(trained.parameters, trained.spec.clip)
    for group in trained.optimiser.param_groups:
        group["lr"] = learning_rate
    trained.optimiser.step()
    trained.optimiser.zero_grad(set_to_none=True)
    trained.ready = False


def training_bytes(model: LoadedModel, spec: LoraSpec) -> int:
    """Estimate: the slot four times (weights, gradient, two moments) and the activations of one step."""
    own = sum(
        spec.rank * (i + o) for name, (i, o) in model.shapes.items() if name.rpartition(".")[2] in spec.target_modules
    )
    return 16 * own + activation_bytes(model, STEP_TOKENS)


def activation_bytes(model: LoadedModel, tokens: int) -> int:
    """Estimate of what a step keeps for its backward pass: a Llama-like block keeps about 12 vectors of the hidden width and 5 of the
    feed-forward width for each token."""
    config = model.base.model.config.get_text_config()
    return 4 * tokens * model.layers * (12 * int(config.hidden_size) + 5 * int(config.intermediate_size))
