"""`dna ls, show, verify, rm, run, chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, printable, table, tell
from clonedna.cli.evaluations import again_line, show_maturity

if TYPE_CHECKING:
    from clonedna.app.blocks import Conversation, Served
    from clonedna.core.block import Evaluation, Measure
    from clonedna.core.merge import MergeRecord, MergeSpec
    from clonedna.core.model import Message

Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of the id.", show_default=False)]
MaxTokens = Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=5.0, help="0 = always the likeliest token.")]
TopP = Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the likeliest tokens to choose among.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]
Beside = Annotated[
    bool, typer.Option("--beside-base", "--base", help="Show the bare base's answer to the same, same seed.")
]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Also load a block that the gate rejected (give its id).")]
On = Annotated[str | None, typer.Option("--on", help="Where the base is, if not under the name the block gives.")]
SHOWN = (
    "nll.base", "nll.adapter", "nll.delta", "perplexity_reduction_ratio", "bits_per_byte.base", "bits_per_byte.adapter",
    "leakage", "domain_accuracy", "forgetting", "tool_calls.base", "tool_calls.adapter", "memorisation.rate", "memorisation.excess",
    "secrets", "layer_drift", "merge.relative_error",
    "continue.new_gain", "continue.old_change", "continue.backward_transfer",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    app.command("ls")(list_blocks)
    for command in (show, verify, rm, reindex, run, chat):
        app.command()(command)


def list_blocks(context: typer.Context, as_json: Json = False) -> None:
    """List all blocks, newest first."""
    state: State = context.obj
    manifests = state.blocks.list()
    if as_json:
        print_json(manifests)
        return
    rows = [
        [
            f"{m.name}@{m.version}", m.id[:12], _short(m.eval_summary.nll_delta), _plain(m.eval_summary.maturity),
            "no" if m.gate.status == "rejected" else "yes",
            m.created_at[:10], m.consent_mode, m.candidate.name,
        ]
        for m in manifests
    ]  # fmt: skip
    table("", ["block", "id", "gain", "maturity", "passed", "minted", "consent", "person"], rows, whole=6)
    if not rows:
        tell("no blocks yet; mint one: dna mint PATH --author 'Name <mail>'")


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


def reindex(context: typer.Context, as_json: Json = False) -> None:
    """Rebuild the catalogue from the block directories alone."""
    state: State = context.obj
    left_out = state.parts.reindex()
    if as_json:
        print_json({"blocks": len(state.own_blocks.list()), "left_out": left_out})
        return
    for one in left_out:
        tell(f"left out: {one.path}: {one.reason}: {printable(one.detail)}")
    tell(f"{len(state.own_blocks.list())} blocks")


def run(
    context: typer.Context,
    reference: Reference,
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads standard input.", show_default=False)],
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.5,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    beside_base: Beside = False,
    unsafe: Unsafe = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Ask a block once; the answer streams to stdout."""
    import anyio

    from clonedna.core.model import Message

    state: State = context.obj
    messages = [Message(role="user", content=sys.stdin.read() if prompt == "-" else prompt)]
    settings = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}

    async def work() -> None:
        conversation = await state.own_blocks.open(reference, base=on, unsafe=unsafe)
        try:
            await _answer(conversation, messages, settings, bare=False, title=beside_base, as_json=as_json)
            if beside_base:
                await _answer(conversation, messages, settings, bare=True, title=True, as_json=as_json)
        finally:
            await state.parts.close()

    anyio.run(work)


def chat(
    context: typer.Context,
    reference: Reference,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.5,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    beside_base: Beside = False,
    unsafe: Unsafe = False,
    on: On = None,
) -> None:
    """Talk with a block; an empty line, Ctrl-D or Ctrl-C ends."""
    import anyio

    from clonedna.core.model import Message

    state: State = context.obj
    settings = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}

    async def work() -> None:
        conversation = await state.own_blocks.open(reference, base=on, unsafe=unsafe)
        messages: list[Message] = []
        tell(f"{_served(conversation.served())}\nan empty line ends")
        try:
            while question := await anyio.to_thread.run_sync(_ask):
                messages.append(Message(role="user", content=question))
                text = await _answer(conversation, messages, settings, bare=False, title=beside_base, as_json=False)
                if beside_base:
                    await _answer(conversation, messages, settings, bare=True, title=True, as_json=False)
                messages.append(Message(role="assistant", content=text))
        finally:
            await state.parts.close()

    anyio.run(work)


def _ask() -> str:
    sys.stderr.write("\nyou> ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()


async def _answer(
    conversation: Conversation,
    messages: list[Message],
    settings: dict[str, int | float],
    *,
    bare: bool,
    title: bool,
    as_json: bool,
) -> str:
    """Stream one answer; the text that was shown is what is returned."""
    served = conversation.served(bare=bare)
    if title and not as_json:
        tell(f"--- {served.block or 'base ' + served.base}")
    text, finish, used = "", None, None
    async for chunk in conversation.answer(messages, bare=bare, **settings):  # type: ignore[arg-type]
        text += chunk.text
        if not as_json:
            sys.stdout.write(printable(chunk.text))
            sys.stdout.flush()
        if chunk.finish:
            finish, used = chunk.finish, (chunk.prompt_tokens, chunk.completion_tokens)
    if as_json:
        usage = {"prompt_tokens": used[0], "completion_tokens": used[1]} if used else None
        print_json({"text": text, "finish": finish, "usage": usage, "served_by": served})
    else:
        sys.stdout.write("\n")
        tell(f"[{_served(served)}; {used[1] if used else 0} tokens, {finish}]")
    return text


def _served(served: Served) -> str:
    what = f"{served.block} ({served.block_id[:12]})" if served.block and served.block_id else "no block"
    return f"served by: {what} on {served.base}, weights {'loaded' if served.weights_loaded else 'of the base alone'}, no retrieval, local"


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


def _short(measure: Measure) -> str:
    return "n/a" if measure.value is None else f"{measure.value:+.3f}"


def _plain(measure: Measure) -> str:
    return "n/a" if measure.value is None else f"{measure.value:.2f}"
