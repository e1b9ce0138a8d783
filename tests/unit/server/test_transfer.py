"""Blocks out of a server and into it: ranges, what may not leave, what may not come, and what is left of it."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import zipfile
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from clonedna.app import receiving
from clonedna.app.service import Service
from clonedna.core.canonical import canonical
from clonedna.core.errors import BadRange
from clonedna.core.work import Identity
from clonedna.server import transfer
from clonedna.server.main import create_app
from clonedna.server.sending import wanted
from clonedna.store.archive import zip_block
from tests.serving import ServerParts
from tests.sharing import ACCOUNT, Ada, put
from tests.unit.store.making import rejected
from tests.unit.trust.small_github import ssh_key

ADMIN, KEY = "0123456789abcdef-admin", "0123456789abcdef-key"
OCTETS = {"content-type": "application/octet-stream"}
Work = Callable[[httpx2.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ada]:
    with Ada.of(tmp_path_factory.mktemp("key")) as made:
        yield made


@pytest.fixture(scope="module")
def giver(ada: Ada, tmp_path_factory: pytest.TempPathFactory) -> ServerParts:
    """A machine with one block that may be shared, and several that may not."""
    parts = ada.parts(tmp_path_factory.mktemp("giver") / "home")
    consent = ada.consents(parts)
    put(parts, "ada", consent, size=4096)
    put(parts, "second", consent)
    put(parts, "home")
    put(parts, "spoilt", consent, gate=rejected())
    me = Identity(name="Ada Example", email="ada@example.org")
    put(parts, "own", canonical(parts.consents.grant_self(me, [me], "local:x")), consent_mode="self")
    return parts


@pytest.fixture
def archive(giver: ServerParts, tmp_path: Path) -> bytes:
    return archived(giver, "ada", tmp_path)


def archived(parts: ServerParts, name: str, folder: Path) -> bytes:
    out = folder / f"{name}.dna"
    zip_block(parts.store.path(parts.registry.resolve(name).id), out)
    return out.read_bytes()


@pytest.fixture
def taker(ada: Ada, giver: ServerParts, tmp_path: Path) -> ServerParts:
    """Another machine, which believes the giver's key."""
    parts = ada.parts(tmp_path / "taker")
    parts.signer.trust(giver.signer.public_key)
    return parts


def small(service: Service) -> FastAPI:
    """The application with these routes of our own alone: it is made in no time."""
    routers, larger = [transfer.router(service)], transfer.larger(service.settings)
    return create_app(service.serving, service.settings, routers=routers, larger=larger)


def ask(parts: ServerParts, work: Work, *, token: str = "") -> None:
    async def call() -> None:
        transport = httpx2.ASGITransport(small(Service(parts, "fake")), raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers) as client:
            await work(client)

    anyio.run(call)


def code(answer: httpx2.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["hint"]
    return error["code"]


def names(parts: ServerParts) -> list[str]:
    return sorted(f"{one.name}@{one.version}" for one in parts.registry.manifests())


def leftovers(parts: ServerParts) -> list[Path]:
    home = parts.settings.home
    return [path for folder in ("staging", "store/incoming") for path in (home / folder).glob("*")]


DOWN = "/api/v1/registry/ada/download"
UP = "/api/v1/registry"


def test_the_whole_file_is_the_export(giver: ServerParts, archive: bytes) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        answer = await client.get(DOWN)
        assert (answer.status_code, answer.content) == (200, archive)
        assert answer.headers["content-length"] == str(len(archive))
        assert answer.headers["content-disposition"] == 'attachment; filename="ada-1.0.0.dna"'
        assert answer.headers["etag"].startswith(f'"{giver.registry.resolve("ada").id[:32]}-')
        head = await client.head(DOWN)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "etag", "accept-ranges", "content-type"):
            assert head.headers[name] == answer.headers[name]
        second = await client.get("/api/v1/registry/second/download")
        assert second.headers["etag"] != answer.headers["etag"]

    ask(giver, work)


def test_parts_of_it(giver: ServerParts, archive: bytes) -> None:
    size = len(archive)
    cases: list[tuple[str, int, bytes, str]] = [
        ("bytes=0-0", 206, archive[:1], f"bytes 0-0/{size}"),
        ("bytes=10-99", 206, archive[10:100], f"bytes 10-99/{size}"),
        ("bytes=100-", 206, archive[100:], f"bytes 100-{size - 1}/{size}"),
        ("bytes=-7", 206, archive[-7:], f"bytes {size - 7}-{size - 1}/{size}"),
        (f"bytes=-{size + 5}", 206, archive, f"bytes 0-{size - 1}/{size}"),
        (f"bytes=5-{size + 5}", 206, archive[5:], f"bytes 5-{size - 1}/{size}"),
        ("bytes=9-5", 200, archive, ""), ("bytes=0-1,3-4", 200, archive, ""), ("lines=1-2", 200, archive, ""),
        ("bytes=a-b", 200, archive, ""), ("bytes=-", 200, archive, ""),
    ]  # fmt: skip

    async def work(client: httpx2.AsyncClient) -> None:
        etag = (await client.head(DOWN)).headers["etag"]
        for asked, status, body, placed in cases:
            answer = await client.get(DOWN, headers={"Range": asked})
            assert (answer.status_code, answer.content) == (status, body), asked
            assert answer.headers.get("content-range", "") == placed
            assert answer.headers["content-length"] == str(len(body))
        for asked in (f"bytes={size}-", "bytes=-0", f"bytes={size + 1}-{size + 9}"):
            answer = await client.get(DOWN, headers={"Range": asked})
            assert code(answer, 416) == "bad_range"
            assert answer.headers["content-range"] == f"bytes */{size}"
        for condition, status in ((etag, 206), ('"other"', 200), ("W/" + etag, 200)):
            answer = await client.get(DOWN, headers={"Range": "bytes=1-2", "If-Range": condition})
            assert answer.status_code == status, condition
        for condition, status in ((etag, 304), ("*", 304), (f'"x", {etag}', 304), ('"x"', 200)):
            assert (await client.get(DOWN, headers={"If-None-Match": condition})).status_code == status

    ask(giver, work)


def test_a_part_is_never_more_than_there_is() -> None:
    for size, start, stop in itertools.product((1, 2, 10), range(12), range(12)):
        headers = {"range": f"bytes={start}-{stop}"}
        if start >= size and stop >= start:
            with pytest.raises(BadRange):
                wanted(headers, size, "x")
        else:
            found = wanted(headers, size, "x")
            assert found == (None if stop < start else (start, min(size, stop + 1)))


def test_what_may_not_leave(giver: ServerParts) -> None:
    refused = {
        "home": (403, "consent_missing"), "own": (403, "consent_missing"), "spoilt": (403, "block_rejected"),
        "nobody": (404, "block_not_found"), "..%2F..%2Fetc": (404, "not_found"), "%00": (400, "bad_reference"),
        "ADA": (400, "bad_reference"), "x" * 201: (400, "bad_input"),
    }  # fmt: skip
    spoilt = next(one for one in giver.registry.manifests() if one.name == "spoilt")

    async def work(client: httpx2.AsyncClient) -> None:
        for reference, (status, wanted_code) in refused.items():
            assert code(await client.get(f"/api/v1/registry/{reference}/download"), status) == wanted_code, reference
        assert code(await client.get(f"/api/v1/registry/{spoilt.id}/download"), 403) == "block_rejected"

    ask(giver, work)


def test_what_is_revoked_damaged_or_not_consented_to_any_more(ada: Ada, tmp_path: Path) -> None:
    parts = ada.parts(tmp_path / "home")
    consent = ada.consents(parts)
    one, two, _three = (put(parts, name, consent) for name in ("one", "two", "three"))

    async def work(client: httpx2.AsyncClient) -> None:
        for name in ("one", "two", "three"):
            assert (await client.get(f"/api/v1/registry/{name}/download")).status_code == 200
        effects = (await client.delete("/api/v1/registry/one")).json()
        assert effects["blocks"] == [one.id]
        assert code(await client.get("/api/v1/registry/one/download"), 403) == "block_revoked"
        assert code(await client.delete("/api/v1/registry/one"), 403) == "block_revoked"
        assert code(await client.delete("/api/v1/registry/never"), 404) == "block_not_found"
        path = parts.store.path(two.id) / "profile.md"
        path.write_bytes(b"x" * path.stat().st_size)
        assert code(await client.get("/api/v1/registry/two/download"), 422) == "block_corrupt"
        ada.consents(parts, "mint", "serve")  # a newer, narrower one
        assert code(await client.get("/api/v1/registry/three/download"), 403) == "consent_invalid"

    ask(parts, work)


def asked(method: str, path: str, **headers: str) -> dict[str, Any]:
    """A request as a server gives it to the application."""
    given = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()], "http_version": "1.1",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip


def test_a_revocation_stops_what_is_being_sent(ada: Ada, tmp_path: Path) -> None:
    parts = ada.parts(tmp_path / "home")
    made = put(parts, "ada", ada.consents(parts), size=5_000_000)
    service = Service(parts, "fake")
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 20:
            await anyio.to_thread.run_sync(parts.registry.revoke, made.id)

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def call() -> None:
        await small(service)(asked("GET", DOWN), receive, send)

    anyio.run(call)
    assert sent[0]["status"] == 200
    assert not any(one.get("more_body") is False for one in sent)
    assert len(sent) == 20


def test_a_client_that_leaves_frees_everything(ada: Ada, tmp_path: Path) -> None:
    parts = ada.parts(tmp_path / "home")
    put(parts, "ada", ada.consents(parts), size=5_000_000)
    service = Service(parts, "fake")
    offer = service.sharing.offer("ada")
    gone = anyio.Event()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            gone.set()
            await anyio.sleep_forever()  # a full buffer

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    def open_files() -> int:
        return sum(1 for one in Path("/proc/self/fd").iterdir() if "/store/blocks/" in str(one.resolve()))

    async def call() -> None:
        from clonedna.server.sending import Sent

        scope = {"type": "http", "method": "GET", "path": DOWN, "headers": []}
        await Sent(service.sharing, offer, "key")(scope, receive, send)

    anyio.run(call)
    assert len(sent) == 3
    assert open_files() == 0


def test_a_block_comes_in_once(taker: ServerParts, giver: ServerParts, archive: bytes) -> None:
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()

    async def work(client: httpx2.AsyncClient) -> None:
        first = await client.post(UP, content=archive, headers=OCTETS | {"Content-Digest": f"sha-256=:{digest}:"})
        assert first.status_code == 201, first.text
        assert first.json() == {
            "name": "ada", "version": "1.0.0", "id": giver.registry.resolve("ada").id, "status": "registered"
        }  # fmt: skip
        again = await client.post(UP, content=archive, headers=OCTETS)
        assert (again.status_code, again.json()) == (200, first.json())
        assert (await client.get(DOWN)).content == archive  # from there to others, with the same consent

    ask(taker, work)
    assert names(taker) == ["ada@1.0.0"]
    assert leftovers(taker) == []


def test_a_sender_that_leaves_leaves_nothing(
    taker: ServerParts, archive: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, Any]] = []
    pieces = iter([archive[:2000], archive[2000:3000]])

    async def receive() -> dict[str, Any]:
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        scope = asked("POST", UP, content_type=OCTETS["content-type"], content_length=str(len(archive)))
        await small(Service(taker, "fake"))(scope, receive, send)

    anyio.run(call)
    assert sent[0]["status"] == 499
    assert (names(taker), leftovers(taker)) == ([], [])
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


def test_what_may_not_come_in(ada: Ada, taker: ServerParts, giver: ServerParts, archive: bytes, tmp_path: Path) -> None:
    stranger = ada.parts(tmp_path / "stranger")
    put(stranger, "theirs", ada.consents(stranger))
    other = put(giver, "taken", (giver.store.path(giver.registry.resolve("ada").id) / "consent.json").read_bytes())
    put(taker, "taken", note="another")
    flipped = bytearray(archive)
    flipped[len(flipped) // 2] ^= 1
    bodies: dict[str, tuple[bytes, int, str]] = {
        "an unknown signer": (archived(stranger, "theirs", tmp_path), 403, "block_untrusted"),
        "local-only": (archived(giver, "home", tmp_path), 403, "consent_missing"),
        "one's own work, not for others": (archived(giver, "own", tmp_path), 403, "consent_missing"),
        "tampered": (bytes(flipped), 422, "block_corrupt"), "cut": (archive[:-100], 422, "block_corrupt"),
        "cut to nothing": (b"", 422, "block_corrupt"), "with something behind": (archive + b"x", 422, "block_corrupt"),
        "no archive": (b"x" * 1000, 422, "block_corrupt"), "a path": (renamed(archive, "../../../x"), 422, "block_corrupt"),
        "an absolute path": (renamed(archive, "/etc/passw"), 422, "block_corrupt"),
        "a bomb": (bomb(), 422, "block_corrupt"),
        "a name that is taken": (archived(giver, "taken", tmp_path), 400, "bad_reference"),
    }  # fmt: skip

    async def work(client: httpx2.AsyncClient) -> None:
        for what, (body, status, wanted_code) in bodies.items():
            assert code(await client.post(UP, content=body, headers=OCTETS), status) == wanted_code, what
            assert leftovers(taker) == [], what
        digest = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
        for header, status, wanted_code in (
            (f"sha-256=:{digest}:", 422, "corrupt"), ("md5=:xxxx:", 400, "bad_input"), ("sha-256=:x:", 400, "bad_input"),
        ):  # fmt: skip
            answer = await client.post(UP, content=archive, headers=OCTETS | {"Content-Digest": header})
            assert code(answer, status) == wanted_code
        assert code(await client.post(UP, json={"a": 1}), 400) == "bad_input"

    ask(taker, work)
    assert names(taker) == ["taken@1.0.0"]
    assert not taker.store.has(other.id)  # type: ignore[attr-defined]


def bomb() -> bytes:
    """Sixty-four megabytes of a file in some kilobytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made, made.open("README.md", "w") as entry:
        for _ in range(8):
            entry.write(bytes(8_000_000))
    return out.getvalue()


def renamed(archive: bytes, name: str) -> bytes:
    assert len(name) == len("profile.md")
    return archive.replace(b"profile.md", name.encode())


def test_a_rejected_or_revoked_block_does_not_come_in(
    taker: ServerParts, giver: ServerParts, archive: bytes, tmp_path: Path
) -> None:
    spoilt = next(one for one in giver.registry.manifests() if one.name == "spoilt")
    zip_block(giver.store.path(spoilt.id), tmp_path / "spoilt.dna")
    taker.registry.revoke(giver.registry.resolve("ada").id)

    async def work(client: httpx2.AsyncClient) -> None:
        for body, wanted_code in (
            ((tmp_path / "spoilt.dna").read_bytes(), "block_rejected"),
            (archive, "block_revoked"),
        ):
            assert code(await client.post(UP, content=body, headers=OCTETS), 403) == wanted_code

    ask(taker, work)
    assert (names(taker), leftovers(taker)) == ([], [])


def test_the_consent_that_came_along_is_looked_up(ada: Ada, taker: ServerParts, archive: bytes) -> None:
    routes = dict(ada.github.routes)
    other = ssh_key(taker.settings.home.parent / "other")

    async def work(client: httpx2.AsyncClient) -> None:
        for change, status, wanted_code in (
            (lambda: ada.github.routes.update({"/users/ada-example": 500}), 503, "unavailable"),
            (lambda: ada.github.gone("ada-example", ACCOUNT), 403, "consent_invalid"),
            (lambda: ada.github.person("ada-example", ACCOUNT, signing=[other]), 403, "consent_invalid"),
            (lambda: ada.github.person("ada-example", ACCOUNT + 1, signing=[other]), 403, "consent_invalid"),
        ):
            change()
            assert code(await client.post(UP, content=archive, headers=OCTETS), status) == wanted_code
            ada.github.routes.clear()
            ada.github.routes.update(routes)
        assert (await client.post(UP, content=archive, headers=OCTETS)).status_code == 201

    try:
        ask(taker, work)
    finally:
        ada.github.routes.clear()
        ada.github.routes.update(routes)


def test_bounds(ada: Ada, giver: ServerParts, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ada.parts(tmp_path / "small", max_upload_bytes=2000)

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(100)

    async def chunked() -> Any:
        for piece in pieces():
            yield piece

    async def too_much(client: httpx2.AsyncClient) -> None:
        assert code(await client.post(UP, content=archive, headers=OCTETS), 413) == "too_large"
        assert code(await client.post(UP, content=chunked(), headers=OCTETS), 413) == "too_large"

    ask(small, too_much)
    assert leftovers(small) == []
    full = ada.parts(tmp_path / "full", min_free_bytes=10**18)

    async def no_space(client: httpx2.AsyncClient) -> None:
        assert code(await client.post(UP, content=archive, headers=OCTETS), 503) == "no_space"

    ask(full, no_space)
    monkeypatch.setattr(receiving, "AT_ONCE", 0)

    async def too_many(client: httpx2.AsyncClient) -> None:
        answer = await client.post(UP, content=archive, headers=OCTETS)
        assert code(answer, 429) == "overloaded"
        assert answer.headers["retry-after"] == "5"

    ask(ada.parts(tmp_path / "busy"), too_many)


def test_scopes(ada: Ada, giver: ServerParts, archive: bytes, tmp_path: Path) -> None:
    parts = ada.parts(tmp_path / "locked", api_key=KEY, admin_key=ADMIN)

    async def nobody(client: httpx2.AsyncClient) -> None:
        for method, path in (("GET", DOWN), ("POST", UP), ("DELETE", f"{UP}/ada"), ("GET", "/api/v1/keys")):
            assert (await client.request(method, path, content=b"x", headers=OCTETS)).status_code == 401

    async def reader(client: httpx2.AsyncClient) -> None:
        assert code(await client.post(UP, content=archive, headers=OCTETS), 403) == "refused"
        assert code(await client.delete(f"{UP}/ada"), 403) == "refused"
        assert code(await client.get(DOWN), 404) == "block_not_found"
        assert (await client.get("/api/v1/keys")).status_code == 200

    ask(parts, nobody)
    ask(parts, nobody, token="f" * 20)
    ask(parts, reader, token=KEY)


def test_keys_are_shown_and_never_more_than_that(giver: ServerParts, taker: ServerParts) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        told = (await client.get("/api/v1/keys")).json()
        assert (told["own"], len(told["identities"])) == ("", 1)
        assert taker.signer.key_id
        told = (await client.get("/api/v1/keys")).json()
        assert told["own"] == told["identities"][0]["identity"]
        assert [one["own"] for one in told["identities"]] == [True, False]
        log = (await client.get(f"/api/v1/keys/{told['own']}")).json()
        assert log["identity"] == told["own"]
        other = ServerParts(taker.settings.home.parent / "other")
        assert other.signer.trusted() == ()
        assert other.signer.trust_log(log["log"].encode()).identity == told["own"]  # type: ignore[attr-defined]
        bare = told["identities"][1]
        assert not bare["has_log"]
        assert code(await client.get(f"/api/v1/keys/{bare['identity']}"), 404) == "not_found"
        assert code(await client.get(f"/api/v1/keys/{'0' * 64}"), 404) == "not_found"
        assert code(await client.get("/api/v1/keys/..%2Fown"), 404) == "not_found"
        assert code(await client.get("/api/v1/keys/short"), 400) == "bad_input"

    ask(taker, work)
