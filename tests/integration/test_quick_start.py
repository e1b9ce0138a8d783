"""What the README and the client's page show really runs: against a server with the fake engine, every command and every example."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from clonedna.client import Client
from tests.serving import ServerParts, add_block, running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8").partition("## Everything else over HTTP\n")[2].partition("\n## ")[0]
CLIENT = (ROOT / "docs/client.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"
pytestmark = pytest.mark.slow


def examples(page: str, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page) if found == kind]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    # No job is begun (another process would): what they do has its own tests.
    parts = ServerParts(tmp_path_factory.mktemp("home"), parallel_training=0, min_free_bytes=0)
    add_block(parts, "ada", specialization="tables in Python")
    with running(parts, "nano", whole=True) as url:
        yield url


def test_there_are_examples() -> None:
    assert len(examples(README, "bash")) == 1
    assert len(examples(README, "python")) + len(examples(CLIENT, "python")) == 3


def test_each_command_of_the_readme_answers(server: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    (script,) = examples(README, "bash")
    # Comments stand behind commands; a line that ends with \ goes on.
    text = re.sub(r" +#.*$", "", script, flags=re.MULTILINE).replace("\\\n", " ").replace(ADDRESS, server)
    first, *commands = [line for line in text.splitlines() if line.strip()]
    assert len(commands) == 7
    answers = [_run(first, command) for command in commands]
    page, search, block, job, jobs, chat = map(json.loads, answers[:-1])
    assert page["blocks"][0]["name"] == block["manifest"]["name"] == search["found"][0]["block"]["name"] == "ada"
    assert (job["kind"], job["target"]) == ("mint", "package:rich")
    assert [one["id"] for one in jobs["jobs"]] == [job["id"]]
    assert chat["text"]
    assert "dna_http_answers_total" in answers[-1]


def _run(first: str, command: str) -> str:
    """One command, which must be answered with 2xx."""
    script = f"{first}\n{command} --noproxy '*' --max-time 30 -w '\\n%{{http_code}}'"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    body, _, status = done.stdout.rpartition("\n")
    assert status.startswith("2"), (command, status, body)
    return body


@pytest.mark.parametrize("example", [*examples(README, "python"), *examples(CLIENT, "python")])
def test_each_example_of_the_client_runs(example: str, server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example.replace(ADDRESS, server)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_page_names_what_a_client_has(server: str) -> None:
    with Client(server) as client:
        there = {name for name in vars(client) if not name.startswith("_")} - {"wire"}
    rows = [line.split("|")[1] for line in CLIENT.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= there
