"""What a person does to find blocks: list them in pages, search them by words and by meaning, rebuild what that reads from.

Only what may be used is found: rejected blocks are listed with their status and never found, revoked ones neither. No mode stands in for
another: an answer says how it was searched, and with which encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ValidationError

from clonedna.app.meanings import Meanings, Told, unheard
from clonedna.app.parts import Parts
from clonedna.app.querying import Queried, Querying
from clonedna.core.catalogue import (
    BlockLine,
    BlockPage,
    Filters,
    Finding,
    Findings,
    ListQuery,
    SearchQuery,
)
from clonedna.core.errors import InputError
from clonedna.core.events import Emit
from clonedna.core.value import Value
from clonedna.core.work import Refusal

FUSED = 60.0  # how much a first place counts beside later ones when two orders become one
POOL = 50  # places of each order that are fused, where no more are wanted
V = TypeVar("V", bound=BaseModel)
Order = tuple[tuple[str, float], ...]
"""Blocks and their scores, the best first."""


class Reindexed(Value):
    """``blocks`` that the catalogue has now; ``left_out`` of it, and why; ``encoded`` by ``encoder``, where vectors were made.

    ``searched``: how texts and how exemplars are searched now (``exact``, ``graph``, or why not by a graph). ``queried``: what a teacher
    wrote of blocks, where one was asked.
    """

    blocks: int
    left_out: tuple[Refusal, ...]
    encoder: str | None
    encoded: int
    searched: tuple[str, ...] = ()
    queried: Queried | None = None


def asked(kind: type[V], **fields: Any) -> V:
    """A query made of what a person gave. Raises ``InputError`` naming the field, never its value."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}", "correct this option", param=place) from None


def pages(query: ListQuery, page: Any) -> Iterator[BlockLine]:
    """All lines from ``query`` on, page by page."""
    while True:
        found: BlockPage = page(query)
        yield from found.blocks
        if found.next is None:
            return
        query = query.model_copy(update={"cursor": found.next})


class Catalogue:
    """Use cases over the catalogue's lines and their meanings."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def page(self, query: ListQuery) -> BlockPage:
        """One page of lines. Raises ``InputError`` for a cursor that is none of this list's."""
        return self.parts.lines.page(query)

    def search(self, query: SearchQuery) -> Findings:
        """The best matches. Raises ``InputError`` for no words at all; by meaning also ``Unavailable`` while meanings are encoded, and what
        the encoder raises."""
        texts = [text for text in (query.q.strip(), *query.skills) if text]
        if not texts:
            raise InputError("nothing to search for", "give words, or --skill", param="q")
        filters = Filters.model_validate(query.model_dump(include=set(Filters.model_fields)) | {"status": "registered"})
        pool = query.limit if query.mode != "hybrid" else max(POOL, query.limit)
        words = () if query.mode == "semantic" else self.parts.lines.match(query.q, query.skills, filters, pool)
        near = () if query.mode == "text" else self._near(texts, filters, pool)
        cosines = dict(near)
        order = fused(words, near) if query.mode == "hybrid" else words or near
        lines = self.parts.lines.chosen([block_id for block_id, _ in order[: query.limit]])
        found = tuple(
            Finding(block=lines[block_id], score=score, cosine=cosines.get(block_id))
            for block_id, score in order[: query.limit]
            if block_id in lines
        )
        return Findings(mode=query.mode, encoder=None if query.mode == "text" else self.parts.encoder.name, found=found)

    def reindex(self, *, vectors: bool = True, told: Told = unheard) -> Reindexed:
        """Rebuild rows, lines, words and (``vectors``) meanings from the store's files alone; takes minutes for thousands of blocks.

        Without ``vectors`` they are removed all the same, and made when somebody next asks by meaning.
        """
        left_out = self.parts.reindex()
        self.parts.forget_vectors()
        if not vectors:
            return Reindexed(
                blocks=self.parts.lines.state()[0], left_out=left_out, encoder=None, encoded=0, searched=()
            )
        return self._encoded(self.parts.meanings, left_out, told)

    def encode(self, encoder: str, told: Told = unheard) -> Reindexed:
        """Make what is missing of every block's vectors by this encoder (named as in the settings), beside those of any other, which go on
        being searched until the settings name this one. What is done stays done when this is killed; the next call goes on.

        Raises as ``Parts.open_encoder``, and what the encoder raises.
        """
        opened = self.parts.open_encoder(encoder)
        same = opened.name == self.parts.encoder.name
        return self._encoded(self.parts.meanings if same else self.parts.meanings_by(opened), (), told)

    async def query(self, teacher: str, most: int | None, emit: Emit, asked: Told, told: Told = unheard) -> Reindexed:
        """Let a teacher write what people may type who look for each block that has no such lines yet (at most ``most`` blocks), and encode
        them. ``asked`` hears of how many they are written. Raises as ``Querying.write``; what was written
        until then stays, and is encoded when somebody next asks."""
        found = await Querying(self.parts, teacher).write(most, emit=emit, told=asked)
        done = await anyio.to_thread.run_sync(self._encoded, self.parts.meanings, (), told)
        return done.model_copy(update={"queried": found})

    def _encoded(self, meanings: Meanings, left_out: tuple[Refusal, ...], told: Told) -> Reindexed:
        encoded = meanings.complete(None, told)
        return Reindexed(
            blocks=self.parts.lines.state()[0], left_out=left_out, encoder=meanings.encoder.name, encoded=encoded,
            searched=meanings.settle(),
        )  # fmt: skip

    def _near(self, texts: Sequence[str], filters: Filters, most: int) -> Order:
        """The nearest that pass. Hard filters come first, where there are any; else a few more than wanted are looked up."""
        lines = self.parts.lines
        if not filters.model_dump(exclude_none=True).keys() - {"status"}:
            hits = self.parts.meanings.near(texts, 2 * most)
            passing = lines.passing(filters, [hit.key for hit in hits])
            found = [(hit.key, hit.cosine) for hit in hits if hit.key in passing]
            if len(found) >= most or len(hits) < 2 * most:
                return tuple(found[:most])
        hits = self.parts.meanings.near(texts, most, among=lines.passing(filters))
        return tuple((hit.key, hit.cosine) for hit in hits)


def fused(words: Order, near: Order) -> Order:
    """Two orders as one (reciprocal rank fusion): a block's score is the sum of 1 / (60 + place) over the orders that have it."""
    scores: dict[str, float] = {}
    for order in (words, near):
        for place, (block_id, _) in enumerate(order, 1):
            scores[block_id] = scores.get(block_id, 0.0) + 1 / (FUSED + place)
    return tuple(sorted(scores.items(), key=lambda one: (-one[1], one[0])))
