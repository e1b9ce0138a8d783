"""Make `clonedna/evals/data/style_scales.json`: how far people are apart in each feature of style.

Reads clones of public, permissively licensed packages; takes each author with enough code (their spans, as a mint collects them), counts
the features, and keeps mean and standard deviation between the authors of each language. Numbers and package names only: no author, no
code. Of each package at most a few authors, so that no single one decides.

    python -m tools.style_scales CLONE [CLONE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from clonedna.core.errors import DnaError
from clonedna.core.style import StyleProfile
from clonedna.core.work import Identity, Language
from clonedna.evals.style import features
from clonedna.evals.style_table import features_of
from clonedna.sources.git import GitSource
from clonedna.sources.languages import parse

OUT = Path(__file__).resolve().parents[1] / "clonedna/evals/data/style_scales.json"
LICENCES = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC")
LEAST_SPANS, MOST_AUTHORS, MAX_FILES = 20, 5, 80


def people_of(clone: str, source: GitSource) -> list[StyleProfile]:
    """The profiles of a package's authors with the most commits, language by language; one for each name (people have many addresses)."""
    found = source.find(clone)
    names = list(dict.fromkeys(share.identity.name for share in found.repository.authors))
    profiles: list[StyleProfile] = []
    for name in [name for name in names if not name.casefold().endswith(("bot", "[bot]"))][:MOST_AUTHORS]:
        who = [Identity(name=name, email=s.identity.email) for s in found.repository.authors if s.identity.name == name]
        try:
            collection = source.collect(
                found, who, licences=LICENCES, owned_share=0.8, max_files=MAX_FILES, max_changes=100, emit=lambda event: None
            )  # fmt: skip
        except DnaError as error:  # a shallow clone, or nothing under these licences
            print(f"{found.repository.name}: one author left out: {error.code}", file=sys.stderr)
            continue
        texts: dict[Language, list[str]] = defaultdict(list)
        for span in collection.spans:
            if span.language != "text":
                texts[span.language].append(span.text)
        for language, written in sorted(texts.items()):
            if len(written) >= LEAST_SPANS and (profile := features(written, language, parse)):
                profiles.append(profile)
        print(f"{found.repository.name}: {[(k, len(v)) for k, v in texts.items()]}", file=sys.stderr)
    return profiles


def spread_of(profiles: list[StyleProfile]) -> dict[str, dict[str, float | int]]:
    """Feature -> mean, standard deviation (n - 1) and number of people that have it."""
    result: dict[str, dict[str, float | int]] = {}
    for row in features_of(profiles[0].language):
        known = [value for one in profiles if (value := one.value(row.name)) is not None]
        if len(known) > 1:
            result[row.name] = {
                "mean": round(float(np.mean(known)), 4), "spread": round(float(np.std(known, ddof=1)), 4), "people": len(known)
            }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", nargs="+", help="directories of git clones")
    people: dict[str, list[StyleProfile]] = defaultdict(list)
    packages: dict[str, list[str]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        source = GitSource(cache=Path(cache), timeout=600.0, max_clone_bytes=10**9)
        for clone in parser.parse_args().clones:
            for profile in people_of(clone, source):
                people[profile.language].append(profile)
                if Path(clone).name not in packages[profile.language]:
                    packages[profile.language].append(Path(clone).name)
    # The two grammars of one family of languages share what is measured: few people of each are at hand.
    script = [*people["javascript"], *people["typescript"]]
    result = {
        language: {
            "people": len(profiles), "packages": sorted({name for one in kinds for name in packages[one]}),
            "features": spread_of(profiles),
        }
        for language, profiles, kinds in (
            ("python", people["python"], ("python",)),
            ("javascript", script, ("javascript", "typescript")),
            ("typescript", script, ("javascript", "typescript")),
        )
        if profiles
    }  # fmt: skip
    what = "mean and standard deviation between people of each feature of style; made by tools/style_scales.py"
    OUT.write_text(json.dumps({"what": what, "languages": result}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
