"""The main job as a person does it: the `dna` command in processes of its own, on a repository made for the test, with the bundled base."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clonedna.bases
from clonedna.app.blocks import Blocks
from clonedna.app.minting import STAGES
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.errors import Corrupt
from tests.command import Dna
from tests.people import ADA, BOB, two_people

pytestmark = pytest.mark.slow
QUICK = ["--epochs", "1", "--max-pairs", "24"]
TIMES = {"created_at"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_people(tmp_path_factory.mktemp("repository") / "abacus")


@pytest.fixture(scope="module")
def minted(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dna, list[dict[str, Any]]]:
    dna = Dna(tmp_path_factory.mktemp("home"))
    out, _ = dna("mint", str(repository), "--author", ADA, "--json", *QUICK)
    return dna, [json.loads(line) for line in out.splitlines()]


def manifest(dna: Dna, name: str = "ada-example") -> dict[str, Any]:
    fields = dna.json("show", name)["manifest"]
    return {key: value for key, value in fields.items() if key not in TIMES}


def test_every_stage_is_told_and_a_block_comes_out(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    _, events = minted
    assert [e["stage"] for e in events if e["kind"] == "stage_finished"] == list(STAGES)
    assert events[-1]["kind"] == "job_finished"
    assert events[-1]["block"] == "ada-example@1.0.0"


def test_every_completion_is_the_blob_it_says_it_is(minted: tuple[Dna, list[dict[str, Any]]], repository: Path) -> None:
    dna, _ = minted
    folder = Path(dna.json("show", "ada-example")["path"])
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    assert len(pairs) >= 24
    for pair in pairs:
        origin = pair["provenance"]
        blob = subprocess.run(
            ["git", "-C", str(repository), "show", f"{origin['commit']}:{origin['path']}"],
            capture_output=True,
            check=True,
        ).stdout.decode()
        lines = blob.split("\n")
        expected = "\n".join(lines[origin["start"] - 1 : origin["end"]])
        assert pair["completion"].rstrip("\n") == expected.rstrip("\n")
        assert BOB.split()[0] not in pair["completion"]


def test_a_fresh_process_loads_it_with_peft(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    dna, _ = minted
    assert dna.json("show", "ada-example")["manifest"]["peft_compatible"]["value"] is True


def test_its_numbers_come_out_of_plain_transformers_and_peft(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    dna, _ = minted
    detail = dna.json("show", "ada-example")
    package = Path(clonedna.__file__).parent
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("recomputed.py")), str(package / "bases/nano"), detail["path"],
         str(package / "evals/data/general.jsonl")],
        capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    again = json.loads(done.stdout)
    stored = detail["evaluation"]["measures"]
    assert {name: stored[name]["value"] for name in again} == pytest.approx(again, abs=1e-3)
    assert again["nll.delta"] != 0


@pytest.mark.long
def test_measured_again_in_another_process_nothing_drifts(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    dna, _ = minted
    before = {path.name: path.read_bytes() for path in Path(dna.json("show", "ada-example")["path"]).iterdir()}
    found = dna.json("eval", "ada-example")
    compared = [one for one in found["readings"] if one["drift"] is not None]
    assert found["reproduced"] is True
    assert len(compared) >= 15
    assert {one["drift"] for one in compared} == {0.0}
    detail = dna.json("show", "ada-example")
    assert {path.name: path.read_bytes() for path in Path(detail["path"]).iterdir()} == before
    assert detail["again"][0]["reproduced"] is True
    assert detail["maturity"]["validated"] is (detail["manifest"]["gate"]["status"] == "accepted")


def test_it_answers_and_says_what_served_it(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    dna, _ = minted
    answer = dna.json("run", "ada-example", "Write a function that adds.", "--max-tokens", "12", "--temperature", "0")
    assert answer["served_by"]["block"] == "ada-example@1.0.0"
    assert answer["served_by"]["weights_loaded"] is True
    assert answer["usage"]["completion_tokens"] <= 12
    out, err = dna("chat", "ada-example", "--max-tokens", "8", "--beside-base", stdin=subprocess.DEVNULL)
    assert not out
    assert "served by: ada-example@1.0.0" in err


@pytest.mark.long
def test_in_another_home_and_killed_again_and_again_it_ends_in_the_same_block(
    minted: tuple[Dna, list[dict[str, Any]]], repository: Path, tmp_path: Path
) -> None:
    dna, _ = minted
    other = Dna(tmp_path)
    process = other.start(
        "mint", str(repository), "--author", ADA, "--json", *QUICK, fresh=True
    )  # other hashes, another order of sets
    begun = "find"
    for stage in ("collect", "mix", "train", "pack"):
        assert process.stdout is not None
        again: list[str] = []
        for line in process.stdout:
            event = json.loads(line)
            if event["kind"] == "stage_started":
                again.append(event["stage"])
                if event["stage"] == stage:
                    process.send_signal(signal.SIGKILL)
                    break
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert again == list(STAGES[STAGES.index(begun) : STAGES.index(stage) + 1])
        assert [job["status"] for job in other.json("jobs", "ls")] == ["interrupted"]
        process, begun = other.start("jobs", "resume", "--json"), stage
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    again = [e["stage"] for e in map(json.loads, out.splitlines()) if e["kind"] == "stage_started"]
    assert again == list(STAGES[STAGES.index("pack") :])
    expected = manifest(dna)
    assert manifest(other) | {"created_by": expected["created_by"]} == expected


def test_ctrl_c_leaves_a_job_that_goes_on(repository: Path, tmp_path: Path) -> None:
    dna = Dna(tmp_path)
    process = dna.start("mint", str(repository), "--author", ADA, "--json", *QUICK)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "filter":
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "dna jobs resume" in err
    assert dna.json("jobs", "ls")[0]["status"] == "interrupted"
    assert not dna.json("ls")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_each_file_flipped_in_turn_is_refused_and_named(minted: tuple[Dna, list[dict[str, Any]]]) -> None:
    dna, _ = minted
    folder = Path(dna.json("show", "ada-example")["path"])
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        mode = path.stat().st_mode
        path.chmod(0o600)
        try:
            flipped(path)
            with pytest.raises(Corrupt) as caught:  # in this process: a new one for each file takes long
                Blocks(Parts(Settings(home=dna.home))).verified("ada-example")
            assert path.name in f"{caught.value.message} {caught.value.facts}"
        finally:
            path.write_bytes(data)
            path.chmod(mode)
    dna("verify", "ada-example")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["mint", "{tmp}", "--author", ADA], 2, "not_a_repository"),
        (["mint", "{repo}", "--author", "Nobody <nobody@example.org>"], 2, "no_such_author"),
        (["mint", "{repo}"], 2, "author_needed"),
        (["mint", "{repo}", "--author", BOB], 4, "too_few_spans"),
        (["mint", "{repo}", "--author", ADA, "--base", "no/such-base"], 2, "unknown_base"),
        (["mint", "{repo}", "--author", ADA, "--base", "nana"], 2, "unknown_base"),
        (["mint", "{repo}", "--author", ADA, "--rank", "7"], 2, "bad_input"),
        (["mint", "{repo}", "--author", ADA, "--name", "../x"], 2, "bad_input"),
        (["mint", "--nonsense"], 2, "bad_input"),
        (["run", "no-such-block", "hi"], 3, "block_not_found"),
        (["show", "ab/../cd"], 2, "bad_reference"),
        (["jobs", "show", "nothing"], 3, "job_not_found"),
        (["--config", "{tmp}/gone.toml", "ls"], 2, "bad_config"),
    ],
)
def test_bad_input_is_one_clear_line_with_code_and_next_step(
    arguments: list[str], status: int, code: str, repository: Path, tmp_path: Path
) -> None:
    dna = Dna(tmp_path / "home")
    given = [a.format(tmp=tmp_path, repo=repository) for a in arguments]
    out, err = dna(*given, "--json", status=status)
    error = json.loads(out.splitlines()[-1])["error"] if out else {}
    assert error["code"] == code, err
    assert error["message"]
    assert error["hint"]
    assert "Traceback" not in err


def test_bad_input_is_told_to_a_person_too(tmp_path: Path) -> None:
    _, err = Dna(tmp_path / "home")("show", "ab/../cd", status=2)
    assert err.startswith("error[bad_reference]: ")
    assert "\n  next: " in err


def test_another_base_is_refused_by_its_fingerprint(minted: tuple[Dna, list[dict[str, Any]]], tmp_path: Path) -> None:
    dna, _ = minted
    other = tmp_path / "other"
    shutil.copytree(Path(clonedna.bases.__file__).parent / "nano", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.001}))
    out, _ = dna("run", "ada-example", "hello", "--on", str(other), "--json", status=4)
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "wrong_base"


def test_an_unknown_licence_is_refused_with_what_to_do(tmp_path: Path) -> None:
    repository = two_people(tmp_path / "unlicensed", licence=None)
    out, _ = Dna(tmp_path / "home")("mint", str(repository), "--author", ADA, "--json", status=4)
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "licence_unknown"


def test_a_full_disk_is_said_before_anything_starts(repository: Path, tmp_path: Path) -> None:
    dna = Dna(tmp_path)
    dna.environment["DNA_MIN_FREE_BYTES"] = str(10**18)
    out, _ = dna("mint", str(repository), "--author", ADA, "--json", status=6)
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "no_space"
