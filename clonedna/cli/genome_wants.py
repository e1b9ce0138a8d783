"""What is wanted, as options: the same ones for `dna genome plan` and `dna assemble`, which both begin with a need in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clonedna.cli.context import State

if TYPE_CHECKING:
    from clonedna.app.genome_values import NeedAsk, PlanAsk

Need = Annotated[str, typer.Argument(help="What is wanted, in words.", show_default=False)]
On = Annotated[str | None, typer.Option("--on", help="The base: nano, a folder, or a hub name.", show_default=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """A need and what goes with it. Its fields are the options of every command that takes ``wants`` (see ``wanting``)."""

    request: Need
    target: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The coverage at which no further layer is added.")
    ] = 0.95
    layers: Annotated[int, typer.Option(min=1, max=8, help="At most so many layers.")] = 8
    compose: Annotated[
        Literal["auto", "stack", "merge", "route", "mixture", "arrow"],
        typer.Option(
            help="Several layers: averaged, merged into one block (RegMean), one for each request (auto), all in shares that hang on "
            "the request, or a few for each token."
        ),
    ] = "auto"
    top_k: Annotated[
        int | None,
        typer.Option(min=1, max=8, help="With --compose arrow: so many layers for each token (2).", show_default=False),
    ] = None
    probe: Annotated[
        bool, typer.Option(help="Measure the nearest layers on exemplars, instead of predicting only.")
    ] = True
    trainings: Annotated[
        int, typer.Option(min=0, max=8, help="At most so many trainings for what no layer brings.")
    ] = 8
    seconds: Annotated[float, typer.Option(min=0, help="At most so many seconds of training.")] = 3600.0
    pairs: Annotated[
        Path | None, typer.Option(help="Examples (chat JSONL) to measure on and train from.", show_default=False)
    ] = None
    licence: Annotated[str, typer.Option(help="The licence of --pairs, as an SPDX id.")] = ""
    teacher: Annotated[
        Literal["none", "openai", "engine"],
        typer.Option(help="Who writes examples to measure on of a skill that has none; a server may cost money."),
    ] = "none"
    seed: Annotated[int, typer.Option(min=0, help="For trainings and draws.")] = 0
    on: On = None

    def here(self, state: State) -> PlanAsk:
        """What is asked of this machine. Raises ``InputError`` naming the field, ``LicenceUnknown`` for pairs without one."""
        from clonedna.app.catalogue import asked
        from clonedna.app.genome_values import PlanAsk
        from clonedna.app.orders import read_given, spdx

        said = self._said()
        if self.pairs is None:
            return asked(PlanAsk, **said)
        return asked(PlanAsk, **said | {"licence": spdx(self.licence)}, pairs=read_given(state.settings, self.pairs))

    def there(self, state: State) -> NeedAsk:
        """What is asked of the server; its pairs are uploaded. Raises ``InputError``, also for a base, which is the server's own."""
        from clonedna.app.catalogue import asked
        from clonedna.app.genome_values import NeedAsk
        from clonedna.cli import following

        following.refuse_base(self.on)
        return asked(NeedAsk, **self._said(), pairs=following.uploaded(state, self.pairs))

    def _said(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("pairs", "on")}


def wanting(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the fields of ``Wants`` as parameters in the place of its parameter ``wants``, which it is given whole."""
    wanted = inspect.signature(Wants, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    spread = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, found in own.items()
        for one in (wanted.values() if name == "wants" else [found])
    ]

    @wraps(command)
    def called(**given: Any) -> None:
        wants = Wants(**{name: given.pop(name) for name in wanted})
        command(**given, wants=wants)

    called.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in spread}
    return called
