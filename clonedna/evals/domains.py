"""In which of a person's domains does the block know them better than the base does?

A domain is a fact of where and how the person wrote: a language, a folder of their repository, a library that a span names in an import.
Nothing is inferred about the person; a span stands in as many domains as it has such facts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from clonedna.core.block import DomainGain, DomainKind, EvalSpan, Measure, not_available
from clonedna.core.work import Pair
from clonedna.evals.bootstrap import paired_gain
from clonedna.evals.likelihood import file_of

MIN_SPANS = 5
MOST_DOMAINS = 40
_PYTHON = re.compile(r"^\s*(?:from\s+([A-Za-z_]\w*)[\w.]*\s+import\b|import\s+([A-Za-z_]\w*))", re.MULTILINE)
_SCRIPT = re.compile(r"""(?:\bfrom\s+|\brequire\(\s*|^\s*import\s+)["']((?:@[\w.-]+/)?\w[\w.-]*)""", re.MULTILINE)


def domains_of(pair: Pair) -> tuple[tuple[DomainKind, str], ...]:
    """The pair's language, its top folders (two levels; ``.`` for none), and the libraries that its own lines import."""
    found: list[tuple[DomainKind, str]] = [("language", pair.language)]
    if pair.form == "given":
        return tuple(found)
    found.append(("folder", "/".join(pair.provenance.path.split("/")[:-1][:2]) or "."))
    if pair.language == "python":
        names = {first or second for first, second in _PYTHON.findall(pair.completion)}
    elif pair.language in ("javascript", "typescript"):
        names = set(_SCRIPT.findall(pair.completion))
    else:
        names = set[str]()
    return (*found, *(("library", name) for name in sorted(names)))


def domain_gains(pairs: Sequence[Pair], spans: Sequence[EvalSpan], *, seed: int = 0) -> tuple[DomainGain, ...]:
    """The gain on the hold-out spans of each domain with at least five of them, most spans first. ``spans``: of ``pairs``, in order."""
    places: dict[tuple[DomainKind, str], list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        for domain in domains_of(pair):
            places[domain].append(i)
    large = [(domain, found) for domain, found in places.items() if len(found) >= MIN_SPANS]
    large.sort(key=lambda one: (-len(one[1]), one[0]))
    gains: list[DomainGain] = []
    for (kind, name), found in large[:MOST_DOMAINS]:
        chosen = [spans[i] for i in found]
        gain, interval = paired_gain(
            [s.base for s in chosen], [s.adapter for s in chosen], [s.tokens for s in chosen], seed=seed,
            clusters=[file_of(pairs[i]) for i in found],
        )  # fmt: skip
        gains.append(DomainGain(kind=kind, name=name, n=len(found), gain=gain, ci95=interval, passes=interval[0] > 0))
    return tuple(gains)


def domain_accuracy(gains: Sequence[DomainGain]) -> Measure:
    """Share of the domains whose gain has a 95 % interval above zero. Domains overlap, so it is no independent test of each."""
    if not gains:
        return not_available(f"no language, folder or library has {MIN_SPANS} held-out spans")
    n = len(gains)
    return Measure(
        value=sum(one.passes for one in gains) / n, status="measured", n=n, split="holdout",
        how=f"share of domains (languages, folders, imported libraries with at least {MIN_SPANS} held-out spans) whose gain has its "
        "95 % interval above zero; n counts domains",
    )  # fmt: skip
