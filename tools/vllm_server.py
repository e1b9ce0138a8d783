"""A vLLM server for tests and measurements: started on loopback, waited for, and always stopped.

vLLM lives in an environment of its own (``make vllm-env`` makes ``.venv-vllm``: its torch, transformers and llguidance are not
ours) and is reached by URL only. In Python, from the root of the repository::

    from tools.vllm_server import serve

    with serve("clonedna/bases/nano", adapters={"anna@1f2e3d4c": folder}, threads=2) as server:
        server.url          # "http://127.0.0.1:PORT", without "/v1"; POST {url}/v1/completions and so on
        server.model        # the base's name in requests; an adapter is asked for by its own name
        server.started      # seconds from start to the first healthy answer
        server.memory()     # resident bytes of all its processes now
        server.cpu_seconds()  # CPU time of all its processes so far

By hand: ``python tools/vllm_server.py MODEL [--adapter NAME=FOLDER]...`` prints the URL and serves until Ctrl-C.

A comparison should try ``threads=1`` too and give vLLM the better figure: with a small model on busy cores, one thread was four times
as fast as two (docs/vllm.md).

Promises: float32 and eager unless told otherwise, the given number of threads not bound to cores, adapters can be loaded and
unloaded while it runs, nothing is fetched from a network, usage statistics are off. The end of the ``with`` ends every process
of the server, whatever happened inside. What the server said is in ``server.log``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
WAIT, STOP = 300.0, 20.0


class NotStarted(RuntimeError):
    """The environment is missing, or the server ended or stayed silent; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``url`` has no ``/v1``; ``pid`` leads a process group of its own; ``started`` in seconds."""

    url: str
    model: str
    pid: int
    started: float
    log: Path

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def memory(self) -> int:
        """Resident bytes of all processes; pages that they share count once (proportional set size, where the system tells it)."""
        total = 0
        for process in self.processes():
            told = process.memory_full_info()
            total += getattr(told, "pss", 0) or told.rss
        return total

    def cpu_seconds(self) -> float:
        """User and system time of all processes."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(one.user + one.system for one in times)


@contextmanager
def serve(
    model: str | Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    name: str = "",
    dtype: str = "float32",
    threads: int = 2,
    max_loras: int = 4,
    max_rank: int = 64,
    lora: bool = True,
    kv_gib: int = 1,
    arguments: Sequence[str] = (),
    nice: int = 0,
    wait: float = WAIT,
) -> Generator[Server]:
    """Serve the base in folder ``model`` under ``name`` (default: the folder's own), with ``adapters`` (name -> PEFT folder) loaded.

    ``max_loras``: adapters in one batch; ``max_rank``: one of vLLM's (8, 16, 32, 64, 128, ...); ``lora=False`` leaves adapters
    out altogether; ``kv_gib``: GiB for keys and values; ``arguments`` go to vLLM as they are. Raises ``NotStarted`` after
    ``wait`` seconds, or as soon as the process ends.
    """
    if not PYTHON.is_file():
        raise NotStarted(f"no {PYTHON.relative_to(ROOT)}: run `make vllm-env` first")
    folder = Path(model).resolve()
    name, port = name or folder.name, _free_port()
    command = [
        *(["nice", "-n", str(nice)] if nice else []),
        str(PYTHON), "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--enforce-eager", "--no-enable-log-requests",
        "--enable-prompt-tokens-details", *(_lora(adapters or {}, max_loras, max_rank) if lora else []), *arguments,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vllm-") as scratch:
        log = Path(scratch) / "log.txt"
        began = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment(threads, kv_gib, scratch),
                cwd=scratch, start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process, log, began + wait)
            yield Server(url, name, process.pid, time.monotonic() - began, log)
        finally:
            _stop(process)


def _lora(adapters: Mapping[str, Path], max_loras: int, max_rank: int) -> list[str]:
    arguments = ["--enable-lora", "--max-loras", str(max_loras), "--max-lora-rank", str(max_rank)]
    if adapters:
        arguments += ["--lora-modules", *(f"{name}={Path(folder).resolve()}" for name, folder in adapters.items())]
    return arguments


def _environment(threads: int, kv_gib: int, scratch: str) -> dict[str, str]:
    """Ours less what would send the server's Python to other packages. vLLM alone binds to all cores but one: not so here."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return kept | {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib), "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": scratch, "VLLM_CONFIG_ROOT": scratch, "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path, until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise NotStarted(f"vLLM ended with status {process.returncode}:\n{_tail(log)}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return
        time.sleep(0.25)
    raise NotStarted(f"vLLM gave no healthy answer in time:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-4000:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group: politely, then at once. Its workers are in it, so none is left behind."""
    for signum, patience in ((signal.SIGTERM, STOP), (signal.SIGKILL, STOP)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        if _group_is_gone(process.pid, patience if signum == signal.SIGKILL else 5.0):
            return


def _group_is_gone(group: int, patience: float) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Start a vLLM server on loopback; Ctrl-C stops it.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--name", default="")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--max-loras", type=int, default=4)
    parser.add_argument("--max-rank", type=int, default=64)
    given = parser.parse_args()
    adapters = {name: Path(folder) for name, _, folder in (item.partition("=") for item in given.adapter)}
    try:
        with serve(
            given.model, adapters=adapters, name=given.name, dtype=given.dtype, threads=given.threads,
            max_loras=given.max_loras, max_rank=given.max_rank,
        ) as server:  # fmt: skip
            print(server.url, flush=True)
            print(f"serving {server.model} after {server.started:.0f} s; Ctrl-C stops it", file=sys.stderr)
            signal.pause()
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
