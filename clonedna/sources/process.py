"""Git as a subprocess that a hostile repository cannot turn against us.

No hooks, no external diff, no textconv, no file-system monitor, no pager, no prompts, no configuration of system or user, and no
network protocol but those a caller names (so neither lazy fetches nor remote helpers run). Every call has a bound on its time, every
whole output one on its size. What git prints is data. A call that ends early, for whatever reason, ends its process too.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clonedna.core.errors import GitFailed, NoSpace, TimedOut

HARDENED = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.untrackedCache=false", "core.attributesFile=/dev/null", "core.pager=cat",
    "core.sshCommand=ssh -oBatchMode=yes -oConnectTimeout=30", "core.quotePath=false", "core.alternateRefsCommand=true",
    "credential.helper=", "protocol.allow=never", "protocol.ext.allow=never", "submodule.recurse=false", "diff.external=", "gc.auto=0",
    "maintenance.auto=false", "log.showSignature=false", "log.mailmap=true", "safe.directory=*", "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)  # fmt: skip
PASSED_ON = frozenset(
    ("PATH", "HOME", "SSH_AUTH_SOCK", "TMPDIR", "https_proxy", "HTTPS_PROXY", "http_proxy", "no_proxy", "NO_PROXY", "GIT_SSL_CAINFO",
     "SSL_CERT_FILE")
)  # fmt: skip
MAX_OUTPUT = 64_000_000


class Git:
    """Runs git in one directory. ``protocols``: what it may use to reach a network or another repository. ``timeout``: seconds a call."""

    def __init__(
        self, directory: Path, *, timeout: float, protocols: Sequence[str] = (), settings: Sequence[str] = ()
    ) -> None:
        self.directory, self.timeout = directory, timeout
        self.protocols, self.settings = tuple(protocols), tuple(settings)
        self._running: set[subprocess.Popen[bytes]] = set()

    def command(self, *arguments: str) -> list[str]:
        """The whole command line of one call."""
        settings = [part for setting in (*HARDENED, *self.settings) for part in ("-c", setting)]
        return ["git", "--no-pager", "--literal-pathspecs", "-C", str(self.directory), *settings, *arguments]

    def start(
        self, arguments: Sequence[str], stdin: IO[bytes] | int, stderr: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """A running git whose output is a pipe; the caller hands it to ``end``. Raises ``GitFailed`` when there is no git."""
        try:
            process = subprocess.Popen(
                self.command(*arguments),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(self.protocols),
            )
        except FileNotFoundError:
            raise GitFailed("git is not installed", "install git and try again") from None
        self._running.add(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Stop ``process`` if it still runs, and forget it. Killed only after it had the chance to stop its own children."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._running.discard(process)

    def stop(self) -> None:
        """Stop whatever still runs, from whichever thread."""
        for process in tuple(self._running):
            process.terminate()

    @contextmanager
    def reading(self, *arguments: str, stdin: bytes = b"", timeout: float | None = None) -> Generator[IO[bytes]]:
        """The output of one call as a stream, to be read to its end.

        Raises ``GitFailed`` (with git's last line), ``TimedOut``, ``NoSpace``.
        """
        bound = timeout or self.timeout
        late = threading.Event()
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(stdin)
            given.seek(0)
            process = self.start(arguments, given, said)
            timer = threading.Timer(bound, lambda: (late.set(), process.terminate()))
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                yield process.stdout
                process.wait()
            finally:
                timer.cancel()
                self.end(process)
            if late.is_set():
                raise TimedOut(f"git {arguments[0]} took longer than {bound:.0f} s", "raise the setting git_timeout")
            if process.returncode:
                said.seek(0)
                raise failure(arguments[0], said.read(MAX_OUTPUT))

    def run(self, *arguments: str, stdin: bytes = b"", timeout: float | None = None) -> bytes:
        """The whole output of one call, at most ``MAX_OUTPUT`` bytes. Raises as ``reading`` does."""
        with self.reading(*arguments, stdin=stdin, timeout=timeout) as stream:
            out = stream.read(MAX_OUTPUT + 1)
            if len(out) > MAX_OUTPUT:
                raise GitFailed(f"git {arguments[0]} printed more than {MAX_OUTPUT} bytes", "use a smaller repository")
        return out

    def text(self, *arguments: str, timeout: float | None = None) -> str:
        """``run``, decoded, without the line end behind it."""
        return self.run(*arguments, timeout=timeout).decode("utf-8", "replace").removesuffix("\n")

    def fields(self, *arguments: str, stdin: bytes = b"") -> Generator[str]:
        """The NUL-separated fields of one call, as they come; bytes that are no UTF-8 become surrogates."""
        with self.reading(*arguments, stdin=stdin) as stream:
            rest = b""
            while chunk := stream.read(1 << 16):
                *whole, rest = (rest + chunk).split(b"\0")
                for field in whole:
                    yield field.decode("utf-8", "surrogateescape")
            if rest:
                yield rest.decode("utf-8", "surrogateescape")


class Objects:
    """Contents of objects, from one ``git cat-file --batch``. A context manager."""

    def __init__(self, git: Git) -> None:
        self.git = git

    def __enter__(self) -> Objects:
        self._process = self.git.start(("cat-file", "--batch"), subprocess.PIPE, subprocess.DEVNULL)
        return self

    def __exit__(self, *error: object) -> None:
        self.git.end(self._process)

    def get(self, name: str, most: int) -> bytes | None:
        """A file's bytes by its full id, or ``COMMIT:PATH``; ``None`` when it is missing, a folder, or over ``most`` bytes.

        Raises ``GitFailed``, ``TimedOut``.
        """
        late = threading.Event()
        timer = threading.Timer(self.git.timeout, lambda: (late.set(), self._process.terminate()))
        timer.daemon = True
        timer.start()
        try:
            return self._get(name, most)
        except (OSError, ValueError, IndexError):
            if late.is_set():
                raise TimedOut(f"reading object {name} took too long", "raise the setting git_timeout") from None
            raise GitFailed(
                f"git cat-file ended at object {name}", "check that the repository is whole: git fsck"
            ) from None
        finally:
            timer.cancel()

    def _get(self, name: str, most: int) -> bytes | None:
        to, out = self._process.stdin, self._process.stdout
        assert to is not None
        assert out is not None
        to.write(f"{name}\n".encode())
        to.flush()
        head = out.readline().split()
        if head[1:] == [b"missing"]:
            return None
        left = int(head[2])
        if left <= most and head[1] == b"blob":
            data = out.read(left + 1)
            if len(data) != left + 1:
                raise OSError("cut short")
            return data[:-1]
        left += 1
        while left:
            skipped = len(out.read(min(left, 1 << 20)))
            if not skipped:
                raise OSError("cut short")
            left -= skipped
        return None


def environment(protocols: Sequence[str] = ()) -> dict[str, str]:
    """What git may see: no configuration of system or user, no prompts, one language, the protocols named (none otherwise)."""
    return {key: value for key, value in os.environ.items() if key in PASSED_ON} | {
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols) or "none", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }  # fmt: skip


def failure(what: str, stderr: bytes) -> GitFailed | NoSpace:
    """The error for a git that failed, with the last line it said; credentials inside URLs are left out."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or ["no message"]
    last = "//".join(part.rpartition("@")[2] if i else part for i, part in enumerate(told[-1].split("//")))
    if "No space left" in "".join(lines):
        return NoSpace(f"git {what}: {last[:300]}", "free some space and try again")
    return GitFailed(f"git {what}: {last[:300]}", "check the repository (git fsck) or the network, then try again")
