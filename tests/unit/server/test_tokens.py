"""Tokens at a server: who gets in, how often, what every answer says to a browser, and what is written of a change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from clonedna.app.audit import Audit
from clonedna.app.gate import Gate
from clonedna.app.service import Service
from clonedna.app.serving import Serving
from clonedna.app.tokens import PairOrder, TokenOrder, Tokens
from clonedna.core.access import Scope
from clonedna.core.errors import NoSpace, Refused
from clonedna.server import access, main, tokens
from tests.serving import ServerParts, add_block

KEY, ADMIN = "0123456789abcdef-key", "0123456789abcdef-admin"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "my-secret"}], "max_tokens": 2}
Work = Callable[[httpx2.AsyncClient, FastAPI], Awaitable[None]]


def ask(parts: ServerParts, work: Work, *, host: str = "127.0.0.1:8000") -> None:
    """Run ``work`` with a client of an application in this process, of OpenAI's routes and ours for access."""

    async def call() -> None:
        service = Service(parts, "fake")
        app = main.create_app(
            service.serving, parts.settings, gate=service.gate, audit=service.audit, routers=[tokens.router(service)]
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            await work(client, app)

    anyio.run(call)


def token(parts: ServerParts, name: str, *scopes: Scope) -> dict[str, str]:
    """The headers of a request with a new token."""
    return {"Authorization": f"Bearer {Tokens(parts).new(TokenOrder(name=name, scopes=scopes)).token}"}


def test_the_first_token_closes_a_server_on_loopback_and_revoking_the_last_opens_it(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        assert (await client.get("/api/v1/tokens")).status_code == 200
        made = token(parts, "ada", "read")  # as another process would
        for given, status in (({}, 401), ({"Authorization": "Bearer none"}, 401), (made, 200)):
            assert (await client.get("/api/v1/engine", headers=given)).status_code == status
        assert (await client.get("/healthz")).status_code == 200
        Tokens(parts).revoke("ada")
        assert (await client.get("/api/v1/engine")).status_code == 200

    ask(parts, work)


def test_what_was_revoked_or_rotated_elsewhere_is_refused_at_the_next_request(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    token(parts, "other", "read")
    old = token(parts, "ada", "read")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        assert (await client.get("/version", headers=old)).status_code == 200
        new = Tokens(ServerParts(tmp_path)).rotate("ada").token
        assert (await client.get("/version", headers=old)).status_code == 401
        assert (await client.get("/version", headers={"Authorization": f"Bearer {new}"})).status_code == 200
        Tokens(ServerParts(tmp_path)).revoke("ada")
        assert (await client.get("/version", headers={"Authorization": f"Bearer {new}"})).status_code == 401

    ask(parts, work)


def test_keys_and_tokens_work_side_by_side(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, api_key=KEY, admin_key=ADMIN)
    made = token(parts, "ada", "mint")
    key, admin_key = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {ADMIN}"}

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for given, read, admin in ((made, 403, 403), (key, 200, 403), (admin_key, 200, 200), ({}, 401, 401)):
            assert (await client.get("/version", headers=given)).status_code == read
            assert (await client.get("/api/v1/tokens", headers=given)).status_code == admin

    ask(parts, work)


def test_a_server_beyond_loopback_wants_a_token_even_when_none_is_left(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, host="0.0.0.0")
    with pytest.raises(Refused, match="no token"):
        main.listen(parts.settings, has_token=Gate(parts).live)
    made = token(parts, "ada", "read")
    main.listen(parts.settings, has_token=Gate(parts).live).close()

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        assert (await client.get("/version", headers=made)).status_code == 200
        Tokens(parts).revoke("ada")
        assert (await client.get("/version")).status_code == 401

    ask(parts, work, host="dna.example.org")


def test_a_database_that_fails_lets_nobody_in(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, api_key=KEY)
    made = token(parts, "ada", "read")
    with parts.database.session() as session:
        session.connection().exec_driver_sql("DROP TABLE tokens")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        assert (await client.get("/version", headers=made)).status_code in (422, 503)
        assert (await client.get("/version", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200

    ask(parts, work)


def test_a_database_that_does_not_answer_lets_few_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ServerParts(tmp_path, max_requests=2)
    away, statuses = threading.Event(), list[int]()

    def wanted(_: Gate) -> bool:
        assert away.wait(30)
        return False

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        async def asked() -> None:
            statuses.append((await client.get("/version")).status_code)
            if len(statuses) == 3:
                away.set()

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(asked)

    monkeypatch.setattr(Gate, "wanted", wanted)
    ask(parts, work)
    assert statuses == [429] * 3 + [200] * 2


def test_who_asks_is_in_the_request_s_state(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    made = token(parts, "ada", "read")
    seen: list[Any] = []

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        inner = app.middleware_stack or app.build_middleware_stack()

        async def watching(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope, receive, send)
            seen.append(scope["state"]["who"])

        app.middleware_stack = watching
        await client.get("/version", headers=made)

    ask(parts, work)
    assert [(one.kind, one.name, one.scopes) for one in seen] == [("token", "ada", {"read"})]


def test_each_token_has_a_rate_of_its_own_and_strangers_share_that_of_their_address(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, rate_limit=0.001, rate_burst=3)
    ada, bob = token(parts, "ada", "read"), token(parts, "bob", "read")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        async def asked(given: dict[str, str]) -> list[int]:
            return [(await client.get("/version", headers=given)).status_code for _ in range(5)]

        assert await asked(ada) == [200, 200, 200, 429, 429]
        assert await asked(bob) == [200, 200, 200, 429, 429]
        assert await asked({"Authorization": "Bearer wrong"}) == [401, 401, 401, 429, 429]
        late = await client.get("/version", headers=ada)
        assert (late.json()["error"]["code"], int(late.headers["retry-after"]) > 100) == ("overloaded", True)
        assert (await client.get("/healthz")).status_code == 200

    ask(parts, work)


PAGE = {"Origin": "https://page.example.org"}
PREFLIGHT = PAGE | {
    "Access-Control-Request-Method": "DELETE",
    "Access-Control-Request-Headers": "authorization, content-type",
}


def test_no_page_of_another_origin_may_ask(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    made = token(parts, "ada", "read")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for answer in (
            await client.options("/api/v1/engine", headers=PREFLIGHT),
            await client.get("/version", headers=PAGE | made),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"

    ask(parts, work)


def test_the_origins_of_the_settings_may_and_no_other(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, cors_origins=("https://page.example.org",))
    made = token(parts, "ada", "read")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        leave = await client.options("/api/v1/engine", headers=PREFLIGHT)
        assert leave.status_code == 200
        assert leave.headers["access-control-allow-origin"] == "https://page.example.org"
        assert "DELETE" in leave.headers["access-control-allow-methods"]
        assert "authorization" in leave.headers["access-control-allow-headers"].casefold()
        for answer in (
            leave,
            await client.get("/version", headers=PAGE | made),
            await client.get("/version", headers=PAGE),
        ):
            assert answer.headers["access-control-allow-origin"] == "https://page.example.org"
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
            assert "access-control-allow-credentials" not in answer.headers
        for other in ("https://page.example.org.evil.example", "http://page.example.org", "null"):
            refused = await client.options("/api/v1/engine", headers=PREFLIGHT | {"Origin": other})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "refused")
            assert "access-control-allow-origin" not in refused.headers
            plain = await client.get("/version", headers=made | {"Origin": other})
            assert "access-control-allow-origin" not in plain.headers

    ask(parts, work)


@pytest.mark.parametrize(
    "origin", ["*", "https://page.example.org/", "page.example.org", "null", "https://*.example.org", "file://x"]
)
def test_an_origin_that_is_none_is_no_setting(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        ServerParts(tmp_path, cors_origins=(origin,))


def test_every_answer_tells_browsers_what_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ServerParts(tmp_path)

    async def broken(self: Serving) -> None:
        raise RuntimeError("inner words")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        stream = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert stream.headers["content-type"].startswith("text/event-stream")
        answers = [
            stream, await client.get("/healthz"), await client.get("/version"), await client.get("/nowhere"), await client.get("/metrics"),
            await client.put("/version"), await client.post("/v1/completions", content=b"{"), await client.get("/openapi.json"),
            await client.get("/version", headers={"Host": "evil.example.org"}), await client.options("/version"),
            await client.head("/version"), await client.post("/v1/completions", content=b" " * 5_000_000),
        ]  # fmt: skip
        monkeypatch.setattr(Serving, "models", broken)
        answers.append(await client.get("/v1/models"))
        assert answers[-1].status_code == 500
        for answer in answers:
            assert answer.headers["x-content-type-options"] == "nosniff", answer.url
            assert answer.headers["referrer-policy"] == "no-referrer", answer.url
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'", answer.url
            assert answer.headers["cache-control"] == "no-store", answer.url
            assert "strict-transport-security" not in answer.headers

    ask(parts, work)


def test_https_alone_is_said_by_setting(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for path in ("/healthz", "/nowhere"):
            assert (await client.get(path)).headers["strict-transport-security"] == "max-age=3600"

    ask(ServerParts(tmp_path, hsts_seconds=3600), work)


def entries(parts: ServerParts) -> list[tuple[str, str, str, str]]:
    found = [one for one in Audit(parts).page().entries if one.kind == "changed"]
    return [(one.facts["who"], one.facts["what"], one.about, one.facts["result"]) for one in reversed(found)]


def test_a_change_is_in_the_audit_log_with_who_and_what_and_nothing_that_was_written(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    boss = token(parts, "boss", "admin")
    name = add_block(parts, "ada").name

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        made = await client.post("/api/v1/tokens", json={"name": "kid", "scopes": ["read"]}, headers=boss)
        kid = {"Authorization": f"Bearer {made.json()['token']}"}
        who = f"token boss ({boss['Authorization'][12:24]})"
        assert entries(parts) == [(who, "POST /api/v1/tokens", "kid", "done 201")]
        await client.post("/v1/chat/completions", headers=boss, json=CHAT)
        await client.get("/api/v1/tokens", headers=boss)
        await client.delete("/api/v1/tokens/nobody", headers=boss)
        for given, sent in ((kid, {"name": "x"}), (boss, {"name": "No"}), ({}, {})):
            await client.post("/api/v1/tokens", headers=given, json=sent)
        assert len(entries(parts)) == 1
        await client.post("/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": name}, headers=boss)
        await client.post("/api/v1/tokens/kid/rotate", headers=boss)
        await client.delete("/api/v1/tokens/kid", headers=boss)
        assert [entry[1:] for entry in entries(parts)[1:]] == [
            ("POST /v1/load_lora_adapter", "-", "done 200"),
            ("POST /api/v1/tokens/{name}/rotate", "kid", "done 200"),
            ("DELETE /api/v1/tokens/{name}", "kid", "done 200"),
        ]
        for secret in (boss["Authorization"][25:], kid["Authorization"][25:], "my-secret"):
            assert secret not in (tmp_path / "audit/log.jsonl").read_text()

    ask(parts, work)


def test_the_log_is_read_page_by_page_and_says_whether_it_is_whole(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    for number in range(7):
        Audit(parts).changed("local", "dna test", str(number), "done")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        seen, before = list[str](), None
        while True:
            page = (
                await client.get("/api/v1/audit", params={"limit": 3} | ({"before": before} if before else {}))
            ).json()
            assert len(page["entries"]) <= 3
            seen += [one["about"] for one in page["entries"]]
            before = page["before"]
            if before is None:
                break
        assert seen == list("6543210")
        assert (await client.get("/api/v1/audit/verdict")).json()["ok"]
        for query in ({"limit": 0}, {"limit": 201}, {"before": 0}, {"before": "x"}, {"before": 2**60}):
            assert (await client.get("/api/v1/audit", params=query)).status_code == 400
        log = tmp_path / "audit/log.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:3] + lines[4:]))
        verdict = (await client.get("/api/v1/audit/verdict")).json()
        assert (verdict["ok"], verdict["line"]) == (False, 4)
        assert (await client.get("/api/v1/audit")).status_code == 422

    ask(parts, work)


def test_what_cannot_be_recorded_is_not_done(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    Audit(parts).changed("local", "dna test", "-", "done")
    (tmp_path / "audit/log.jsonl").write_bytes(b"damaged\n")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        answer = await client.post("/api/v1/tokens", json={"name": "kid", "scopes": ["read"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "corrupt")
        assert (await client.get("/api/v1/tokens")).json() == {"tokens": []}

    ask(parts, work)


def test_with_a_locked_key_nothing_is_changed(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, key_passphrase="correct horse")
    assert parts.signer.key_id

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        answer = await client.post("/api/v1/tokens", json={"name": "kid", "scopes": ["read"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_locked")
        assert (await client.get("/api/v1/tokens")).json() == {"tokens": []}

    ask(ServerParts(tmp_path), work)


def test_a_change_that_was_made_and_not_recorded_is_told_as_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = ServerParts(tmp_path)

    def full(*_: object) -> None:
        raise NoSpace("no space left", "free some")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        answer = await client.post("/api/v1/tokens", json={"name": "kid", "scopes": ["read"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_space")
        assert "dnat_" not in answer.text

    monkeypatch.setattr(Audit, "changed", full)
    ask(parts, work)
    assert "could not be recorded" in caplog.text


def test_a_code_is_claimed_without_a_token_once_and_never_shown_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = ServerParts(tmp_path)
    boss = token(parts, "boss", "admin")

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        made = await client.post("/api/v1/pairings", json={"name": "lap", "scopes": ["read"]}, headers=boss)
        code = made.json()["code"]
        assert made.headers["cache-control"] == "no-store"
        assert code not in (await client.get("/api/v1/tokens", headers=boss)).text
        claimed = await client.post("/api/v1/pairings/claim", json={"code": code})
        assert (claimed.status_code, claimed.headers["cache-control"]) == (200, "no-store")
        lap = {"Authorization": f"Bearer {claimed.json()['token']}"}
        assert (await client.get("/version", headers=lap)).status_code == 200
        assert (await client.post("/api/v1/pairings/claim", json={"code": code})).status_code == 401
        assert entries(parts)[-1] == (
            f"token lap ({lap['Authorization'][12:24]})",
            "POST /api/v1/pairings/claim",
            "lap",
            "done 200",
        )
        for secret in (code, claimed.json()["token"]):
            assert secret not in caplog.text
            assert secret not in (tmp_path / "audit/log.jsonl").read_text()

    with caplog.at_level(logging.DEBUG):
        ask(parts, work)


def test_of_fifty_claims_at_once_one_gets_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "CLAIMS_AT_ONCE", 50)
    parts = ServerParts(tmp_path)
    code = Tokens(parts).pair(PairOrder(name="lap", scopes=("read",))).code
    statuses: list[int] = []

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        async def claim() -> None:
            statuses.append((await client.post("/api/v1/pairings/claim", json={"code": code})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(claim)

    ask(parts, work)
    assert sorted(statuses) == [200] + [401] * 49


def test_attempts_at_codes_are_few_and_pages_have_none(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path)
    code = Tokens(parts).pair(PairOrder(name="lap", scopes=("read",))).code

    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for foreign in ({"Origin": "http://evil.example.org"}, {"Host": "evil.example.org"}):
            assert (
                await client.post("/api/v1/pairings/claim", json={"code": code}, headers=foreign)
            ).status_code == 403
        for sent in ({"code": "0" * 20}, {"code": "0" * 101}, {}):
            assert (await client.post("/api/v1/pairings/claim", json=sent)).status_code in (400, 401)
        late = await client.post("/api/v1/pairings/claim", json={"code": code})
        assert (late.status_code, int(late.headers["retry-after"]) >= 5) == (429, True)

    ask(parts, work)
    assert Tokens(parts).list()[0].status == "waiting"


ORDERS: tuple[dict[str, Any], ...] = (
    {}, {"name": "ada"}, {"name": "ada", "scopes": []}, {"name": "ada", "scopes": ["root"]}, {"name": "../ada", "scopes": ["read"]},
    {"name": "ada", "scopes": ["read"], "days": 0}, {"name": "ada", "scopes": ["read"], "more": 1}, {"name": "a" * 64, "scopes": ["read"]},
    {"name": "ada", "scopes": ["read"] * 9}, {"name": None, "scopes": "read"}, {"name": "ada", "scopes": ["read"], "days": 1e9},
)  # fmt: skip


def test_an_order_that_is_none_is_a_400(tmp_path: Path) -> None:
    async def work(client: httpx2.AsyncClient, app: FastAPI) -> None:
        for path in ("/api/v1/tokens", "/api/v1/pairings"):
            for sent in ORDERS:
                answer = await client.post(path, json=sent)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_input"), sent

    ask(ServerParts(tmp_path), work)
