"""Who answers: a model's name becomes an engine and layers of a request.

A server has one base; this machine's commands open any block's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import anyio.to_thread

from clonedna.app.blocks import Blocks, served_by
from clonedna.app.genome_models import PREFIX, base_of
from clonedna.app.parts import Parts
from clonedna.app.serving import Prepared, Serving
from clonedna.core.errors import WrongBase
from clonedna.core.seams import Engine


class Speakers(Protocol):
    """Opens models."""

    async def open(
        self, model: str, *, beside: Engine | None = None, said: Sequence[str] = ()
    ) -> tuple[Engine, Prepared]:
        """The engine and what a request to ``model`` needs. Empty: the base, of ``beside`` where that is given. ``said``: the person's
        turns, oldest first.

        Raises as ``Serving.prepare``: what is revoked, rejected, without consent, of another base is never opened.
        """
        ...


class ServerSpeakers:
    """The models of a server."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def open(
        self, model: str, *, beside: Engine | None = None, said: Sequence[str] = ()
    ) -> tuple[Engine, Prepared]:
        return self._serving.engine, await self._serving.prepare(model or self._serving.engine.base.id, said=said)


class OwnSpeakers:
    """The blocks of this machine, each on the base that it names. ``base``: where that is, if not under this name. ``unsafe``: also a
    block that the gate rejected, by its id."""

    def __init__(self, parts: Parts, *, base: str | None = None, unsafe: bool = False) -> None:
        self._parts, self._base, self._unsafe = parts, base, unsafe
        self._servings: dict[str, Serving] = {}
        self._engines: dict[str, Engine] = {}

    async def open(
        self, model: str, *, beside: Engine | None = None, said: Sequence[str] = ()
    ) -> tuple[Engine, Prepared]:
        home = self._base or self._parts.settings.base
        if not model or model == home or model in self._engines:
            engine = self._engines.get(model) or beside or self._parts.engine(home)
            return self._noted(engine, Prepared(layers=(), served=served_by(engine.base, ()), label=engine.base.id))
        if self._unsafe:
            opened = await Blocks(self._parts).open(model, base=self._base, unsafe=True)
            return self._noted(opened.engine, Prepared(layers=(opened.layer,), served=opened.served, label=model))
        serving = await anyio.to_thread.run_sync(self._serving_of, model)
        try:
            return self._noted(serving.engine, await serving.prepare(model, said=said))
        except WrongBase as error:
            raise WrongBase(error.message, "give the base it was trained on with --on", **error.facts) from None

    def _noted(self, engine: Engine, prepared: Prepared) -> tuple[Engine, Prepared]:
        """An engine that was opened can be asked for by its base's name from then on."""
        self._engines[engine.base.id] = engine
        return engine, prepared

    def _serving_of(self, model: str) -> Serving:
        """A serving on the base of the genome, or of the first block that is named. Raises as reading it does."""
        if model.startswith(PREFIX):
            base = self._base or base_of(self._parts, model)
        else:
            first = model.split("+")[0].partition(":")[0]
            base = self._base or self._parts.registry.resolve(first).base_model
        if base not in self._servings:
            self._servings[base] = Serving(self._parts, base)
        return self._servings[base]
