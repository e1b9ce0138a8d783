"""The main job, start to end: mint a block from this repository's own history and show what it learned.

Runs the `dna` command as a person would. Everything it makes stays in `.demo/`, beside this checkout.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DNA = [sys.executable, "-m", "clonedna.cli.main"]
PROMPT = "Write the Python function `count_lines(path)` for `tools/count.py`."


def dna(*arguments: str, capture: bool = False) -> str:
    """Run `dna`; a failing command ends the demo with the command's own message and status."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")} | {
        "DNA_HOME": str(ROOT / ".demo")
    }
    if not capture:
        sys.stderr.write(f"\n$ dna {shlex.join(arguments)}\n")
    stdout = subprocess.PIPE if capture else None
    done = subprocess.run([*DNA, *arguments], cwd=ROOT, env=environment, stdout=stdout, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout or "")
        raise SystemExit(done.returncode)
    return done.stdout or ""


def main() -> None:
    authors = json.loads(dna("authors", ".", "--json", capture=True))
    person = authors[0]["identity"]
    sys.stderr.write(f"{len(authors)} author(s) here; minting from the one with most commits: {person['name']}\n")
    began = time.monotonic()
    dna("mint", ".", "--author", f"{person['name']} <{person['email']}>", "--name", "demo")
    minted = time.monotonic() - began
    dna("verify", "demo")
    dna("run", "demo", PROMPT, "--beside-base", "--max-tokens", "120")
    sys.stderr.write(
        f"\nminted in {minted:.0f} s. Above: what the block explains better than the base on files it never saw (nll.delta, nats a token),"
        "\nand what both answer to the same request with the same seed. The base is small: it completes code, it does not converse.\n"
        "\ngo on:  DNA_HOME=.demo .venv/bin/dna show demo"
        "\n        DNA_HOME=.demo .venv/bin/dna chat demo"
        "\n        .venv/bin/dna authors PATH && .venv/bin/dna mint PATH --author 'Name <mail>'\n"
    )


if __name__ == "__main__":
    main()
