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

from clonedna.core.errors import DnaError, NoSpace
from clonedna.core.model import (
    AdapterInfo,
    BaseInfo,
    Example,
    Layer,
    LoraSpec,
    SampleChunk,
    SampleRequest,
    Score,
)
from clonedna.engine.adapters import Adapter, read_adapter
from clonedna.engine.bases import Base, load_base
from clonedna.engine.model import LoadedModel, score_rows
from clonedna.engine.owner import Owner
from clonedna.engine.sampling import WIDTH, Sampler, Sampling
from clonedna.engine.shelf import Shelf
from clonedna.engine.step import Part
from clonedna.engine.texts import Row, Texts
from clonedna.engine.trainer import LocalTrainer
from clonedna.engine.training import Training

PROBE_TOKENS = 64


def open_engine(base: str, *, threads: int = 0, dtype: str = "", device: str = "", width: int = WIDTH) -> LocalEngine:
    """Load ``base`` and start its owner; takes seconds. ``threads``: CPU threads, 0 = all that this process may use.
    ``width``: how many requests decode in one step; many together are fastest at 8, one at a time is fastest at 1.

    Raises ``UnknownBase``, ``NoMemory``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return LocalEngine(load_base(base, dtype=dtype, device=device), threads=threads or cores, width=width)


class LocalEngine:
    """``core.seams.Engine`` over a model in this process. Its methods may be called from several event loops (asyncio's)."""

    def __init__(self, base: Base, *, threads: int, width: int = WIDTH) -> None:
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
        self._training = Training(self._model)
        self._owner = Owner(
            Sampler(self._model, self._shelf.lease, width=width),
            lambda: self._training.slots,
            threads=threads,
            name=f"engine-{base.id}",
        )
        atexit.register(self._owner.close, 5.0)

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
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
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        return await self._owner.call(self._score, (rows, tuple(layers)))

    async def train(self, spec: LoraSpec) -> LocalTrainer:
        """Raises ``NoMemory`` when weights, moments and one step's activations would not fit (estimated)."""
        trained = await self._owner.call(self._training.open, spec)
        return LocalTrainer(self._owner, self._training, self._texts, self.base, trained)

    async def write_probe(self, examples: Sequence[Example], layers: Sequence[Layer], path: Path) -> int:
        """Write, for ``check``, token ids and logits of each example's last positions (at most 64), computed by the owner.

        A safetensors file with ``ids.N`` ``[tokens]`` and ``logits.N`` ``[positions, vocabulary]`` fp32. Gives the number of positions.
        """
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        tensors: dict[str, torch.Tensor] = await self._owner.call(self._probe, (rows, tuple(layers)))
        await anyio.to_thread.run_sync(_save_tensors, tensors, path)
        return sum(len(tensor) for name, tensor in tensors.items() if name.startswith("logits."))

    async def close(self) -> None:
        """End the owner's thread; what still waits is cancelled."""
        await anyio.to_thread.run_sync(self._owner.close)
        atexit.unregister(self._owner.close)

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
