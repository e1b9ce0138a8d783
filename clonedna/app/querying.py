"""A teacher writes what people may type who look for each block that has no such lines yet: `dna reindex --teacher`, and at the end of a
mint that asked one for its instructions.

It is told a block's text and nothing else. Not asked about: blocks whose consent does not cover serving them here, and, where the teacher
is on another machine, local-only ones. Each answer is kept as it comes, so what was stopped goes on, and a text that it has answered for
another block is not asked about again; an answer that cannot be used is counted, and asked for again next time. Nothing is trained or
measured on what it writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import anyio

from clonedna.app.meanings import Told, unheard
from clonedna.app.paired import on_this_machine
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts
from clonedna.app.queries_kept import MOST_QUERIES, Kept
from clonedna.core.block import Teaching
from clonedna.core.errors import BadAnswer, BadConfig, DnaError, InputError
from clonedna.core.events import Emit, Note, silent
from clonedna.core.value import Value

ASKED = ("openai", "engine")
"""The teachers that can be asked."""
AT_ONCE = 16  # questions that are under way; a server's own bound may be lower
STOP_AFTER = 8
"""Answers in a row, the first ones, that cannot be used: this model will write none that can."""


class Queried(Value):
    """``blocks`` that have lines now, of them ``asked`` in this run. ``left_out``: why others have none, with counts. Tokens: of this run,
    ``None`` where they were not counted."""

    blocks: int
    asked: int
    left_out: dict[str, int]
    by: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Answered(Protocol):
    """What a teacher wrote of one text."""

    @property
    def queries(self) -> tuple[str, ...]: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...


class Writer(Protocol):
    """A teacher that can write such lines."""

    name: str

    async def queries(self, text: str) -> Answered:
        """Raises ``BadAnswer`` where none can be used, and what asking raises."""
        ...

    def queries_cost(self, texts: Sequence[str]) -> Teaching:
        """An estimate."""
        ...

    async def close(self) -> None: ...


class Querying:
    """Asks one teacher about the blocks of one home."""

    def __init__(self, parts: Parts, teacher: str, base: str | None = None) -> None:
        """``teacher``: one of ``ASKED``; ``base``: of the ``engine`` teacher, if not the settings'. Raises ``InputError`` for one that
        writes no lines."""
        if teacher not in ASKED:
            raise InputError(
                f"the {teacher[:40]!r} teacher writes no queries", "name openai or engine", param="teacher"
            )
        self.parts, self.teacher, self.base = parts, teacher, base or parts.settings.base
        self._left: dict[str, int] = {}
        self._tokens: list[tuple[int | None, int | None]] = []
        self._useless = 0

    async def write(
        self, most: int | None = None, *, only: Collection[str] | None = None, emit: Emit = silent, told: Told = unheard
    ) -> Queried:
        """Of at most ``most`` blocks, of ``only`` these. ``told`` hears how many are done, of how many. Raises what the teacher raises, but
        for answers that cannot be used, and ``BadConfig`` where the first eight cannot; what was answered until then stays."""
        texts = self.lacking(only)
        if most is not None:
            texts = dict(list(texts.items())[:most])
        teacher: Any = self.parts.teacher(self.teacher, base=self.base)
        try:
            by = await self._ask(teacher, texts, emit, told)
        finally:
            with anyio.CancelScope(shield=True):
                await teacher.close()
        asked, told_of = (sum(part) if None not in part else None for part in _columns(self._tokens))
        return Queried(
            blocks=len(self.parts.queries.blocks() & self.parts.lines.meanings().keys()), asked=len(self._tokens),
            left_out=dict(sorted(self._left.items())), by=by, prompt_tokens=asked, completion_tokens=told_of,
        )  # fmt: skip

    async def _ask(self, teacher: Writer, texts: dict[str, str], emit: Emit, told: Told) -> str:
        named = teacher.queries_cost(())
        by = f"{named.teacher} ({named.model})"
        texts = self._answered(texts, by)
        if texts:
            cost = teacher.queries_cost(list(texts.values()))
            price = "" if cost.cost.value is None else f", about {cost.cost.value:.2f} US dollars"
            tokens = cost.prompt_tokens + cost.completion_tokens
            emit(Note(text=f"asking {by} about {len(texts)} blocks: about {tokens} tokens (estimated){price}"))
        waiting, done = list(reversed(texts.items())), 0

        async def ask_on() -> None:
            nonlocal done
            while waiting:
                block_id, text = waiting.pop()
                await self._one(teacher, block_id, text, by)
                done += 1
                told(done, len(texts))

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(AT_ONCE, len(texts))):
                    group.start_soon(ask_on)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return by

    def _answered(self, texts: dict[str, str], by: str) -> dict[str, str]:
        """Keep what this teacher wrote of the very same texts of other blocks; gives the others."""
        wanted = set(texts.values())
        known = {
            text: kept
            for one, text in self.parts.lines.meanings().items()
            if text in wanted and (kept := self.parts.queries.read(one))
        }
        for block_id, text in texts.items():
            if text in known and known[text].by == by:
                self.parts.queries.keep(block_id, known[text])
        return {one: text for one, text in texts.items() if text not in known or known[text].by != by}

    async def _one(self, teacher: Writer, block_id: str, text: str, by: str) -> None:
        try:
            answer = await teacher.queries(text)
        except BadAnswer as error:
            self._leave(str(error.facts.get("why", "not_json")))
            self._useless += 1
            if self._useless >= STOP_AFTER and not self._tokens:
                raise BadConfig(
                    f"none of the first {self._useless} answers of {by} can be used ({self._reasons()})",
                    "name a larger model: teacher_model, or --base",
                ) from None
            return
        self.parts.queries.keep(block_id, Kept(queries=answer.queries[:MOST_QUERIES], by=by[:400]))
        self._tokens.append((answer.prompt_tokens, answer.completion_tokens))

    def lacking(self, only: Collection[str] | None = None) -> dict[str, str]:
        """By id, the texts of blocks (of ``only`` these) that have no lines and may be asked about."""
        lines, have = self.parts.lines, self.parts.queries.blocks()
        gone = lines.gone()
        found: dict[str, str] = {}
        for block_id, text in sorted(lines.meanings().items()):
            if only is not None and block_id not in only:
                continue
            if block_id not in have and block_id not in gone and self._may(block_id):
                found[block_id] = text
        return found

    def _may(self, block_id: str) -> bool:
        try:
            consent = consent_of(self.parts.store.path(block_id))
            self.parts.consents.check(consent, "serve")
        except DnaError as error:
            self._leave(error.code)
            return False
        if self._elsewhere and consent.mode == "local-only":
            self._leave("local_only")
            return False
        return True

    @property
    def _elsewhere(self) -> bool:
        settings = self.parts.settings
        if self.teacher == "openai":
            return not on_this_machine(settings.teacher_url)
        return settings.engine == "vllm" and settings.vllm_url is not None and not on_this_machine(settings.vllm_url)

    def _leave(self, why: str) -> None:
        self._left[why] = self._left.get(why, 0) + 1

    def _reasons(self) -> str:
        return ", ".join(f"{count} {why}" for why, count in sorted(self._left.items()))


def _columns(tokens: Sequence[tuple[int | None, int | None]]) -> tuple[list[Any], list[Any]]:
    return [one for one, _ in tokens], [one for _, one in tokens]
