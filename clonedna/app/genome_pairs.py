"""Evidence for a need: pairs that show what each skill is, some to measure on and some to train on, and where they come from.

In this order, for each skill: examples that the user gave; own-words pairs of the repositories in ``genome_sources``; where a teacher was
named, examples that it writes (to measure on, never to train from); held-out pairs of the blocks that are near. Only what is near enough to
the skill's words counts (``app.focus``; of blocks ``of_blocks``), and none of it was trained on by any layer that is measured on it:
hold-outs alone. Of the blocks' own no one gives more than half where several have some, so that none is measured on its own kind of work
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
import numpy as np

from clonedna.app.focus import MOST_READ, NEAR, floor_of
from clonedna.app.minting import Minting, Ordered
from clonedna.app.orders import given_order, order_of
from clonedna.app.papers import consent_of
from clonedna.app.papers import pairs_of as pairs_at
from clonedna.app.parts import Parts, factory
from clonedna.app.staging import staging
from clonedna.app.workspace import Workspace, write_atomic
from clonedna.core.block import ConsentRecord, GivenFile, GivenPairs, MintOrder, Teaching
from clonedna.core.canonical import digest, sha256
from clonedna.core.errors import ConsentMissing, DnaError, InputError, TooFewSpans
from clonedna.core.events import Emit, Note, silent
from clonedna.core.genome import Origin, Refused, Skill
from clonedna.core.model import Message
from clonedna.core.work import Example, Identity, Pair, Provenance
from clonedna.genomes.probing import LEAST, MOST, MOST_BYTES
from clonedna.mint.given import pairs_of, read_examples
from clonedna.mint.values import GivenExample, Read, Taught

MOST_SOURCES = 8
MOST_OF_BLOCK = 32
"""Held-out pairs of one block that are looked at."""
READ_STAGES = ("find", "consent", "collect", "filter", "split", "instruct")
GIVER = Identity(name="given")
ASKED = 16
"""Examples of a skill that a teacher is asked for."""
LEAST_NEAR, BOTH = 0.15, 0.7
"""Of the blocks' own pairs: the least cosine of one, and of the greatest sum of a pair's cosine and its block's likeness the share that
others need (chosen on the requests for 70 packages, docs/genomes.md)."""


class Written(Protocol):
    """What a teacher wrote; ``dropped`` counts what could not be used; tokens as its server counted them."""

    @property
    def examples(self) -> tuple[Example, ...]: ...
    @property
    def dropped(self) -> dict[str, int]: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...


class Exemplifier(Protocol):
    """A teacher that can write examples of a skill."""

    name: str

    def examples_cost(self, words: Sequence[str], most: int) -> Teaching:
        """An estimate."""
        ...

    async def examples(self, words: Sequence[str], most: int) -> Written:
        """At most ``most``, told nothing but the words; where enough came, the same ones whenever it is asked again here."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Handed:
    """A file of pairs that a person gave, read: ``examples`` are those that can be used, one at least."""

    examples: tuple[GivenExample, ...]
    data: bytes
    file: GivenFile
    licence: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """For one skill. ``held``: at most ``MOST`` pairs to measure on, the nearest first; ``training``: how many could be trained on.

    ``order``: the mint that would train on them, with the file that goes with it (by its SHA-256), and the bytes of the answers it trains
    on; ``why``: what is missing, if anything.
    """

    origin: Origin
    held: tuple[Pair, ...] = ()
    training: int = 0
    order: MintOrder | None = None
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    size: int = 0
    why: str = ""


class Evidences:
    """Finds evidence for the skills of one request, on one base."""

    def __init__(self, parts: Parts, base: str, *, seed: int) -> None:
        self.parts, self.base, self.seed = parts, base, seed
        self.refused: list[Refused] = []

    def read(self, data: bytes, file: GivenFile, licence: str) -> Handed:
        """Raises ``InputError`` naming lines, ``LicenceUnknown``."""
        order = self._given_order(file, licence)
        limit = min(order.recipe.max_tokens, self.parts.engine(self.base).base.context)
        examples, _ = read_examples(data, file, max_tokens=limit, secret_in=factory("secrets", "patterns"))
        if not examples:
            raise InputError(f"{file.name} holds no example that can be used", "give more examples", param="pairs")
        return Handed(examples, data, file, licence)

    def given(self, skills: Sequence[Skill], handed: Handed) -> tuple[Evidence, ...]:
        """Each example goes to the skill that its words are nearest to."""
        examples = handed.examples
        places = [0] * len(examples)
        if len(skills) > 1:
            near = self._cosines([_asked(one) for one in examples], [skill.words for skill in skills])
            places = [int(place) for place in np.argmax(near, axis=1)]
        lines = handed.data.split(b"\n")
        found: list[Evidence] = []
        for number in range(len(skills)):
            mine = [one for one, place in zip(examples, places, strict=True) if place == number]
            found.append(self._given_for(mine, lines, handed.file, handed.licence))
        return tuple(found)

    def _given_for(
        self, examples: Sequence[GivenExample], lines: Sequence[bytes], file: GivenFile, licence: str
    ) -> Evidence:
        if not examples:
            return Evidence(origin="none", why="none of the given examples is of this skill")
        data = b"\n".join(lines[one.line - 1].removesuffix(b"\r") for one in examples) + b"\n"
        part = GivenFile(sha256=sha256(data), name=file.name, bytes=len(data))
        order = self._given_order(part, licence)
        renumbered = tuple(one.model_copy(update={"line": i}) for i, one in enumerate(examples, 1))
        try:
            taught = pairs_of(
                Read(training=renumbered, holdout=(), refusals=()), _given(order), order.recipe, GIVER.name
            )
        except TooFewSpans as error:
            few = order.recipe.model_copy(update={"min_spans": 2, "min_holdout": 1, "holdout_share": 0.5})
            try:  # too few to train on are still some to measure on
                taught = pairs_of(Read(training=renumbered, holdout=(), refusals=()), _given(order), few, GIVER.name)
            except TooFewSpans:
                return Evidence(origin="given", why=error.message)
            return Evidence(origin="given", held=sound(taught.pairs), why=error.message)
        held = sound([pair for pair in taught.pairs if pair.split == "holdout"])
        trained = [pair for pair in taught.pairs if pair.split == "train"]
        return Evidence("given", held, len(trained), order, {part.sha256: data}, _size(trained))

    def _given_order(self, file: GivenFile, licence: str) -> MintOrder:
        return given_order(
            self.parts.settings, given=GivenPairs(training=file, licence=licence), author=GIVER, name=None, base=self.base,
            consent="local-only", recipe={"seed": self.seed},
        )  # fmt: skip

    def sources(self, skills: Sequence[Skill]) -> tuple[Evidence, ...]:
        """Of the repositories in the settings, for each skill the one whose pairs are nearest. What cannot be read is in ``refused``."""
        read = [one for target in self.parts.settings.genome_sources[:MOST_SOURCES] if (one := self._read(target))]
        best = [Evidence(origin="none", why=self._no_source()) for _ in skills]
        scores = [0.0] * len(skills)
        for order, taught in read:
            pairs = taught.pairs
            near = self._cosines([pair.instruction for pair in pairs], [(skill.text,) for skill in skills])
            for number, skill in enumerate(skills):
                mine = sorted(zip(near[:, number], pairs, strict=True), key=lambda one: (-one[0], one[1].id))
                floor = floor_of(float(cosine) for cosine, _ in mine)
                held = sound([pair for cosine, pair in mine if pair.split == "holdout" and cosine >= floor])
                trained = [pair for cosine, pair in mine if pair.split == "train" and cosine >= floor]
                score = float(np.mean([cosine for cosine, _ in mine[:LEAST]])) if mine else 0.0
                if held and score > scores[number]:
                    scores[number] = score
                    focused = order.model_copy(update={"focus": skill.text})
                    enough = len(trained) >= order.recipe.min_spans // 2
                    few = "" if enough else f"{len(trained)} pairs of {order.target} are of this skill"
                    best[number] = Evidence(
                        "source", held, len(trained), focused if enough else None, size=_size(trained), why=few
                    )
        return tuple(best)

    def _no_source(self) -> str:
        if not self.parts.settings.genome_sources:
            return "no genome_sources are named in the settings, and no pairs were given"
        return "none of the genome_sources has pairs of this skill"

    def _read(self, target: str) -> tuple[MintOrder, Taught] | None:
        """The own-words pairs of one repository as a mint would have them."""
        try:
            found = self.parts.source.find(target)
            authors = [share.identity for share in found.repository.authors]
            you = found.you
            mine = you is not None and any(one.matches(you.name, you.email) for one in authors)
            who = (you,) if mine and you is not None else tuple(authors) if found.local_only else tuple(authors[:1])
            order = order_of(
                self.parts.settings, target=target, authors=who, name=None, base=self.base, consent="auto", allow_licence=(),
                recipe={"seed": self.seed},
            )  # fmt: skip
            with staging(self.parts.settings.home) as folder:
                workspace = Workspace(folder)
                workspace.write("order.json", Ordered(order=order, created_at="1970-01-01T00:00:00Z"))
                work = Minting(workspace, self.parts, silent, _never)
                for stage in READ_STAGES:
                    work.run(stage)
                if self._elsewhere and workspace.read("stages/consent.json", ConsentRecord).mode == "local-only":
                    raise ConsentMissing(
                        "it is local-only, and what the encoder reads leaves this machine",
                        "set an encoder of this machine",
                    )
                return order, workspace.read("stages/instruct.json", Taught)
        except DnaError as error:
            self.refused.append(Refused(id="", name=target[:200], code=error.code, why=error.message))
            return None

    async def asked(self, skills: Sequence[Skill], teacher: Exemplifier, emit: Emit) -> tuple[Evidence, ...]:
        """Examples of each skill that ``teacher`` writes; it is told the words that are read for the skill. Raises what the teacher raises,
        but for answers that cannot be used: there is no evidence of it then, and why."""
        found = [Evidence("none") for _ in skills]

        async def one(number: int, skill: Skill, cost: Teaching) -> None:
            written = await teacher.examples(skill.words, ASKED)
            found[number] = _taught(written, skill, cost)
            if cost.calls:
                emit(Note(text=_wrote(skill, written)))

        costs = [teacher.examples_cost(skill.words, ASKED) for skill in skills]
        for skill, cost in zip(skills, costs, strict=True):
            if cost.calls:
                emit(Note(text=_asking(skill, cost)))
        try:
            async with anyio.create_task_group() as group:
                for number, (skill, cost) in enumerate(zip(skills, costs, strict=True)):
                    group.start_soon(one, number, skill, cost)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(found)

    def library(
        self, skills: Sequence[Skill], near: Sequence[Sequence[tuple[str, Path, float]]]
    ) -> tuple[Evidence, ...]:
        """Held-out pairs of the blocks that are near to each skill: ids, places, and how like each is to the skill
        (``claimed``), the best first.

        An encoder on another machine is told nothing of blocks that are local-only.
        """
        held: dict[str, tuple[Pair, ...]] = {}
        for block_id, path in {one: path for row in near for one, path, _ in row}.items():
            if self._elsewhere and consent_of(path).mode == "local-only":
                continue
            pairs = [pair for pair in pairs_at(path) if pair.split == "holdout" and not pair.ancestor]
            held[block_id] = tuple(sorted(pairs, key=lambda pair: sha256(pair.id))[:MOST_OF_BLOCK])
        told = {pair.id: pair for pairs in held.values() for pair in pairs}
        if not told:
            why = "the near blocks have no held-out pairs that may be compared"
            return tuple(Evidence(origin="none", why=why) for _ in skills)
        ids = sorted(told)
        cosines = self._cosines([told[one].instruction for one in ids], [skill.words for skill in skills])
        return tuple(
            of_blocks(
                {one: float(c) for one, c in zip(ids, cosines[:, number], strict=True)},
                [(name, like, held.get(name, ())) for name, _, like in row],
            )
            for number, row in enumerate(near)
        )

    @property
    def _elsewhere(self) -> bool:
        return getattr(self.parts.encoder, "elsewhere", False)

    def _cosines(
        self, texts: Sequence[str], skills: Sequence[Sequence[str]]
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Of each text with each skill's words, their mean."""
        encoder = self.parts.encoder
        wanted = np.stack([encoder.encode(words).rows.mean(axis=0) for words in skills])
        return encoder.encode([text[:MOST_READ] for text in texts]).rows @ wanted.T


def _asking(skill: Skill, cost: Teaching) -> str:
    price = "" if cost.cost.value is None else f", about {cost.cost.value:.2f} US dollars"
    return (
        f"asking {cost.teacher} ({cost.model}) for {ASKED} examples of {skill.text!r}: {cost.calls} questions, about "
        f"{cost.prompt_tokens + cost.completion_tokens} tokens (estimated){price}"
    )


def _wrote(skill: Skill, written: Written) -> str:
    asked, said = written.prompt_tokens, written.completion_tokens
    took = (
        "tokens were not counted" if asked is None or said is None else f"{asked} + {said} tokens, as it counted them"
    )
    return f"{len(written.examples)} examples of {skill.text!r} can be used ({took})"


def _taught(written: Written, skill: Skill, by: Teaching) -> Evidence:
    held, who = sound([_written(one, skill, by) for one in written.examples]), f"{by.teacher} ({by.model})"
    if len(held) >= LEAST:
        return Evidence("teacher", held, why=f"measured on {len(held)} examples that {who} wrote")
    dropped = ", ".join(f"{count} {why}" for why, count in written.dropped.items())
    why = f"{who} wrote {len(held)} examples that can be used, and {LEAST} are needed"
    return Evidence("none", why=f"{why} (dropped: {dropped})" if dropped else why)


def _written(one: Example, skill: Skill, by: Teaching) -> Pair:
    origin = Provenance(
        repository="teacher", url=f"urn:sha256:{digest([by.teacher, by.model, *skill.words])}", commit="", path=by.teacher,
        blob=sha256(one.answer), start=1, end=1, sha256=sha256(one.answer), licence="", author=by.teacher,
    )  # fmt: skip
    return Pair(
        id=digest([origin, one.task])[:16], form="given", instruction=one.task, completion=one.answer, split="holdout", kind="example",
        name="example", language="text", teacher=by.teacher, provenance=origin, messages=(Message(role="user", content=one.task),),
    )  # fmt: skip


def of_blocks(cosines: dict[str, float], blocks: Sequence[tuple[str, float, tuple[Pair, ...]]]) -> Evidence:
    """The nearest of the blocks' pairs, of no block more than half where several have some.

    ``cosines`` of the pairs' tasks with the skill, ``blocks``: id, how like it is (``claimed``), its pairs. A pair is as near as both
    together say: words alone are near in many blocks. Where too few are near enough beside the nearest one's block, that block does not
    set the floor: near copies of one task shall not keep everybody else's out.
    """
    told = {pair.id: (pair, name) for name, _, pairs in blocks for pair in pairs}
    nearest = max((cosines[one] for one in told), default=0.0)
    if nearest < NEAR:
        return _too_few(0, nearest)
    like = {name: one for name, one, _ in blocks}
    score = {one: cosines[one] + like[name] for one, (_, name) in told.items() if cosines[one] >= LEAST_NEAR}
    order = sorted(score, key=lambda one: (-score[one], one))
    best: dict[str, float] = {}
    for one in order:
        best.setdefault(told[one][1], score[one])
    pairs: tuple[Pair, ...] = ()
    for top in best.values():
        pairs = _shared([told[one] for one in order if score[one] >= BOTH * top])
        if len(pairs) >= LEAST:
            return Evidence(origin="library", held=pairs, why="measured on held-out pairs of the blocks themselves")
    return _too_few(len(pairs), nearest)


def _too_few(count: int, nearest: float) -> Evidence:
    why = (
        f"{count} held-out pairs of the near blocks are of this skill, and {LEAST} are needed (nearest: {nearest:.2f})"
    )
    return Evidence(origin="none", why=why)


def _shared(told: Sequence[tuple[Pair, str]]) -> tuple[Pair, ...]:
    """At most ``MOST`` that are sound, the first ones, of no block more than half where several have some."""
    names = {pair.id: name for pair, name in told}
    best = sound([pair for pair, _ in told], most=len(told))
    several = len({names[pair.id] for pair in best}) > 1
    taken: list[Pair] = []
    counts: Counter[str] = Counter()
    for pair in best:
        name = names[pair.id]
        if len(taken) < MOST and (not several or counts[name] < MOST // 2):
            counts[name] += 1
            taken.append(pair)
    return tuple(taken)


def sound(pairs: Sequence[Pair], most: int = MOST) -> tuple[Pair, ...]:
    """At most ``most`` of them, in their order: each answer once, none empty, none over ``MOST_BYTES``."""
    seen: set[str] = set()
    kept: list[Pair] = []
    for pair in pairs:
        answer = " ".join(pair.completion.split())
        size = len(pair.completion.encode("utf-8", "replace")) + len(pair.instruction.encode("utf-8", "replace"))
        if answer and answer not in seen and size <= MOST_BYTES and len(kept) < most:
            seen.add(answer)
            kept.append(pair)
    return tuple(kept)


def write_files(workspace: Workspace, files: dict[str, bytes]) -> None:
    """Lay given files where a mint of them looks."""
    for name, data in files.items():
        write_atomic(workspace.directory / "given" / name, data)


def _given(order: MintOrder) -> GivenPairs:
    assert order.given is not None
    return order.given


def _size(pairs: Sequence[Pair]) -> int:
    return sum(len(pair.completion.encode()) for pair in pairs)


def _asked(example: GivenExample) -> str:
    return next((message.content for message in reversed(example.messages) if message.role == "user"), "")


def _never() -> None:
    """Nothing stops the reading of a source."""
