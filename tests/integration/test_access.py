"""A server and people who use it from other machines: paired by a code, let in by token, shut out by a command in another process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clonedna.cli.main import app
from clonedna.core.errors import DnaError, NoSpace
from tests.cli import CliRunner
from tests.command import Dna
from tests.serving import ServerParts, running

Run = Callable[..., Any]
VERBS = [("new", "kid"), ("rotate", "kid"), ("revoke", "kid"), ("pair", "lap"), ("revoke", "lap")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Generator[str]:
    with running(ServerParts(home), whole=True) as url:
        yield url


@pytest.fixture
def dna(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command: what it prints as JSON, or the code of its error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, at: Path = home) -> Any:
        result = CliRunner().invoke(app, ["--home", str(at), *arguments, "--json"], standalone_mode=False)
        if isinstance(result.exception, DnaError):
            return result.exception.code
        assert result.exception is None, result.exception
        return json.loads(result.stdout.splitlines()[-1])

    return run


def status(url: str, token: str) -> int:
    return httpx2.get(f"{url}/api/v1/registry", headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code


def test_a_machine_is_paired_and_its_token_is_found_again(
    dna: Run, server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    code = dna("tokens", "pair", "lap", "--scope", "read")["code"]
    assert dna("--server", server, "pair", "00000-00000-00000-00000", at=other) == "unauthorised"
    paired = dna("--server", server, "pair", code.lower(), at=other)
    assert Path(paired["path"]).stat().st_mode & 0o777 == 0o600
    assert "token" not in paired
    assert dna("--server", server, "pair", code, at=tmp_path / "third") == "unauthorised"
    assert dna("--server", server, "versions", "nobody", at=other) == "block_not_found"
    assert dna("--server", server, "versions", "nobody", at=tmp_path / "third") == "unauthorised"
    assert dna("--server", server, "tokens", "ls", at=other) == "refused"
    boss = dna("tokens", "new", "boss", "--scope", "admin", "--no-expiry")
    monkeypatch.setenv("DNA_TOKEN", boss["token"])
    assert {one["name"] for one in dna("--server", server, "tokens", "ls", at=other)} == {"lap", "boss"}
    monkeypatch.delenv("DNA_TOKEN")
    assert dna("--server", server, "pair", "--forget", at=other) == {"forgotten": True}
    assert dna("--server", server, "versions", "nobody", at=other) == "unauthorised"


def test_each_command_works_through_the_server_as_it_does_here(
    dna: Run, server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNA_TOKEN", dna("tokens", "new", "boss", "--scope", "admin")["token"])
    far = tmp_path / "far"
    for where, at in (((), home), (("--server", server), far)):
        made = dna(*where, "tokens", "new", "kid", "--scope", "chat", "--scope", "read", "--days", "3", at=at)
        assert made["about"]["scopes"] == ["read", "chat"]
        assert dna(*where, "tokens", "new", "kid", "--scope", "read", at=at) == "bad_input"
        assert status(server, made["token"]) == 200
        again = dna(*where, "tokens", "rotate", "kid", at=at)
        assert (status(server, made["token"]), status(server, again["token"])) == (401, 200)
        assert dna(*where, "tokens", "revoke", "kid", at=at)["name"] == "kid"
        assert status(server, again["token"]) == 401
        assert dna(*where, "tokens", "pair", "lap", "--scope", "read", at=at)["about"]["status"] == "waiting"
        assert dna(*where, "tokens", "revoke", "lap", at=at)["status"] == "waiting"
    told = [
        (one["facts"]["who"].split()[0], one["facts"]["what"], one["about"])
        for one in dna("--server", server, "audit")["entries"]
    ]
    assert told[::-1] == [
        ("local", "dna tokens new", "boss"),
*(("local", f"dna tokens {verb}", name) for verb, name in VERBS),
        ("token", "POST /api/v1/tokens", "kid"),
        ("token", "POST /api/v1/tokens/{name}/rotate", "kid"),
        ("token", "DELETE /api/v1/tokens/{name}", "kid"),
        ("token", "POST /api/v1/pairings", "lap"),
        ("token", "DELETE /api/v1/tokens/{name}", "lap"),
    ]  # fmt: skip
    assert dna("--server", server, "audit", "--verify")["ok"]


def test_a_command_in_another_process_shuts_a_token_out_of_a_running_server(server: str, home: Path) -> None:
    other = Dna(home)
    token = other.json("tokens", "new", "ada", "--scope", "read")["token"]
    assert status(server, token) == 200
    other("tokens", "revoke", "ada")
    assert [one["facts"]["what"] for one in other.json("audit")["entries"]] == ["dna tokens revoke", "dna tokens new"]
    other.json("tokens", "new", "bob", "--scope", "read")
    assert status(server, token) == 401


def test_a_command_that_cannot_be_recorded_does_nothing(dna: Run, home: Path) -> None:
    dna("tokens", "new", "ada", "--scope", "read")
    log = home / "audit/log.jsonl"
    before = log.read_bytes()
    log.write_bytes(b"damaged\n")
    assert dna("tokens", "revoke", "ada") == "corrupt"
    log.write_bytes(before)
    assert [one["name"] for one in dna("tokens", "ls")] == ["ada"]


def test_a_command_that_fails_is_recorded_and_one_that_was_wrong_or_only_reads_is_not(
    dna: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise NoSpace("no space left", "free some")

    dna("tokens", "ls")
    dna("ls")
    assert dna("tokens", "revoke", "nobody") == "not_found"
    assert not (home / "audit/log.jsonl").exists() or dna("audit")["entries"] == []
    monkeypatch.setattr("clonedna.store.tokens.SqlTokens.add", full)
    assert dna("tokens", "new", "ada", "--scope", "read") == "no_space"
    assert [(one["facts"]["what"], one["facts"]["result"]) for one in dna("audit")["entries"]] == [
        ("dna tokens new", "failed no_space")
    ]


def test_trusting_somebody_does_not_make_the_key_that_a_person_has_yet_to_choose(dna: Run, tmp_path: Path) -> None:
    theirs = dna("keys", "new", at=tmp_path / "theirs")["public_key"]
    identity = dna("keys", "trust", theirs)["trusted"]
    assert dna("audit")["entries"] == []
    dna("keys", "new")
    dna("keys", "distrust", identity)
    assert [one["facts"]["what"] for one in dna("audit")["entries"]] == ["dna keys distrust", "dna keys new"]


def test_a_secret_is_on_stdout_alone_and_the_log_of_the_server_has_none(home: Path, tmp_path: Path) -> None:
    other = Dna(home)
    out, err = other("tokens", "new", "ada", "--scope", "read")
    assert out.startswith("dnat_")
    assert out.strip() not in err
    out, err = other("tokens", "pair", "lap", "--scope", "read")
    assert out.strip() not in err
    wrong = subprocess.run(["grep", "-r", "dnat_", str(home)], capture_output=True, text=True, check=False)
    assert wrong.stdout == ""
