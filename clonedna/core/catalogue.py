"""What is listed and searched: a line for each block, the filters on lines, and what is asked and answered.

A line holds copies of what stands in a block's manifest, shortened; every text in it is third-party data. ``gain`` is the manifest's
``nll_delta``: how many nats a token the block is better than its base on held-out code of its person (0 is no gain); ``maturity`` is from
0 to 1. Both are ``None`` where the block has no such measure, and such a block passes no filter on it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from clonedna.core.block import Manifest
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value

Sort = Literal["newest", "name", "maturity", "gain"]
Mode = Literal["text", "semantic", "hybrid"]
MOST_LINES = 100
MOST_TERMS, MOST_TERM = 64, 64
STRUCTURE = frozenset({"lora", "merge"})
"""Tags that say how a block is built, not what it is about."""
_LANGUAGES = (
    "ada assembly bash c clojure cobol cpp c++ csharp c# css cuda dart elixir erlang fortran fsharp f# go groovy haskell html java"
    " javascript julia kotlin latex lean lisp lua matlab nim objective-c ocaml octave pascal perl php powershell prolog python r racket"
    " ruby rust scala scheme shell solidity sql swift tcl typescript verilog vhdl zig"
)
LANGUAGES = frozenset(_LANGUAGES.split())
"""The names that the filter ``language`` knows."""

_NO_NUL = r"^[^\x00]*$"
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_NUL)]
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


class BlockLine(Value):
    """One block, as a list shows it. ``domains``: what its manifest says it is about, lower case; languages among them."""

    id: str
    name: str
    version: str
    status: Literal["registered", "rejected"]
    created_at: str
    base: str
    base_fingerprint: str
    base_weights_digest: str | None
    licence: str
    consent: Literal["self", "granted", "local-only"]
    handle: str
    person: str
    specialization: str
    domains: tuple[str, ...]
    relation: str
    maturity: float | None
    gain: float | None

    def fits(self, base: BaseInfo) -> bool:
        """Whether ``base`` is the one it was trained on, as ``Manifest.unlike`` has it."""
        known = None not in (self.base_weights_digest, base.weights_digest)
        same = self.base_weights_digest == base.weights_digest or not known
        return self.base_fingerprint == base.fingerprint and same


class Filters(Value):
    """What a line must be. Names are compared exactly, but for ``domain`` and ``language``, which know no case; ``maturity`` and ``score``
    (the ``gain``) are the least that it must have."""

    base: Text | None = None
    licence: Text | None = None
    consent: Literal["self", "granted", "local-only"] | None = None
    domain: Text | None = None
    language: Text | None = None
    maturity: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    score: float | None = Field(default=None, ge=-1000, le=1000, allow_inf_nan=False)
    status: Literal["registered", "rejected"] | None = None
    name: Text | None = None
    handle: Text | None = None


class ListQuery(Filters):
    """One page of lines. ``cursor``: the ``next`` of the page before, asked with the same sort and filters."""

    sort: Sort = "newest"
    limit: int = Field(default=48, ge=1, le=MOST_LINES)
    cursor: str | None = Field(default=None, min_length=1, max_length=1024)


class BlockPage(Value):
    """``next``: the cursor of the page that follows, ``None`` at the end. ``total``: of all pages, as the catalogue counts it now."""

    blocks: tuple[BlockLine, ...]
    next: str | None
    total: int


class SearchQuery(Filters):
    """A question in words. ``q``: any of its words; ``skills``: each of them, whole, in mode ``text``, and by its meaning in the others.

    Rejected blocks are never found, whatever ``status`` says.
    """

    q: str = Field(default="", max_length=500, pattern=_NO_NUL)
    skills: tuple[Text, ...] = Field(default=(), max_length=8)
    mode: Mode = "hybrid"
    limit: int = Field(default=20, ge=1, le=MOST_LINES)


class Finding(Value):
    """A block that was found. ``score`` orders one answer's findings and means nothing beside another's: of ``text`` it is the database's
    rank, of ``semantic`` the mean cosine, of ``hybrid`` both places fused. ``cosine``: where its meaning was compared."""

    block: BlockLine
    score: float
    cosine: float | None = None


class Findings(Value):
    """The best first. ``encoder``: which one compared meanings; ``None`` where none was asked."""

    mode: Mode
    encoder: str | None
    found: tuple[Finding, ...]


def line_of(manifest: Manifest) -> BlockLine:
    """A manifest as a line."""
    person, summary = manifest.candidate, manifest.eval_summary
    return BlockLine(
        id=manifest.id, name=manifest.name, version=_short(manifest.version, 64),
        status="registered" if manifest.gate.status == "accepted" else "rejected", created_at=_short(manifest.created_at, 40),
        base=_short(manifest.base_model), base_fingerprint=_short(manifest.base_fingerprint), licence=_short(manifest.license),
        base_weights_digest=manifest.base_weights_digest, consent=manifest.consent_mode,
        handle=_short(person.handle, 100), person=_short(person.name),
        specialization=_short(manifest.specialization, 300), domains=domains_of(manifest), relation=manifest.lineage.relation,
        maturity=summary.maturity.value, gain=summary.nll_delta.value,
    )  # fmt: skip


def domains_of(manifest: Manifest) -> tuple[str, ...]:
    """What a block is about: the domains of its person and its tags, lower case, each once."""
    named = (*manifest.candidate.expertise_domains, *manifest.tags)
    found = dict.fromkeys(_short(term, MOST_TERM).strip().casefold()[:MOST_TERM] for term in named)
    return tuple(term for term in found if term and term not in STRUCTURE)[:MOST_TERMS]


def meaning_of(manifest: Manifest) -> str:
    """The text that stands for a block where meanings are compared: what it says it can do, its specialization, what it is about."""
    told, special = _short(manifest.capability.text, 2000), _short(manifest.specialization, 300)
    told = told if special in told else f"{told}. {special}"
    about = [domain for domain in domains_of(manifest) if domain not in told.casefold()]
    return ". ".join(part for part in (told, ", ".join(about)) if part)


def _short(text: str, most: int = 200) -> str:
    """Without control characters and what no database keeps, cut."""
    return _CONTROL.sub(" ", text[: 2 * most])[:most]
