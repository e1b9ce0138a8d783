"""The doctor finds what is wrong, says what to do, and changes nothing by looking."""

from __future__ import annotations

import json
import os
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clonedna.app import doctor, doctor_checks
from clonedna.app.doctor import Doctor
from clonedna.app.doctor_checks import Finding
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.cli.main import app
from clonedna.client import Client
from clonedna.core.errors import SandboxUnavailable
from clonedna.core.vectors import Vectors
from clonedna.store.vectors import VectorFiles
from tests.cli import CliRunner
from tests.command import Dna
from tests.serving import ServerParts, running


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def parts(home: Path, **settings: Any) -> Parts:
    return Parts(Settings(home=home, min_free_bytes=0, port=0, **settings))


def found(one: Parts, name: str) -> Finding:
    (finding,) = [finding for finding in Doctor(one).examine().findings if finding.name == name]
    assert finding.status == "ok" or finding.fix, "a fault has a next step"
    return finding


def test_looking_at_an_empty_home_makes_nothing(tmp_path: Path) -> None:
    diagnosis = Doctor(parts(tmp_path / "home")).examine()
    assert {finding.name for finding in diagnosis.findings} == {name for name, _ in doctor.QUICK} | {"port"}
    assert not (tmp_path / "home").exists()
    assert diagnosis.status in ("ok", "warning"), [one for one in diagnosis.findings if one.status == "fail"]


def test_a_used_home_is_fine(tmp_path: Path) -> None:
    used = parts(tmp_path)
    used.signer.key_id  # noqa: B018  made now
    used.registry.manifests()
    _ = used.database.engine
    for name in ("keys", "database", "home", "clock"):
        assert found(used, name).status == "ok"
    assert used.signer.key_id[:16] in found(used, "keys").found


def test_a_key_that_others_can_read_is_found(tmp_path: Path) -> None:
    one = parts(tmp_path)
    path = tmp_path / f"keys/private/{one.signer.key_id}.pem"
    path.chmod(0o644)
    finding = found(parts(tmp_path), "keys")
    assert (finding.status, finding.fix) == ("fail", f"chmod 600 {path}")


@pytest.mark.parametrize(
    ("statement", "status", "word"),
    [
        ("DELETE FROM alembic_version", "warning", "older"),
        ("INSERT INTO alembic_version VALUES ('later')", "fail", "newer"),
    ],
)
def test_a_database_of_another_version_is_found(tmp_path: Path, statement: str, status: str, word: str) -> None:
    from sqlalchemy import text

    one = parts(tmp_path)
    with one.database.engine.begin() as connection:
        connection.execute(text(statement))
    finding = found(parts(tmp_path), "database")
    assert (finding.status, word in finding.found) == (status, True)


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(b"not a database" * 1000)
    finding = found(parts(tmp_path), "database")
    assert finding.status == "fail"
    assert "reindex" in finding.fix


def test_a_taken_port_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one = Parts(Settings(home=tmp_path, port=taken.getsockname()[1]))
        assert doctor_checks.port(one).status == "warning"
        names = {finding.name for finding in Doctor(one).examine(serving=True).findings}
    assert "port" not in names, "the server itself has it"


def test_a_full_disk_is_found(tmp_path: Path) -> None:
    assert doctor_checks.disk(Parts(Settings(home=tmp_path, min_free_bytes=10**18))).status == "fail"


def test_a_clock_that_went_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit").mkdir()
    os.utime(tmp_path / "audit", (time.time() + 86_400,) * 2)
    assert found(parts(tmp_path), "clock").status == "warning"
    monkeypatch.setattr(doctor_checks.time, "time", lambda: 0.0)
    assert doctor_checks.clock(parts(tmp_path)).status == "fail"


def test_a_base_that_lacks_files_is_found(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    assert found(parts(tmp_path, base=str(tmp_path / "base")), "base").status == "fail"
    assert found(parts(tmp_path, base="nobody/nothing"), "base").status == "warning"
    assert found(parts(tmp_path), "base").status == "ok"


def test_how_vectors_are_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(parts(tmp_path), "vectors").status == "ok"
    index = VectorFiles(tmp_path / "vectors" / "blocks" / "e", "e@1", 8, graph_from=4)
    index.add([str(n) for n in range(8)], Vectors("e@1", np.eye(8, dtype=np.float32)))
    for before in (True, False):
        monkeypatch.setattr(doctor_checks, "find_spec", lambda name, before=before: None if before else find_spec(name))
        told = found(parts(tmp_path, graph_from=4), "vectors")
        assert told.status == "warning"
        assert told.fix == ("pip install 'clone-dna[ann]'" if before else "dna reindex --encoder minilm")
    index.settle()
    assert found(parts(tmp_path, graph_from=4), "vectors").status == "ok"
    assert found(parts(tmp_path, graph_from=1000), "vectors").found.startswith("at most")
    assert found(parts(tmp_path, index="pgvector"), "vectors").status == "fail"


def test_an_encoder_on_a_server_needs_its_address(tmp_path: Path) -> None:
    assert found(parts(tmp_path, encoder="http:m"), "encoder").status == "fail"
    told = found(parts(tmp_path, encoder="http:m", encoder_url="http://127.0.0.1:1", encoder_dimension=8), "encoder")
    assert told.status == "ok"


def test_what_is_not_installed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "find_spec", lambda name: None)
    assert found(parts(tmp_path, quantize="nf4"), "extras").status == "fail"
    assert found(parts(tmp_path), "extras").status == "ok"
    assert found(parts(tmp_path), "encoder").status == "warning"
    assert found(parts(tmp_path, encoder="hashed:768"), "encoder").status == "ok"
    monkeypatch.setenv("PATH", "")
    assert found(parts(tmp_path), "git").status == "fail"
    assert found(parts(tmp_path), "ssh-keygen").status == "warning"
    assert found(parts(tmp_path), "sandbox").status == "warning"


def test_a_settings_file_with_a_key_that_others_can_read_is_found(tmp_path: Path) -> None:
    Path("dna.toml").write_text('api_key = "0123456789abcdef0"\n')
    Path("dna.toml").chmod(0o644)
    finding = found(parts(tmp_path), "settings")
    assert (finding.status, finding.fix) == ("warning", "chmod 600 dna.toml")
    assert "0123456789" not in str(finding)


def test_a_host_beyond_this_machine_without_a_key_is_found(tmp_path: Path) -> None:
    assert found(parts(tmp_path, host="0.0.0.0"), "access").status == "warning"
    assert found(parts(tmp_path, admin_key="x" * 16), "access").status == "fail"


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Parts) -> Finding:
        raise PermissionError(13, "Permission denied")

    def missing(_: Parts) -> Finding:
        raise SandboxUnavailable("nothing holds", "make setup-system")

    monkeypatch.setattr(doctor, "QUICK", (("one", broken), ("two", missing)))
    one, two, _ = Doctor(parts(tmp_path)).examine().findings
    assert (one.name, one.status) == ("one", "fail")
    assert (two.status, two.fix) == ("warning", "make setup-system")


def test_the_command_s_status_tells_whether_something_fails(tmp_path: Path) -> None:
    dna = Dna(tmp_path / "home")
    said = dna.json("doctor")
    assert said["status"] != "fail"
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/registry.sqlite").write_bytes(b"not a database" * 1000)
    assert dna.json("doctor", status=6)["status"] == "fail"


def test_a_server_says_it_of_itself(tmp_path: Path) -> None:
    with running(ServerParts(tmp_path, min_free_bytes=0), whole=True) as url, Client(url) as client:
        said = client.doctor.examine()
        assert {one.name for one in said.findings} == {name for name, _ in doctor.QUICK}
        result = CliRunner().invoke(app, ["--server", url, "doctor", "--json"], standalone_mode=False)
    there = json.loads(result.stdout)
    assert [one["name"] for one in there["findings"]] == [one.name for one in said.findings]


def test_settings_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    Path("dna.toml").write_text("nonsense = 1\n")
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "doctor"], standalone_mode=False)
    assert result.return_value == 6
    assert "nonsense" in result.stdout
