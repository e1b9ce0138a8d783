"""`dna compare` as a person does it, on the bundled base: figures that plain products confirm, a page, a vote, errors with a next step."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.cli import main
from clonedna.cli.context import printable
from clonedna.core.canonical import canonical
from clonedna.core.work import Identity, Instruction, Pair, Split
from clonedna.engine.adapters import read_adapter
from clonedna.engine.bases import load_base
from clonedna.engine.merging import own_shapes
from clonedna.engine.slots import shapes_of
from clonedna.evals import comparison
from clonedna.evals.forgetting import general_set
from clonedna.mint.instruct import make_pair
from tests.merges import add_block
from tests.values import ADA, REPOSITORY, span

pytestmark = pytest.mark.slow
BOB = Identity(name="Bob [red]Sample[/]", email="bob@example.org")


def lines(held: Sequence[int], trained: Sequence[int], author: Identity) -> bytes:
    def pair(number: int, split: Split) -> Pair:
        one = span(number)
        instruction = Instruction(form="whole", text=f"Write {one.name}.", completion_start=one.start)
        return make_pair(one, instruction, split, REPOSITORY, author.name, "own-words")

    pairs = [*(pair(i, "train") for i in trained), *(pair(i, "holdout") for i in held)]
    return b"".join(canonical(one) + b"\n" for one in pairs)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small adapters on nano: other ranks, other modules; one hold-out span of Bob's is in Ada's training data."""
    home = tmp_path_factory.mktemp("home")
    base = load_base("nano")
    known: dict[str, Any] = {
        "fingerprint": base.fingerprint,
        "base": "nano",
        "shapes": shapes_of(base.model),
        "size": 0.03,
    }
    parts = Parts(Settings(home=home, min_free_bytes=0))
    mine, theirs = lines(range(8), range(50, 60), ADA), lines([*range(20, 27), 50], range(70, 80), BOB)
    add_block(parts, "ada", 1, rank=8, targets=("q_proj", "v_proj", "down_proj"), files={"pairs.jsonl": mine}, **known)
    add_block(
        parts, "bob", 2, rank=4, targets=("q_proj", "down_proj"), person=BOB, files={"pairs.jsonl": theirs}, **known
    )
    return home


@pytest.fixture
def dna(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process; gives status, stdout and stderr."""

    def run(*arguments: str, said: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(comparison, "general_set", lambda: general_set()[:8])
        monkeypatch.setenv("DNA_THREADS", "1")
        monkeypatch.setenv("COLUMNS", "220")
        monkeypatch.setattr(sys, "argv", ["dna", "--home", str(home), "compare", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        with pytest.raises(SystemExit) as left:
            main.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def formed(home: Path, name: str) -> dict[str, torch.Tensor]:
    parts = Parts(Settings(home=home, min_free_bytes=0))
    manifest = parts.registry.resolve(name)
    adapter = read_adapter(
        parts.store.path(manifest.id), own_shapes(parts.store.path(manifest.id)), manifest.base_fingerprint
    )
    return {module: adapter.scale * b.double() @ a.double() for module, (a, b) in adapter.matrices.items()}


def test_two_blocks(dna: Any, home: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    status, out, err = dna(
        "ada", "bob", "--prompts", "2", "--prompt", "Write a <b>tag</b>.", "--json", "--html", str(page)
    )
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    mine, theirs = formed(home, "ada"), formed(home, "bob")
    both = sum(float((mine[name] * theirs[name]).sum()) for name in set(mine) & set(theirs))
    norms = [sum(float(m.square().sum()) for m in side.values()) ** 0.5 for side in (mine, theirs)]
    assert found["weights"]["whole"]["cosine"] == pytest.approx(both / norms[0] / norms[1], abs=1e-8)
    assert [found["weights"]["whole"][f"norm_{which}"] for which in "ab"] == pytest.approx(norms, rel=1e-8)
    assert len(found["weights"]["only_a"]) == 4
    assert found["probe"]["trained"] == 1
    assert (found["probe"]["holdout_a"], found["probe"]["holdout_b"]) == (8, 7)
    assert -1 <= found["measures"]["behaviour.spearman"]["value"] <= 1
    assert [one["of"] for one in found["answers"]] == ["a", "b", "given"]
    assert len({found["answers"][0][who]["text"] for who in ("a", "b", "base")}) > 1
    text = page.read_text("utf-8")
    assert "Write a &lt;b&gt;tag&lt;/b&gt;." in text
    assert "<b>tag</b>" not in text
    # Again, for a person: the same seed gives the same answers, and a name is no markup of the terminal either.
    status, table, _ = dna("ada", "bob", "--prompts", "2", "--prompt", "Write a <b>tag</b>.")
    assert status == 0
    assert "Bob [red]Sample[/]" in table
    assert all(printable(one["a"]["text"]).strip("\n").splitlines()[0] in table for one in found["answers"])


def test_a_block_and_itself(dna: Any) -> None:
    status, out, _ = dna("bob", "bob@1.0.0", "--weights-only", "--json")
    assert status == 0
    whole = json.loads(out.splitlines()[-1])["weights"]["whole"]
    assert (whole["cosine"], whole["columns"]["largest"], whole["rows"]["largest"]) == (1, 0, 0)
    assert whole["difference"] == 0


def test_a_vote_by_lines_is_kept_and_counted(dna: Any, home: Path) -> None:
    status, out, err = dna(
        "ada", "bob", "--prompts", "3", "--blind", "--with-base", "--json", said='1\n{"choice": 0}\n'
    )
    assert status == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    questions = [one for one in told if one["kind"] == "question"]
    assert len(questions[0]["answers"]) == 3
    assert not {"a", "b", "order"} & set(questions[0])
    assert (told[-1]["kind"], told[-1]["votes"], told[-1]["undecided"]) == ("tally", 2, 1)
    (file,) = (home / "votes").iterdir()
    assert len(file.read_text().splitlines()) == 2
    status, out, _ = dna("bob", "ada", "--votes", "--json")
    assert (status, json.loads(out)["votes"]) == (0, 2)
    status, out, err = dna("ada", "bob", "--prompts", "1", "--blind", "--json", said="maybe\n")
    assert status == 2
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "bad_input"
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "hint"),
    [
        (("ada", "bob", "ada"), 2, "dna eval --identity ada bob ada"),
        (("ada",), 2, "dna compare A B"),
        (("ada", "nobody"), 3, "dna ls"),
        (("ada", "bob", "--blind"), 2, "--json"),
        (("ada", "bob", "--blind", "--votes"), 2, "one of them"),
        (("ada", "bob", "--with-base"), 2, "base's answers anyway"),
        (("ada", "bob", "--votes", "--html", "x.html"), 2, "leave --html out"),
        (("ada", "bob", "--html", "."), 2, "report.html"),
        (("ada", "bob", "--prompt", " "), 2, "say"),
        (("ada", "bob", "--prompts", "99"), 2, "--help"),
        (("ada", "ada", "--blind", "--json"), 2, "two blocks"),
    ],
)
def test_what_cannot_be_done_has_a_next_step(dna: Any, arguments: tuple[str, ...], status: int, hint: str) -> None:
    got, out, err = dna(*arguments)
    assert got == status
    assert hint in out + err
    assert "Traceback" not in err
