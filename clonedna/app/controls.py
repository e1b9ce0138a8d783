"""Control adapters: a block's own recipe on other people's code, so that what any training on such code gains is not taken for the person.

A control is trained on as many pairs as the block was, in the same languages, drawn by the recipe's seed from other people's training
pairs, beside the same general and tool-use pairs. What it explains of the person's hold-out is language, project and habit of the
trade; what the block explains beyond it is ``identity.gain``.

    identity/controls/<digest>/blocks.json    whose code is in it, written before anything else
                              /adapter        PEFT files; with control.json beside it, it is whole
                              /checkpoints    where a training stands that was stopped: it goes on from there

The digest is over all that decides the control, so equal ones are trained once. A control goes when one of its blocks does.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clonedna.app.admission import admit
from clonedna.app.identity_kept import root
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import Workspace, require_space, write_atomic
from clonedna.core.block import Manifest, Measure, Recipe, not_available
from clonedna.core.canonical import canonical, digest, strict_json
from clonedna.core.errors import BadConfig, DnaError, JobBusy, Unavailable
from clonedna.core.events import Emit, Note
from clonedna.core.model import Layer
from clonedna.core.seams import Engine
from clonedna.core.work import Pair
from clonedna.evals.identity import gain_over_control
from clonedna.evals.likelihood import example_of, file_of
from clonedna.mint.mix import mix
from clonedna.mint.overlap import overlaps
from clonedna.mint.training import train
from clonedna.mint.values import Mixed

VERSION = 1  # of how a control is drawn: another one is another control
LEAST_SHARE = 0.5  # of a block's own pairs: a control on fewer would be weak, and the gain over it flattering


@dataclass(frozen=True, slots=True)
class Block:
    """A verified block with its pairs. ``person`` is what tells people apart: the handle."""

    manifest: Manifest
    path: Path
    pairs: tuple[Pair, ...]

    @property
    def person(self) -> str:
        return self.manifest.candidate.handle.casefold()

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def split(self, *splits: str) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.split in splits)


def open_block(parts: Parts, manifest: Manifest) -> Block:
    """Verify the block's files and read its pairs. Raises ``BlockCorrupt`` and the like, naming the file."""
    path = parts.store.path(manifest.id)
    checked: Manifest = factory("block", "verify")(path, parts.signer, expect_id=manifest.id)
    # A merge has no pairs of its own.
    lines = (path / "pairs.jsonl").read_bytes().splitlines() if checked.recipe is not None else []
    return Block(checked, path, tuple(Pair.model_validate(strict_json(line)) for line in lines if line.strip()))


def admit_block(parts: Parts, block: Block, engine: Engine) -> None:
    """Raises ``WrongBase``, ``ConsentMissing``, ``BlockRevoked``, ``LicenceUnknown``."""
    consent = consent_of(block.path)
    admit(parts, block.manifest, consent, "serve", base=engine.base)


@dataclass(frozen=True, slots=True)
class Control:
    """A trained control adapter: where it is, and in words what it was trained on."""

    directory: Path
    how: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The pairs of a control, and how many the block had."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    wanted: int
    blocks: tuple[str, ...]


def draw(block: Block, others: Sequence[Block]) -> Drawn:
    """As many pairs of each language as ``block`` was trained on, from ``others``' training pairs, seeded; none of them twice.

    The validation part is drawn from their validation pairs, then from training pairs that are left.
    """
    seed = block.manifest.recipe.seed if block.manifest.recipe else 0
    chosen: list[Pair] = []
    checked: list[Pair] = []
    for language, wanted in sorted(Counter(pair.language for pair in block.split("train")).items()):
        lot = random.Random(f"{seed}:control:{language}")  # noqa: S311 - a seeded draw, no secret
        pool = _pool(others, language, "train")
        taken = lot.sample(range(len(pool)), min(wanted, len(pool)))
        chosen += [pool[i] for i in sorted(taken)]
        held = sum(pair.language == language for pair in block.split("validation"))
        left = [pool[i] for i in sorted(set(range(len(pool))) - set(taken))]
        for source in (_pool(others, language, "validation"), left):
            checked += lot.sample(source, min(held, len(source)))
            held -= min(held, len(source))
    used = {pair.provenance.sha256 for pair in (*chosen, *checked)}
    return Drawn(
        train=tuple(chosen), validation=tuple(checked), wanted=len(block.split("train")),
        blocks=tuple(sorted(o.manifest.id for o in others if used & {pair.provenance.sha256 for pair in o.pairs})),
    )  # fmt: skip


def _pool(others: Sequence[Block], language: str, split: str) -> list[Pair]:
    found = {(p.provenance.sha256, p.id): p for other in others for p in other.split(split) if p.language == language}
    return [found[key] for key in sorted(found)]


class Controls:
    """The control adapters of one home."""

    def __init__(self, parts: Parts, engine: Engine) -> None:
        self.parts, self.engine = parts, engine
        self._root = root(parts.settings.home) / "controls"

    async def trained(self, block: Block, others: Sequence[Block], emit: Emit) -> Control | str:
        """The control of ``block``, from ``others`` of its base: found, gone on with, or trained. A text says why there can be none.

        Raises ``JobBusy`` when another process trains it, ``NoSpace``, ``NoMemory``, ``Interrupted``.
        """
        recipe, drawn = block.manifest.recipe, draw(block, others)
        if recipe is None or block.manifest.lineage.relation != "minted":
            return f"a {block.manifest.lineage.relation} block has no single training to repeat on other people's code"
        if len(drawn.train) < LEAST_SHARE * drawn.wanted:
            return f"the others have {len(drawn.train)} training pairs in this block's languages, it has {drawn.wanted}"
        how = f"trained on {len(drawn.train)} pairs of {len(drawn.blocks)} other blocks"
        if len(drawn.train) < drawn.wanted:
            how += f" (the block on {drawn.wanted})"
        folder = self._root / self._digest(recipe, drawn)
        if (folder / "control.json").is_file():
            return Control(folder / "adapter", strict_json((folder / "control.json").read_bytes())["how"])
        require_space(folder, self.parts.settings.min_free_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "blocks.json", canonical(sorted({*drawn.blocks, block.manifest.id})))
        with _held(folder, block):
            mixed = await self._mixed(recipe, drawn, emit)
            if isinstance(mixed, str):
                return mixed
            await self._train(folder, recipe, drawn, mixed, emit)
            stored = recipe.general_pairs
            if stored is not None and mixed.general_pairs is not None and stored.digest != mixed.general_pairs.digest:
                how += "; its general pairs were drawn anew and are not the block's own"
            write_atomic(folder / "control.json", canonical({"how": how}))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return Control(folder / "adapter", how)

    async def _mixed(self, recipe: Recipe, drawn: Drawn, emit: Emit) -> Mixed | str:
        settings = self.parts.settings
        try:
            return await mix(
                self.engine, recipe, drawn.wanted, dataset=settings.general_dataset, file=settings.general_file,
                secret_in=factory("secrets", "patterns"), emit=emit,
            )  # fmt: skip
        except (BadConfig, Unavailable) as error:
            return f"the general pairs of its recipe cannot be had here: {error.message}"

    async def _train(self, folder: Path, recipe: Recipe, drawn: Drawn, mixed: Mixed, emit: Emit) -> None:
        examples = [*map(example_of, drawn.train), *mixed.general, *mixed.tool_use]
        await train(
            self.engine, recipe, examples, [example_of(pair) for pair in drawn.validation], folder / "adapter",
            checkpoints=folder / "checkpoints", every=self.parts.settings.checkpoint_seconds, emit=emit,
        )  # fmt: skip

    def _digest(self, recipe: Recipe, drawn: Drawn) -> str:
        base = self.engine.base
        pairs = [[canonical(pair).decode() for pair in part] for part in (drawn.train, drawn.validation)]
        return digest([VERSION, recipe, base.fingerprint, base.weights_digest, base.dtype, drawn.wanted, *pairs])


async def control_gain(
    parts: Parts, manifest: Manifest, engine: Engine, *, adapter: str, emit: Emit, others: Sequence[Block] | None = None
) -> Measure:
    """``identity.gain`` of one block, whose weights ``engine`` has as ``adapter``.

    The other people's code is that of ``others``, or else of all other accepted blocks of the same base in the store. Hold-out spans that
    stand (nearly) in what the control could be trained on are left out. ``not_available`` with the reason where there can be no control.
    """
    block = open_block(parts, manifest)
    if others is None:
        others = _others(parts, block, engine)
    if not others:
        return not_available("no block of another person on this base is in the store to train a control on")
    held = block.split("holdout")
    seen = [pair for other in others for pair in other.split("train", "validation")]
    kept = [pair for pair, kind in zip(held, overlaps(held, seen), strict=True) if not kind]
    if not kept:
        return not_available("nothing of the hold-out is left beside the others' code")
    control = await Controls(parts, engine).trained(block, others, emit)
    if isinstance(control, str):
        return not_available(control)
    measure = await measured_over(engine, control, kept, adapter, seed=manifest.recipe.seed if manifest.recipe else 0)
    left_out = len(held) - len(kept)
    return measure.model_copy(update={"how": f"{measure.how}; {left_out} spans left out"}) if left_out else measure


async def measured_over(engine: Engine, control: Control, pairs: Sequence[Pair], adapter: str, *, seed: int) -> Measure:
    """``identity.gain`` of ``adapter`` over ``control`` on ``pairs``; the control is not kept loaded."""
    examples = [example_of(pair) for pair in pairs]
    loaded = await engine.load(control.directory)
    try:
        first = await engine.nll(examples, [Layer(adapter=loaded.id)])
    finally:
        await engine.unload(loaded.id)
    second = await engine.nll(examples, [Layer(adapter=adapter)])
    measure = gain_over_control(
        [one.nll for one in first], [one.nll for one in second], [one.tokens for one in second], [file_of(p) for p in pairs], seed=seed
    )  # fmt: skip
    return measure.model_copy(update={"how": f"{measure.how}; {control.how}"})


def _others(parts: Parts, block: Block, engine: Engine) -> list[Block]:
    """The newest accepted version of each other person's minted blocks of this base; those that may not be used are passed over."""
    found: dict[str, Block] = {}
    for manifest in parts.registry.manifests():
        mine = manifest.candidate.handle.casefold() == block.person
        usable = manifest.recipe is not None and manifest.gate.status == "accepted" and not manifest.unlike(engine.base)
        if mine or not usable or manifest.name in found:
            continue
        try:
            other = open_block(parts, manifest)
            admit_block(parts, other, engine)
        except DnaError:
            continue
        found[manifest.name] = other
    return [found[name] for name in sorted(found)]


@contextmanager
def _held(folder: Path, block: Block) -> Generator[None]:
    """The folder is this process's until the end. Raises ``JobBusy``."""
    with ExitStack() as held:
        try:
            held.enter_context(Workspace(folder).lock())
        except JobBusy as error:
            raise JobBusy(f"another process trains the control of {block}", "wait for it, then try again") from error
        yield


def note_of(control: Control | str, block: Block) -> Note:
    if isinstance(control, str):
        return Note(level="warning", text=f"no control for {block}: {control}")
    return Note(text=f"control of {block}: {control.how}")
