"""Two machines and the line between them: push, pull, and whatever breaks on the way. All is real but the engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.holding import Holding
from clonedna.app.sharing import Sharing
from clonedna.app.staging import orphaned
from clonedna.cli.main import app
from clonedna.client import Client
from clonedna.core.block import Manifest
from clonedna.core.errors import (
    BadReference,
    BlockCorrupt,
    BlockNotFound,
    BlockRevoked,
    BlockUntrusted,
    ConsentMissing,
    DnaError,
    JobBusy,
    NoSpace,
    Refused,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from tests.cli import CliRunner
from tests.command import Dna
from tests.forked import popen
from tests.serving import ServerParts, running
from tests.sharing import Ada, put

pytestmark = pytest.mark.slow
ADMIN, KEY = "0123456789abcdef-admin", "0123456789abcdef-key"
SIZE = 3_000_000


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ada]:
    with Ada.of(tmp_path_factory.mktemp("key")) as made:
        yield made


@pytest.fixture(scope="module")
def giver(ada: Ada, tmp_path_factory: pytest.TempPathFactory) -> ServerParts:
    parts = ada.parts(tmp_path_factory.mktemp("giver") / "home")
    consent = ada.consents(parts)
    put(parts, "ada", consent, size=SIZE)
    put(parts, "small", consent)
    put(parts, "home")
    return parts


@pytest.fixture(scope="module")
def giving(giver: ServerParts) -> Generator[str]:
    with running(giver, whole=True) as url:
        yield url


@pytest.fixture
def taker(ada: Ada, giver: ServerParts, tmp_path: Path) -> ServerParts:
    parts = ada.parts(tmp_path / "taker")
    parts.signer.trust(giver.signer.public_key)
    return parts


class Line:
    """A line to a server that can be cut: each connection after the next number of ``cuts`` bytes to the client; then never."""

    def __init__(self, url: str, *cuts: int, pause: float = 0) -> None:
        self._to = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.cuts, self.pause, self.asked = list(cuts), pause, list[str]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which then closes the listener itself
        self._thread.join()

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        most = self.cuts.pop(0) if self.cuts else None
        with client, socket.create_connection(self._to) as server, contextlib.suppress(OSError):
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            while data := server.recv(65536):
                if most is not None and len(data) >= most:
                    client.sendall(data[:most])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
                most = None if most is None else most - len(data)
                time.sleep(self.pause)
            client.shutdown(socket.SHUT_RDWR)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.asked.append(data.decode("latin-1"))
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    @property
    def ranges(self) -> list[int]:
        """Where the downloads began, in their order."""
        found = [one for one in self.asked if "/download" in one]
        return [int(one.lower().partition("range: bytes=")[2].partition("-")[0] or "0") for one in found]


@pytest.fixture
def line(giving: str) -> Generator[Callable[..., Line]]:
    made: list[Line] = []

    def make(*cuts: int, url: str = giving, **options: Any) -> Line:
        made.append(Line(url, *cuts, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def client(url: str, token: str = "") -> Client:
    made = Client(url, token, timeout=20)
    made.wire.pause = lambda _: None
    return made


def refused(work: Callable[[], object], kind: type[DnaError]) -> DnaError:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.hint
    return caught.value


def ids(parts: ServerParts) -> set[str]:
    return {one.id for one in parts.registry.manifests()}


def files_of(parts: ServerParts, made: Manifest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in parts.store.path(made.id).iterdir()}


def left(parts: ServerParts) -> list[Path]:
    return [path for name in ("staging", "pulls", "store/incoming") for path in (parts.settings.home / name).glob("*")]


def test_pushed_to_one_and_pulled_by_another(ada: Ada, giver: ServerParts, taker: ServerParts, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    with running(taker, whole=True) as url, client(url) as remote:
        taken = remote.transfer.push(Sharing(giver), "ada", lambda done, total: sent.append((done, total)))
        made = giver.registry.resolve("ada")
        assert (taken.new, taken.block.id) == (True, made.id)
        assert sent[-1][0] == sent[-1][1] > SIZE
        sent.clear()
        assert not remote.transfer.push(Sharing(giver), "ada", lambda *now: sent.append(now)).new
        assert sent == []  # what is there is not sent again
        third = ada.parts(tmp_path / "third")
        third.signer.trust(giver.signer.public_key)
        assert remote.transfer.pull(Sharing(third), "ada", lambda *now: sent.append(now)).new
        assert sent[-1][0] == sent[-1][1]
        assert not remote.transfer.pull(Sharing(third), made.id).new
    given = {(one.way, one.who) for one in Holding(giver).of([made.id])[made.id]}
    assert ("pushed", url) in given
    assert [one.way for one in Holding(taker).of([made.id])[made.id]] == ["downloaded"]
    assert files_of(third, made) == files_of(taker, made) == files_of(giver, made)
    assert left(taker) == left(third) == []


def test_what_may_not_be_given_is_not_sent(giver: ServerParts, taker: ServerParts, line: Callable[..., Line]) -> None:
    with running(taker, whole=True) as url, client(line(url=url).url) as remote:
        refused(lambda: remote.transfer.push(Sharing(giver), "home"), ConsentMissing)
        refused(lambda: remote.transfer.push(Sharing(giver), "nobody"), BlockNotFound)
        refused(lambda: remote.transfer.push(Sharing(giver), "../ada"), BadReference)
    assert ids(taker) == set()


def test_tokens(ada: Ada, giver: ServerParts, tmp_path: Path) -> None:
    locked = ada.parts(tmp_path / "locked", api_key=KEY, admin_key=ADMIN)
    locked.signer.trust(giver.signer.public_key)
    with running(locked, whole=True) as url:
        for token, kind in (("", Unauthorised), ("f" * 30, Unauthorised), (KEY, Refused)):
            with client(url, token) as remote:
                error = refused(lambda remote=remote: remote.transfer.push(Sharing(giver), "small"), kind)  # type: ignore[misc]
                assert not token or token not in f"{error.message} {error.hint}"
        assert ids(locked) == set()
        with client(url, ADMIN) as remote:
            assert remote.transfer.push(Sharing(giver), "small").new


def test_a_block_that_is_too_large_there(ada: Ada, giver: ServerParts, tmp_path: Path) -> None:
    """Refused by its length, before it is sent whole: the sender is told why all the same."""
    little = ada.parts(tmp_path / "little", max_upload_bytes=100_000)
    little.signer.trust(giver.signer.public_key)
    with running(little, whole=True) as url, client(url) as remote:
        refused(lambda: remote.transfer.push(Sharing(giver), "ada"), TooLarge)
        assert remote.transfer.push(Sharing(giver), "small").new


def test_an_unknown_signer_and_the_way_on(ada: Ada, giver: ServerParts, giving: str, tmp_path: Path) -> None:
    stranger = ada.parts(tmp_path / "stranger")
    with client(giving) as remote:
        error = refused(lambda: remote.transfer.pull(Sharing(stranger), "small"), BlockUntrusted)
        assert f"keys fetch {giver.signer.key_id} --out" in error.hint
        assert ids(stranger) == set()
        log = remote.transfer.key_log(giver.signer.key_id)
        assert log.identity == remote.transfer.keys().own
        assert giver.signer.key_id not in stranger.signer.trusted()
        stranger.signer.trust_log(log.log.encode())  # type: ignore[attr-defined]
        assert remote.transfer.pull(Sharing(stranger), "small").new
    with running(ada.parts(tmp_path / "another"), whole=True) as url, client(url) as remote:
        error = refused(lambda: remote.transfer.push(Sharing(giver), "small"), BlockUntrusted)
        assert f"dna keys log {log.identity} --out" in error.hint
        assert f"dna keys trust signer.keys --fingerprint {log.identity}" in error.hint


def test_a_line_that_breaks_again_and_again(taker: ServerParts, line: Callable[..., Line]) -> None:
    broken = line(1_000_000, 900, 700_000, 400_000)
    with client(broken.url) as remote:
        assert remote.transfer.pull(Sharing(taker), "ada").new
    begun = broken.ranges
    assert len(begun) == 5
    assert begun[0] == 0
    assert begun == sorted(begun)
    assert begun[-1] > 1_000_000
    assert left(taker) == []


def test_a_line_that_is_dead_is_given_up_and_what_came_is_kept(taker: ServerParts, line: Callable[..., Line]) -> None:
    broken = line(1_000_000, *[0] * 20)
    with client(broken.url) as remote:
        refused(lambda: remote.transfer.pull(Sharing(taker), "ada"), Unavailable)
        came = sum(path.stat().st_size for path in (taker.settings.home / "pulls").glob("*/part"))
        assert came > 500_000
        assert ids(taker) == set()
        broken.cuts.clear()
        assert remote.transfer.pull(Sharing(taker), "ada").new
    assert broken.ranges[-1] == came


def test_another_file_under_the_same_name_starts_anew(
    ada: Ada, tmp_path: Path, taker: ServerParts, line: Callable[..., Line]
) -> None:
    parts = ada.parts(tmp_path / "changing")
    taker.signer.trust(parts.signer.public_key)
    consent = ada.consents(parts)
    put(parts, "ada", consent, size=SIZE)
    with running(parts, whole=True) as url:
        broken = line(1_000_000, *[0] * 20, url=url)
        with client(broken.url) as remote:
            refused(lambda: remote.transfer.pull(Sharing(taker), "ada"), Unavailable)
            newer = put(parts, "ada", consent, size=SIZE, version="1.1.0", note="2")
            broken.cuts.clear()
            assert remote.transfer.pull(Sharing(taker), "ada").block.id == newer.id
    assert ids(taker) == {newer.id}


def test_another_block_than_was_asked_for_is_not_taken(
    ada: Ada, giver: ServerParts, taker: ServerParts, giving: str
) -> None:
    """A server that answers ``ada`` with ``small``, which is signed by somebody believed."""

    with client(giving) as remote:
        wire = remote.wire
        true = wire.stream
        wire.stream = lambda method, path, **more: true(method, path.replace("/ada/", "/small/"), **more)  # type: ignore[method-assign]
        refused(lambda: remote.transfer.pull(Sharing(taker), "ada"), BadReference)
    assert (ids(taker), left(taker)) == (set(), [])


def test_bytes_that_changed_on_the_way(taker: ServerParts, giving: str) -> None:
    with client(giving) as remote:
        true = remote.wire.stream

        @contextlib.contextmanager
        def noisy(*arguments: Any, **more: Any) -> Generator[Any]:
            with true(*arguments, **more) as answer:
                pieces = answer.iter_bytes
                answer.iter_bytes = lambda size: (bytes([piece[0] ^ 1]) + piece[1:] for piece in pieces(size))  # type: ignore[method-assign]
                yield answer

        remote.wire.stream = noisy  # type: ignore[method-assign]
        refused(lambda: remote.transfer.pull(Sharing(taker), "small"), BlockCorrupt)
    assert (ids(taker), left(taker)) == (set(), [])


def test_one_at_a_time(taker: ServerParts, line: Callable[..., Line]) -> None:
    slow, begun = line(pause=0.05), threading.Event()

    def first() -> None:
        with client(slow.url) as remote:
            remote.transfer.pull(Sharing(taker), "ada", lambda *_: begun.set())

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    with client(slow.url) as remote:
        refused(lambda: remote.transfer.pull(Sharing(taker), "ada"), JobBusy)
    thread.join(30)
    assert len(ids(taker)) == 1


def test_many_pull_at_once(ada: Ada, giver: ServerParts, giving: str, tmp_path: Path) -> None:
    takers = [ada.parts(tmp_path / f"taker-{number}") for number in range(8)]
    for one in takers:
        one.signer.trust(giver.signer.public_key)

    def work(one: ServerParts) -> None:
        with client(giving) as remote:
            remote.transfer.pull(Sharing(one), "ada")

    threads = [threading.Thread(target=work, args=(one,)) for one in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(ids(one) == {giver.registry.resolve("ada").id} for one in takers)


def test_a_revoked_block_is_neither_given_nor_taken(ada: Ada, tmp_path: Path, taker: ServerParts) -> None:
    parts = ada.parts(tmp_path / "revoking")
    taker.signer.trust(parts.signer.public_key)
    made = put(parts, "ada", ada.consents(parts))
    with running(taker, whole=True) as url, client(url) as remote:
        assert remote.transfer.push(Sharing(parts), "ada").new
        assert remote.transfer.revoke("ada").blocks == (made.id,)
        refused(lambda: remote.transfer.pull(Sharing(parts), "ada"), BlockRevoked)
        refused(lambda: remote.transfer.push(Sharing(parts), "ada"), BlockRevoked)
        refused(lambda: remote.transfer.revoke("ada"), BlockRevoked)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("a small disk takes root and mount(8)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up(ada: Ada, giver: ServerParts, giving: str, small_disk: Path) -> None:
    """The archive has room, the unpacked block beside it has not: neither does the space that is asked for before anything comes."""
    full = ada.parts(small_disk / "home")
    full.signer.trust(giver.signer.public_key)
    with client(giving) as remote:
        refused(lambda: remote.transfer.pull(Sharing(full), "ada"), NoSpace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clonedna.app.receiving.require_space", lambda *_: None)
        with running(full, whole=True) as url, client(url) as remote:
            refused(lambda: remote.transfer.push(Sharing(giver), "ada"), NoSpace)
            assert ids(full) == set()
            assert left(full) == []
            assert remote.transfer.push(Sharing(giver), "small").new


def start(home: Path, github: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, on any port; gives its address."""
    settings = {
        "DNA_HOME": str(home),
        "DNA_GITHUB_URL": github,
        "DNA_MIN_FREE_BYTES": "0",
        "DNA_BASE": "fake",
        **environment,
    }
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")}
    process = popen(
        "tests.integration.serve_fake", "serve", "--port", "0", "--json", env=clean | settings, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


def test_a_server_killed_in_the_middle_of_an_upload(ada: Ada, giver: ServerParts, taker: ServerParts) -> None:
    process, url = start(taker.settings.home, ada.github.url)
    try:
        offer = Sharing(giver).offer("ada")
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as line, offer.open() as opened:
            head = (
                f"POST /api/v1/registry HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/octet-stream\r\n"
            )
            line.sendall(f"{head}content-length: {offer.size}\r\n\r\n".encode())
            place = 0
            while place < offer.size // 2:
                piece = opened.read(place, 65536)
                line.sendall(piece)
                place += len(piece)
            deadline = time.monotonic() + 20
            while not any(path.stat().st_size for path in (taker.settings.home / "staging").glob("*/*.dna")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(20)
    finally:
        process.kill()
        process.communicate()
    assert ids(taker) == set()
    assert len(list(orphaned(taker.settings.home))) == 1
    process, url = start(taker.settings.home, ada.github.url)
    try:
        with client(url) as remote:
            assert remote.transfer.push(Sharing(giver), "ada").new
        assert left(taker) == []  # what the killed one left, too
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert len(ids(taker)) == 1


def test_a_pull_that_was_killed_goes_on(ada: Ada, taker: ServerParts, line: Callable[..., Line]) -> None:
    home = taker.settings.home
    dna = Dna(home)
    dna.environment["DNA_GITHUB_URL"] = ada.github.url
    slow = line(pause=0.05)
    process = dna.start("pull", "ada", "--from", slow.url)
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in (home / "pulls").glob("*/part")) < 500_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    came = sum(path.stat().st_size for path in (home / "pulls").glob("*/part"))
    assert ids(taker) == set()
    slow.pause = 0
    out = dna.json("pull", "ada", "--from", slow.url)
    assert out["new"]
    assert slow.ranges == [0, came]
    assert ids(taker) == {out["block"]["id"]}


def test_the_commands(
    ada: Ada, giver: ServerParts, giving: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNA_GITHUB_URL", ada.github.url)
    monkeypatch.setenv("DNA_MIN_FREE_BYTES", "0")
    home = tmp_path / "mine"

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["--home", str(home), *words, "--json"], standalone_mode=False)
        if isinstance(done.exception, DnaError):
            assert done.exception.hint
            return done.exception.code
        assert done.exception is None, done.exception
        return json.loads(done.stdout.splitlines()[-1])

    assert run("pull", "small") == "bad_input"
    assert run("pull", "small", "--from", "ftp://x") == "bad_input"
    assert run("pull", "small", "--from", giving) == "block_untrusted"
    assert run("keys", "fetch") == "bad_input"
    got = run("--server", giving, "keys", "fetch", giver.signer.key_id, "--out", "signer.keys")
    assert run("--server", giving, "keys", "fetch", "--out", "signer.keys") == "bad_reference"
    assert run("keys", "trust", "signer.keys", "--fingerprint", got["identity"]) == {"trusted": got["identity"]}
    pulled = run("--server", giving, "pull", "small")
    assert pulled["new"]
    assert run("pull", "small@1.0.0", "--from", giving) == pulled | {"new": False}
    assert run("push", "small", "--to", giving) == pulled | {"new": False}
    assert run("verify", "small")["id"] == pulled["block"]["id"]
    assert run("push", "home", "--to", giving) == "block_not_found"
