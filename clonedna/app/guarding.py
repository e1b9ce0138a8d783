"""What a mint trains beside: neighbours by their references, and what the engine needs of them to leave them be.

A neighbour is verified and admitted, and its own training pairs are shown to the training only where its consent covers minting. Of a
``local-only`` neighbour comes nothing into a block that is not ``local-only`` itself. What a neighbour held out is never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from clonedna.app.admission import admit
from clonedna.app.blocks import Blocks
from clonedna.app.interference_kept import InterferenceKept
from clonedna.app.interfering import MOST_OBSERVED, examples_of
from clonedna.app.papers import consent_of
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord, GuardRecipe, Manifest, Recipe
from clonedna.core.errors import ConsentMissing, InputError
from clonedna.core.model import Beside, Example, Guarded, Layer
from clonedna.core.seams import Engine

MOST_NEIGHBOURS, MOST_EXEMPLARS, MOST_GENERAL = 8, 48, 64


def guard_recipe(
    parts: Parts, references: Sequence[str], *, kl: float | None = None, energy: float | None = None, orthogonal: float | None = None
) -> GuardRecipe | None:  # fmt: skip
    """What a recipe says of the blocks that a mint shall leave be; ``None`` without any. Raises ``InputError``, and as resolving does."""
    if not references:
        if (kl, energy, orthogonal) != (None, None, None):
            raise InputError("a guard's weight needs a block that is guarded", "give --guard NAME", param="guard")
        return None
    if len(references) > MOST_NEIGHBOURS:
        raise InputError(f"{len(references)} guarded blocks", f"give at most {MOST_NEIGHBOURS}", param="guard")
    ids = tuple(dict.fromkeys(parts.registry.resolve(one).id for one in references))
    weights = {"kl": kl, "energy": energy, "orthogonal": orthogonal}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if given and not any(given.values()) and "kl" in given:
        raise InputError(
            "a guard without any weight guards nothing", "give one above 0, or leave --guard out", param="guard"
        )
    return GuardRecipe.model_validate({"neighbours": ids, **given})


async def beside_of(
    parts: Parts, recipe: Recipe, engine: Engine, general: Sequence[Example], consent: ConsentRecord
) -> Beside | None:
    """What ``recipe`` trains beside, with the neighbours loaded; ``None``: nothing. ``general``: examples that no block is about.

    Raises ``ConsentMissing``, ``WrongBase``, what verifying raises, and ``InputError`` for a neighbour without pairs of its own.
    """
    guard = recipe.guard
    if guard is None:
        return None
    kept = InterferenceKept(parts.settings.home)
    guarded: list[Guarded] = []
    inputs: list[Path] = []
    layers: list[Layer] = []
    if guard.kl and general:
        guarded.append(Guarded(examples=tuple(general[:MOST_GENERAL])))
    for name in guard.neighbours:
        manifest, path = await anyio.to_thread.run_sync(_neighbour, parts, name, engine, consent)
        layer = Layer(adapter=(await engine.load(path)).id)
        own = examples_of(path, "train", MOST_OBSERVED)
        if not own and (guard.kl or guard.energy):
            raise InputError(
                f"{manifest.name}@{manifest.version} has no training pairs of its own to guard",
                "guard the blocks that it was merged from", param="guard",
            )  # fmt: skip
        if guard.kl:
            guarded.append(Guarded(examples=own[:MOST_EXEMPLARS], layers=(layer,)))
        if guard.energy:
            if kept.inputs(name) is None:
                kept.observed(name, await engine.observe(own, (), kept.place(name)))
            inputs.append(kept.place(name))
        if guard.orthogonal:
            layers.append(layer)
    return Beside(
        guard=tuple(guarded), guard_weight=guard.kl, guard_examples=guard.examples, covariances=tuple(inputs), energy_weight=guard.energy,
        orthogonal=tuple(layers), orthogonal_weight=guard.orthogonal,
    )  # fmt: skip


def _neighbour(parts: Parts, name: str, engine: Engine, consent: ConsentRecord) -> tuple[Manifest, Path]:
    manifest, path = Blocks(parts).verified(name)
    theirs = consent_of(path)
    admit(parts, manifest, theirs, "serve", base=engine.base, hint="guard blocks of the base that is trained on")
    parts.consents.check(theirs, "mint")
    if theirs.mode == "local-only" and consent.mode != "local-only":
        raise ConsentMissing(
            f"{manifest.name}@{manifest.version} is local-only: nothing of it may shape a block that can be shared",
            "mint with --consent local-only, or do not guard it",
        )  # fmt: skip
    return manifest, path
