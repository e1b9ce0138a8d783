"""Write the tables of docs/recipe.md from the lines of the sweep, and say there what missed the aim.

python -m bench.sweep_table            # rewrite what stands between the two marks of docs/recipe.md
python -m bench.sweep_table --check    # exit status 1 when it would change something
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from bench.common import ROOT, say
from bench.families import FAMILIES

HISTORY = ROOT / "bench" / "history" / "recipe_sweep.jsonl"
PAGE = ROOT / "docs" / "recipe.md"
BEGIN, END = "<!-- tables: python -m bench.sweep_table -->", "<!-- end of tables -->"
AIMS = {"file": 0.85, "package": 0.75}
MOST_FORGETTING, MOST_MEMORISED, ENOUGH_SPANS = 0.03, 0.01, 30
Line = dict[str, Any]


def lines() -> list[Line]:
    """All results, the latest of each configuration, split, seed and set of families, in the order they were made."""
    latest: dict[tuple[Any, ...], Line] = {}
    for text in HISTORY.read_text().splitlines():
        line: Line = json.loads(text)
        latest[line["configuration"], line["split"], line["seed"], len(line["families"])] = line
    return sorted(latest.values(), key=lambda line: str(line["at"]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def share(line: Line, what: str) -> str:
    """An identification as percent with its interval, people as a count."""
    found = line["identification"][f"identification.{what}"]
    if what == "people":
        return f"{round(found['value'] * found['n'])} of {found['n']}"
    low, high = found["ci95"] or (found["value"], found["value"])
    return f"{100 * found['value']:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"


def changes(line: Line) -> str:
    """A configuration's differences from the centre, in words."""
    parts: list[str] = []
    for name, value in line["changes"].items():
        if name == "lora":
            modules = value.get("target_modules")
            parts.append(
                f"rank {value['rank']}, alpha {value['alpha']:g}" + (f", {len(modules)} modules" if modules else "")
            )
        else:
            parts.append(f"{name} {value:g}")
    return "; ".join(parts) or "(the centre)"


def figures(line: Line) -> list[str]:
    own, kept = list(line["own"].values()), list(line["kept"].values())
    memorised = [one["memorisation.excess"] for one in kept if one.get("memorisation.excess") is not None]
    return [
        share(line, "people"), share(line, "files"), share(line, "spans"), f"{sum(one['gain'] for one in own) / len(own):+.4f}",
        f"{min(one['low'] for one in own):+.4f}", f"{100 * max(one['forgetting'] for one in kept):+.2f} %",
        f"{100 * max(memorised):.1f} %" if memorised else "not asked", "/".join(str(one["best_epoch"]) for one in kept),
        f"{sum(one['seconds'] for one in kept) / len(kept):.0f}",
    ]  # fmt: skip


FIGURES = [
    "people", "files", "spans", "mean own gain", "lowest end of a gain", "most forgetting", "most memorised", "best epochs",
    "seconds a training",
]  # fmt: skip


def by_family(line: Line) -> str:
    rows: list[list[str]] = []
    for name, own in line["own"].items():
        kept = line["kept"][name]
        excess = kept.get("memorisation.excess")
        rows.append([
            f"{name}{' (chosen on)' if FAMILIES[name].choosing else ''}", str(kept["pairs"]["train"]), str(own["spans"]),
            f"{own['gain']:+.4f}", f"{own['ratio']:.4f} [{own['ratio_low']:.4f}, {own['ratio_high']:.4f}]",
            f"{100 * own['files_right']:.0f} % of {own['files']}", f"{100 * kept['forgetting']:+.2f} %",
            "not asked" if excess is None else f"{100 * excess:.1f} %", f"{kept['seconds']:.0f}",
        ])  # fmt: skip
    head = [
        "family",
        "pairs trained on",
        "spans held out",
        "gain, nats a token",
        "perplexity ratio",
        "files",
        "forgetting",
        "memorised",
        "seconds",
    ]
    return table(head, rows)


def missed(line: Line) -> list[str]:
    """What of the aim this line does not reach, one sentence each."""
    where = f"`{line['configuration']}`, by {line['split']}, seed {line['seed']}"
    found: list[str] = []
    measures = line["identification"]
    people, files = measures["identification.people"], measures["identification.files"]
    if people["value"] < 1:
        found.append(f"{where}: {share(line, 'people')} people.")
    if files["value"] < AIMS[line["split"]]:
        found.append(
            f"{where}: {100 * files['value']:.1f} % of {files['n']} files, the aim is {100 * AIMS[line['split']]:.0f} %."
        )
    for name, own in line["own"].items():
        if own["spans"] >= ENOUGH_SPANS and own["ratio_low"] <= 1:
            found.append(
                f"{where}: {name}'s perplexity ratio {own['ratio']:.4f} [{own['ratio_low']:.4f}, {own['ratio_high']:.4f}]."
            )
    for name, kept in line["kept"].items():
        if kept["forgetting"] > MOST_FORGETTING:
            found.append(f"{where}: {name} forgets {100 * kept['forgetting']:.2f} %.")
        if (kept.get("memorisation.excess") or 0) > MOST_MEMORISED:
            found.append(f"{where}: {name} repeats {100 * kept['memorisation.excess']:.1f} % more than the base.")
    return found


def page() -> str:
    """What stands between the marks."""
    found = lines()
    choosing = [line for line in found if len(line["families"]) < len(FAMILIES)]
    final = [line for line in found if len(line["families"]) == len(FAMILIES)]
    rows = [
        [name, ", ".join(map(" ".join, one.packages.items())), ", ".join(one.licences), "yes" if one.choosing else "no"]
        for name, one in FAMILIES.items()
    ]
    families = table(["family", "packages", "licence", "recipes were chosen on it"], rows)
    machine = found[-1]["machine"]
    parts = [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, of which one thread was used, with other work on the rest; "
        f"{found[0]['at'][:10]}, {found[0]['at'][11:16]} to {found[-1]['at'][11:16]} UTC.",
        "### Families", families, "### Choosing: four families",
        table(
            ["configuration", "differs from the centre in", "split", *FIGURES],
            [[line["configuration"], changes(line), line["split"], *figures(line)] for line in choosing],
        ),
        "### Reporting: all eight families",
        table(
            ["configuration", "split", "seed", *FIGURES],
            [[line["configuration"], line["split"], str(line["seed"]), *figures(line)] for line in final],
        ),
    ]  # fmt: skip
    for line in final:
        parts += [f"#### {line['configuration']}, by {line['split']}, seed {line['seed']}", by_family(line)]
    misses = [sentence for line in final for sentence in missed(line)]
    parts += ["### What missed the aim", "\n".join(f"- {one}" for one in misses) or "Nothing."]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before}{BEGIN}\n\n{page()}\n\n{END}{after}"
    if options.check:
        raise SystemExit(made != text)
    PAGE.write_text(made)
    say(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
