"""What a merged block inherits from its parents, and the written files it has of its own.

Promises: it never has more consent or a freer licence than any parent; it never carries a parent's measurement as its own. No times
stand in the files, so the same merge of the same blocks has the same id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from license_expression import AND, OR, ExpressionError, get_spdx_licensing

from clonedna.core.block import (
    Candidate,
    Check,
    ConsentRecord,
    EvalSummary,
    Evaluation,
    GateVerdict,
    Manifest,
    Measure,
    MergedSource,
    MergedSources,
    SourceRecord,
    not_available,
)
from clonedna.core.canonical import digest, plain, strict_json
from clonedna.core.errors import LicenceNotAllowed, LicenceUnknown
from clonedna.core.merge import MergeParent, MergeRecord, MergeReport
from clonedna.core.value import Value
from clonedna.mint.papers import escape, slug

MAX_EXPRESSION = 500
UNMEASURED = ("nll.delta", "perplexity_reduction_ratio", "forgetting", "memorisation.rate", "final_loss", "best_loss")
WHY = "a merge has no hold-out of its own, and its parents' figures are not its own"
# What the GNU project lists as incompatible with its licences (https://www.gnu.org/licenses/license-list.html), of those that code has.
_GPL = re.compile(r"^A?GPL-")
_VERSION_3 = re.compile(r"^[AL]?GPL-3\.0")
_NOT_WITH_GPL = frozenset(
    ("BSD-4-Clause", "CDDL-1.0", "CDDL-1.1", "CPL-1.0", "EPL-1.0", "EPL-2.0", "JSON", "MPL-1.1", "MS-PL", "MS-RL", "OpenSSL", "SSPL-1.0")
)  # fmt: skip
_SPDX = get_spdx_licensing()
_NON_COMMERCIAL, _NO_DERIVATIVES = re.compile(r"-NC\b"), re.compile(r"-ND\b")


@dataclass(frozen=True, slots=True)
class Parent:
    """A verified block that goes into a merge."""

    manifest: Manifest
    path: Path
    consent: ConsentRecord
    weight: float

    @property
    def reference(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def record(self) -> MergeParent:
        m = self.manifest
        return MergeParent(
            name=m.name, version=m.version, id=m.id, weight=self.weight, consent_mode=self.consent.mode, license=m.license
        )  # fmt: skip


def inherit_consent(parents: Sequence[Parent]) -> ConsentRecord:
    """The weakest of the parents' records: theirs where it is one and the same, else ``local-only`` for everything they cover.

    A statement that somebody signed for one repository does not cover a block made of two, so two grants do not make a third.
    """
    records = [parent.consent for parent in parents]
    if all(record == records[0] for record in records):
        return records[0]
    identities = sorted({record.identity_digest for record in records})
    modes = ", ".join(f"{parent.reference} is {parent.consent.mode}" for parent in parents)
    return ConsentRecord(
        mode="local-only", status="none",
        uses=tuple(use for use in ("mint", "serve") if all(use in record.uses for record in records)),
        repositories=tuple(sorted({name for record in records for name in record.repositories})),
        subject=", ".join(sorted({record.subject for record in records})),
        identity_digest=identities[0] if len(identities) == 1 else digest(identities),
        evidence="none", verified=False,
        how=f"merged ({modes}): no one consent covers them together, so this block can never be shared",
    )  # fmt: skip


def inherit_licence(parents: Sequence[Parent]) -> str:
    """The SPDX expression under which all parents' licences hold at once (AND).

    Raises ``LicenceUnknown``, and ``LicenceNotAllowed`` naming the pair where two cannot be kept together or one allows no derived works.
    """
    parsed = [_parsed(parent) for parent in parents]
    for number, (parent, ours) in enumerate(zip(parents, parsed, strict=True)):
        for other, theirs in zip(parents[number:], parsed[number:], strict=True):
            if clash := _clash(ours, theirs):
                raise LicenceNotAllowed(
                    f"{parent.reference} ({clash[0]}) and {other.reference} ({clash[1]}) cannot be merged: their licences exclude it",
                    "leave one of them out", pair=list(clash),
                )  # fmt: skip
    whole: Any = _SPDX.parse(" AND ".join(f"({parent.manifest.license})" for parent in parents))
    return str(whole.simplify())


def _parsed(parent: Parent) -> object:
    text = parent.manifest.license
    try:
        parsed = _SPDX.parse(text, validate=True) if len(text) <= MAX_EXPRESSION else None
    except (ExpressionError, RecursionError):
        parsed = None
    if parsed is None:
        raise LicenceUnknown(f"{parent.reference} is under {text[:80]!r}, which is no known licence", "leave it out")
    return parsed


def _clash(x: object, y: object) -> tuple[str, str] | None:
    """Two licences of the expressions that exclude each other, or nothing: any part of an OR may be chosen, all of an AND are kept."""
    for one, other in ((x, y), (y, x)):
        if isinstance(one, OR):
            found = [_clash(part, other) for part in one.args]
            return None if None in found else found[0]
        if isinstance(one, AND):
            return next((clash for part in one.args if (clash := _clash(part, other))), None)
    a, b = str(x), str(y)
    return (a, b) if _excluded(a, b) or _excluded(b, a) else None


def _excluded(a: str, b: str) -> bool:
    if _NO_DERIVATIVES.search(a):
        return True
    if _GPL.match(a) and (b in _NOT_WITH_GPL or _NON_COMMERCIAL.search(b)):
        return True
    return a.startswith("GPL-2.0-only") and (b == "Apache-2.0" or bool(_VERSION_3.match(b)))


def candidate(parents: Sequence[Parent]) -> Candidate:
    """Whose code it is: the one person of all parents, or all of them."""
    people = {parent.manifest.candidate.name: parent.manifest.candidate for parent in parents}
    names = sorted(people)
    domains = dict.fromkeys(domain for parent in parents for domain in parent.manifest.candidate.expertise_domains)
    handle = people[names[0]].handle if len(names) == 1 else slug(" and ".join(names))
    verified = all(parent.manifest.candidate.consent_verified for parent in parents)
    return Candidate(
        handle=handle, name=" and ".join(names), expertise_domains=tuple(sorted(domains)), consent_verified=verified
    )  # fmt: skip


def evaluation(report: MergeReport) -> Evaluation:
    """The distance from the weighted sum, over all modules and for each; and that nothing else was measured."""
    how = "|M - T| / |T|, Frobenius, T = sum of weight x scale x B A; from the factors as written, in fp64"
    measures = {name: not_available(WHY) for name in UNMEASURED}
    measures["merge.relative_error"] = Measure(
        value=report.relative_error, status="measured", n=len(report.modules), how=how
    )  # fmt: skip
    for one in report.modules:
        measures[f"merge.relative_error.{one.module}"] = (
            not_available("the adapters are zero in this module, or cancel out")
            if one.relative_error is None
            else Measure(value=one.relative_error, status="measured", n=1, how=how)
        )
    return Evaluation(measures=dict(sorted(measures.items())), spans=())


def summary(measured: Evaluation) -> EvalSummary:
    """The manifest's ``eval_summary``: every figure of it says why it is not there."""
    m, later = measured.measures, not_available("not measured by this version")
    return EvalSummary(
        final_loss=m["final_loss"], best_loss=m["best_loss"], style_consistency=later, domain_accuracy=later,
        latency_overhead_ms=later, perplexity_reduction_ratio=m["perplexity_reduction_ratio"], nll_delta=m["nll.delta"],
        identity_gain=later, forgetting=m["forgetting"], memorisation_rate=m["memorisation.rate"], teacher_model="none",
    )  # fmt: skip


def verdict(peft: Check) -> GateVerdict:
    """Rejected when a fresh process does not get the engine's logits; else accepted, with what nobody has examined as its reasons."""
    if peft.value is False:
        return GateVerdict(status="rejected", reasons=(f"not loadable: {peft.how}",))
    reasons = [
        "not examined: its parents passed the gate, and no gain, forgetting or memorisation of this merge was measured"
    ]
    if peft.value is None:
        reasons.append(f"not loaded in a fresh process: {peft.how}")
    return GateVerdict(status="accepted", reasons=tuple(reasons))


def sources(parents: Sequence[Parent]) -> MergedSources:
    """What all parents were made from; a parent that is a merge itself hands on its own list."""
    found: dict[str, MergedSource] = {}
    for parent in parents:
        fields = strict_json((parent.path / "sources.json").read_bytes())
        if parent.manifest.lineage.relation == "merged":
            found |= {one.block: one for one in MergedSources.model_validate(fields).merged}
        else:
            record = SourceRecord.model_validate(fields)
            found[parent.manifest.id] = MergedSource(
                block=parent.manifest.id, record=record.model_copy(update={"refused": ()})
            )
    return MergedSources(merged=tuple(found[block] for block in sorted(found)))


def papers(
    name: str, parents: Sequence[Parent], record: MergeRecord, report: MergeReport, judged: GateVerdict
) -> dict[str, bytes]:
    """File name -> bytes of every file of the block but the adapter, the manifest and the signature. It holds no pairs."""
    consent, licence = inherit_consent(parents), inherit_licence(parents)
    environment = Environment(  # noqa: S701 - Markdown; every third-party value goes through `md` or `json`
        loader=PackageLoader("clonedna.app", "templates"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters["md"] = escape
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=True)
    card = environment.get_template("merged.md.j2").render(
        name=name, base=parents[0].manifest.base_model, licence=licence, record=record, consent=consent, verdict=judged,
        rank=report.rank,
    )  # fmt: skip
    profiles = [
        f"# From {escape(p.reference)}\n\n{(p.path / 'profile.md').read_text('utf-8').strip()}\n" for p in parents
    ]
    return {
        "eval.json": _pretty(evaluation(report)),
        "sources.json": _pretty(sources(parents)),
        "consent.json": _pretty(consent),
        "pairs.jsonl": b"",
        "profile.md": "\n".join(profiles).encode(),
        "README.md": (card.rstrip("\n") + "\n").encode(),
    }


def _pretty(value: Value) -> bytes:
    return (json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
