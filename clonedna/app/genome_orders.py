"""From what somebody asks for to the order of an assembly: the value that is stored with the job."""

from __future__ import annotations

import re
from pathlib import Path

from clonedna.app.genome_plan import find_plan
from clonedna.app.genome_values import ApplyOrder, KeptPlan, PlanAsk
from clonedna.app.given import read_given
from clonedna.app.parts import Parts
from clonedna.core.block import NAME_PATTERN
from clonedna.core.errors import InputError
from clonedna.mint.papers import slug

MOST_PLAN, MOST_NAME = 8_000_000, 40
_DIGITS = re.compile(r"[0-9a-f]{8,64}")


def of_need(ask: PlanAsk, name: str | None, *, on: str | None) -> ApplyOrder:
    """A need that is planned when the job begins. Raises ``InputError`` for what cannot be a name."""
    return ApplyOrder(ask=ask, name=named(name, ask.request), on=on)


def of_plan(parts: Parts, reference: str, name: str | None, *, on: str | None) -> tuple[ApplyOrder, tuple[str, ...]]:
    """A plan of this home, and the blocks that it names. Raises as ``find_plan``, and ``InputError`` for what cannot be a name."""
    kept = find_plan(parts.settings.home, reference)
    ids = tuple(dict.fromkeys(one.layer for one in kept.plan.skills if one.layer is not None))
    return ApplyOrder(plan=kept.plan.id, name=named(name, kept.ask.request), on=on), ids


def named(name: str | None, request: str) -> str:
    """The genome's name: as given, or made of the request. Raises ``InputError``."""
    if name is None:
        return slug(request)[:MOST_NAME].strip(".-_") or "genome"
    if not re.match(NAME_PATTERN, name):
        raise InputError(
            f"{name[:80]!r} cannot be a genome's name",
            f"use lower-case letters, digits, dots and hyphens, e.g. {slug(name)}", param="name",
        )  # fmt: skip
    return name


def plan_named(text: str) -> str:
    """The id, or its digits, in what a person gave: itself, or the file of a plan. Raises ``InputError``."""
    path = Path(text).expanduser()
    if not path.is_file():
        if not _DIGITS.fullmatch(text):
            raise InputError(
                f"{text[:80]!r} is no plan",
                "give a plan's id, or the file that dna genome plan --out wrote",
                param="plan",
            )
        return text
    data = read_given(path, MOST_PLAN, "give a file that dna genome plan --out wrote")
    try:
        return KeptPlan.model_validate_json(data).plan.id
    except ValueError:
        raise InputError(f"{path} is no plan", "give a file that dna genome plan --out wrote", param="plan") from None
