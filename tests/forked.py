"""Processes of Python that begin with the libraries loaded: forked from one that loaded them once, where loading takes seconds.

``popen`` gives a ``subprocess.Popen`` whose process is a child of the caller, with its own pipes, folder and environment: signals, waiting
and exit statuses are as of any other. What the libraries read of the environment when they are loaded, and the seed of hashes, are those of
the process that loaded them: whoever needs others (``PLAIN`` names those of the environment that are none of theirs) gets a plain process.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ("DNA_", "SCRIPT_", "NO_COLOR", "COLUMNS", "XDG_", "PYTEST_", "TEST_")
ALSO = ("transformers.models.llama.modeling_llama", "uvicorn.protocols.http.httptools_impl", "tests.serving")
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
MOST = 1 << 20
_forker: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def popen(module: str, *arguments: str, env: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """``python -m module arguments``, its streams as text."""
    command, fresh = [sys.executable, "-m", module, *arguments], options.pop("fresh", False)
    if fresh or sys.platform != "linux" or not _alike(env) or options.keys() - {"stdin", "stdout", "stderr", "cwd"}:
        return subprocess.Popen(command, env=env, text=True, **options)
    return _Forked(command, env=env, text=True, **options)


class _Forked(subprocess.Popen[str]):
    def _execute_child(self, args: list[str], *more: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_ = more
        told = {"module": args[2], "arguments": args[3:], "cwd": str(cwd or Path.cwd()), "env": env}
        streams = [mine if mine >= 0 else own for own, mine in enumerate((p2cread, c2pwrite, errwrite))]
        line = _line()
        try:
            _subreaper(True)  # whose parent ends meanwhile becomes a child of this process
            socket.send_fds(line, [json.dumps(told).encode()], streams)
            self.pid = int(line.recv(20))
        finally:
            _subreaper(False)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def _alike(env: dict[str, str]) -> bool:
    """Whether a process with this environment would load the libraries as this one did."""
    names = {name for name in env.keys() | os.environ.keys() if not name.startswith(PLAIN)}
    return all(env.get(name) == os.environ.get(name) for name in names)


def _subreaper(on: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _line() -> socket.socket:
    """To the process that forks; it is started when it is first asked, and ends with this one."""
    global _forker
    if _forker is None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(its.fileno())], cwd=ROOT, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, env={k: v for k, v in os.environ.items() if not k.startswith("DNA_")},
            )  # fmt: skip
        _forker = process, mine
        atexit.register(_end)
    return _forker[1]


def _end() -> None:
    if _forker is not None:
        _forker[1].close()
        _forker[0].wait(20)


def _load() -> None:
    import clonedna

    names = [one.name for one in pkgutil.walk_packages(clonedna.__path__, "clonedna.")]
    for name in (*names, *ALSO):
        with suppress(ImportError):  # of an extra that is not installed
            import_module(name)
    gc.collect()
    gc.freeze()


def _forked(line: socket.socket) -> dict[str, Any] | None:
    """What a child is to run, in that child; nothing, in this process, when the other end was closed."""
    while True:
        asked, streams, _, _ = socket.recv_fds(line, MOST, 3)
        if not asked:
            return None
        told, back = os.pipe()
        between = os.fork()
        if not between:
            child = os.fork()
            if child:
                os.write(back, str(child).encode())
                os._exit(0)
            os.close(told)
            os.close(back)
            line.close()
            for own, mine in enumerate(streams):
                os.dup2(mine, own)
                os.close(mine)
            return json.loads(asked)
        os.waitpid(between, 0)
        line.send(os.read(told, 20))
        for one in (told, back, *streams):
            os.close(one)


def _main() -> None:
    line = socket.socket(fileno=int(sys.argv[1]))
    _load()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = _forked(line)
    if asked is not None:
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        random.seed()
        sys.argv = [asked["module"], *asked["arguments"]]
        _end_with(_status(asked["module"]))


def _status(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end_with(status: int) -> None:
    """As an interpreter ends, but that what was loaded is not taken apart: touching every page of it takes a quarter of a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _main()
