"""From settings and flags to the order of a mint: the value that is stored with the job and, but for the target, in the block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from clonedna.app.settings import Settings
from clonedna.core.block import NAME_PATTERN, MintOrder, Recipe
from clonedna.core.errors import InputError, UnknownBase
from clonedna.core.work import Identity
from clonedna.mint.papers import slug

LORA_KEYS = {"rank"}
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def order_of(
    settings: Settings, *, target: str, authors: Sequence[Identity], name: str | None, base: str | None,
    consent: Literal["auto", "self", "local-only"],
    allow_licence: Sequence[str], recipe: Mapping[str, Any],
) -> MintOrder:  # fmt: skip
    """A checked order. Recipe entries that are ``None`` keep their defaults. Raises ``InputError`` naming the field."""
    _refuse_impossible(base or settings.base)
    given = {key: value for key, value in recipe.items() if value is not None}
    lora: dict[str, Any] = {key: given.pop(key) for key in sorted(LORA_KEYS & given.keys())}
    if "rank" in lora:
        lora["alpha"] = 2.0 * lora["rank"]
    lora["seed"] = given.get("seed", 0)
    path = Path(target).expanduser()
    try:
        made = Recipe.model_validate(
            {"preset": "custom" if set(given) - {"seed"} or "rank" in lora else "style", **given, "lora": lora}
        )
        if name is not None and not re.match(NAME_PATTERN, name):
            raise InputError(
                f"{name!r} cannot be a block's name",
                f"use lower-case letters, digits, dots and hyphens, e.g. {slug(name)}",
            )
        return MintOrder(
            target=str(path.absolute()) if path.exists() else target, authors=tuple(authors), name=name, base=base or settings.base,
            consent=consent, licences=tuple(dict.fromkeys((*settings.licences, *allow_licence))), recipe=made,
            owned_share=settings.owned_share, max_files=settings.max_files, max_changes=settings.max_changes,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {first['msg']}", "see: dna mint --help") from None


def _refuse_impossible(base: str) -> None:
    """Refuse at once what cannot be a base, before any work is done for it: not bundled, no folder, no hub name."""
    bundled = (Path(__file__).parents[1] / "bases" / base / "config.json").is_file() and base.isidentifier()
    if not bundled and not Path(base).expanduser().is_dir() and not HUB_NAME.match(base):
        raise UnknownBase(
            f"no base is called {base!r}", "use nano, a folder with a model, or a hub name such as owner/model"
        )
