"""What a block can do, in words for an index: what its person's own training code is written in, works on and uses, and what the projects
that it stands in say they are for.

Every word but those of the projects' own lines stands in the names of that code: of functions and classes, files and folders, libraries.
There are no counts in it, and nothing that a model claimed. Names and lines are third-party text; a project's line is its claim, and what
a layer brings is measured.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from clonedna.core.words import COMMON, words
from clonedna.core.work import Pair, Repository
from clonedna.evals.domains import domains_of

MOST_SUBJECTS, MOST_LIBRARIES, MOST_SAID = 24, 12, 3
MOST_LETTERS = 64
_EVERYWHERE = (
    "abstract add all any args base body bool build call check class cls code data def default del do doc dunder"
    " enter eq exit example false fixture for from func function get has hash helper impl in index init input int is"
    " item iter js jsx key kwargs len lib list load main make misc mjs mock module name new next node none obj"
    " object of on op or out output parse pkg private property public py read remove repr result return run self set"
    " setup size spec src start static stop str sub super temp test tests the this to true ts tsx type update util"
    " utils val value with wrapper write"
)
EVERYWHERE = frozenset(_EVERYWHERE.split()) - {"parse"}
"""Words that stand in everybody's names."""


def capability_text(pairs: Sequence[Pair], languages: Sequence[str], repository: Repository | None = None) -> str:
    """``pairs``: all of a mint, of which the person's training pairs count.

    ``repository``: whose name and description are told; of one that has parts, the descriptions of the ``MOST_SAID`` that most pairs are
    from. The same pairs of the same repository give the same text.
    """
    source = repository.name if repository is not None else ""
    subjects, libraries = Counter[str](), Counter[str]()
    for pair in pairs:
        if pair.split == "train":
            subjects.update(_subjects(pair))
            libraries.update(_libraries(pair, source))
    works_on, uses = _often(subjects, MOST_SUBJECTS), _often(libraries, MOST_LIBRARIES)
    parts = (
        ", ".join(languages), f"works on {', '.join(works_on)}" if works_on else "",
        f"uses {', '.join(uses)}" if uses else "", f"from {source}" if source else "", *_said(pairs, repository),
    )  # fmt: skip
    return ". ".join(part for part in parts if part)


def _said(pairs: Sequence[Pair], repository: Repository | None) -> list[str]:
    """What the projects say of themselves, those first that most training pairs are from."""
    if repository is None:
        return []
    if not repository.parts:
        return [repository.description.rstrip(".")]
    own = Counter(pair.provenance.url for pair in pairs if pair.split == "train")
    parts = sorted((one for one in repository.parts if own[one.url]), key=lambda one: (-own[one.url], one.url))
    return [one.description.rstrip(".") for one in parts[:MOST_SAID]]


def _often(counts: Counter[str], most: int) -> list[str]:
    """What stands in more than one pair, the most frequent first, of equals by name."""
    found = (word for word, count in counts.items() if count > 1)
    return sorted(found, key=lambda word: (-counts[word], word))[:most]


def _libraries(pair: Pair, source: str) -> set[str]:
    """What the span itself imports, without Python's own library and what it is a part of."""
    own = {source.replace("-", "_"), *pair.provenance.path.split("/")[:-1]}
    imported = {name for kind, name in domains_of(pair) if kind == "library" and len(name) <= MOST_LETTERS}
    return imported - own - sys.stdlib_module_names


def _subjects(pair: Pair) -> set[str]:
    """What the names around one span are about. What was given in a file has no names of the person's."""
    if pair.form == "given":
        return set()
    named = f"{pair.name} {pair.provenance.path}"
    return {
        word
        for word in words(named, wholes=False)
        if len(word) > 2 and word not in EVERYWHERE and word not in COMMON and not word.isdigit()
    }
