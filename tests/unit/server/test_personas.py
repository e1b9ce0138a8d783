"""Personas over HTTP: what is refused by the form of it, who changed what, and archives out of one server and into another."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from clonedna.app.personas import PersonaOrder, Personas
from clonedna.client import Client
from clonedna.core.errors import BadReference, BlockCorrupt, BlockUntrusted, ConsentMissing, InputError, NotFound
from tests.serving import ServerParts, running
from tests.sharing import Ada, put

KEY, ADMIN = "k" * 20, "a" * 20


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, str, ServerParts, ServerParts]]:
    folder = tmp_path_factory.mktemp("sides")
    with Ada.of(folder) as ada:
        one = ada.parts(folder / "one", api_key=KEY, admin_key=ADMIN)
        two = ada.parts(folder / "two", api_key=KEY, admin_key=ADMIN)
        put(one, "cora", ada.consents(one))
        put(one, "mine")
        Personas(one).create(PersonaOrder(name="helper", title="Helper", binds="cora"))
        with running(one, whole=True) as a, running(two, whole=True) as b:
            yield a, b, one, two


def test_an_archive_goes_from_one_server_to_another(
    sides: tuple[str, str, ServerParts, ServerParts], tmp_path: Path
) -> None:
    a, b, one, two = sides
    out = tmp_path / "helper.dna"
    with Client(a, ADMIN) as client:
        made = client.persona_archives.export("helper", out)
        assert (made.bytes, made.speaks) == (out.stat().st_size, "cora@1.0.0")
        with pytest.raises(BadReference):
            client.persona_archives.export("helper", out)
        with pytest.raises(NotFound):
            client.persona_archives.export("nobody", tmp_path / "nobody.dna")
        client.personas.create(PersonaOrder(name="own", binds="mine"))
        with pytest.raises(ConsentMissing):
            client.persona_archives.export("own", tmp_path / "own.dna")
        assert client.personas.show("own").persona.versions[0].by != "local"
    assert [one.name for one in tmp_path.iterdir()] == ["helper.dna"]
    with Client(b, ADMIN) as client:
        with pytest.raises(BlockUntrusted):
            client.persona_archives.load(out)
        two.signer.trust(one.signer.public_key)
        assert client.persona_archives.load(out).new
        assert not client.persona_archives.load(out).new
        assert client.personas.show("helper").speaks
        bad = tmp_path / "bad.dna"
        bad.write_bytes(out.read_bytes()[:-100])
        with pytest.raises(BlockCorrupt):
            client.persona_archives.load(bad, name="other")
        assert [line.name for line in client.personas.list().personas] == ["helper"]
        assert client.persona_lineages.of("helper").nodes[1].label == "cora@1.0.0"
        with pytest.raises(InputError):
            client.personas.rollback("helper", 1)


def test_who_may_only_read_changes_nothing(sides: tuple[str, str, ServerParts, ServerParts]) -> None:
    a, *_ = sides
    with httpx2.Client(base_url=f"{a}/api/v1", headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
        assert http.get("/personas/helper").status_code == 200
        assert http.post("/personas", json={"name": "x"}).status_code == 403
        assert http.put("/personas/helper/genome", json={"genome": "mine"}).status_code == 403
        assert http.post("/personas/helper/rollback", json={"version": 1}).status_code == 403
        assert http.post("/personas/import", content=b"x").status_code == 403
    with httpx2.Client(base_url=f"{a}/api/v1", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=60) as http:
        assert http.post("/personas/helper/rollback", json={"version": 0}).status_code == 400
        assert http.post("/personas/import", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 400
        assert http.post("/personas", json={"name": "../x"}).status_code == 400
        assert http.get("/personas/A%2Fb").status_code in (400, 404)
