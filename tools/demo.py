"""The main job, start to end: mint blocks and see whose style they carry.

One block from this repository's own history, three from packages that are installed anyway; then the table that says whose block explains
whose held-out code best. Runs the `dna` command as a person would. Everything it makes stays in `.demo/`, beside this checkout.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".demo"
DNA = [sys.executable, "-m", "clonedna.cli.main"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")} | {"DNA_HOME": str(HOME)}
PROMPT = "Write the Python function `count_lines(path)` for `tools/count.py`."
PACKAGES = ("rich", "dbos", "datasketch")  # of different makers, under MIT, none in the corpus of `nano`
AT_ONCE = 2
SMALL = ("--max-pairs", "192")  # half of the default: the demo is to take minutes


def dna(*arguments: str, capture: bool = False) -> str:
    """Run `dna`; a failing command ends the demo with the command's own message and status."""
    if not capture:
        say(f"\n$ dna {shlex.join(arguments)}")
    stdout = subprocess.PIPE if capture else None
    done = subprocess.run([*DNA, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=stdout, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout or "")
        raise SystemExit(done.returncode)
    return done.stdout or ""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def mint_packages() -> None:
    """Two mints at a time, one thread each; every line begins with its package's name."""
    turns = threading.Semaphore(AT_ONCE)
    failed: list[int] = []

    def mint(name: str) -> None:
        with turns:
            if failed:
                return
            command = ["mint", f"package:{name}", "--name", name, *SMALL]
            say(f"\n$ dna {shlex.join(command)}")
            process = subprocess.Popen(
                [*DNA, *command], cwd=ROOT, env=ENVIRONMENT | {"DNA_THREADS": "1"}, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            for line in process.stderr or ():
                say(f"{name:<12}{line.rstrip()}")
            if process.wait():
                failed.append(process.returncode)

    threads = [threading.Thread(target=mint, args=(name,)) for name in PACKAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(failed[0])


def main() -> None:
    began = time.monotonic()
    authors = json.loads(dna("authors", ".", "--json", capture=True))
    person = authors[0]["identity"]
    say(f"{len(authors)} author(s) here; minting from the one with most commits: {person['name']}")
    dna("mint", ".", "--author", f"{person['name']} <{person['email']}>", "--name", "demo", *SMALL)
    dna("verify", "demo")
    dna("run", "demo", PROMPT, "--beside-base", "--max-tokens", "120")
    say(
        "\nAbove: what the block explains better than the base on files it never saw (nll.delta, nats a token), and what both answer to the"
        "\nsame request with the same seed. The base is small: it completes code, it does not converse."
        "\n\nWhose style is it? Three more blocks, from packages that are installed here anyway (research on this machine: never shared)."
    )
    mint_packages()
    dna("eval", "--identity", "demo", *PACKAGES, "--no-controls", "--out", str(HOME / "identity"))
    say(
        f"\n{time.monotonic() - began:.0f} s in all. The same table as a picture: .demo/identity/"
        "\n\ngo on:  DNA_HOME=.demo .venv/bin/dna show demo"
        "\n        DNA_HOME=.demo .venv/bin/dna chat demo"
        f"\n        DNA_HOME=.demo .venv/bin/dna eval --identity {' '.join(PACKAGES)}      # with control blocks: some minutes"
        "\n        .venv/bin/dna authors PATH && .venv/bin/dna mint PATH --author 'Name <mail>'"
    )


if __name__ == "__main__":
    main()
