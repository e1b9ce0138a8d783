"""Consent and the developer's audit as people do them, with files and SSH signatures: the same on this machine and through a server."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clonedna.cli.main import app
from clonedna.core.errors import DnaError
from tests.cli import CliRunner
from tests.developers import World, world
from tests.serving import running

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[World]:
    with world(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(params=["here", "there"])
def ask(request: pytest.FixtureRequest, here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Ask]:
    """A command's exit status and JSON, given to this machine or to a server."""
    parts = here.parts()
    here.block(parts, "open", here.consent(parts, ["mint", "serve", "share"]))
    here.block(parts, "closed")
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    monkeypatch.setenv("DNA_GITHUB_URL", here.github.url)
    with running(here.parts(), whole=True) if request.param == "there" else nullcontext() as url:
        where = ["--server", url, "--home", str(tmp_path / "empty")] if url else ["--home", str(parts.settings.home)]

        def run(*words: str) -> tuple[int, Any]:
            result = CliRunner().invoke(app, [*where, *words, "--json"], standalone_mode=False)
            if isinstance(result.exception, DnaError):
                return result.exception.exit_code, result.exception.as_json()
            assert result.exception is None, result.exception
            return 0, json.loads(result.stdout.splitlines()[-1])

        yield run
    assert not (tmp_path / "empty" / "store").exists()


def sign(command: str, key: Path) -> None:
    subprocess.run(shlex.split(command.replace("KEY", str(key))), check=True, capture_output=True)


def test_a_developer(ask: Ask, here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    status, public = ask("developer", "show", "ada-example")
    assert (status, [one["name"] for one in public["blocks"]], public["proven"]) == (0, ["open"], False)
    status, asked = ask("developer", "challenge", "@ada-example")
    assert (status, asked["path"]) == (0, "prove-ada-example.json")
    assert ask("developer", "challenge", "ada-example")[0] == 2  # the file is there
    sign(asked["command"], here.ada)
    status, opened = ask(*shlex.split(asked["answer"])[1:])
    assert (status, opened["account_id"]) == (0, 1001)
    status, said = ask(*shlex.split(asked["answer"])[1:])
    assert (status, said["error"]["fault"]) == (4, "replayed")
    monkeypatch.setenv("DNA_DEVELOPER_SESSION", opened["token"])
    status, whole = ask("developer", "show", "ada-example")
    assert (status, [one["name"] for one in whole["blocks"]], whole["proven"]) == (0, ["closed", "open"], True)
    assert ask("developer", "show", "bob-example")[1]["error"]["code"] == "unauthorised"
    status, done = ask("developer", "revoke", "ada-example")
    assert (status, len(done["effects"]["blocks"])) == (0, 2)
    assert len(ask("developer", "show", "ada-example")[1]["revoked"]) == 2
    assert ask("show", "open")[1]["error"]["code"] == "block_revoked"


def test_a_signed_revocation(ask: Ask, here: World) -> None:
    status, asked = ask("developer", "challenge", "ada-example", "--revoke", "--out", "back.json")
    assert status == 0
    assert ask(*shlex.split(asked["answer"])[1:])[0] == 2  # there is no signature
    sign(asked["command"], here.ada)
    status, done = ask(*shlex.split(asked["answer"])[1:])
    assert (status, done["given"]["kind"], len(done["effects"]["blocks"])) == (0, "ssh", 2)


def test_consent(ask: Ask, here: World) -> None:
    status, asked = ask("consent", "request", "bob-example", "--repository", "*", "--use", "mint", "--out", "ask.json")
    assert status == 0
    assert ask("consent", "check", "bob-example")[1]["error"]["code"] == "consent_missing"
    sign(asked["command"], here.bob)
    status, given = ask(*shlex.split(asked["answer"])[1:])
    assert (status, given["kind"]) == (0, "ssh")
    assert ask("consent", "check", "bob-example", "--repository", "bob-example/beads")[1]["subject"] == "bob-example"
    assert ask("consent", "check", "bob-example", "--use", "share")[1]["error"]["fault"] == "out_of_scope"
    assert {one["login"] for one in ask("consent", "show")[1]} == {"ada-example", "bob-example"}
    assert [one["status"] for one in ask("consent", "show", "bob-example")[1]] == ["granted"]
    assert ask("consent", "show", "../x")[0] == 2
    status, done = ask("consent", "revoke", "bob-example")
    assert (status, done["given"]["kind"], done["effects"]["blocks"]) == (0, "minter", [])
    assert ask("consent", "revoke", "nobody-here")[1]["error"]["code"] == "consent_missing"
    status, asked = ask("consent", "request", "ada-example", "--revoke", "--out", "back.json")
    sign(asked["command"], here.ada)
    status, done = ask("consent", "revoke", "--statement", "back.json")
    assert (status, len(done["effects"]["blocks"])) == (0, 2)
