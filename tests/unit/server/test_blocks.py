"""One block over HTTP: what each route answers, who may have which file, and that bad input is never a fault of ours."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clonedna.app.details import WORK
from clonedna.core.block import Lineage
from clonedna.core.canonical import sha256
from tests.developers import World, world
from tests.serving import ServerParts, running
from tests.unit.trust.small_github import ssh_sign
from tests.values import ADA

KEY, ADMIN = "0123456789abcdef-key", "0123456789abcdef-admin"
REGISTRY = "/api/v1/registry"


@dataclass
class Site:
    """A server with a shared block, a closed one, one that continues the shared one; ``parts`` are another process's over its home."""

    world: World
    parts: ServerParts
    url: str

    def client(self, key: str = KEY) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch, world(folder, patch) as made:
        settings: dict[str, Any] = {"api_key": KEY, "admin_key": ADMIN, "github_url": made.github.url, "rate_limit": 0}
        parts = ServerParts(folder / "home", **settings)
        shared = made.block(parts, "shared", made.consent(parts, ["mint", "serve", "share"]))
        made.block(parts, "closed")
        own = parts.consents.grant_self(ADA, [ADA], "local:abacus")
        made.block(parts, "own", own, "somebody")
        made.block(parts, "next", lineage=Lineage(parents=(shared.id,), relation="continued"))
        with running(ServerParts(folder / "home", **settings), whole=True) as url:
            yield Site(made, parts, url)


def code(answer: httpx2.Response) -> str:
    error = answer.json()["error"]
    assert error["hint"]
    return error["code"]


def test_every_paper_has_its_route(site: Site) -> None:
    with site.client() as client:
        detail = client.get(f"{REGISTRY}/shared").json()
        assert (detail["manifest"]["name"], detail["path"]) == ("shared", "")
        assert client.get(f"{REGISTRY}/shared/verify").json()["verified"] is True
        assert client.get(f"{REGISTRY}/shared/evaluations").json()["again"] == []
        assert client.get(f"{REGISTRY}/shared/card").json()["text"].startswith("# Ada")
        card = client.get(f"{REGISTRY}/shared/card", params={"format": "markdown"})
        assert card.headers["content-type"] == "text/markdown; charset=utf-8"
        assert card.text.startswith("# Ada")
        assert "sandbox" in card.headers["content-security-policy"]
        lineage = client.get(f"{REGISTRY}/shared/lineage").json()
        assert [one["name"] for one in lineage["blocks"]] == ["shared", "next"]
        drawn = client.get(f"{REGISTRY}/shared/lineage", params={"format": "mermaid"})
        assert drawn.text.startswith("flowchart TD\n")
        (version,) = client.get(f"{REGISTRY}/shared/versions").json()["versions"]
        assert version["means"] is True
        compared = client.get(f"{REGISTRY}/compare/shared/closed").json()
        assert compared["measures"]["weights.cosine"]["status"] == "measured"
        assert client.get(f"{REGISTRY}/diff/shared/closed").json()["a"]["name"] == "shared"


@pytest.mark.parametrize("name", [*sorted(WORK), "README.md", "consent.json"])
def test_files_come_whole_inert_and_only_to_who_may_have_them(name: str, site: Site) -> None:
    with site.client() as client, site.client(ADMIN) as admin:
        table = {one["path"]: one for one in client.get(f"{REGISTRY}/shared/files").json()["files"]}
        got = client.get(f"{REGISTRY}/shared/files/{name}")
        assert sha256(got.content) == table[name]["sha256"]
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["etag"] == f'"{table[name]["sha256"]}"'
        assert not got.headers["content-type"].startswith("text/html")
        for block, key, status in (
            ("own", client, 403),
            ("own", admin, 200),
            ("closed", client, 403),
            ("closed", admin, 403),
        ):
            assert key.get(f"{REGISTRY}/{block}/files/{name}").status_code == (status if name in WORK else 200), block


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nobody", 404), ("/nobody/files", 404), ("/shared/files/manifest.json", 404), ("/shared/files/..%2F..%2Fkeys", 404),
        ("/..%2F..%2Fetc%2Fpasswd", 404), ("/a%20b", 400), ("/a%20b/lineage", 400), ("/%00", 400), ("/shared/files/%00", 404),
        ("/" + "a" * 300, 400), ("/shared/files/" + "a" * 300, 400), ("/shared/card?format=html", 400), ("/compare/shared/nobody", 404),
        ("/diff/a%20b/shared", 400), ("/versions/versions", 404), ("/%F0%9F%A6%9C", 400), ("/shared%0d%0aX: y", 400),
    ],
)  # fmt: skip
def test_bad_names_are_told_so(path: str, status: int, site: Site) -> None:
    with site.client() as client:
        answer = client.get(REGISTRY + path)
        assert answer.status_code == status, answer.text
        code(answer)


def test_going_back_needs_admin(site: Site) -> None:
    with site.client() as client, site.client(ADMIN) as admin:
        assert client.post(f"{REGISTRY}/shared/rollback").status_code == 403
        for body in ({"version": "one"}, {"version": "1.0.0", "x": 1}):
            assert admin.post(f"{REGISTRY}/shared/rollback", json=body).status_code == 400
        done = admin.post(f"{REGISTRY}/shared/rollback", json={"version": "1.0.0"}).json()
        assert done["was"] == done["now"]
        assert code(admin.post(f"{REGISTRY}/shared/rollback")) == "block_not_found"


# Consent.


def test_who_may_ask_and_look(site: Site) -> None:
    ask = {"handle": "bob-example", "repositories": ["*"], "uses": ["mint"]}
    with site.client() as client, site.client(ADMIN) as admin:
        for path, body in (("request", ask), ("grant", {"statement": "{}"}), ("revoke", {"who": "bob-example"})):
            assert client.post(f"/api/v1/consent/{path}", json=body).status_code == 403
        assert client.get("/api/v1/consent").status_code == 403
        made = admin.post("/api/v1/consent/request", json=ask).json()
        signed = ssh_sign(site.world.bob, made["text"].encode()).decode()
        assert code(admin.post("/api/v1/consent/grant", json={"statement": made["text"]})) == "consent_invalid"
        given = admin.post("/api/v1/consent/grant", json={"statement": made["text"], "signature": signed}).json()
        assert given["kind"] == "ssh"
        assert client.get("/api/v1/consent/bob-example").json()["status"] == "granted"
        assert client.get("/api/v1/consent/bob-example/check").json()["subject"] == "bob-example"
        refused = client.get("/api/v1/consent/bob-example/check", params={"use": "share", "repository": ["x/y"]})
        assert (refused.status_code, code(refused)) == (403, "consent_invalid")
        assert {one["login"] for one in admin.get("/api/v1/consent").json()["standings"]} == {
            "ada-example",
            "bob-example",
        }
        assert client.get("/api/v1/consent/nobody-here").status_code == 400
        assert admin.post("/api/v1/consent/revoke", json={}).status_code == 400
        assert admin.post("/api/v1/consent/request", json=ask | {"uses": ["eat"]}).status_code == 400
        assert admin.post("/api/v1/consent/request", json=ask | {"repositories": ["no repository"]}).status_code in (
            400,
            403,
        )


# The developer.


def test_a_developer_proves_looks_and_takes_back(site: Site) -> None:
    root = "/api/v1/developer/ada-example"
    with site.client() as client:
        public = client.get(root).json()
        assert [one["name"] for one in public["blocks"]] == ["shared"]
        assert client.get(f"{REGISTRY}/developer/ada-example").json() == public
        asked = client.post(f"{root}/challenge").json()
        signed = ssh_sign(site.world.ada, asked["text"].encode(), asked["namespace"]).decode()
        answer = client.post(f"{root}/prove", json={"statement": asked["text"], "signature": signed})
        assert answer.headers["cache-control"] == "no-store"
        session = {"X-Developer-Session": answer.json()["token"]}
        again = client.post(f"{root}/prove", json={"statement": asked["text"], "signature": signed})
        assert (again.status_code, again.json()["error"]["fault"]) == (403, "replayed")
        whole = client.get(root, headers=session).json()
        assert {one["name"] for one in whole["blocks"]} == {"shared", "closed", "next"}
        assert client.get("/api/v1/developer/bob-example", headers=session).status_code == 401
        assert client.post("/api/v1/developer/bob-example/revoke", headers=session).status_code == 401
        assert client.post(f"{root}/revoke").status_code == 400
        assert client.get(root, headers={"X-Developer-Session": "x" * 200}).status_code == 400
        done = client.post(f"{root}/revoke", headers=session).json()
        assert len(done["effects"]["blocks"]) + len(done["effects"]["derived"]) == 3
        assert client.get(f"{REGISTRY}/shared").status_code == 403
        assert len(client.get(root, headers=session).json()["revoked"]) == 3
        assert client.get(root).json()["blocks"] == []
    with httpx2.Client(base_url=site.url, trust_env=False, timeout=60) as nobody:
        assert nobody.get(root).status_code == 401
    entries = site.parts.audit.entries()
    assert any(
        entry.kind == "changed" and "/developer/{handle}/revoke" in "".join(entry.facts.values()) for entry in entries
    )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"statement": 1}', b'{"statement": "\\ud800", "signature": "x"}', b"\xff", b'{"x": 1}']
)
def test_bad_bodies_are_told_so(body: bytes, site: Site) -> None:
    with site.client(ADMIN) as admin:
        for path in ("developer/ada-example/prove", "consent/grant", "consent/request"):
            answer = admin.post(f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 403), (path, answer.text)
            code(answer)


def test_no_home_is_told(site: Site) -> None:
    home = Path(site.parts.settings.home)
    with site.client() as client:
        for path in (f"{REGISTRY}/next", f"{REGISTRY}/next/files", "/api/v1/developer/ada-example"):
            assert str(home) not in client.get(path).text
