"""What modules read: streamed second moments ``C = E[h h^T]`` of every adapted module's inputs, in bounded memory.

Counted are all tokens that are run, of prompts and completions alike but the last of each example, which predicts nothing: keys and values
of a prompt's tokens reach the completion through attention. Modules that read the very same input (q, k and v; gate and up) share a sum.

Wide modules, or all when the whole would pass ``MOST_BYTES``, are kept as a sketch ``F^T F / n + diag(d)``: Frequent Directions (Ghashami,
Liberty, Phillips & Woodruff 2016) and the diagonal that is missing to the true one. With D the sum of what its steps took away,

    |C - (F^T F / n + diag(d))|_2 <= D / n,   so an energy tr(B A C A^T B^T) is off by at most |B A|_F^2 D / n.

Files: ``covariance.safetensors`` with ``count`` (tokens, int64 ``[1]``) and for each module either ``NAME`` ``[in, in]`` fp32, or
``NAME.factors`` ``[k, in]`` (already over sqrt(n)), ``NAME.diagonal`` ``[in]`` and ``NAME.bound`` ``[1]`` (D / n), all fp32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clonedna.core.errors import Corrupt, InputError, NoSpace, WrongBase
from clonedna.core.interference import Observed
from clonedna.engine.adapters import write_atomic
from clonedna.engine.memory import require
from clonedna.engine.model import STEP_TOKENS, LoadedModel, steps_of
from clonedna.engine.packed import PackedStep, Part
from clonedna.engine.slots import Term
from clonedna.engine.step import Linear, forward
from clonedna.engine.texts import Row

FILE, FORMAT = "covariance.safetensors", "dna-covariance/1"
EXACT_WIDTH = 2048  # wider modules are always sketched
DIRECTIONS = 128  # of a sketch
MOST_BYTES = 512 << 20  # of one file
MOST_HEADER = 8 << 20
_GATHERED = 256  # rows that a sketch collects before it shrinks


class Whole:
    """The exact sum of ``h h^T``, in fp64."""

    def __init__(self, width: int, device: str) -> None:
        self._sum = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """``x`` ``[rows, width]``."""
        x = x.double()
        self._sum.addmm_(x.T, x)

    def tensors(self, name: str, count: int) -> dict[str, Tensor]:
        return {name: (self._sum / count).float().cpu()}

    def error(self) -> float:
        return 0.0


class Sketch:
    """Frequent Directions of the rows seen, with what it lost and the true diagonal."""

    def __init__(self, width: int, device: str, directions: int = DIRECTIONS) -> None:
        self._keep = min(directions, width)
        self._rows = torch.zeros(0, width, dtype=torch.float64, device=device)
        self._diagonal = torch.zeros(width, dtype=torch.float64, device=device)
        self._lost = 0.0

    def add(self, x: Tensor) -> None:
        """``x`` ``[rows, width]``."""
        for part in x.double().split(_GATHERED):
            self._diagonal += part.square().sum(0)
            self._rows = torch.cat([self._rows, part])
            if len(self._rows) > self._keep + _GATHERED:
                self._shrink()

    def _shrink(self) -> None:
        """Turn the rows to their principal directions, take the next one's energy from each, keep the largest."""
        if len(self._rows) <= self._keep:
            return
        energies, turned = torch.linalg.eigh(self._rows @ self._rows.T)
        energies, turned = energies.flip(0).clamp(min=0), turned.flip(1)
        least = float(energies[self._keep])
        self._lost += least
        kept = energies[: self._keep]
        scale = torch.where(kept > least, (1 - least / kept.clamp(min=1e-300)).clamp(min=0).sqrt(), 0.0)
        self._rows = scale[:, None] * (turned[:, : self._keep].T @ self._rows)

    def tensors(self, name: str, count: int) -> dict[str, Tensor]:
        self._shrink()
        missing = (self._diagonal - self._rows.square().sum(0)).clamp(min=0)
        return {
            f"{name}.factors": (self._rows / math.sqrt(count)).float().cpu(),
            f"{name}.diagonal": (missing / count).float().cpu(),
            f"{name}.bound": torch.tensor([self._lost / count]),
        }

    def error(self) -> float:
        """The bound by the trace."""
        return self._lost / max(1e-300, float(self._diagonal.sum()))


class Moments:
    """The sums of all modules of ``shapes`` (``(in, out)`` by name), one for each input that some of them share."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], device: str, most: int = MOST_BYTES) -> None:
        self._shapes, self._device = shapes, device
        self._sketched = sketched_widths([inside for inside, _ in shapes.values()], most)
        self._sums: dict[str, Whole | Sketch] = {}
        self._shared: dict[str, str] = {}  # a module -> the one whose sum is its own, too
        self._last: tuple[str, Tensor] | None = None  # held, so that its memory is not another input's meanwhile
        self.tokens = 0

    def add(self, name: str, x: Tensor) -> None:
        """What ``name`` reads now: ``x`` ``[rows, in]``."""
        last = self._last
        if last is not None and last[1].data_ptr() == x.data_ptr() and last[1].shape == x.shape:
            self._shared[name] = last[0]
            return
        self._shared[name], self._last = name, (name, x)
        if name not in self._sums:
            width = x.shape[1]
            self._sums[name] = (Sketch if width in self._sketched else Whole)(width, self._device)
        self._sums[name].add(x)

    def rest(self) -> None:
        """Let go of the last input: a pass is over."""
        self._last = None

    def tensors(self) -> dict[str, Tensor]:
        """As they are written; every module under its own name."""
        found: dict[str, Tensor] = {"count": torch.tensor([self.tokens])}
        for name, owner in self._shared.items():
            found |= self._sums[owner].tensors(name, self.tokens)
        return found

    def observed(self, fingerprint: str, examples: int, size: int) -> Observed:
        sums = [self._sums[owner] for owner in self._shared.values()]
        sketched = [one for one in sums if isinstance(one, Sketch)]
        return Observed(
            base_fingerprint=fingerprint, examples=examples, tokens=self.tokens, exact=len(sums) - len(sketched),
            sketched=len(sketched), error=float(format(max((one.error() for one in sketched), default=0.0), ".4g")), bytes=size,
        )  # fmt: skip


def sketched_widths(widths: Sequence[int], most: int = MOST_BYTES) -> frozenset[int]:
    """Which widths are sketched, so that a file of modules of ``widths`` stays below ``most`` bytes where it can: the widest first."""
    sketched = {width for width in widths if width > EXACT_WIDTH}
    for width in sorted(set(widths) - sketched, reverse=True):
        if sum(4 * (w * min(DIRECTIONS + 1, w) if w in sketched else w * w) for w in widths) <= most:
            break
        if width > DIRECTIONS:
            sketched.add(width)
    return frozenset(sketched)


class _Observing(PackedStep):
    """A packed pass that also tells what each module reads."""

    def __init__(self, lengths: Sequence[int], parts: Sequence[Part], moments: Moments) -> None:
        super().__init__(lengths, parts)
        self._moments = moments

    def adapted(self, linear: Linear, x: Tensor, out: Tensor) -> Tensor:
        self._moments.add(linear.name, x)
        return super().adapted(linear, x, out)


def moments_bytes(shapes: Mapping[str, tuple[int, int]], most: int = MOST_BYTES) -> int:
    """Estimate: one sum in fp64 for each input (k and v read what q does, up what gate does), and the file twice."""
    sketched = sketched_widths([inside for inside, _ in shapes.values()], most)
    rows = {
        width: min(width, DIRECTIONS + 2 * _GATHERED) if width in sketched else width for width, _ in shapes.values()
    }
    shared = ("k_proj", "v_proj", "up_proj")
    sums = sum(8 * width * rows[width] for name, (width, _) in shapes.items() if not name.endswith(shared))
    kept = sum(4 * width * (DIRECTIONS + 1 if width in sketched else width) for width, _ in shapes.values())
    return sums + 2 * kept


def observe_rows(model: LoadedModel, rows: Sequence[Row], term: Term | None) -> Generator[None, None, Moments]:
    """Sum over all rows' inputs, run through one adapter or blend, a step at a time (yields between steps). Raises ``NoMemory``."""
    require(moments_bytes(model.shapes), "second moments of this base's inputs")
    moments = Moments(model.shapes, model.base.device)
    for run in steps_of([(i, row) for i, row in enumerate(rows) if len(row.ids) > 1], STEP_TOKENS):
        sequences = [row.ids[:-1] for _, row in run]
        lengths = [len(ids) for ids in sequences]
        step = _Observing(lengths, [Part(sum(lengths), term)], moments)
        with torch.inference_mode():
            positions = [i for ids in sequences for i in range(len(ids))]
            forward(model.decoder, [token for ids in sequences for token in ids], positions, step)
        moments.rest()
        moments.tokens += sum(lengths)
        yield
    return moments


def write_moments(directory: Path, moments: Moments, fingerprint: str, examples: int) -> Observed:
    """Write ``covariance.safetensors`` into ``directory`` (made if missing), atomically; equal sums give equal bytes.

    Raises ``InputError`` when nothing was observed, ``NoSpace``.
    """
    if not moments.tokens:
        raise InputError("these examples have no tokens to observe", "give examples with a prompt or a completion")
    metadata = {
        "about": json.dumps({"base_fingerprint": fingerprint, "examples": examples, "format": FORMAT}, sort_keys=True)
    }
    data = safetensors.torch.save(moments.tensors(), metadata)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / FILE, data)
    except OSError as error:
        raise NoSpace(
            f"cannot write {FILE} to {directory}: {error.strerror}", "free some space, or check the permissions"
        ) from error
    return moments.observed(fingerprint, examples, len(data))


class Covariances:
    """What ``write_moments`` wrote, read strictly: fp32 tensors on the CPU; products in fp64."""

    def __init__(self, tensors: Mapping[str, Tensor], count: int) -> None:
        self._tensors, self.count = tensors, count
        self.modules = frozenset(
            name.removesuffix(".factors") for name in tensors if not name.endswith((".diagonal", ".bound"))
        )

    def width(self, name: str) -> int:
        """Inputs of the module. Raises ``Corrupt`` for one that is not here."""
        return int(self.parts(name)[0].shape[1])

    def through(self, name: str, a: Tensor) -> Tensor:
        """``a C a^T`` ``[r, r]`` in fp64 of ``a`` ``[r, in]``; differentiable in ``a``. Raises ``Corrupt`` for another width."""
        main, diagonal = self.parts(name)
        if a.shape[1] != main.shape[1]:
            raise Corrupt(
                f"the covariance of {name} has {main.shape[1]} inputs, the adapter {a.shape[1]}", "observe it again"
            )
        a, main = a.double(), main.to(a.device, torch.float64)
        if diagonal is None:
            return a @ main @ a.T
        low = a @ main.T
        return low @ low.T + (a * diagonal.to(a.device, torch.float64)) @ a.T

    def dense(self, name: str) -> Tensor:
        """The matrix ``[in, in]``, fp32; of a sketch, what it stands for."""
        main, diagonal = self.parts(name)
        return main if diagonal is None else main.T @ main + torch.diag(diagonal)

    def bound(self, name: str) -> float:
        """How far the true one may be, in the spectral norm; 0 for a whole one (but for its rounding to fp32)."""
        bound = self._tensors.get(f"{name}.bound")
        return 0.0 if bound is None else float(bound)

    def parts(self, name: str) -> tuple[Tensor, Tensor | None]:
        """The matrix ``[in, in]`` and nothing, or a sketch's factors ``[k, in]`` and diagonal ``[in]``. Raises ``Corrupt``."""
        whole = self._tensors.get(name)
        if whole is not None:
            return whole, None
        factors, diagonal = self._tensors.get(f"{name}.factors"), self._tensors.get(f"{name}.diagonal")
        if factors is None or diagonal is None:
            raise Corrupt(f"there is no covariance of {name}", "observe it again")
        return factors, diagonal


def read_covariances(directory: Path, fingerprint: str) -> Covariances:
    """Read and check the file in ``directory``. Raises ``Corrupt`` (missing, damaged, not finite), ``WrongBase``."""
    try:
        size = (directory / FILE).stat().st_size
        if size > MOST_BYTES + MOST_HEADER:
            raise Corrupt(f"{FILE} has {size} bytes, more than such a file can have", "observe it again")
        raw = (directory / FILE).read_bytes()
        tensors = safetensors.torch.load(raw)
        metadata: dict[str, str] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        count = int(tensors.pop("count"))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Corrupt(f"{FILE} cannot be read ({type(error).__name__})", "observe it again") from error
    refuse_other(metadata, fingerprint)
    if count < 1:
        raise Corrupt(f"{FILE} is of no tokens", "observe it again")
    _refuse_unsound(tensors)
    return Covariances(tensors, count)


def refuse_other(metadata: Mapping[str, str], fingerprint: str) -> None:
    """By a file's metadata: raises ``Corrupt`` for another form, ``WrongBase`` for what is of another base."""
    try:
        about: dict[str, Any] = json.loads(metadata["about"])
        named, form = str(about["base_fingerprint"]), about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{FILE} does not say what it is ({type(error).__name__})", "observe it again") from error
    if form != FORMAT:
        raise Corrupt(f"{FILE} is not in the form {FORMAT}", "observe it again")
    if named != fingerprint:
        raise WrongBase(
            f"these covariances are of base {named[:12]}, not {fingerprint[:12]}", "observe the block on its own base"
        )


def _refuse_unsound(tensors: Mapping[str, Tensor]) -> None:
    """Raises ``Corrupt`` for what cannot be second moments."""
    for name, tensor in tensors.items():
        stem, _, side = name.rpartition(".")
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            fault = "is not finite, or no float of 32 bits"
        elif side == "factors":
            diagonal, bound = tensors.get(f"{stem}.diagonal"), tensors.get(f"{stem}.bound")
            fits = (
                diagonal is not None
                and bound is not None
                and tensor.dim() == 2
                and tuple(diagonal.shape) == tuple(tensor.shape[1:])
            )
            fault = "" if fits else "does not fit its diagonal"
        elif side in ("diagonal", "bound"):
            fault = (
                "" if f"{stem}.factors" in tensors and bool((tensor >= 0).all()) else "has no factors, or is negative"
            )
        elif tensor.dim() != 2 or tensor.shape[0] != tensor.shape[1]:
            fault = "is no square matrix"
        elif not torch.allclose(tensor, tensor.T, rtol=1e-4, atol=1e-6 * float(tensor.diagonal().abs().max())):
            fault = "is not symmetric"
        else:
            fault = "" if bool((tensor.diagonal() >= 0).all()) else "has a negative diagonal"
        if fault:
            raise Corrupt(f"{FILE}: {name[:80]} {fault}", "observe it again")
