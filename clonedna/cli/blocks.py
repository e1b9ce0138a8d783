"""`dna show, verify, rm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell
from clonedna.cli.evaluations import again_line, show_maturity

if TYPE_CHECKING:
    from clonedna.core.block import Evaluation
    from clonedna.core.merge import MergeRecord, MergeSpec

Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Also load a block that the gate rejected (give its id).")]
On = Annotated[str | None, typer.Option("--on", help="Where the base is, if not under the name the block gives.")]
SHOWN = (
    "nll.base", "nll.adapter", "nll.delta", "perplexity_reduction_ratio", "bits_per_byte.base", "bits_per_byte.adapter",
    "leakage", "domain_accuracy", "forgetting", "tool_calls.base", "tool_calls.adapter", "memorisation.rate", "memorisation.excess",
    "secrets", "layer_drift", "merge.relative_error",
    "continue.new_gain", "continue.old_change", "continue.backward_transfer",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    for command in (show, verify, rm):
        app.command()(command)


def show(context: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """Show one block: where it comes from, under what consent, what it measured."""
    from clonedna.app.lineage import in_words

    state: State = context.obj
    detail = state.blocks.show(reference)
    if as_json:
        print_json(detail)
        return
    m = detail.manifest
    facts = [
        ["id", m.id], ["person", m.candidate.name], ["base", f"{m.base_model} ({m.base_fingerprint[:12]})"],
        ["specialization", m.specialization], ["licence", m.license],
        ["consent", f"{detail.consent.mode}: {detail.consent.how}"], ["gate", m.gate.status],
        ["adapter", f"rank {m.rank}, alpha {m.alpha:g}, {', '.join(m.target_modules)}"],
        ["lineage", in_words(state.lineages.of(m.id))], *merge_facts(m.lineage.merge),
        ["pairs", f"{m.training_pairs} trained = {m.candidate_pairs} own + {m.base_instruct_pairs} general + {m.tool_use_pairs} tool use"],
        ["loads in PEFT", f"{m.peft_compatible.value} ({m.peft_compatible.how})"],
        ["loads in vLLM", f"{m.vllm_compatible.value} ({m.vllm_compatible.how})"],
        ["signed by", m.created_by], ["minted", m.created_at], *([["files", detail.path]] if detail.path else []),
    ]  # fmt: skip
    table(f"{m.name}@{m.version}", ["", ""], facts)
    print()
    title = "measured on held-out code" if m.lineage.merge is None else "measured"
    table(title, ["measure", "value", "95 % interval", "n"], measure_rows(detail.evaluation))
    for reason in m.gate.reasons:
        tell(f"{m.gate.status}: {printable(reason)}")
    show_maturity(detail.maturity)
    for done in detail.again:
        tell(f"evaluated again: {again_line(done)}")


def verify(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(help="A block's name or id, or a folder with a block.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Check signature, digests and files of a block, and say what it may be used for."""
    state: State = context.obj
    folder = Path(reference)
    if state.client is None and folder.is_dir():
        found = state.own_details.verify_directory(folder)
    else:
        found = state.details.verify(reference)
    if as_json:
        print_json(found)
        return
    table(
        "", ["check", "holds", ""], [[one.name, "yes" if one.holds else "no", one.how] for one in found.checks], whole=2
    )
    tell(f"verified: {found.name}@{found.version} {found.id}: {found.files} files, signed by {found.signed_by[:12]}")


def rm(
    context: typer.Context,
    reference: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a block from this machine."""
    state: State = context.obj
    if not yes and not as_json:
        typer.confirm(f"Remove {reference} and its files?", abort=True, err=True)
    removed = state.own_blocks.remove(reference)
    if as_json:
        print_json(removed)
    else:
        tell(f"removed: {removed} {removed.id}")


def measure_rows(evaluation: Evaluation) -> list[list[str]]:
    """The measures worth a table, in a fixed order."""
    rows: list[list[str]] = []
    for name in SHOWN:
        measure = evaluation.measures.get(name)
        if measure is None:
            continue
        interval = f"{measure.ci95[0]:+.4f} … {measure.ci95[1]:+.4f}" if measure.ci95 else ""
        value = f"{measure.value:.4f}" if measure.value is not None else f"not available: {measure.how}"
        rows.append([name, value, interval, str(measure.n or "")])
    return rows


def merge_facts(record: MergeRecord | None) -> list[list[str]]:
    """Rows about a merge: parents with weights, method with its options. None for other blocks."""
    if record is None:
        return []
    parents = ", ".join(f"{p.name}@{p.version} ({p.id[:12]}) x {p.weight:g}" for p in record.parents)
    return [["merged from", parents], ["method", spec_line(record.spec)]]


def spec_line(spec: MergeSpec) -> str:
    """A merge's method with the options that it used."""
    options = spec.model_dump(exclude={"method"}, exclude_none=True)
    return ", ".join((spec.method, *(f"{name} {value}" for name, value in options.items())))
