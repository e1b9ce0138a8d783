"""What tests of the server share: parts with a scripted engine, blocks of made-up people in their store, and a server in a thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from clonedna.app.parts import Parts
from clonedna.app.service import Service
from clonedna.app.serving import Serving
from clonedna.app.settings import Settings
from clonedna.core.block import ConsentRecord, Manifest
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import DnaError
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import AdapterInfo, SampleChunk, SampleRequest
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.server import main
from clonedna.server.api import application
from tests.unit.store.making import contents, write_block


class ScriptedEngine(FakeEngine):
    """The fake engine, which can also say a given text in pieces, wait between tokens, or fail; it keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: Sequence[str] | None = None
        self.delay = 0.0
        self.error: DnaError | None = None
        self.fail_after = 0
        self.asked: list[SampleRequest] = []
        self.opened = self.closed = 0
        self.loads: list[Path] = []
        self.unloads: list[str] = []

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        self.loads.append(directory)
        await anyio.sleep(0.01)
        return await super().load(directory, owner=owner, priority=priority)

    async def unload(self, adapter: str) -> None:
        self.unloads.append(adapter)
        await super().unload(adapter)

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        self.asked.append(request)
        self.opened += 1
        count = 0
        try:
            async for chunk in self._said() if self.pieces is not None else super().sample(request):
                if self.error is not None and count >= self.fail_after:
                    raise self.error
                count += 1
                await anyio.sleep(self.delay)
                yield chunk
        finally:
            self.closed += 1

    async def _said(self) -> AsyncIterator[SampleChunk]:
        pieces = self.pieces or ()
        for i, piece in enumerate(pieces):
            yield SampleChunk(text=piece, token=i)
        yield SampleChunk(finish="stop", prompt_tokens=7, completion_tokens=len(pieces), cached_tokens=3)


class ServerParts(Parts):
    """Real store, registry and keys; the scripted engine."""

    def __init__(self, home: Path, engine: FakeEngine | None = None, **settings: Any) -> None:
        super().__init__(Settings(home=home, base="fake", port=0, **settings))
        self.fake = engine or ScriptedEngine()

    def engine(self, base: str) -> Engine:
        return self.fake


def add_block(
    parts: Parts, name: str, *, says: str = "ab", pairs: Sequence[Pair] = (), consent: ConsentRecord | None = None, **changes: Any
) -> Manifest:  # fmt: skip
    """An accepted block in the store whose adapter makes the fake engine follow each character of ``says`` by the next, in a ring."""
    trainer = FakeTrainer()
    for a, b in zip(says, says[1:] + says[0], strict=True):
        trainer.counts[ord(a), ord(b)] = 1e6
    trainer.counts = trainer.counts.astype(np.float32)
    work = parts.settings.home / "work" / f"{name}-{changes.get('version', '1.0.0')}"
    anyio.run(trainer.save, work)
    files = contents(note=f"{name} {changes}") | {
        "adapter_model.safetensors": (work / "adapter_model.safetensors").read_bytes(),
        "pairs.jsonl": b"".join(canonical(pair) + b"\n" for pair in pairs),
    }
    if consent is not None:
        files["consent.json"] = canonical(consent)
        changes = {"consent_mode": consent.mode} | changes
    directory = work / "block"
    fields = {"name": name, "base_model": "fake", "base_fingerprint": sha256("fake")} | changes
    manifest = write_block(directory, parts.signer, files, **fields)
    parts.store.put(directory)
    parts.registry.publish(manifest)
    return manifest


@contextmanager
def running(parts: Parts, base: str = "fake", *, whole: bool = False, port: int = 0) -> Generator[str]:
    """A server on a free port, or on ``port``, in a thread of its own; gives its address. It is drained at the end.

    ``whole``: with all routes of our own, and jobs; else with OpenAI's alone.
    """
    made = main.listen(parts.settings.model_copy(update={"port": port}))
    ready = threading.Event()
    stop: list[Callable[[], None]] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        app = application(Service(parts, base)) if whole else main.create_app(Serving(parts, base), parts.settings)
        server = main.Server(app, parts.settings, ready=ready.set)
        stop.append(server.stop)
        await server.run_on(made)

    def work() -> None:
        try:
            anyio.run(serve)
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=work, name="test-server")
    thread.start()
    try:
        assert ready.wait(20), "the server did not start"
        if failed:
            raise failed[0]
        yield main.address(made)
    finally:
        for one in stop:
            one()
        thread.join(30)
        made.close()
        assert not thread.is_alive()
    if failed:
        raise failed[0]
