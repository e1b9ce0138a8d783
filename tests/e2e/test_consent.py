"""From asking a person to revoking, as people do it: the commands, real SSH keys, a fake GitHub, a mint, a server that is running."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clonedna.app.jobs import Jobs
from clonedna.app.settings import Settings
from clonedna.core.block import BlockRef, ConsentRecord, SourceRecord
from clonedna.core.canonical import strict_json
from clonedna.core.errors import ConsentInvalid, ConsentMissing, ConsentRevoked, DnaError
from clonedna.core.events import silent
from tests.github_fake import FakeGitHub
from tests.github_fake import serving as github_serving
from tests.github_world import Account, Repository, World
from tests.parts import FakeEngineParts, order
from tests.repos import ADA, MIT, RepoBuilder
from tests.serving import running
from tests.unit.trust.small_github import ssh_key
from tests.values import span

pytestmark = pytest.mark.slow


class OurParts(FakeEngineParts):
    def __init__(self, home: Path, url: str) -> None:
        super().__init__(Settings(home=home, base="fake", encoder="hashed", port=0, min_free_bytes=0, github_url=url))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeGitHub]:
    """Ada's two repositories of 40 functions each, and the key that she signs with."""
    key = ssh_key(tmp_path / "ada")
    ada = Account(1001, "ada-example", "Ada Example", ("ada@example.org",), signing_keys=[key])
    world = World([ada])
    for number, name in enumerate(("abacus", "beads")):
        repo = RepoBuilder(tmp_path / name)
        parts = {
            f"{name}/part_{i}.py": "\n\n".join(span(100 * number + 4 * i + j).text for j in range(4)) for i in range(10)
        }
        repo.commit(ADA, "add all the parts", {"LICENSE": MIT, **parts})
        world.repositories.append(Repository(number + 1, ada, name, repo.path, stars=number))
    with github_serving(world, tmp_path / "served") as made:
        yield made


class Home:
    """One machine: its commands as a person types them, and its parts."""

    def __init__(self, home: Path, fake: FakeGitHub) -> None:
        home.mkdir()
        self.home, self.url = home, fake.url

    def dna(self, *arguments: str) -> tuple[int, Any]:
        """Exit status and the JSON that was printed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")}
        environment |= {
            "DNA_HOME": str(self.home),
            "DNA_GITHUB_URL": self.url,
            "XDG_CONFIG_HOME": str(self.home / "config"),
        }
        command = [sys.executable, "-m", "clonedna.cli.main", *arguments, "--json"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120, cwd=self.home
        )
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    def parts(self) -> OurParts:
        return OurParts(self.home, self.url)

    def mint(self, **changes: Any) -> BlockRef:
        """Mint the handle in this process, on the fake engine."""
        parts = self.parts()
        found = parts.source.find("ada-example")
        people = tuple(share.identity for share in found.repository.authors)
        jobs = Jobs(parts.settings, parts)
        workspace, _ = jobs.create(order(target="ada-example", authors=people, **changes))
        return jobs.run(workspace, silent)


def test_ask_sign_grant_mint_serve_revoke(tmp_path: Path, fake: FakeGitHub) -> None:
    home = Home(tmp_path / "home", fake)
    # Without consent: refused, and the next command is one that works.
    with pytest.raises(ConsentMissing) as caught:
        home.mint()
    assert caught.value.hint.startswith("dna consent request ada-example --repository ")
    assert sorted(caught.value.hint.split()[5::2])[-2:] == ["mint", "serve"]
    status, asked = home.dna(*shlex.split(caught.value.hint)[1:])
    assert status == 0
    # Ada may say less than she is asked: here she is asked again, for one repository.
    status, asked = home.dna(
        "consent", "request", "ada-example", "--repository", "ada-example/abacus", "--out", "ask.json"
    )
    assert (status, asked["statement"]["account_id"], asked["statement"]["serial"]) == (0, 1001, 2)
    assert home.dna("consent", "show", "ada-example")[1][0]["status"] == "requested"
    # She types what was printed, with her key.
    command = shlex.split(asked["command"].replace("KEY", str(tmp_path / "ada")))
    subprocess.run(command, cwd=home.home, check=True, capture_output=True)
    status, given = home.dna(*shlex.split(asked["answer"])[1:])
    assert (status, given["kind"], given["how"]) == (0, "ssh", "ssh-keygen -Y verify")
    assert home.dna("consent", "check", "ada-example", "--repository", "ada-example/abacus")[0] == 0
    assert home.dna("consent", "check", "ada-example", "--use", "share")[0] == 4
    # The mint reads what she allowed, and nothing else.
    block = home.mint()
    assert block.status in ("registered", "rejected")
    folder = home.parts().store.path(block.id)
    record = ConsentRecord.model_validate(strict_json((folder / "consent.json").read_bytes()))
    assert (record.mode, record.verified, record.repositories) == ("granted", True, ("ada-example/abacus",))
    source = SourceRecord.model_validate(strict_json((folder / "sources.json").read_bytes()))
    assert any((one.path, one.reason) == ("ada-example/beads", "no_consent") for one in source.refused)
    assert not any(path.name == "pairs.jsonl" and b"beads/" in path.read_bytes() for path in folder.iterdir())
    # She takes it back, with her own signature.
    status, asked = home.dna("consent", "request", "ada-example", "--revoke", "--out", "back.json")
    subprocess.run(
        shlex.split(asked["command"].replace("KEY", str(tmp_path / "ada"))),
        cwd=home.home,
        check=True,
        capture_output=True,
    )
    status, done = home.dna("consent", "revoke", "--statement", "back.json")
    assert (status, done["effects"]["blocks"], done["effects"]["still_running"]) == (0, [block.id], [])
    assert done["effects"]["pairs"] > 0
    assert done["effects"]["jobs"] >= 1
    assert not folder.exists()
    for words in (
        ["show", block.id],
        ["verify", block.id],
        ["run", block.id, "hello", "--unsafe"],
        ["rm", block.id, "-y"],
    ):
        status, said = home.dna(*words)
        assert (status, said["error"]["code"]) == (4, "block_revoked"), words
    assert home.dna("ls") == (0, [])
    for consent in ("auto", "granted", "local-only"):
        with pytest.raises(ConsentRevoked):
            home.mint(consent=consent)
    assert home.dna("consent", "show")[1][0]["status"] == "revoked"
    status, report = home.dna("consent", "log", "--verify")
    assert (status, report["ok"]) == (0, True)
    log = home.home / "audit/log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    status, said = home.dna("consent", "log", "--verify")
    assert (status, said["error"]["code"]) == (5, "corrupt")
    assert b"ada@example.org" not in b"".join(path.read_bytes() for path in home.home.glob("audit/*"))


def test_local_only_needs_nobody_and_can_never_be_exported(tmp_path: Path, fake: FakeGitHub) -> None:
    home = Home(tmp_path / "home", fake)
    block = home.mint(consent="local-only")
    manifest = next(one for one in home.parts().registry.manifests() if one.id == block.id)
    assert manifest.consent_mode == "local-only"
    status, said = home.dna("export", block.id, str(tmp_path / "x.dna"))
    assert (status, said["error"]["code"]) == (4, "consent_missing")
    # It is hers all the same: taking everything back finds it by the account.
    assert home.dna("consent", "request", "ada-example", "--repository", "*")[0] == 0
    status, done = home.dna("consent", "revoke", "ada-example", "--yes")
    assert (status, done["effects"]["blocks"]) == (0, [block.id])


def test_consent_that_ends_while_a_block_is_trained_is_seen_before_it_is_registered(
    tmp_path: Path, fake: FakeGitHub
) -> None:
    home = Home(tmp_path / "home", fake)
    consents = home.parts().granted_consents
    statement = consents.request("ada-example", ["*"], ["mint", "serve"])
    path = tmp_path / "ask.json"
    path.write_bytes(statement.data())
    subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "consent@clone.dna", "-f", str(tmp_path / "ada"), str(path)],
        check=True,
        capture_output=True,
    )
    consents.grant(statement.data(), signature=path.with_name("ask.json.sig").read_bytes())
    parts = home.parts()
    people = tuple(share.identity for share in parts.source.find("ada-example").repository.authors)
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order(target="ada-example", authors=people))

    def listen(event: Any) -> None:
        if getattr(event, "stage", "") == "gate" and event.kind == "stage_started":
            home.parts().granted_consents.revoke_here("ada-example")

    with pytest.raises(ConsentRevoked):
        jobs.run(workspace, listen)
    assert home.parts().registry.manifests() == ()


def test_a_taken_over_handle_is_not_minted(tmp_path: Path, fake: FakeGitHub) -> None:
    home = Home(tmp_path / "home", fake)
    consents = home.parts().granted_consents
    statement = consents.request("ada-example", ["*"], ["mint"])
    path = tmp_path / "ask.json"
    path.write_bytes(statement.data())
    subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "consent@clone.dna", "-f", str(tmp_path / "ada"), str(path)],
        check=True,
        capture_output=True,
    )
    consents.grant(statement.data(), signature=path.with_name("ask.json.sig").read_bytes())
    fake.world.accounts[0].id = 9009
    with pytest.raises(ConsentInvalid) as caught:
        home.mint()
    assert caught.value.facts["fault"] == "reused_login"


def test_a_running_server_stops_serving_it(tmp_path: Path, fake: FakeGitHub) -> None:
    from tests.serving import ServerParts, add_block

    home = tmp_path / "home"
    parts = ServerParts(home)
    block = add_block(parts, "ada")
    ask = {"model": "ada", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}
    with running(parts) as url, httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.post("/v1/chat/completions", json=ask).status_code == 200
        assert "ada" in [one["id"] for one in client.get("/v1/models").json()["data"]]
        there = Home.__new__(Home)
        there.home, there.url = home, fake.url
        assert there.dna("revoke", "ada", "--yes")[0] == 0
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["fake"]
        for model in ("ada", "ada@1.0.0", f"ada@{block.id[:8]}"):
            answer = client.post("/v1/chat/completions", json=ask | {"model": model})
            assert answer.status_code in (403, 404), model
            assert "choices" not in answer.json()
        loaded = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": block.id})
        assert loaded.status_code in (403, 404)
    with running(ServerParts(home)) as url, httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["fake"]


def test_every_refusal_is_one_of_the_tree() -> None:
    for kind in (ConsentInvalid, ConsentRevoked):
        assert issubclass(kind, ConsentMissing)
        assert issubclass(kind, DnaError)
        assert (kind.exit_code, kind.http_status) == (4, 403)
