"""Training of slots: several adapters' gradients from one pass over the frozen base, and a step of AdamW for each by itself.

The loss of a job is the mean over all completion tokens of its batch: sum of nats / number of tokens. Prompt tokens are in no term.
Jobs share a pass and nothing else: rows of different slots stand in the same matrix products of the base, each slot's own matrices
see its own rows only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clonedna.core.errors import InputError
from clonedna.core.model import LoraSpec, Score, StepLoss
from clonedna.engine.adapters import lora_scale
from clonedna.engine.memory import require
from clonedna.engine.model import STEP_TOKENS, LoadedModel, row_nlls, score_rows, steps_of, total_scored
from clonedna.engine.slots import Pair
from clonedna.engine.step import Part
from clonedna.engine.texts import Row


@dataclass(slots=True)
class TrainedSlot:
    """A slot that is being trained: its matrices (leaves with a gradient) by module and its optimiser."""

    spec: LoraSpec
    slot: int
    matrices: dict[str, tuple[Tensor, Tensor]]
    optimiser: torch.optim.AdamW
    ready: bool = field(default=False)

    @property
    def parameters(self) -> list[Tensor]:
        return [matrix for pair in self.matrices.values() for matrix in pair]


class Training:
    """What the owner's thread does for trainers: each method takes the payloads of jobs done together and gives their results."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.slots = 0

    def open(self, specs: list[LoraSpec]) -> list[TrainedSlot]:
        """Raises ``NoMemory`` when the estimate does not fit."""
        opened: list[TrainedSlot] = []
        for spec in specs:
            require(training_bytes(self._model, spec), f"training rank {spec.rank} on base {self._model.base.id!r}")
            opened.append(_open_slot(self._model, spec))
            self.slots += 1
        return opened

    def gradients(self, jobs: list[tuple[TrainedSlot, list[Row]]]) -> Generator[None, None, list[StepLoss]]:
        return _forward_backward(self._model, jobs)

    def step(self, payloads: list[tuple[TrainedSlot, float]]) -> list[None]:
        return [_optim_step(trained, rate) for trained, rate in payloads]

    def score(self, payloads: list[tuple[TrainedSlot, list[Row]]]) -> Generator[None, None, list[tuple[Score, ...]]]:
        results: list[tuple[Score, ...]] = []
        for trained, rows in payloads:
            results.append((yield from score_rows(self._model, rows, ((trained.slot, 1.0),))))
        return results

    def copies(self, slots: list[TrainedSlot]) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """Each slot's matrices as they are now."""
        return [{name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in s.matrices.items()} for s in slots]

    def close(self, slots: list[TrainedSlot]) -> list[None]:
        for trained in slots:
            self._model.slots.remove(trained.slot)
            self.slots -= 1
        return [None] * len(slots)


def _open_slot(model: LoadedModel, spec: LoraSpec) -> TrainedSlot:
    """A new slot as PEFT initialises it: ``A`` uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5)), ``B`` zero.

    Each module's ``A`` is drawn from a generator of its own, seeded by the spec's seed and the module's name, so nothing else that
    runs can change it. Raises ``InputError`` when no module of the base is targeted.
    """
    matrices: dict[str, tuple[Tensor, Tensor]] = {}
    device = model.base.device
    for name, (inside, outside) in model.shapes.items():
        if name.rpartition(".")[2] not in spec.target_modules:
            continue
        seed = int.from_bytes(hashlib.sha256(f"{spec.seed}:{name}".encode()).digest()[:7], "big")
        a = torch.empty(spec.rank, inside).uniform_(
            -1 / math.sqrt(inside), 1 / math.sqrt(inside), generator=torch.Generator().manual_seed(seed)
        )
        b = torch.zeros(outside, spec.rank)
        matrices[name] = (a.to(device).requires_grad_(), b.to(device).requires_grad_())
    if not matrices:
        raise InputError("no module is targeted by this adapter", "name at least one target module")
    slot = model.slots.add(
        {name: Pair(a, b) for name, (a, b) in matrices.items()}, lora_scale(spec.alpha, spec.rank, rslora=spec.rslora)
    )
    parameters = [matrix for pair in matrices.values() for matrix in pair]
    optimiser = torch.optim.AdamW(
        parameters, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=True
    )
    return TrainedSlot(spec, slot, matrices, optimiser)


def _forward_backward(
    model: LoadedModel, jobs: Sequence[tuple[TrainedSlot, Sequence[Row]]]
) -> Generator[None, None, list[StepLoss]]:
    """Add each job's gradient to its own slot; yields between steps. Jobs must be of different slots.

    ``d loss_j / d theta_j`` with ``loss_j = sum(nll_j) / tokens_j`` over the job's whole batch, however many steps it takes.
    """
    counts = [total_scored(rows) for _, rows in jobs]
    scores = [[Score(nll=0.0, tokens=0, bytes=row.bytes) for row in rows] for _, rows in jobs]
    places = [(j, i) for j, (_, rows) in enumerate(jobs) for i, row in enumerate(rows) if row.scored]
    for run in steps_of([(n, jobs[j][1][i]) for n, (j, i) in enumerate(places)]):
        rows = [row for _, row in run]
        owners = [places[n][0] for n, _ in run]
        nlls = row_nlls(model, rows, _parts(rows, [jobs[j][0].slot for j in owners]))
        loss = torch.stack([nll.sum() / counts[j] for nll, j in zip(nlls, owners, strict=True)]).sum()
        loss.backward()
        for (n, row), nll in zip(run, nlls, strict=True):
            j, i = places[n]
            scores[j][i] = Score(nll=float(nll.detach().double().sum()), tokens=row.scored, bytes=row.bytes)
        yield
    for (trained, _), count in zip(jobs, counts, strict=True):
        trained.ready = trained.ready or count > 0
    return [
        StepLoss(loss_sum=sum(score.nll for score in own), tokens=count, per_example=tuple(own))
        for own, count in zip(scores, counts, strict=True)
    ]


def _parts(rows: Sequence[Row], slots: Sequence[int]) -> list[Part]:
    """Neighbouring rows of one slot make one part."""
    parts: list[Part] = []
    for row, slot in zip(rows, slots, strict=True):
        tokens = len(row.ids) - 1
        if parts and parts[-1].slots == ((slot, 1.0),):
            parts[-1] = Part(parts[-1].tokens + tokens, parts[-1].slots)
        else:
            parts.append(Part(tokens, ((slot, 1.0),)))
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
    """Estimate: the slot four times (weights, gradient, two moments) and the activations that one step keeps for its backward pass.

    For each token and layer a Llama-like block keeps about 12 vectors of the hidden width and 5 of the feed-forward width.
    """
    own = sum(
        spec.rank * (i + o) for name, (i, o) in model.shapes.items() if name.rpartition(".")[2] in spec.target_modules
    )
    config = model.base.model.config.get_text_config()
    kept = (
        model.layers
        * (12 * int(config.hidden_size) + 5 * int(config.intermediate_size))
        * max(STEP_TOKENS, model.base.context)
    )
    return 4 * (4 * own + kept)
