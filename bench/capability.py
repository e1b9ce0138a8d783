"""How well layers of real packages are found by what a mint says of them: no model is trained, nothing is fitted.

Of each listed package that is installed here, the smallest first, pairs are made as a mint makes them; its text is `capability_text`, its
exemplars those that a home has. It is asked for by a request in our own words (clonedna/genomes/package_requests.py), written before
anything was measured. Ways to answer: ``cosine`` with the text alone, as the registry's search by meaning has it, and ``alike``, as a plan
orders layers; each with the text as it is, and (``names alone``) without what the package says of itself. The packages' names are in texts
and prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, NamedTuple

import anyio
import numpy as np
from threadpoolctl import threadpool_limits

from bench.common import Report, arguments, figure, say
from clonedna.app.parts import factory
from clonedna.core.block import Recipe
from clonedna.core.errors import DnaError
from clonedna.core.vectors import Near
from clonedna.core.work import Identity, Pair, Repository
from clonedna.engine.encoder import MiniLM, open_minilm
from clonedna.genomes.exemplars import centroids, drawn
from clonedna.genomes.features import features_of
from clonedna.genomes.finding import mean, place
from clonedna.genomes.glossary import load_glossary
from clonedna.genomes.package_requests import package_requests
from clonedna.genomes.ranking import Ranked, alike, in_order
from clonedna.genomes.rarity import Rarity
from clonedna.mint.capability import capability_text
from clonedna.mint.divide import divide
from clonedna.mint.instruct import instruct
from clonedna.mint.overlap import apart
from clonedna.mint.papers import languages
from clonedna.mint.sift import sift
from clonedna.sources.package import PackageSource
from clonedna.teachers.own_words import OwnWords

LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "PSF-2.0", "ISC", "MPL-2.0")  # nothing of this is kept


class Layer(NamedTuple):
    """``text``: as a mint has it; ``names``: without what the package says of itself."""

    name: str
    text: str
    names: str
    prompts: tuple[str, ...]


def pairs_of(name: str) -> tuple[Repository, tuple[Pair, ...]]:
    """The package, and pairs as a mint by the rules and the program's recipe. Raises ``DnaError``."""
    source, recipe = PackageSource(), Recipe()
    found = source.find(f"package:{name}")
    collection = source.collect(
        found, (Identity(name=name),), licences=LICENCES, owned_share=0.8, max_files=20_000, max_changes=0, emit=lambda _: None
    )  # fmt: skip
    divided = divide(sift(collection, max_tokens=recipe.max_tokens), recipe)

    async def taught() -> tuple[Pair, ...]:
        made = await instruct(
            divided, found.repository, name, teacher=OwnWords(), examiner=OwnWords(), secret_in=factory("secrets", "patterns"),
            emit=lambda _: None,
        )  # fmt: skip
        return apart(made).pairs

    return found.repository, anyio.run(taught)


def layers(most: int) -> tuple[list[Layer], dict[str, str]]:
    """At most ``most``, the smallest packages first; and why a package that was tried is none."""
    there: list[tuple[int, str]] = []
    for name in package_requests():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        there.append((sum(file.size or 0 for file in found.files or () if file.suffix == ".py"), name))
    made: list[Layer] = []
    left: dict[str, str] = {}
    for _, name in sorted(there):
        if len(made) == most:
            break
        try:
            repository, pairs = pairs_of(name)
        except DnaError as error:
            left[name] = error.code
            continue
        spoken = tuple(language for language, _ in languages(pairs))
        silent = repository.model_copy(update={"description": ""})
        text, names = (capability_text(pairs, spoken, one) for one in (repository, silent))
        made.append(Layer(name, text, names, drawn(pairs)))
    return sorted(made), left


def orders(found: Sequence[Layer], texts: Sequence[str], encoder: MiniLM) -> list[dict[str, tuple[Ranked, ...]]]:
    """For each layer, asked for by its request: what each way of answering says, by these texts."""
    rows_of_texts = encoder.encode(texts).rows
    middles = [centroids(encoder.encode(one.prompts).rows) for one in found]
    glossary = load_glossary()
    meant = [encoder.encode(glossary.meanings(text)).rows for text in texts]
    rarity = Rarity({one.name: glossary.explained(text) for one, text in zip(found, texts, strict=True)})
    told: list[dict[str, tuple[Ranked, ...]]] = []
    for layer in found:
        text = package_requests()[layer.name]
        asked = encoder.encode([text]).rows[0]
        near = [
            Near(
                one.name,
                float(cosine),
                *(float(np.max(some @ asked)) if len(some) else None for some in (rows, told_rows)),
            )
            for one, cosine, rows, told_rows in zip(found, rows_of_texts @ asked, middles, meant, strict=True)
        ]
        features = features_of([text], near, rarity)
        told.append({
            "cosine": in_order({one.id: one.text_cosine for one in near}),
            "alike": in_order({name: alike(one) for name, one in features.items()}),
        })  # fmt: skip
    return told


def shown(values: Sequence[float]) -> dict[str, Any]:
    one = mean(values, [str(i) for i in range(len(values))], "")
    return {"value": figure(one.value or 0.0), "ci95": [figure(end) for end in one.ci95 or ()], "n": one.n}


def measure(report: Report, most: int, adapter: str) -> None:
    encoder = open_minilm(adapter)
    found, left = layers(most)
    if len(found) < 2:
        raise SystemExit("fewer than two of the listed packages are installed here: nothing to choose among")
    report.setup |= {"encoder": encoder.name, "packages": [one.name for one in found], "left_out": left}
    for kind, texts in (("text", [one.text for one in found]), ("names alone", [one.names for one in found])):
        told = orders(found, texts, encoder)
        for way in ("cosine", "alike"):
            at = [place((one.name,), order[way]) for one, order in zip(found, told, strict=True)]
            report.raw[f"{kind} {way}"] = {
                "R@1": shown([float(one == 1) for one in at]), "R@5": shown([float(one <= 5) for one in at]),
                "MRR": shown([1 / one for one in at]),
            }  # fmt: skip
            say(
                f"{kind} by {way}: { ({name: one['value'] for name, one in report.raw[f'{kind} {way}'].items()}) } of n={len(at)}"
            )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--packages", type=int, default=24, help="at most so many, the smallest first")
    parser.add_argument("--adapter", default="", help="file of an adapter for the encoder (tools/fit_encoder.py)")
    parser.set_defaults(threads=1)
    options: argparse.Namespace = parser.parse_args()
    report = Report("capability", options)
    with threadpool_limits(options.threads):
        measure(report, 5 if options.quick else options.packages, options.adapter)
    report.print()


if __name__ == "__main__":
    main()
