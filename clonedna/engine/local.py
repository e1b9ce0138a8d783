"""The local engine: one base in this process, owned by one thread.

Promises: base weights are read and never written; a request without layers is the base's own forward pass; a request names its
adapters and leaves no trace; the same request gives the same tokens alone or in company; the same seed, data and thread count give
the same trained weights, bit for bit, when one adapter trains at a time (several at once: equal within rounding).
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path

import anyio.to_thread
import safetensors.torch
import torch

from clonedna.core.errors import DnaError, InputError, NoSpace
from clonedna.core.model import AdapterInfo, BaseInfo, Example, Layer, LoraSpec, SampleChunk, SampleRequest, Score, StepLoss
from clonedna.engine.adapters import Adapter, read_adapter, write_adapter
from clonedna.engine.bases import Base, load_base
from clonedna.engine.memory import require
from clonedna.engine.model import LoadedModel, score_rows
from clonedna.engine.owner import Owner
from clonedna.engine.sampling import Sampler, Sampling
from clonedna.engine.shelf import Shelf
from clonedna.engine.step import Part
from clonedna.engine.texts import Row, Texts
from clonedna.engine.training import TrainedSlot, forward_backward, open_slot, optim_step, training_bytes

PROBE_TOKENS = 64


def open_engine(base: str, *, threads: int = 0, dtype: str = "", device: str = "") -> LocalEngine:
    """Load ``base`` and start its owner; takes seconds. ``threads``: CPU threads, 0 = all that this process may use.

    Raises ``UnknownBase``, ``NoMemory``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return LocalEngine(load_base(base, dtype=dtype, device=device), threads=threads or cores)


class LocalEngine:
    """``core.seams.Engine`` over a model in this process. Its methods may be called from several event loops (asyncio's)."""

    def __init__(self, base: Base, *, threads: int) -> None:
        parameters = sum(parameter.numel() for parameter in base.model.parameters())
        generation, config = base.model.generation_config, base.model.config.get_text_config()
        stops = getattr(generation, "eos_token_id", None)
        self._texts = Texts(
            base.tokenizer, base.context, begin=getattr(config, "bos_token_id", None),
            stops=stops if isinstance(stops, list) else [stops] if isinstance(stops, int) else [],
        )  # fmt: skip
        self.base = BaseInfo(
            id=base.id, fingerprint=base.fingerprint, parameters=parameters, context=base.context,
            vocabulary=int(config.vocab_size), dtype=base.dtype, device=base.device, threads=threads,
        )  # fmt: skip
        self._model = LoadedModel(base)
        self._shelf = Shelf(self._model)
        self._owner = Owner(Sampler(self._model, self._shelf.lease), threads=threads, name=f"engine-{base.id}")
        atexit.register(self._owner.close, 5.0)

    async def load(self, directory: Path) -> AdapterInfo:
        """Raises ``AdapterInvalid`` with the reason, ``WrongBase``, ``NoMemory``."""
        adapter = await anyio.to_thread.run_sync(read_adapter, directory, self._model.shapes, self.base.fingerprint)
        return await self._owner.call(self._put, adapter)

    async def unload(self, adapter: str) -> None:
        await self._owner.call(self._remove, adapter)

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        """One chunk for each token, then one with ``finish`` and the usage. The token that ends a turn is no part of the completion."""
        prompt = await anyio.to_thread.run_sync(self._texts.prompt, request)
        stream = _Stream()
        self._owner.put(Sampling(request, prompt, stream, self._texts))
        try:
            while True:
                chunk = await stream.get()
                yield chunk
                if chunk.finish is not None:
                    return
        finally:
            stream.closed = True

    async def nll(self, examples: Sequence[Example], layers: Sequence[Layer] = ()) -> tuple[Score, ...]:
        """Raises ``NotFound`` for a layer that is not loaded."""
        rows = await self.rows(examples)
        return await self._owner.call(self._score, (rows, tuple(layers)))

    async def train(self, spec: LoraSpec) -> LocalTrainer:
        """Raises ``NoMemory`` when weights, moments and one step's activations would not fit (estimated)."""
        trained = await self._owner.call(self._open_slot, spec)
        return LocalTrainer(self, trained)

    async def write_probe(self, examples: Sequence[Example], layers: Sequence[Layer], path: Path) -> int:
        """Write, for ``check``, token ids and logits of each example's last positions (at most 64), computed by the owner.

        A safetensors file with ``ids.N`` ``[tokens]`` and ``logits.N`` ``[positions, vocabulary]`` fp32. Gives the number of positions.
        """
        rows = await self.rows(examples)
        tensors: dict[str, torch.Tensor] = await self._owner.call(self._probe, (rows, tuple(layers)))
        await anyio.to_thread.run_sync(_save_tensors, tensors, path)
        return sum(len(tensor) for name, tensor in tensors.items() if name.startswith("logits."))

    async def close(self) -> None:
        """End the owner's thread; what still waits is cancelled."""
        await anyio.to_thread.run_sync(self._owner.close)
        atexit.unregister(self._owner.close)

    async def rows(self, examples: Sequence[Example]) -> list[Row]:
        """The examples' tokens, encoded beside the owner's work."""
        return await anyio.to_thread.run_sync(lambda: [self._texts.row(example) for example in examples])

    # The owner's thread runs what follows; each takes a list of payloads (one, unless jobs were joined) and gives a list of results.

    def _put(self, adapters: list[Adapter]) -> list[AdapterInfo]:
        return [self._shelf.put(adapter) for adapter in adapters]

    def _remove(self, adapters: list[str]) -> list[None]:
        return [self._shelf.remove(adapter) for adapter in adapters]

    def _score(
        self, payloads: list[tuple[list[Row], tuple[Layer, ...]]]
    ) -> Generator[None, None, list[tuple[Score, ...]]]:
        ((rows, layers),) = payloads
        path, release = self._shelf.lease(layers)
        try:
            return [(yield from score_rows(self._model, rows, path))]
        finally:
            release()

    @torch.inference_mode()
    def _probe(self, payloads: list[tuple[list[Row], tuple[Layer, ...]]]) -> list[dict[str, torch.Tensor]]:
        ((rows, layers),) = payloads
        path, release = self._shelf.lease(layers)
        tensors: dict[str, torch.Tensor] = {}
        try:
            for i, row in enumerate(rows):
                hidden = self._model.run([row.ids], [Part(len(row.ids), path)])
                tensors[f"ids.{i}"] = torch.tensor(row.ids)
                tensors[f"logits.{i}"] = self._model.logits(hidden[-PROBE_TOKENS:]).cpu()
        finally:
            release()
        return [tensors]

    def _open_slot(self, specs: list[LoraSpec]) -> list[TrainedSlot]:
        opened: list[TrainedSlot] = []
        for spec in specs:
            require(training_bytes(self._model, spec), f"training rank {spec.rank} on base {self.base.id!r}")
            opened.append(open_slot(self._model, spec))
            self._owner.expected += 1
        return opened

    def _gradients(self, jobs: list[tuple[TrainedSlot, list[Row]]]) -> Generator[None, None, list[StepLoss]]:
        return forward_backward(self._model, jobs)

    def _step(self, payloads: list[tuple[TrainedSlot, float]]) -> list[None]:
        return [optim_step(trained, rate) for trained, rate in payloads]

    def _score_slot(self, payloads: list[tuple[int, list[Row]]]) -> Generator[None, None, list[tuple[Score, ...]]]:
        ((slot, rows),) = payloads
        return [(yield from score_rows(self._model, rows, ((slot, 1.0),)))]

    def _copies(self, slots: list[TrainedSlot]) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        return [{name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in s.matrices.items()} for s in slots]

    def _close_slot(self, slots: list[int]) -> list[None]:
        for slot in slots:
            self._model.slots.remove(slot)
            self._owner.expected -= 1
        return [None] * len(slots)


class LocalTrainer:
    """``core.seams.Trainer`` over one slot. Batches of several trainers that arrive together share the base's matrix products."""

    def __init__(self, engine: LocalEngine, trained: TrainedSlot) -> None:
        self._engine = engine
        self._trained: TrainedSlot | None = trained

    async def forward_backward(self, batch: Sequence[Example]) -> StepLoss:
        """A batch without a completion token adds nothing."""
        rows = await self._engine.rows(batch)
        trained = self._open()
        return await self._engine._owner.call(self._engine._gradients, (trained, rows), key=trained.slot)

    async def optim_step(self, learning_rate: float) -> None:
        """Raises ``InputError`` when there is no gradient."""
        await self._engine._owner.call(self._engine._step, (self._open(), learning_rate))

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        rows = await self._engine.rows(examples)
        return await self._engine._owner.call(self._engine._score_slot, (self._open().slot, rows))

    async def save(self, directory: Path) -> None:
        """The weights are those of this moment; they are written beside the owner's work. Raises ``NoSpace``."""
        trained, base = self._open(), self._engine.base
        matrices = await self._engine._owner.call(self._engine._copies, trained)
        await anyio.to_thread.run_sync(
            lambda: write_adapter(
                directory, matrices, rank=trained.spec.rank, alpha=trained.spec.alpha, rslora=trained.spec.rslora,
                base=base.id, fingerprint=base.fingerprint,
            )
        )  # fmt: skip

    async def close(self) -> None:
        """Closing twice does nothing."""
        trained, self._trained = self._trained, None
        if trained is not None:
            await self._engine._owner.call(self._engine._close_slot, trained.slot)

    def _open(self) -> TrainedSlot:
        if self._trained is None:
            raise InputError("this trainer is closed", "ask the engine for a new one")
        return self._trained


class _Stream:
    """Chunks from the owner's thread to one event loop."""

    def __init__(self) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[SampleChunk | DnaError] = asyncio.Queue()
        self._put = 0
        self._taken = 0

    @property
    def behind(self) -> int:
        return self._put - self._taken

    def put(self, item: SampleChunk | DnaError) -> None:
        """From the owner's thread. A loop that is gone has no reader."""
        self._put += 1
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            self.closed = True

    async def get(self) -> SampleChunk:
        item = await self._queue.get()
        self._taken += 1
        if isinstance(item, DnaError):
            raise item
        return item


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        safetensors.torch.save_file(tensors, path)
    except OSError as error:
        raise NoSpace(f"cannot write {path.name}: {error.strerror}", "free some space") from error
