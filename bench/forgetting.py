"""What general pairs are good for: real mints with and without them, on the bundled base. Prints one JSON line a mint.

    python bench/forgetting.py REPOSITORY [REPOSITORY ...] [--ratios 0 0.5 1] [--max-pairs 96] [--seeds 0] > lines.jsonl
    python bench/forgetting.py --table lines.jsonl     # the Markdown table of docs/teachers.md

Each mint is a run of `dna mint` in a fresh home, for the author with most commits, as `local-only`, with the base's own answers as
general pairs. Only the ratio differs between the mints of one repository and seed; all have the 24 tool-use pairs. The figures are the
block's own (`eval.json`): forgetting is the relative rise of the loss on the bundled general set, gain the nats a token on held-out code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

MEASURES = ("forgetting", "forgetting.code", "forgetting.prose", "forgetting.tool_use", "nll.delta")


def mint(repository: Path, ratio: float, seed: int, max_pairs: int) -> dict[str, Any]:
    """The measures of one block, with what the recipe says of its general pairs."""
    with tempfile.TemporaryDirectory() as home:
        dna = [sys.executable, "-m", "clonedna.cli.main", "--home", home]
        listed = subprocess.run(
            [*dna, "authors", str(repository), "--json"], capture_output=True, text=True, check=True
        )
        first = json.loads(listed.stdout)[0]["identity"]
        began = time.monotonic()
        done = subprocess.run(
            [*dna, "mint", str(repository), "--author", f"{first['name']} <{first['email']}>", "--json", "--consent", "local-only",
             "--general-ratio", str(ratio), "--max-pairs", str(max_pairs), "--seed", str(seed)],
            stdout=subprocess.PIPE, text=True, check=False, cwd=home,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stdout.splitlines()[-1] if done.stdout else f"dna mint ended with {done.returncode}")
        seconds = time.monotonic() - began
        manifests = [
            path for path in Path(home, "store").rglob("manifest.json") if (path.parent / "eval.json").is_file()
        ]
        manifest = json.loads(manifests[0].read_text("utf-8"))
        measured = json.loads((manifests[0].parent / "eval.json").read_text("utf-8"))["measures"]
    return {
        "repository": repository.name, "seed": seed, "ratio": ratio, "seconds": round(seconds, 1),
        "pairs": manifest["candidate_pairs"], "general": manifest["recipe"]["general_pairs"], "gate": manifest["gate"],
        "measures": {name: {key: measured[name][key] for key in ("value", "ci95", "n")} for name in MEASURES},
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table: percentages with their 95 % intervals, gain in nats a token."""
    rows = [
        "| Repository | Pairs | General | Forgetting | of code | of prose | of tool use | Gain, nats a token | Gate |"
    ]
    rows += ["|---|---|---|---|---|---|---|---|---|"]
    for line in sorted(lines, key=lambda one: (one["repository"], one["seed"], one["ratio"])):
        shown = [_percent(line["measures"][name]) for name in MEASURES[:-1]]
        gain = line["measures"]["nll.delta"]
        low, high = gain["ci95"]
        rows.append(
            f"| {line['repository']} | {line['pairs']} | {line['general']['n']} | {' | '.join(shown)} "
            f"| {gain['value']:.3f} [{low:.3f}, {high:.3f}] | {line['gate']['status']} |"
        )
    return "\n".join(rows)


def _percent(measure: dict[str, Any]) -> str:
    low, high = measure["ci95"]
    return f"{100 * measure['value']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("repositories", nargs="*", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--max-pairs", type=int, default=96)
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text("utf-8").splitlines()]))
        return
    for repository in options.repositories:
        for seed in options.seeds:
            for ratio in options.ratios:
                run = mint(repository.absolute(), ratio, seed, options.max_pairs)
                at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                versions = {name: version(name) for name in ("clone-dna", "torch", "transformers")}
                print(json.dumps({"bench": "forgetting", "at": at, "versions": versions, **run}), flush=True)


if __name__ == "__main__":
    main()
