"""`dna merge` as a person does it: two blocks on the bundled base, merged, checked by PEFT in a fresh process, shown, verified, asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.work import Identity
from clonedna.engine.bases import load_base
from clonedna.engine.slots import shapes_of
from tests.command import Dna
from tests.merges import add_block

pytestmark = [pytest.mark.slow, pytest.mark.long]
BOB = Identity(name="Bob Sample", email="bob@example.org")


@pytest.fixture(scope="module")
def dna(tmp_path_factory: pytest.TempPathFactory) -> Dna:
    """A home with blocks of two people: other ranks, other modules."""
    home = tmp_path_factory.mktemp("home")
    base = load_base("nano")
    known: dict[str, Any] = {"fingerprint": base.fingerprint, "base": "nano", "shapes": shapes_of(base.model)}
    parts = Parts(Settings(home=home, min_free_bytes=0))
    add_block(parts, "ada", 1, rank=8, targets=("q_proj", "v_proj", "down_proj"), **known)
    add_block(parts, "bob", 2, rank=4, targets=("q_proj", "gate_proj"), person=BOB, license="Apache-2.0", **known)
    return Dna(home)


@pytest.fixture(scope="module")
def merged(dna: Dna) -> list[dict[str, Any]]:
    out, _ = dna("merge", "ada:0.7", "bob:0.3", "--name", "both", "--json")
    return [json.loads(line) for line in out.splitlines()]


def test_a_fresh_process_gets_the_engines_logits_with_peft(merged: list[dict[str, Any]]) -> None:
    assert merged[-1]["peft"]["value"] is True
    assert merged[-1]["block"]["status"] == "registered"


def test_every_stage_is_told_and_the_error_is_small_but_there(merged: list[dict[str, Any]]) -> None:
    stages = [event["stage"] for event in merged[:-1] if event["kind"] == "stage_finished"]
    assert stages == ["parents", "merge", "check", "register"]
    assert 0 < merged[-1]["report"]["relative_error"] < 0.3
    assert merged[-1]["report"]["rank"] == 8


def test_it_is_shown_with_its_parents(dna: Dna, merged: list[dict[str, Any]]) -> None:
    out, err = dna("show", "both")
    for words in (
        "ada@1.0.0",
        "x 0.7",
        "bob@1.0.0",
        "x 0.3",
        "svd, rank 8",
        "Apache-2.0 AND MIT",
        "merge.relative_error",
    ):
        assert words in out, words
    assert "not available" in out
    assert "accepted: not examined" in err
    dna("verify", "both")
    assert {block["name"] for block in dna.json("ls")} == {"ada", "bob", "both"}


def test_it_answers_and_says_what_served_it(dna: Dna, merged: list[dict[str, Any]]) -> None:
    answer = dna.json("run", "both", "Write a function that adds.", "--max-tokens", "12", "--temperature", "0")
    assert answer["served_by"]["block"] == "both@1.0.0"
    assert answer["served_by"]["weights_loaded"] is True


def test_a_table_for_a_person(dna: Dna) -> None:
    out, err = dna("merge", "ada:0.7", "bob", "--name", "summed", "--method", "cat", "--no-check")
    for words in (
        "summed@1.0.0",
        "cat",
        "rank",
        "12",
        "relative error",
        "worst 3",
        "model.layers.",
        "seconds",
        "None (not checked",
    ):
        assert words in out, words
    assert "not examined" in err
    _, err = dna("merge", "ada:0.7", "ada-not", "--name", "summed", status=3)
    assert "error[block_not_found]" in err


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["ada:0.7", "bob:nan", "--name", "x"], 2, "bad_input"),
        (["ada:0.7", "bob:0.3", "--name", "ada"], 2, "bad_input"),
        (["ada:0.7", "bob:0.3", "--name", "x", "--method", "mean"], 2, "bad_input"),
        (["ada:0.7", "bob:0.3", "--name", "x", "--method", "ties"], 2, "bad_input"),
        (["ada:0.7", "bob:0.3", "--name", "x", "--on", "no-such-base"], 2, "unknown_base"),
        (["ada:0.7", "bob:0.3"], 2, "bad_input"),
    ],
)
def test_what_cannot_be_is_one_clear_error(arguments: list[str], status: int, code: str, dna: Dna) -> None:
    error = dna.json("merge", *arguments, status=status)["error"]
    assert error["code"] == code
    assert error["hint"]
    assert "x" not in {block["name"] for block in dna.json("ls")}
