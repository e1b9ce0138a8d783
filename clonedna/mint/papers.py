"""The papers of a block: evaluation, sources, consent, pairs, profile, model card and its pictures, as bytes that depend on content only.

No times stand here, so equal sources, recipe and seed give equal files; times stand in the manifest. Names of people, repositories and
paths are third-party text: they are escaped wherever they enter Markdown or YAML.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict

from jinja2 import Environment, PackageLoader, StrictUndefined

from clonedna.core.block import (
    ConsentRecord,
    Evaluation,
    GateVerdict,
    GivenPairs,
    Measure,
    MintOrder,
    SourceFile,
    SourceRecord,
)
from clonedna.core.canonical import canonical, plain, sha256
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value
from clonedna.core.work import Pair, Refusal, Repository
from clonedna.mint.plots import plots

MAX_REFUSALS = 2000
MAIN_MEASURES = (
    "nll.base", "nll.adapter", "nll.delta", "perplexity_reduction_ratio", "bits_per_byte.base", "bits_per_byte.adapter", "identity.gain",
    "forgetting", "memorisation.rate", "memorisation.excess", "style.capture", "style.capture.formatted", "style.capture.ceiling",
    "style.consistency", "maturity",
)  # fmt: skip
"""What a card shows at its head, where the evaluation has it; the rest stands at its end."""
RESULTS = (
    ("nll_delta", "gain over the base, nats a token", "nll.delta"),
    ("perplexity_reduction_ratio", "perplexity of the base over that of the block", "perplexity_reduction_ratio"),
    ("forgetting", "rise of the loss on general text, relative", "forgetting"),
    ("memorisation_excess", "verbatim continuations over the base's", "memorisation.excess"),
    ("style_capture", "share of the way from the base's style to the person's", "style.capture"),
)
"""Type, name and measure of the card's ``model-index``."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#!|~&:@$]|(?<=www)\.)")
_SLUG = re.compile(r"[^a-z0-9]+")


class Draft(Value):
    """Everything that the papers are written from: pairs of one ``repository``, or ``given`` as files.

    ``profile``: countable facts of the person's work, as Markdown in which third-party text is escaped already.
    """

    name: str
    author: str
    order: MintOrder
    base: BaseInfo
    repository: Repository | None
    given: GivenPairs | None = None
    teacher: str
    pairs: tuple[Pair, ...]
    refusals: tuple[Refusal, ...]
    split_by: str
    consent: ConsentRecord
    evaluation: Evaluation
    verdict: GateVerdict
    licence: str
    general_pairs: int
    general_source: str
    tool_use_pairs: int
    epochs: int
    profile: str = ""


def slug(text: str) -> str:
    """A block name made of a person's name: lower-case letters, digits and single hyphens, at most 64 characters.

    Accents are dropped; a name in another script becomes ``person-`` and eight digits of its SHA-256.
    """
    latin = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    made = _SLUG.sub("-", latin.casefold()).strip("-")[:64].strip("-")
    return made or f"person-{sha256(text)[:8]}"


def escape(text: str) -> str:
    """Third-party text as inert Markdown: one line, escaped what could begin emphasis, code, a link, a formula, HTML or a table cell."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def papers(draft: Draft) -> dict[str, bytes]:
    """File name -> bytes of every written file of the block but the adapter, the manifest and the signature."""
    pictures = plots(draft.evaluation)
    return {
        **pictures,
        "eval.json": _pretty(draft.evaluation),
        "sources.json": _pretty(source_record(draft)),
        "consent.json": _pretty(draft.consent),
        "pairs.jsonl": b"".join(canonical(pair) + b"\n" for pair in draft.pairs),
        "profile.md": _render("profile.md.j2", draft, ()),
        "README.md": _render("card.md.j2", draft, tuple(pictures)),
    }


def source_record(draft: Draft) -> SourceRecord:
    """Files and line ranges that the pairs use, and what was refused (all counted, the first 2,000 listed)."""
    ranges: dict[tuple[str, str, str, str], list[tuple[int, int]]] = defaultdict(list)
    size: Counter[tuple[str, str, str, str]] = Counter()
    several = draft.repository is not None and bool(draft.repository.parts)
    for pair in draft.pairs:
        key = (pair.provenance.url if several else "", pair.provenance.path, pair.provenance.blob, pair.language)
        ranges[key].append((pair.provenance.start, pair.provenance.end))
        size[key] += len(pair.completion.encode())
    used = tuple(
        SourceFile(
            path=path, blob=blob, language=language, bytes=size[url, path, blob, language],
            ranges=joined(found) if draft.given else tuple(sorted(found)), repository=url,
        )
        for (url, path, blob, language), found in sorted(ranges.items())
    )  # fmt: skip
    return SourceRecord(
        repository=draft.repository and draft.repository.model_copy(update={"authors": ()}),
        given=draft.given,
        author=draft.author,
        files=used,
        refused=draft.refusals[:MAX_REFUSALS],
        refused_counts=dict(sorted(Counter(refusal.reason for refusal in draft.refusals).items())),
    )


def joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same lines in as few ranges as can be."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)


def languages(pairs: tuple[Pair, ...]) -> list[tuple[str, int]]:
    """Languages by bytes of completions, most first."""
    count: Counter[str] = Counter()
    for pair in pairs:
        count[pair.language] += len(pair.completion.encode())
    return sorted(count.items(), key=lambda item: (-item[1], item[0]))


def show_measure(measure: Measure) -> str:
    """A measure in words: value with its interval and n, or why there is none."""
    if measure.value is None:
        return f"not available ({measure.how})"
    return show_number(measure) + (f", n = {measure.n}" if measure.n is not None else "")


def show_number(measure: Measure) -> str:
    """A measure's value with its interval; an estimate says so, and what is not there."""
    if measure.value is None:
        return "not available"
    interval = f" [{measure.ci95[0]:.4f}, {measure.ci95[1]:.4f}]" if measure.ci95 else ""
    return f"{measure.value:.4f}{interval}" + (" (estimated)" if measure.status == "estimated" else "")


def _pretty(value: Value) -> bytes:
    return (json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _render(template: str, draft: Draft, pictures: tuple[str, ...]) -> bytes:
    environment = Environment(  # noqa: S701 - Markdown; every third-party value goes through `md` or `json`
        loader=PackageLoader("clonedna.mint", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape
    environment.filters["measure"] = show_measure
    environment.filters["number"] = show_number
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=True)
    kinds = Counter(pair.kind for pair in draft.pairs)
    folders = Counter(pair.provenance.path.rpartition("/")[0] or "." for pair in draft.pairs)
    measures, style = draft.evaluation.measures, draft.evaluation.style
    none = measures.get("style.capture")
    text = environment.get_template(template).render(
        draft=draft, measures=measures, languages=languages(draft.pairs), kinds=sorted(kinds.items()),
        folders=sorted(folders.items(), key=lambda item: (-item[1], item[0]))[:8],
        splits=Counter(pair.split for pair in draft.pairs), pictures=pictures, style=style,
        no_style=none.how if none is not None else "not measured",
        main=[name for name in MAIN_MEASURES if name in measures],
        results=[(kind, name, measures[m].value) for kind, name, m in RESULTS if m in measures and measures[m].value is not None],
    )  # fmt: skip
    return (text.rstrip("\n") + "\n").encode()
