"""The ``vllm`` engine: a base model that a vLLM server holds, reached by URL.

Text becomes tokens here, with the base's own tokenizer and template, and tokens become text here: what is asked and what is answered
is the local engine's to the character, and only tokens and probabilities are the server's. Adapters are checked here as the local
engine checks them, then loaded under a name that ends in the digest of their files, so a name never stands for other weights.

What is *not* known: vLLM gives no fingerprint of its weights. The base that the user names is read from its files (config and
tokenizer, no weights) and its fingerprint is **declared, not verified by the server**; ``base.device`` says so. Checked on opening:
the served name or path, the longest sequence, and that the server's tokenizer cuts a probe text as ours does.

Not offered: training (``Unavailable``), several adapters or weights other than 1 in one request (``InputError``). Differences in
tokens and scores from the local engine are measured in docs/vllm.md.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from clonedna.core.errors import DnaError, InputError, NotFound, TimedOut, Unavailable, WrongBase
from clonedna.core.model import (
    AdapterInfo,
    BaseInfo,
    Beside,
    EngineStatus,
    Example,
    Layer,
    LoraSpec,
    Mixture,
    Residency,
    SampleChunk,
    SampleRequest,
    Score,
)
from clonedna.engine.adapters import read_adapter
from clonedna.engine.bases import Base, outline_base
from clonedna.engine.slots import shapes_of
from clonedna.engine.statistics import LATEST, spread
from clonedna.engine.texts import Row, Texts
from clonedna.engine.vllm_asks import Answer, nll_body, nll_of, sample_body
from clonedna.engine.vllm_wire import Reading, Wire, as_object

PROBE = "def größe(width, height):\n\treturn width * height  # 12345, 日本 🧀\n"
DRAIN = 600.0
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def open_vllm(base: str, *, url: str, key: str = "", timeout: float = 120.0) -> VllmEngine:
    """Look at the server and compare it with ``base`` (a bundled name, a folder, a hub name); takes a second or two.

    ``url``: the server's, with or without ``/v1``; ``key``: its ``--api-key``; ``timeout``: seconds without any answer. Raises
    ``UnknownBase``, ``WrongBase`` where the server contradicts the base, ``Unavailable``, ``TimedOut``, ``Unauthorised``, ``InputError``.
    """
    wire = Wire(url, key, timeout)
    return VllmEngine(outline_base(base), wire)


@dataclass(slots=True)
class _Place:
    """A loaded adapter: ``name`` on the server, ``loads`` how often this engine put it there, ``uses`` requests that hold it now."""

    info: AdapterInfo
    name: str
    owner: str = ""
    priority: float = 0.5
    loads: int = 0
    uses: int = 0
    hits: int = 0
    used: float = 0.0
    leaving: bool = False


def _refuse_mixture(mixture: Mixture | None) -> None:
    if mixture is not None:
        raise InputError(
            f"vLLM takes one adapter in a request, no {mixture.kind} of several",
            "use the local engine, or merge the blocks (dna merge)",
        )


class VllmEngine:
    """``core.seams.Engine`` over a vLLM server. Its methods may be called from several event loops (asyncio's)."""

    def __init__(self, base: Base, wire: Wire) -> None:
        self._wire, self._reading = wire, Reading(wire)
        self._served, longest = _served(wire, base)
        _compare_tokenizers(wire, base, self._served)
        config, generation = base.model.config.get_text_config(), base.model.generation_config
        stops = getattr(generation, "eos_token_id", None)
        context = min(base.context, longest)
        self._texts = Texts(
            base.tokenizer, context, begin=getattr(config, "bos_token_id", None),
            stops=stops if isinstance(stops, list) else [stops] if isinstance(stops, int) else [],
        )  # fmt: skip
        self._shapes = shapes_of(base.model)
        version = as_object(wire.get("/version")).get("version", "?")
        self.base = BaseInfo(
            id=base.id, fingerprint=base.fingerprint, parameters=sum(one.numel() for one in base.model.parameters()), context=context,
            vocabulary=int(config.vocab_size), dtype="unknown", device=f"vllm {version} (fingerprint declared, not verified)", threads=1,
        )  # fmt: skip
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._counts = _Counts()
        self._before = self._reading.metrics()

    @property
    def status(self) -> EngineStatus:
        """Counts of this engine; ``prefix_*`` are the server's since opening, of all its clients. Asks the server at most once a second.

        ``state`` is ``memory`` for what the server has accepted: which adapters are in its slots, it does not tell. Raises
        ``Unavailable`` when the server is gone.
        """
        told, counts, now = self._reading.metrics(), self._counts, time.monotonic()

        def since(name: str) -> int:
            return max(0, round(told.get(name, 0.0) - self._before.get(name, 0.0)))

        with self._lock:
            adapters = tuple(
                Residency(
                    id=p.info.id, digest=p.info.digest, state="memory", rank=p.info.rank, bytes=p.info.bytes, owner=p.owner,
                    priority=p.priority, pinned=False, uses=p.uses, hits=p.hits, loads=p.loads, evictions=0,
                    idle=round(now - p.used, 3),
                )
                for p in self._places.values()
            )  # fmt: skip
        return EngineStatus(
            base=self.base, adapters=adapters, adapter_bytes=sum(one.bytes for one in adapters), hits=counts.hits, loads=counts.loads,
            swap=spread(list(counts.swaps)), running=counts.running, waiting=counts.waiting, requests=counts.requests,
            prompt_tokens=counts.prompt_tokens, completion_tokens=counts.completion_tokens,
            prefix_hits=since("vllm:prefix_cache_hits_total"), prefix_queries=since("vllm:prefix_cache_queries_total"),
            gap=spread(list(counts.gaps)), first_token=spread(list(counts.first)),
        )  # fmt: skip

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        """Check the files, then have the server load them as ``owner@digest``. The server must see the same path.

        ``priority`` is only told again: vLLM has a least-recently-used order of its own. Raises ``AdapterInvalid``, ``WrongBase``,
        ``NoMemory``, and ``Unavailable`` with the server's reason.
        """
        self._require_open()
        began = time.perf_counter()
        directory = await anyio.to_thread.run_sync(directory.resolve)
        adapter = await anyio.to_thread.run_sync(read_adapter, directory, self._shapes, self.base.fingerprint)
        info = adapter.info
        while (place := self._places.get(info.id)) is not None and place.leaving:  # noqa: ASYNC110 - events belong to one loop
            await anyio.sleep(0.02)
        name = place.name if place else f"{_NOT_IN_NAMES.sub('-', owner).strip('-') or 'adapter'}@{info.id}"
        added = await self._put(
            name, directory, info
        )  # even if it is known here: the server may have been started anew
        with self._lock:
            place = self._places.setdefault(info.id, _Place(info, name))
            place.owner, place.priority, place.used = owner, priority, time.monotonic()
            place.loads += int(added)
        self._counts.loads += int(added)
        if added:
            self._counts.swaps.append((time.perf_counter() - began) * 1e3)
        return info

    async def _put(self, name: str, directory: Path, info: AdapterInfo) -> bool:
        """Whether the server loaded it now; ``False``: it had this name, and so these files, already."""
        if await self._has(name):
            return False
        try:
            await self._wire.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})
        except NotFound as error:
            raise Unavailable(
                f"vLLM cannot load adapter {info.id} from {directory}: {error.message}",
                "let the server see the same folder under the same path, and start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            ) from error
        except (InputError, Unavailable) as error:
            if await self._has(name):  # somebody else was faster
                return False
            raise Unavailable(
                f"vLLM did not take adapter {info.id} (rank {info.rank}): {error.message}",
                f"start it with --enable-lora --max-lora-rank {info.rank} or more",
            ) from error
        return True

    async def _has(self, name: str) -> bool:
        models = await anyio.to_thread.run_sync(_models, self._wire)
        return any(one.get("id") == name for one in models)

    async def unload(self, adapter: str) -> None:
        """New requests for it are refused at once; those in flight finish first. Raises ``TimedOut`` when they do not in ten minutes."""
        with self._lock:
            place = self._places.get(adapter)
            if place is None or place.leaving:
                return
            place.leaving = True
        until = time.monotonic() + DRAIN
        try:
            while place.uses:
                if time.monotonic() > until:
                    raise TimedOut(
                        f"requests still use adapter {adapter} after {DRAIN:.0f} s", "end them, then unload again"
                    )
                await anyio.sleep(0.02)
            await self._take_out(place)
        except BaseException:
            place.leaving = False
            raise
        with self._lock:
            self._places.pop(adapter, None)

    async def _take_out(self, place: _Place) -> None:
        """An adapter that was there before is somebody else's, and stays."""
        if not place.loads:
            return
        try:
            await self._wire.post("/v1/unload_lora_adapter", {"lora_name": place.name})
        except NotFound:
            return  # the server was started anew, or somebody was faster: it is gone, as wanted

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        """As the local engine's: a chunk for each token, then one with ``finish`` and the usage. Raises ``Overloaded``, ``NotFound``,
        ``InputError`` for what one request cannot have here, ``Unavailable``, ``TimedOut``."""
        self._require_open()
        _refuse_mixture(request.mixture)
        with self._leased(request.layers) as model:
            prompt = await anyio.to_thread.run_sync(self._texts.prompt, request)
            body = sample_body(request, prompt, self._texts, self.base.vocabulary) | {"model": model}
            answer, watch = Answer(request, prompt, self._texts), _Watch(self._counts, len(prompt))
            try:
                async with aclosing(self._wire.events("/v1/completions", body)) as events:
                    async for event in events:
                        for chunk in answer.add(event):
                            watch.token()
                            yield chunk
                        if answer.ended:
                            break
                yield answer.last()
            finally:
                watch.end()

    async def nll(
        self, examples: Sequence[Example], layers: Sequence[Layer] = (), *, mixture: Mixture | None = None
    ) -> tuple[Score, ...]:
        """From ``prompt_logprobs``, one example after the other: side by side, the last digits would depend on their company."""
        self._require_open()
        _refuse_mixture(mixture)
        rows = await anyio.to_thread.run_sync(self._texts.rows, examples)
        with self._leased(layers) as model:
            return tuple([await self._score(row, model) for row in rows])

    async def _score(self, row: Row, model: str) -> Score:
        if not row.scored:
            return Score(nll=0.0, tokens=0, bytes=row.bytes)
        told = as_object(await self._wire.post("/v1/completions", nll_body(row) | {"model": model}, again=True))
        return Score(nll=nll_of(told, row), tokens=row.scored, bytes=row.bytes)

    async def observe(self, examples: Sequence[Example], layers: Sequence[Layer], directory: Path) -> NoReturn:
        """Always ``Unavailable``: a server does not tell what its modules read."""
        raise Unavailable(
            "a vLLM server does not show what its modules read", 'observe with the local engine (engine = "local")'
        )

    async def train(
        self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None, beside: Beside | None = None
    ) -> NoReturn:
        """Always ``Unavailable``: vLLM serves, it does not train."""
        raise Unavailable(
            "a vLLM server cannot train", "train with the local engine (engine = \"local\"), then serve the adapter here"
        )  # fmt: skip

    async def close(self) -> None:
        """Take what this engine loaded out of the server, as far as it still answers; requests in flight are not waited for."""
        self._closed = True
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
        for place in places:
            try:
                await self._take_out(place)
            except DnaError:
                return  # the server is gone, and what it held with it

    @contextmanager
    def _leased(self, layers: Sequence[Layer]) -> Generator[str]:
        """The model to name in a request; until the end of the ``with`` its adapter is not unloaded."""
        weights: dict[str, float] = {}
        for layer in layers:
            weights[layer.adapter] = weights.get(layer.adapter, 0.0) + layer.weight
        with self._lock:
            for name in weights:
                if name not in self._places or self._places[name].leaving:
                    raise NotFound(f"no adapter {name!r} is loaded in this engine", "load its directory first")
            active = {name: weight for name, weight in weights.items() if weight != 0}
            if len(active) > 1 or any(weight != 1 for weight in active.values()):
                raise InputError(
                    f"vLLM takes one adapter with weight 1 in a request, not {active}",
                    "merge the blocks into one first (dna merge), or use the local engine",
                )
            place = self._places[next(iter(active))] if active else None
            if place is not None:
                place.uses, place.hits, place.used = place.uses + 1, place.hits + 1, time.monotonic()
                self._counts.hits += 1
        try:
            yield place.name if place else self._served
        finally:
            if place is not None:
                with self._lock:
                    place.uses, place.used = place.uses - 1, time.monotonic()

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("this engine is closed", "open it again")


class _Counts:
    """Counts since the engine was opened; times in milliseconds."""

    def __init__(self) -> None:
        self.running = self.waiting = self.requests = self.prompt_tokens = self.completion_tokens = self.hits = (
            self.loads
        ) = 0
        self.gaps: deque[float] = deque(maxlen=LATEST)
        self.first: deque[float] = deque(maxlen=LATEST)
        self.swaps: deque[float] = deque(maxlen=LATEST)
        self.lock = threading.Lock()


class _Watch:
    """One request's times as this side sees them."""

    def __init__(self, counts: _Counts, prompt_tokens: int) -> None:
        self._counts, self._prompt, self._begun, self._last = counts, prompt_tokens, False, time.monotonic()
        with counts.lock:
            counts.waiting += 1

    def token(self) -> None:
        now, counts = time.monotonic(), self._counts
        with counts.lock:
            (counts.gaps if self._begun else counts.first).append((now - self._last) * 1e3)
            counts.completion_tokens += 1
            if not self._begun:
                counts.waiting, counts.running, counts.prompt_tokens = (
                    counts.waiting - 1,
                    counts.running + 1,
                    counts.prompt_tokens + self._prompt,
                )
        self._begun, self._last = True, now

    def end(self) -> None:
        with self._counts.lock:
            self._counts.requests += 1
            if self._begun:
                self._counts.running -= 1
            else:
                self._counts.waiting -= 1


def _models(wire: Wire) -> list[dict[str, Any]]:
    data: Any = as_object(wire.get("/v1/models")).get("data")
    if not isinstance(data, list) or not all(isinstance(one, dict) and "max_model_len" in one for one in data):  # pyright: ignore[reportUnknownVariableType]
        raise Unavailable(f"{wire.url} does not list its models as vLLM does", "give the URL of a vLLM server")
    return data  # pyright: ignore[reportUnknownVariableType]


def _served(wire: Wire, base: Base) -> tuple[str, int]:
    """``(name, longest sequence)`` of the base on the server: the one called as ours is, or read from a folder of that name."""
    models = [one for one in _models(wire) if one.get("parent") is None]
    ours = {base.id, str(base.path)}
    for one in models:
        name, root, longest = str(one.get("id")), str(one.get("root")), one.get("max_model_len")
        if name not in ours and root not in ours and PurePath(root).name != base.id:
            continue
        config = base.model.config.get_text_config()
        rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
        possible = int(int(config.max_position_embeddings) * max(1.0, float(rope.get("factor") or 1)))
        if not isinstance(longest, int) or not 1 < longest <= possible:
            raise WrongBase(
                f"the server's {name!r} takes {longest} tokens, base {base.id!r} at most {possible}: it is another model",
                "name the base that the server serves",
            )
        return name, longest
    names = ", ".join(str(one.get("id")) for one in models)
    raise WrongBase(
        f"vLLM at {wire.url} serves {names}, not {base.id!r}",
        f"start it with --served-model-name {base.id}, or name its base",
    )


def _compare_tokenizers(wire: Wire, base: Base, served: str) -> None:
    told = wire.post_now("/tokenize", {"model": served, "prompt": PROBE, "add_special_tokens": False}).get("tokens")
    if told != list(base.tokenizer(PROBE, add_special_tokens=False)["input_ids"]):
        raise WrongBase(
            f"the server's tokenizer does not cut a probe text as that of base {base.id!r} does",
            "name the base that the server serves",
        )
