"""Compare two blocks: their weights where they are of one base, their behaviour on shared code, their style, their answers.

Both blocks are verified and admitted before anything of them is loaded. Of blocks of different bases no weights are compared: numbers that
mean different things have no cosine. What was left out, and why, stands in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import anyio.to_thread
from pydantic import Field

from clonedna.app.admission import admit
from clonedna.app.blocks import Blocks
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.stages import told
from clonedna.app.votes import Ballot, Tally, Votes, tally
from clonedna.core.block import Manifest
from clonedna.core.comparison import Compared, Comparison, WeightSimilarity
from clonedna.core.errors import DnaError, InputError, Overloaded, TooLarge, WrongBase
from clonedna.core.events import Emit, StageProgress, silent
from clonedna.core.model import Message
from clonedna.core.value import Value
from clonedna.core.work import Pair
from clonedna.evals.comparison import (
    MOST_PROMPTS,
    Prompt,
    Side,
    behaviour,
    probe_set,
    prompts_of,
    side_by_side,
    weight_measures,
)
from clonedna.evals.comparison_style import style_measures
from clonedna.mint.overlap import overlaps

PROMPTS = 16
AT_ONCE = 2  # quick comparisons that run at one time
MOST_QUICK_BYTES = 512 * 1024 * 1024  # of both adapters together
MOST_PROMPT_LENGTH = 8000
MOST_ANCESTORS = 64


class CompareOrder(Value):
    """What to compare. ``prompts`` of held-out work are asked besides those ``given``; ``on``: where a base is, if not under the name
    that a block gives; ``unsafe``: also blocks that the gate rejected, by id; ``weights_only``: nothing is loaded or asked."""

    kind: Literal["compare"] = "compare"
    a: str
    b: str
    prompts: int = Field(default=PROMPTS, ge=0, le=MOST_PROMPTS)
    given: tuple[str, ...] = ()
    seed: int = 0
    on: str | None = None
    unsafe: bool = False
    weights_only: bool = False


class Opened(Value):
    """A verified block and what it was made of. ``missing``: ancestors that are not on this machine."""

    manifest: Manifest
    path: Path
    holdout: tuple[Pair, ...]
    trained: tuple[Pair, ...]
    missing: int

    @property
    def reference(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"


class Comparing:
    """The use case behind ``dna compare``."""

    def __init__(self, parts: Parts, emit: Emit = silent) -> None:
        self.parts, self.emit = parts, emit
        self.votes = Votes(parts.settings.home)
        self._quick = 0

    async def weights(self, a: str, b: str, *, unsafe: bool = False) -> Comparison:
        """The weights alone, for an answer that somebody waits for. Raises as ``compare``, and ``TooLarge``, ``Overloaded``."""
        if self._quick >= AT_ONCE:
            raise Overloaded(
                f"{self._quick} comparisons are under way", "ask again in a moment, or start a job: kind compare", retry_after=2
            )  # fmt: skip
        self._quick += 1
        try:
            two = await anyio.to_thread.run_sync(self._named, a, b, unsafe)
            size = sum(one.files["adapter_model.safetensors"].size for one in two)
            if size > MOST_QUICK_BYTES:
                raise TooLarge(f"the two adapters have {size} bytes", "start a job instead: kind compare")
            return await self.compare(CompareOrder(a=a, b=b, unsafe=unsafe, weights_only=True))
        finally:
            self._quick -= 1

    def _named(self, a: str, b: str, unsafe: bool) -> tuple[Manifest, Manifest]:
        return self.parts.registry.resolve(a, unsafe=unsafe), self.parts.registry.resolve(b, unsafe=unsafe)

    async def compare(self, order: CompareOrder) -> Comparison:
        """Everything that can be compared of the two. What cannot is ``not_available`` with the reason.

        Raises what verifying and admitting raise, ``UnknownBase``, ``WrongBase`` (``on`` fits neither), ``InputError``, ``NoMemory``.
        """
        given = _prompts(order.given)
        with told(self.emit, "blocks"):
            a, b = await anyio.to_thread.run_sync(self._two, order)
        unlike = bases_differ(a.manifest, b.manifest)
        weights = None
        if not unlike:
            with told(self.emit, "weights") as counts:
                weights = await anyio.to_thread.run_sync(self._weights, a, b)
                counts |= {"modules": len(weights.modules), "cosine": str(weights.whole.cosine)}
        measures = weight_measures(weights, unlike)
        found = Comparison(
            a=_compared(a.manifest), b=_compared(b.manifest), same_block=a.manifest.id == b.manifest.id, same_base=not unlike,
            notes=tuple(_notes(a, b, unlike)), unit="bits a byte" if unlike else "nats a token", seed=order.seed, weights=weights,
            measures=measures,
        )  # fmt: skip
        if order.weights_only:
            return found
        side_a, side_b = await self._sides(a, b, order, one_base=not unlike)
        probes, counts_of = probe_set(side_a, side_b, overlaps, seed=order.seed)
        with told(self.emit, "behaviour") as counts:
            likeness, spans = await behaviour(side_a, side_b, probes, seed=order.seed, emit=self.emit)
            counts |= {"spans": len(spans)}
        prompts = (*prompts_of(probes, order.prompts, seed=order.seed), *given)
        with told(self.emit, "answers") as counts:
            answers = await side_by_side(side_a, side_b, prompts, seed=order.seed, emit=self.emit)
            counts |= {"prompts": len(answers)}
        style = style_measures(answers, a.holdout, b.holdout, self.parts.lent().parse, seed=order.seed)
        return found.model_copy(
            update={
                "measures": measures | likeness | style, "probe": counts_of, "spans": spans, "answers": answers
            }
        )  # fmt: skip

    # Votes.

    async def ballot(self, order: CompareOrder, *, with_base: bool) -> Ballot:
        """The answers to vote on, drawn now. Raises as ``compare``, and ``InputError`` when there is nothing to choose between."""
        given = _prompts(order.given)
        with told(self.emit, "blocks"):
            a, b = await anyio.to_thread.run_sync(self._two, order)
        if a.manifest.id == b.manifest.id:
            raise InputError(f"{a.reference} is one and the same block", "name two blocks to choose between")
        side_a, side_b = await self._sides(a, b, order, one_base=not bases_differ(a.manifest, b.manifest))
        probes, _ = probe_set(side_a, side_b, overlaps, seed=order.seed)
        prompts = (*prompts_of(probes, order.prompts, seed=order.seed), *given)
        if not prompts:
            raise InputError("there is nothing to ask: neither block has held-out work", "give a task with --prompt")
        with told(self.emit, "answers"):
            answers = await side_by_side(side_a, side_b, prompts, seed=order.seed, emit=self.emit, with_base=with_base)
        return Ballot(a.manifest, b.manifest, answers, order.seed, self.votes, with_base=with_base)

    def tally(self, order: CompareOrder) -> Tally:
        """What the kept votes on the two say; nothing is loaded."""
        a, b = (self.parts.registry.resolve(reference, unsafe=order.unsafe) for reference in (order.a, order.b))
        return tally(a, b, self.votes)

    # What both need.

    def _two(self, order: CompareOrder) -> tuple[Opened, Opened]:
        return self._opened(order.a, order.unsafe), self._opened(order.b, order.unsafe)

    def _opened(self, reference: str, unsafe: bool) -> Opened:
        blocks = Blocks(self.parts)
        manifest, path = blocks.verified(reference, any_status=unsafe)
        consent = consent_of(path)
        admit(self.parts, manifest, consent, "serve", base=None)
        pairs, missing = list(blocks.pairs(manifest.id)), 0
        merged = manifest.lineage.relation == "merged"
        seen, waiting = {manifest.id}, list(manifest.lineage.parents)
        while waiting and len(seen) < MOST_ANCESTORS:
            parent = waiting.pop()
            if parent in seen:
                continue
            seen.add(parent)
            try:
                theirs = blocks.pairs(parent)
                waiting += self.parts.registry.resolve(parent, unsafe=True).lineage.parents
            except DnaError:
                missing += 1
                continue
            pairs += [pair for pair in theirs if merged or pair.split != "holdout"]
        return Opened(
            manifest=manifest, path=path, holdout=tuple(pair for pair in pairs if pair.split == "holdout"),
            trained=tuple(pair for pair in pairs if pair.split != "holdout"), missing=missing,
        )  # fmt: skip

    async def _sides(self, a: Opened, b: Opened, order: CompareOrder, *, one_base: bool) -> tuple[Side, Side]:
        """Both adapters loaded, on one engine where they are of one base."""
        with told(self.emit, "load"):
            fits = [
                order.on is not None and not one.manifest.unlike(self.parts.engine(order.on).base) for one in (a, b)
            ]
            if order.on is not None and not any(fits):
                raise WrongBase(
                    f"neither block was trained on {order.on}",
                    f"give {a.manifest.base_model}, wherever it is, with --on",
                )
            sides: list[Side] = []
            for one, fit in zip((a, b), fits, strict=True):
                name = order.on if fit and order.on else (a if one_base else one).manifest.base_model
                engine = self.parts.engine(name)
                consent = consent_of(one.path)
                admit(
                    self.parts, one.manifest, consent, "serve", base=engine.base,
                    hint="give the base it was trained on with --on",
                )  # fmt: skip
                adapter = await engine.load(one.path)
                sides.append(Side(engine, adapter.id, one.holdout, one.trained))
        return sides[0], sides[1]

    def _weights(self, a: Opened, b: Opened) -> WeightSimilarity:
        return factory("compare", "factors")(
            a.path, b.path, fingerprint=a.manifest.base_fingerprint,
            progress=lambda done, total: self.emit(StageProgress(stage="weights", done=done, total=total, unit="modules")),
        )  # fmt: skip


def _prompts(given: Sequence[str]) -> tuple[Prompt, ...]:
    """Prompts that were given, as a person's turn each. Raises ``InputError``."""
    if len(given) > MOST_PROMPTS:
        raise InputError(f"{len(given)} prompts are too many", f"give at most {MOST_PROMPTS}")
    for text in given:
        if not text.strip() or len(text) > MOST_PROMPT_LENGTH:
            raise InputError(
                f"a prompt of {len(text)} characters",
                f"give one of at most {MOST_PROMPT_LENGTH} that says what to write",
            )
    return tuple(Prompt("given", (Message(role="user", content=text),)) for text in given)


def bases_differ(a: Manifest, b: Manifest) -> str:
    """Why the two are not for the same base, or ``""``. Weights that only one side has a digest of count as the same."""
    if a.base_fingerprint != b.base_fingerprint:
        return f"{a.name} is for {_base(a)}, {b.name} for {_base(b)}: what their weights mean differs"
    mine, theirs = a.base_weights_digest, b.base_weights_digest
    if mine is not None and theirs is not None and mine != theirs:
        return f"both are for {_base(a)}, with other weights ({mine[:12]}, {theirs[:12]}): what their updates add to differs"
    return ""


def _base(manifest: Manifest) -> str:
    return f"{manifest.base_model} ({manifest.base_fingerprint[:12]})"


def _compared(manifest: Manifest) -> Compared:
    return Compared(
        name=manifest.name, version=manifest.version, id=manifest.id, person=manifest.candidate.name, base=manifest.base_model,
        base_fingerprint=manifest.base_fingerprint, rank=manifest.rank, alpha=manifest.alpha, target_modules=manifest.target_modules,
        gate=manifest.gate.status,
    )  # fmt: skip


def _notes(a: Opened, b: Opened, unlike: str) -> Iterator[str]:
    """What a reader has to know to read the figures rightly."""
    one, other = a.manifest, b.manifest
    if one.id == other.id:
        yield "both are one and the same block"
    elif unlike:
        yield f"{unlike}; only behaviour is compared, in bits a byte, each block on its own base"
    elif one.recipe and other.recipe and (one.recipe.lora.seed, one.rank) == (other.recipe.lora.seed, other.rank):
        yield (
            f"both started from the same random A (seed {one.recipe.lora.seed}, rank {one.rank}): their row spaces were equal before "
            "training, and the cosine is higher for it; column spaces were not"
        )
    if one.id != other.id and not unlike and None in (one.base_weights_digest, other.base_weights_digest):
        yield "a block does not say which weights its base had; its architecture and tokenizer are the same"
    for mine, block in ((one, a), (other, b)):
        if block.missing:
            yield f"{block.reference}: {block.missing} of its ancestors are not on this machine; their training data is not known"
        if mine.gate.status == "rejected":
            yield f"{block.reference} was rejected by its gate"
