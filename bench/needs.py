"""What becomes of phrases that no spelling of the taxonomy is in: the node that they are about, another one, or words of their own.

``chosen``: the phrases that the threshold of ``clonedna/genomes/needs.py`` was chosen on; ``held``: others, written after that and never
looked at before. Each has the node that it is about, or none: then it is about nothing that the taxonomy has.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from threadpoolctl import threadpool_limits

from bench.common import Report, arguments, figure, say
from clonedna.core.errors import InputError
from clonedna.engine.encoder import open_minilm
from clonedna.genomes.needs import APART, NEAR, Reader
from clonedna.genomes.taxonomy import load_taxonomy

PHRASES = Path(__file__).with_name("needs_phrases.txt")


def phrases() -> list[tuple[str, str, str]]:
    """Part, phrase, node (empty: none)."""
    found: list[tuple[str, str, str]] = []
    for line in PHRASES.read_text("utf-8").splitlines():
        part, phrase, node = line.split("|")
        found.append((part, phrase, node))
    return found


def outcome(reader: Reader, phrase: str, node: str) -> str:
    """``right``, ``wrong`` (another node, or one where there should be none) or ``own_words``."""
    try:
        nodes = {skill.node for skill in reader.read(phrase).skills} - {""}
    except InputError:
        return "own_words"
    if not nodes:
        return "own_words"
    return "right" if node in nodes else "wrong"


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=1)
    report = Report("needs", parser.parse_args())
    taxonomy = load_taxonomy()
    with threadpool_limits(report.options.threads):
        reader = Reader(taxonomy, open_minilm())
        held: dict[str, Counter[str]] = {}
        for part, phrase, node in phrases()[:: 8 if report.options.quick else 1]:
            held.setdefault(f"{part}_{'about' if node else 'nothing'}", Counter())[outcome(reader, phrase, node)] += 1
    report.setup = {"taxonomy": taxonomy.version, "nodes": len(taxonomy.nodes), "near": NEAR, "apart": APART}
    for name, counts in held.items():
        n = sum(counts.values())
        report.raw[name] = {"n": n, **{kind: counts[kind] for kind in ("right", "wrong", "own_words")}}
        report.ratios[f"{name}_wrong"] = figure(counts["wrong"] / n)
        say(f"{name}: {dict(counts)} of {n}")
    report.print()


if __name__ == "__main__":
    main()
