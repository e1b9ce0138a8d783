"""How long a mint takes, stage by stage, and how much memory. Prints one JSON line.

    python bench/mint.py [REPOSITORY] [--author 'Name <mail>'] [--runs 1]

Without a repository it is this one. The mint runs in a fresh process and a fresh home, so nothing is cached but the operating
system's files. Seconds are from the job's own events; peak memory is the process's (ru_maxrss, the greatest of it and its children).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def mint(repository: str, author: str | None) -> dict[str, object]:
    """One mint in a fresh home; seconds a stage, trained tokens a second, peak memory in MiB, and what came out."""
    with tempfile.TemporaryDirectory() as home:
        dna = [sys.executable, "-m", "clonedna.cli.main", "--home", home]
        if author is None:
            listed = subprocess.run([*dna, "authors", repository, "--json"], capture_output=True, text=True, check=True)
            first = json.loads(listed.stdout)[0]["identity"]
            author = f"{first['name']} <{first['email']}>"
        began = time.monotonic()
        done = subprocess.run(
            [*dna, "mint", repository, "--author", author, "--json", "--allow-licence", "BSD-3-Clause"],
            stdout=subprocess.PIPE, text=True, check=False, cwd=home,
        )  # fmt: skip
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode:
            raise SystemExit(done.stdout.splitlines()[-1] if lines else f"dna mint ended with {done.returncode}")
    stages = {line["stage"]: line["seconds"] for line in lines if line["kind"] == "stage_finished"}
    counts = {line["stage"]: line["counts"] for line in lines if line["kind"] == "stage_finished"}
    rates = [line["rate"] for line in lines if line["kind"] == "stage_progress" and line["stage"] == "train"]
    return {
        "seconds": round(seconds, 2), "stages": stages, "train_tokens_per_second": rates[-1] if rates else None,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "spans": counts["collect"]["spans"], "gain": counts["evaluate"]["gain"],
        "ci95": [counts["evaluate"]["low"], counts["evaluate"]["high"]], "status": counts["gate"]["status"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("repository", nargs="?", default=str(ROOT))
    parser.add_argument("--author")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    repository = str(Path(options.repository).absolute()) if Path(options.repository).exists() else options.repository
    runs = [mint(repository, options.author) for _ in range(options.runs)]
    print(
        json.dumps(
            {
                "bench": "mint", "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "repository": Path(repository).name,
                "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
                "versions": {name: version(name) for name in ("clone-dna", "torch", "transformers")}, "runs": runs,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
