"""Servers and workers in processes of their own on fake parts, forked from one that has loaded everything: they start in a moment.

``python -m tests.jobs_fake`` reads one JSON object a line (what to start) and writes its process id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
from pydantic import SecretStr

from clonedna.core.block import MintOrder
from clonedna.core.fakes import FakeEngine, FakeTrainer
from clonedna.core.model import LoraSpec, StepLoss
from tests.parts import FakeParts, order

SPANS = 30


class PacedTrainer(FakeTrainer):
    """Takes so long for a step."""

    seconds = 0.0

    async def forward_backward(self, batch: Any) -> StepLoss:
        await anyio.sleep(self.seconds)
        return await super().forward_backward(batch)


class PacedEngine(FakeEngine):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def train(self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None) -> PacedTrainer:
        trainer = PacedTrainer()
        trainer.seconds = self.seconds
        if resume is not None:
            trainer.counts = (await FakeEngine.train(self, spec, resume=resume)).counts  # type: ignore[attr-defined]
        return trainer


class ProcessParts(FakeParts):
    """Fake engine and source; a home and a database that processes share."""

    def __init__(self, home: Path, url: str | None = None, *, seconds: float = 0.0, **settings: Any) -> None:
        super().__init__(home, spans=SPANS)
        changes = {"port": 0, "checkpoint_seconds": 0.0, "drain_seconds": 5.0, "min_free_bytes": 0} | settings
        self.settings = self.settings.model_copy(
            update=changes | {"database_url": SecretStr(url) if url and url.startswith("postgresql") else None}
        )
        self._engine = PacedEngine(seconds)


def small(number: int) -> MintOrder:
    """A mint of its own name and seed that the fake engine carries out in a moment."""
    changes = {"seed": number, "max_train_pairs": 24, "tool_use_pairs": 0, "base_instruct_ratio": 0.0, "epochs": 2}
    recipe = order().recipe.model_copy(update=changes)
    return order(consent="local-only", name=f"n{number}", base="nano", recipe=recipe)


class Nursery:
    """Starts processes, and ends those that are left."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.alive: list[int] = []

    def start(self, what: str, **fields: Any) -> int:
        """A ``worker`` or a ``server``; its process id."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"what": what, **fields}) + "\n")
        self._process.stdin.flush()
        self.alive.append(int(self._process.stdout.readline()))
        return self.alive[-1]

    def kill(self, pid: int) -> None:
        """As a machine that loses power ends it."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.alive.remove(pid)
        while self.lives(pid):
            time.sleep(0.005)

    @staticmethod
    def lives(pid: int) -> bool:
        """Whether the process has not ended yet, all its threads."""
        return Path(f"/proc/{pid}").exists()

    def end(self) -> None:
        for pid in list(self.alive):
            self.kill(pid)
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def nursery() -> Generator[Nursery]:
    """A process to start others from, while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs_fake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1], env={k: v for k, v in os.environ.items() if not k.startswith("DNA_")},
    )  # fmt: skip
    made = Nursery(process)
    try:
        yield made
    finally:
        made.end()


def _worker(fields: dict[str, Any]) -> None:
    from clonedna.app.worker import Worker

    parts = ProcessParts(Path(fields["home"]), fields["url"], seconds=fields.get("seconds", 0.0))
    worker = Worker(parts, "nano", parallel=fields.get("parallel", 1))
    worker.heed()
    worker.run()


def _server(fields: dict[str, Any]) -> None:
    from clonedna.app.service import Service
    from clonedna.server import main
    from clonedna.server.api import application

    parts = ProcessParts(
        Path(fields["home"]), fields["url"], seconds=fields.get("seconds", 0.0), port=fields["port"],
        parallel_training=fields.get("parallel", 1),
    )  # fmt: skip

    async def serve() -> None:
        with main.listen(parts.settings) as made:
            await main.Server(application(Service(parts, "nano")), parts.settings, ready=lambda: None).run_on(made)

    anyio.run(serve)


def _child(fields: dict[str, Any]) -> None:
    log = os.open(Path(fields["home"]) / "processes.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        {"worker": _worker, "server": _server}[fields["what"]](fields)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end_with(parent: int) -> None:
    """A test that was itself killed leaves nothing behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _preload() -> None:
    """Load what children need, and start no thread."""
    for name in (
        "dbos", "psycopg", "detect_secrets", "matplotlib.figure", "matplotlib.backends.backend_svg", "tree_sitter_python",
        "clonedna.app.worker", "clonedna.server.api", "clonedna.app.probing", "clonedna.engine.comparing", "clonedna.engine.drift",
        "clonedna.engine.merging", "clonedna.sandbox.trial", "clonedna.sources.languages", "clonedna.sources.secrets",
        "clonedna.store.registry", "clonedna.store.rollbacks", "clonedna.teachers.own_words", "clonedna.trust.consents",
        "clonedna.trust.evidence_github",
    ):  # fmt: skip
        import_module(name)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _preload()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _child(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
