"""The local engine: one base in this process, owned by one thread.

Promises: base weights are read and never written; a request without layers is the base's own forward pass; a request names its
adapters and leaves no trace; the same request gives the same tokens alone or in company; the same seed, data and thread count give
the same trained weights, bit for bit, when one adapter trains at a time (several at once: equal within rounding).
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import safetensors.torch
import torch

from clonedna.core.errors import DnaError, InputError, NoSpace, Overloaded
from clonedna.core.interference import Observed
from clonedna.core.model import (
    AdapterInfo,
    BaseInfo,
    Beside,
    EngineStatus,
    Example,
    Layer,
    LoraSpec,
    Mixture,
    SampleChunk,
    SampleRequest,
    Score,
)
from clonedna.engine.adapters import Adapter, Seen, read_adapter
from clonedna.engine.bases import Base, load_base
from clonedna.engine.beside import Company, Weighed
from clonedna.engine.checkpoints import read_start, read_state
from clonedna.engine.cores import cores
from clonedna.engine.covariance import Moments, observe_rows, read_covariances, write_moments
from clonedna.engine.lanes import Lanes
from clonedna.engine.memory import available
from clonedna.engine.mixing import Mixer, voices
from clonedna.engine.model import LoadedModel, score_rows
from clonedna.engine.owner import Owner
from clonedna.engine.packed import Part
from clonedna.engine.prefixes import Prefixes
from clonedna.engine.requests import Sampling
from clonedna.engine.sampling import Sampler
from clonedna.engine.shelf import Lease, Shelf
from clonedna.engine.stacks import Stacks
from clonedna.engine.statistics import Statistics, spread
from clonedna.engine.texts import Row, Texts
from clonedna.engine.trainer import LocalTrainer
from clonedna.engine.training import Training

if TYPE_CHECKING:
    from clonedna.engine.grammar import Grammars

PROBE_TOKENS = 64
MAX_WAITING = 512


def open_engine(
    base: str, *, threads: int = 0, dtype: str = "", device: str = "", quantize: str = "", adapter_bytes: int = 0,
    cache_bytes: int = 0, prefix_bytes: int = -1, max_waiting: int = MAX_WAITING, duty: float = 0.5,
) -> LocalEngine:  # fmt: skip
    """Load ``base`` and start its owner; takes seconds.

    ``threads``: CPU threads, 0 = all that this process may use. ``adapter_bytes``: for adapters in memory, and as much again for those
    in slots; ``cache_bytes``: for keys and values of running requests; both 0 = an eighth of the memory that is free now.
    ``prefix_bytes``: for keys and values of prompts' beginnings, -1 = a quarter of ``cache_bytes``, 0 = none. ``max_waiting``: requests
    that may wait beyond those that run. ``duty``: share of the time for training and measuring while requests run, over 0 to 1.
    ``dtype``, ``device``, ``quantize``: as ``load_base`` has them. Raises ``UnknownBase``, ``NoMemory``, ``InputError``.
    """
    if not 0 < duty <= 1:
        raise InputError(f"duty {duty} is not a share of time", "give a number over 0, at most 1")
    loaded = load_base(base, dtype=dtype, device=device, quantize=quantize)
    cache = cache_bytes or _free(loaded.device) // 8
    return LocalEngine(
        loaded, threads=threads or cores(), adapter_bytes=adapter_bytes or _free(loaded.device) // 8, cache_bytes=cache,
        prefix_bytes=cache // 4 if prefix_bytes < 0 else prefix_bytes, max_waiting=max_waiting, duty=duty,
    )  # fmt: skip


def _free(device: str) -> int:
    return available() if device == "cpu" else int(torch.cuda.mem_get_info()[0])


class LocalEngine:
    """``core.seams.Engine`` over a model in this process. Its methods may be called from several event loops (asyncio's)."""

    def __init__(
        self, base: Base, *, threads: int, adapter_bytes: int, cache_bytes: int, prefix_bytes: int, max_waiting: int, duty: float
    ) -> None:  # fmt: skip
        generation, config = base.model.generation_config, base.model.config.get_text_config()
        stops = getattr(generation, "eos_token_id", None)
        self._texts = Texts(
            base.tokenizer, base.context, begin=getattr(config, "bos_token_id", None),
            stops=stops if isinstance(stops, list) else [stops] if isinstance(stops, int) else [],
        )  # fmt: skip
        self.base = BaseInfo(
            id=base.id, fingerprint=base.fingerprint, parameters=base.parameters, context=base.context,
            vocabulary=int(config.vocab_size), dtype=base.dtype, device=base.device, threads=threads,
            dtype_how=base.dtype_how, weights_digest=base.weights_digest,
        )  # fmt: skip
        torch.set_num_threads(threads)
        self._model = LoadedModel(base)
        self._max_waiting = max_waiting
        self._coming: set[_Stream] = set()  # of requests that are made ready, before the owner has them
        self._statistics = Statistics()
        self._stacks = Stacks(self._model.shapes, base.device, adapter_bytes)
        self._mixer = Mixer(self._stacks, base.device)
        self._lanes = Lanes(self._model.kept, self._model.lengths, cache_bytes)
        self._prefixes = Prefixes(prefix_bytes)
        self._training = Training(self._model)
        self._sampler = Sampler(
            self._model, self._stacks, self._mixer, self._lanes, self._prefixes, self._statistics,
            lambda: self._training.slots > 0,
        )  # fmt: skip
        self._seen = Seen()
        self._shelf = Shelf(self._read, adapter_bytes, self._sampler.gone)
        self._tokenizer = base.tokenizer
        self._outbox = _Outbox()
        self._owner = Owner(
            self._sampler, lambda: self._training.slots, self._outbox.flush, threads=threads, name=f"engine-{base.id}", duty=duty
        )  # fmt: skip
        atexit.register(self._owner.close, 5.0)

    @property
    def status(self) -> EngineStatus:
        counts, sampler = self._statistics, self._sampler
        adapters = self._shelf.residencies(self._stacks.adapters())
        return EngineStatus(
            base=self.base, exact=self._model.lengths.exact, adapters=adapters,
            adapter_bytes=sum(one.bytes for one in adapters if one.state != "disk"), adapter_budget=self._shelf.budget,
            slots=self._stacks.slots, slots_used=len(self._stacks), hits=self._shelf.hits, loads=self._shelf.loads,
            evictions=self._shelf.evictions, thrashing=self._shelf.thrashing, swap=spread(self._shelf.swaps),
            running=sampler.running, waiting=sampler.waiting, training=self._training.slots, requests=counts.requests,
            prompt_tokens=counts.prompt_tokens, completion_tokens=counts.completion_tokens,
            prefix_hits=self._prefixes.hits, prefix_queries=self._prefixes.queries,
            cache_bytes=self._lanes.used + self._prefixes.bytes, cache_budget=self._lanes.budget + self._prefixes.budget,
            gap=spread(list(counts.gaps)), gap_training=spread(list(counts.gaps_training)), first_token=spread(list(counts.first)),
        )  # fmt: skip

    @cached_property
    def _grammars(self) -> Grammars:
        from clonedna.engine.grammar import Grammars

        return Grammars(self._tokenizer, self._texts.stops, self._model.vocabulary)

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        """Raises ``AdapterInvalid`` with the reason, ``WrongBase``, ``NoMemory``, ``Overloaded``."""
        return await anyio.to_thread.run_sync(self._shelf.put, directory, owner, priority)

    async def unload(self, adapter: str) -> None:
        self._shelf.remove(adapter)
        if not self._owner.closed:
            await self._owner.call(self._sweep, None)

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        """One chunk for each token, then one with ``finish`` and the usage. The token that ends a turn is no part of the completion."""
        waiting = self._sampler.waiting + self._owner.inbox + len(self._coming)
        if waiting >= self._max_waiting + self._sampler.places:
            seconds = self._statistics.retry_after(waiting, self._sampler.running)
            raise Overloaded(
                f"{waiting} requests are waiting, as many as may", f"ask again in {seconds} s, or send fewer at once",
                retry_after=seconds,
            )  # fmt: skip
        stream = _Stream(self._outbox)
        self._coming.add(stream)
        try:
            try:
                await anyio.to_thread.run_sync(self._ask, request, stream)
            finally:
                self._coming.discard(stream)
            while True:
                chunk = await stream.get()
                yield chunk
                if chunk.finish is not None:
                    return
        finally:
            stream.closed = True

    def _ask(self, request: SampleRequest, stream: _Stream) -> None:
        """In a worker's thread to its end, also when nobody waits for it any more: then the owner gives back what is leased here."""
        sampling = self._prepare(request, stream)
        try:
            self._owner.put(sampling)
        except BaseException:
            sampling.lease.release()
            raise

    def _prepare(self, request: SampleRequest, stream: _Stream) -> Sampling:
        prompt = self._texts.prompt(request)
        constrained = request.guide is not None or (request.tools and request.tool_choice != "none")
        guidance = self._grammars.compile(request) if constrained else None
        lease = self._shelf.lease(voices(request.layers, request.mixture))
        try:
            self._mixer.prepare(lease, request.mixture)
        except BaseException:
            lease.release()
            raise
        return Sampling(request, prompt, stream, self._texts, lease, guidance)

    async def nll(
        self, examples: Sequence[Example], layers: Sequence[Layer] = (), *, mixture: Mixture | None = None
    ) -> tuple[Score, ...]:
        """Raises ``NotFound`` for a layer that is not loaded, ``InputError`` for layers beside a mixture."""
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        async with self._leased(voices(layers, mixture)) as lease:
            await anyio.to_thread.run_sync(self._mixer.prepare, lease, mixture)
            return await self._owner.call(self._score, (rows, lease, mixture))

    async def observe(self, examples: Sequence[Example], layers: Sequence[Layer], directory: Path) -> Observed:
        """Raises ``NotFound`` for a layer that is not loaded, ``InputError`` for examples without tokens, ``NoMemory``, ``NoSpace``."""
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        async with self._leased(layers) as lease:
            moments: Moments = await self._owner.call(self._observe, (rows, lease))
        return await anyio.to_thread.run_sync(write_moments, directory, moments, self.base.fingerprint, len(rows))

    @asynccontextmanager
    async def _leased(self, layers: Sequence[Layer]) -> AsyncGenerator[Lease]:
        """Given back also when the caller is cancelled while the disk is still read."""
        taken: list[Lease] = []
        left = threading.Event()

        def take() -> None:
            taken.append(self._shelf.lease(layers))
            if left.is_set():
                taken[0].release()

        try:
            await anyio.to_thread.run_sync(take)
            yield taken[0]
        finally:
            left.set()
            for lease in taken:
                lease.release()

    async def train(
        self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None, beside: Beside | None = None
    ) -> LocalTrainer:
        """Raises ``NoMemory`` when weights, moments and one step's activations would not fit (estimated), ``AdapterInvalid`` when what is
        in ``resume`` belongs to another spec or base or what is in ``start`` has another shape, ``WrongBase``, ``InputError`` for both."""
        if resume is not None and start is not None:
            raise InputError("a training either goes on or starts from files", "give resume or start")
        saved = None
        if (files := resume or start) is not None:
            read = read_state if resume is not None else read_start
            saved = await anyio.to_thread.run_sync(read, files, spec, self._model.shapes, self.base.fingerprint)
        company = None if beside is None else await self._company(beside, spec.seed)
        trained = await self._owner.call(self._training.open, (spec, saved, company))
        return LocalTrainer(self._owner, self._training, self._texts, self.base, trained)

    async def _company(self, beside: Beside, seed: int) -> Company:
        """What an adapter is trained beside, its layers read and held for as long. Raises ``NotFound``, ``Corrupt``, ``WrongBase``."""
        guard: list[tuple[list[Row], list[Weighed]]] = []
        for guarded in beside.guard:
            async with self._leased(guarded.layers) as lease:
                guard.append((await anyio.to_thread.run_sync(self._texts.rows, guarded.examples), list(lease.parts)))
        async with self._leased(beside.orthogonal) as lease:
            others = [adapter for adapter, _ in lease.parts]
        fingerprint = self.base.fingerprint
        inputs = [
            await anyio.to_thread.run_sync(read_covariances, folder, fingerprint) for folder in beside.covariances
        ]
        return Company(beside, guard, others, inputs, seed)

    async def write_probe(self, examples: Sequence[Example], layers: Sequence[Layer], path: Path) -> int:
        """Write, for ``check``, token ids and logits of each example's last positions (at most 64), computed by the owner.

        A safetensors file with ``ids.N`` ``[tokens]`` and ``logits.N`` ``[positions, vocabulary]`` fp32. Gives the number of positions.
        """
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        async with self._leased(layers) as lease:
            tensors: dict[str, torch.Tensor] = await self._owner.call(self._probe, (rows, lease))
        await anyio.to_thread.run_sync(_save_tensors, tensors, path)
        return sum(len(tensor) for name, tensor in tensors.items() if name.startswith("logits."))

    async def close(self) -> None:
        """End the owner's thread; what still waits is cancelled."""
        await anyio.to_thread.run_sync(self._owner.close)
        atexit.unregister(self._owner.close)

    # The owner's thread runs what follows; each takes a list of payloads (one, unless jobs were joined) and gives a list of results.

    def _score(
        self, payloads: list[tuple[list[Row], Lease, Mixture | None]]
    ) -> Generator[None, None, list[tuple[Score, ...]]]:
        ((rows, lease, mixture),) = payloads
        voice = self._mixer.use(lease, mixture)
        try:
            return [(yield from score_rows(self._model, rows, voice))]
        finally:
            self._mixer.leave(voice)

    def _observe(self, payloads: list[tuple[list[Row], Lease]]) -> Generator[None, None, list[Moments]]:
        ((rows, lease),) = payloads
        block = self._stacks.use(lease.key, lease.parts) if lease.key else None
        try:
            return [(yield from observe_rows(self._model, rows, block))]
        finally:
            if block is not None:
                self._stacks.leave(block)

    def _sweep(self, payloads: list[None]) -> list[None]:
        self._sampler.sweep()
        return payloads

    @torch.inference_mode()
    def _probe(self, payloads: list[tuple[list[Row], Lease]]) -> list[dict[str, torch.Tensor]]:
        ((rows, lease),) = payloads
        block = self._stacks.use(lease.key, lease.parts) if lease.key else None
        tensors: dict[str, torch.Tensor] = {}
        try:
            for i, row in enumerate(rows):
                hidden = self._model.run([row.ids], [Part(len(row.ids), block)])
                tensors[f"ids.{i}"] = torch.tensor(row.ids)
                tensors[f"logits.{i}"] = self._model.logits(hidden[-PROBE_TOKENS:]).cpu()
        finally:
            if block is not None:
                self._stacks.leave(block)
        return [tensors]

    def _read(self, directory: Path) -> Adapter:
        return read_adapter(directory, self._model.shapes, self.base.fingerprint, self._seen)


class _Outbox:
    """Chunks on their way from the owner's thread to event loops: one wake-up for each loop and step, however many streams it reads."""

    def __init__(self) -> None:
        self._parcels: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, SampleChunk | DnaError]]] = {}

    def put(self, stream: _Stream, item: SampleChunk | DnaError) -> None:
        self._parcels.setdefault(stream.loop, []).append((stream, item))

    def flush(self) -> None:
        parcels, self._parcels = self._parcels, {}
        for loop, items in parcels.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # the loop is gone, and its readers with it
                for stream, _ in items:
                    stream.closed = True


def _deliver(items: list[tuple[_Stream, SampleChunk | DnaError]]) -> None:
    for stream, item in items:
        stream.queue.put_nowait(item)


class _Stream:
    """Chunks of one request, to the event loop that it was made in."""

    def __init__(self, outbox: _Outbox) -> None:
        self.closed = False
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[SampleChunk | DnaError] = asyncio.Queue()
        self._outbox = outbox
        self._put = 0
        self._taken = 0

    @property
    def behind(self) -> int:
        return self._put - self._taken

    def put(self, item: SampleChunk | DnaError) -> None:
        """From the owner's thread."""
        self._put += 1
        self._outbox.put(self, item)

    async def get(self) -> SampleChunk:
        item = await self.queue.get()
        self._taken += 1
        if isinstance(item, DnaError):
            raise item
        return item


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        safetensors.torch.save_file(tensors, path)
    except OSError as error:
        raise NoSpace(f"cannot write {path.name}: {error.strerror}", "free some space") from error
