"""The next version of a block on the bundled base, as a person makes it: made, shown, taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import Dna
from tests.integration.test_continuing import write
from tests.repos import ADA, MIT, RepoBuilder

pytestmark = [pytest.mark.slow, pytest.mark.long]
QUICK = ("--epochs", "1", "--max-pairs", "24", "--general-ratio", "0", "--json")


def test_a_block_grows_with_its_person(tmp_path: Path) -> None:
    repo, dna = RepoBuilder(tmp_path / "abacus"), Dna(tmp_path / "home")
    repo.commit(ADA, "begin with a licence", {"LICENSE": MIT})
    write(repo, 0)
    dna("mint", str(repo.path), "--author", ADA, "--name", "ada", "--consent", "local-only", *QUICK)
    out, _ = dna("mint", "--continue", "ada", "--json", status=4)
    assert json.loads(out.splitlines()[-1])["error"]["message"].startswith("nothing new: Ada Example wrote nothing")
    write(repo, 50)
    dna("mint", "--continue", "ada", *QUICK)
    newest, oldest = dna.json("versions", "ada")
    assert (newest["version"], newest["relation"], oldest["relation"]) == ("1.1.0", "continued", "minted")
    assert [newest["new_gain"]["status"], newest["old_change"]["status"]] == ["measured", "measured"]
    promoted = newest["gate"] == "accepted"
    assert [newest["means"], oldest["means"]] == [promoted, not promoted]
    assert promoted == (newest["new_gain"]["ci95"][0] > 0 and newest["old_change"]["ci95"][0] >= -0.02)
    changes = dna.json("diff", oldest["id"], newest["id"])
    assert changes["pairs"]["same"]["holdout"] == 8
    assert {change["field"] for change in changes["recipe"]} >= {"replay_ratio"}
    if promoted:
        assert dna.json("rollback", "ada")["now"]["version"] == "1.0.0"
        assert dna.json("show", "ada")["manifest"]["id"] == oldest["id"]
