"""One run: a small single-threaded process of its own that starts bubblewrap, watches it, ends it and says what came of it.

Run as ``python -I -S -c 'import ...; main()'``; standard library only. It reads one line of JSON (``Order``) and prints one. The end of
its input ends the run: when whoever asked dies, so does everything. What runs inside is never uid 0: as root the child joins its cgroup,
becomes the dedicated user for good, and only then takes its bounds and starts bubblewrap; this process stays what it was, out of reach
of that user.
"""

from __future__ import annotations

import binascii
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time

from clonedna.sandbox import cgroups, descriptors, watching

TYPE_CHECKING = False  # typing itself is not loaded: this process is to start fast
if TYPE_CHECKING:
    from typing import Any, TypedDict

    class Order(TypedDict):
        """``command``: bubblewrap's whole line; ``stdin``, ``filters``: base64; ``uid``: whom to become (as root); ``stage``: a folder to
        show at another place that this user can reach; ``look``: say what the kernel says of the processes, at their first output.
        """

        command: list[str]
        stdin: str
        filters: list[str]
        uid: int | None
        stage: tuple[str, str] | None
        workspace: str
        cgroups: bool
        look: bool
        seconds: float
        memory: int
        processes: int
        disk: int
        files: int
        output: int
        file: int


TICK = 0.05
_SUBREAPER, _PDEATHSIG, _NO_NEW_PRIVS = 36, 1, 38
_NEW_MOUNTS, _PRIVATE, _BIND, _READ_ONLY = 0x00020000, 0x44000, 0x5000, 0x1027  # unshare(2), mount(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Run:
    """The run of one order. ``watch`` until it has ended; then ``end`` it in any case."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.stopped: str | None = None
        self.failed = ""
        self.status: int | None = None
        self.standing: list[dict[str, str]] = []
        self.inside = 0  # the first process of the sandbox, as we number it
        self.hidden = 0
        self.heard = {"stdout": b"", "stderr": b"", "status": b"", "failure": b""}
        self.group = cgroups.make(order["memory"], order["processes"] + 8) if order["cgroups"] else None
        self.workspace = os.open(order["workspace"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.given = binascii.a2b_base64(order["stdin"])
        self.began = time.monotonic()

    def start(self) -> None:
        """Fork; the child becomes bubblewrap."""
        pipes = {name: os.pipe() for name in ("stdin", "stdout", "stderr", "status", "block", "failure")}
        filters: list[int] = []
        for program in self.order["filters"]:
            filters.append(os.memfd_create("filter"))
            os.write(filters[-1], binascii.a2b_base64(program))
            os.lseek(filters[-1], 0, os.SEEK_SET)
        read, write = 0, 1
        theirs = {
            0: pipes["stdin"][read], 1: pipes["stdout"][write], 2: pipes["stderr"][write],
            descriptors.STATUS: pipes["status"][write], descriptors.BLOCK: pipes["block"][read],
            **dict(zip(descriptors.FILTERS, filters, strict=True)),
        }  # fmt: skip
        failure = fcntl.fcntl(pipes["failure"][write], fcntl.F_DUPFD_CLOEXEC, 64)  # out of the way of the numbers above
        parent = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            try:
                self._become(theirs, parent)
            except BaseException as error:
                os.write(failure, f"{type(error).__name__}: {error}".encode())
            os._exit(127)
        for fd in (*theirs.values(), pipes["failure"][write], failure):
            os.close(fd)
        self.input, self.block = pipes["stdin"][write], pipes["block"][write]
        self.outputs = {pipes[name][read]: name for name in self.heard}
        for fd in (*self.outputs, self.input):
            os.set_blocking(fd, False)
        self.exit = os.pidfd_open(self.child)

    def _become(self, theirs: dict[int, int], parent: int) -> None:
        order = self.order
        os.setsid()
        if self.group is not None:
            self.group.join()
        if order["stage"] is not None:
            _stage(*order["stage"])
        _drop(order["uid"])
        for which, most in _bounds(order).items():
            hard = resource.getrlimit(which)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (most, most))
        _checked(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != parent:
            raise ProcessLookupError("the supervisor is gone")
        high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 32) for number, fd in theirs.items()}
        for number, fd in high.items():
            os.dup2(fd, number, inheritable=True)
        for name in ("SIGPIPE", "SIGINT"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.execve(order["command"][0], order["command"], {})  # noqa: S606 - bubblewrap, with an empty environment

    def watch(self) -> None:
        """Until the command has ended, a bound is met, or our own input ends."""
        poll = select.poll()
        for fd in (*self.outputs, 0, self.exit):
            poll.register(fd, select.POLLIN)
        if not self.order["look"]:
            poll.register(self.input, select.POLLOUT)
        looked = time.monotonic()
        while self.stopped is None and not self.failed:
            left = self.began + self.order["seconds"] - time.monotonic()
            if left <= 0:
                self.stopped = "time"
                return
            for fd, _ in poll.poll(max(1, min(left, TICK) * 1000)):
                if fd == self.exit:
                    return
                if fd == 0:
                    self.failed = "cancelled"
                elif fd == self.input:
                    self._give(poll)
                elif not self._hear(fd):
                    poll.unregister(fd)
            if time.monotonic() - looked >= TICK:
                self._check()
                looked = time.monotonic()

    def _give(self, poll: select.poll) -> None:
        try:
            self.given = self.given[os.write(self.input, self.given[: 1 << 16]) :]
        except BlockingIOError:
            return
        except OSError:
            self.given = b""
        if not self.given:
            poll.unregister(self.input)
            self._close_input()

    def _hear(self, fd: int) -> bool:
        """Whether this pipe may have more to say later."""
        try:
            piece = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if piece:
            self._keep(self.outputs[fd], piece)
        return bool(piece)

    def _keep(self, name: str, piece: bytes) -> None:
        if name in ("stdout", "stderr"):
            room = self.order["output"] - len(self.heard["stdout"]) - len(self.heard["stderr"])
            if len(piece) > room:
                self.stopped = self.stopped or "output"
            self.heard[name] += piece[:room]
            if self.order["look"] and not self.standing:
                self.standing = watching.standings(watching.descendants(self.inside))
                self._close_input()
        else:
            self.heard[name] = (self.heard[name] + piece)[:10_000]
            if name == "failure":
                self.failed = self.heard[name].decode("utf-8", "replace")
        if name == "status":
            for told in _objects(self.heard[name]):
                self.status = told.get("exit-code", self.status)
                if "child-pid" in told and not self.inside:
                    self._release(int(told["child-pid"]))

    def _release(self, inside: int) -> None:
        """Bubblewrap has built the sandbox and waits: bound its processes from outside, then let it go on."""
        self.inside = inside
        # In a user namespace of its own the count is its own too (Linux 5.14); two are bubblewrap's. A child that became the dedicated
        # user sets it: root may lack CAP_SYS_RESOURCE, as in containers.
        most = self.order["processes"] + 2
        helper = os.fork()
        if helper == 0:
            try:
                _drop(self.order["uid"])
                resource.prlimit(inside, resource.RLIMIT_NPROC, (most, most))
            except BaseException:
                os._exit(1)
            os._exit(0)
        if os.waitpid(helper, 0)[1] == 0:
            os.write(self.block, b"1")
        elif self.stopped is None:
            self.failed = "the number of its processes cannot be bounded"

    def _close_input(self) -> None:
        if self.input >= 0:
            os.close(self.input)
            self.input = -1

    def _check(self) -> None:
        order = self.order
        if not self.inside:
            return
        try:
            size, files = watching.usage(self.workspace, order["disk"], order["files"])
            pids = watching.descendants(self.inside)
            size += watching.unlinked(pids)
            files += watching.scratch_files(self.inside)
            used = 0 if self.group is not None else watching.memory(pids)
            self.hidden = 0
        except watching.Unwatched:
            self.hidden += 1  # what is just starting or ending cannot be read for a moment
            if self.hidden > 2:
                self.stopped = "unwatched"
            return
        if size > order["disk"]:
            self.stopped = "disk"
        elif files > order["files"]:
            self.stopped = "files"
        elif used > order["memory"] or (self.group is not None and self.group.out_of_memory()):
            self.stopped = "memory"
        elif len(pids) > order["processes"] + 8:
            self.stopped = "processes"

    def end(self) -> None:
        """Kill and reap all that is left, and hear what it still said. With its first process the kernel ends the whole namespace."""
        until = time.monotonic() + 10
        while True:
            for pid in _children():  # ours, and those whose parents died: not reaped, so no number is used twice
                _kill(pid)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            if time.monotonic() > until:
                raise RuntimeError("processes of the run do not end")
            time.sleep(0.001)
        for fd, name in self.outputs.items():
            with open(fd, "rb", buffering=0) as pipe:
                while piece := pipe.read(1 << 16):  # what a pipe still holds; nobody writes any more
                    self._keep(name, piece)
        if self.group is not None and self.group.out_of_memory():
            self.stopped = self.stopped or "memory"
        self._judge_files()

    def _judge_files(self) -> None:
        try:
            size, files = watching.usage(self.workspace, self.order["disk"], self.order["files"])
        except watching.Unwatched:
            self.stopped = self.stopped or "unwatched"
            return
        if size > self.order["disk"] or files > self.order["files"]:
            self.stopped = self.stopped or ("disk" if size > self.order["disk"] else "files")

    def result(self) -> dict[str, Any]:
        if self.stopped is None and self.status is None and not self.failed:
            said = self.heard["stderr"].decode("utf-8", "replace").strip().splitlines()
            if said and said[-1].startswith(
                "bwrap: execvp "
            ):  # nothing else has run yet, so these are bubblewrap's own words
                self.status = 127
            else:
                self.failed = said[-1][:300] if said else "bubblewrap ended without a word"
        return {
            "status": None if self.stopped else self.status, "stopped": self.stopped, "failed": self.failed,
            "stdout": _text(self.heard["stdout"]), "stderr": _text(self.heard["stderr"]),
            "seconds": time.monotonic() - self.began, "standing": self.standing,
            "cgroup": self.group.version if self.group is not None else 0,
            "left": len(self.group.processes()) if self.group is not None else 0,
        }  # fmt: skip


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _objects(lines: bytes) -> list[dict[str, Any]]:
    """The whole lines of bubblewrap's status."""
    return [json.loads(line) for line in lines.splitlines(keepends=True) if line.endswith(b"\n")]


def _bounds(order: Order) -> dict[int, int]:
    """Of each process. A core limit of 1 (not 0) also keeps a core handler from being started, see core(5)."""
    return {
        resource.RLIMIT_CORE: 1, resource.RLIMIT_CPU: int(order["seconds"]) + 2, resource.RLIMIT_FSIZE: order["file"],
        resource.RLIMIT_NOFILE: 128, resource.RLIMIT_STACK: 8 << 20, resource.RLIMIT_AS: 2 * order["memory"] + (256 << 20),
        resource.RLIMIT_MEMLOCK: 1 << 16,
        resource.RLIMIT_MSGQUEUE: 0, resource.RLIMIT_SIGPENDING: 256, resource.RLIMIT_NICE: 0, resource.RLIMIT_RTPRIO: 0,
    }  # fmt: skip


def _stage(source: str, target: str) -> None:
    """Show ``source`` at ``target`` in a mount namespace of our own: the dedicated user could not reach it where it is."""
    _checked(_libc.unshare(_NEW_MOUNTS))
    _checked(_libc.mount(None, b"/", None, _PRIVATE, None))
    _checked(_libc.mount(os.fsencode(source), os.fsencode(target), None, _BIND, None))
    _checked(_libc.mount(None, os.fsencode(target), None, _READ_ONLY, None))


def _drop(uid: int | None) -> None:
    """Become ``uid`` for good, with no other group; never go on as uid 0."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if 0 in os.getresuid():
        raise PermissionError("nothing runs as uid 0")


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    order: Order = json.loads(sys.stdin.buffer.readline())
    _checked(_libc.prctl(_SUBREAPER, 1, 0, 0, 0))
    run = Run(order)
    try:
        run.start()
        try:
            run.watch()
        finally:
            run.end()
    finally:
        if run.group is not None:
            run.group.remove()
    print(json.dumps(run.result()), flush=True)
