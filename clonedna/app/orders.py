"""From settings and flags to the order of a mint: the value that is stored with the job and, but for the target, in the block."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from license_expression import ExpressionError, get_spdx_licensing
from pydantic import ValidationError

from clonedna.app.settings import Settings
from clonedna.core.block import NAME_PATTERN, GivenFile, GivenPairs, MintOrder, Recipe
from clonedna.core.canonical import sha256
from clonedna.core.errors import ConsentMissing, InputError, LicenceUnknown, UnknownBase
from clonedna.core.work import Found, Identity
from clonedna.mint.papers import slug

LORA_KEYS = {"rank"}
# What a mint from given pairs does otherwise than one from a repository, where it is not told: all examples are used, ten are enough,
# there are fewer of our own beside them, and they are learnt more firmly: the rate and the epochs of a repository were chosen for code.
GIVEN_RECIPE: dict[str, Any] = {
    "learning_rate": 1e-3, "epochs": 3,
    "max_train_pairs": 50_000, "max_holdout_pairs": 200, "min_spans": 10, "min_holdout": 3, "max_tokens": 2048, "tool_use_pairs": 8,
}  # fmt: skip
OWN_LICENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]{1,100}")
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def order_of(
    settings: Settings, *, target: str, authors: Sequence[Identity], name: str | None, base: str | None,
    consent: Literal["auto", "self", "granted", "local-only"],
    allow_licence: Sequence[str], recipe: Mapping[str, Any], teacher: Literal["own-words", "openai", "engine"] = "own-words",
) -> MintOrder:  # fmt: skip
    """A checked order. Recipe entries that are ``None`` keep their defaults. Raises ``InputError`` naming the field."""
    _refuse_impossible(base or settings.base)
    path = Path(target).expanduser()
    with _explained():
        return MintOrder(
            target=str(path.absolute()) if path.exists() else target, authors=tuple(authors), name=_block_name(name),
            base=base or settings.base, consent=consent, teacher=teacher,
            licences=tuple(dict.fromkeys((*settings.licences, *allow_licence))), recipe=_recipe(recipe),
            owned_share=settings.owned_share, max_files=settings.max_files, max_changes=settings.max_changes,
        )  # fmt: skip


def given_order(
    settings: Settings, *, given: GivenPairs, author: Identity, name: str | None, base: str | None,
    consent: Literal["self", "local-only"], recipe: Mapping[str, Any],
) -> MintOrder:  # fmt: skip
    """A checked order for pairs that were given as files. Raises ``InputError`` naming the field, ``LicenceUnknown``."""
    _refuse_impossible(base or settings.base)
    licence = spdx(given.licence)
    with _explained():
        return MintOrder(
            target=given.training.name, authors=(author,), name=_block_name(name), base=base or settings.base, consent=consent,
            licences=(licence,), recipe=_recipe(GIVEN_RECIPE | {k: v for k, v in recipe.items() if v is not None}),
            given=given.model_copy(update={"licence": licence}),
        )  # fmt: skip


def refuse_consent(order: MintOrder, found: Found) -> None:
    """Raises ``ConsentMissing`` when another consent was asked for than what was found can have."""
    if found.local_only and order.consent not in ("auto", "local-only"):
        raise ConsentMissing(found.local_only, "leave --consent out, or give --consent local-only")


def read_given(settings: Settings, path: Path) -> GivenFile:
    """What a file of pairs on this machine is. Raises ``InputError`` when it cannot be read or is too large."""
    try:
        data = path.read_bytes() if path.stat().st_size <= settings.max_upload_bytes else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "give a JSONL file") from error
    if data is None:
        raise InputError(
            f"{path} has more than {settings.max_upload_bytes} bytes", "raise max_upload_bytes, or give less"
        )
    return GivenFile(sha256=sha256(data), name=path.name[-255:], bytes=len(data))


def spdx(text: str) -> str:
    """A licence as SPDX writes it: an expression over its list, or one ``LicenseRef-...`` (a licence of one's own).

    Raises ``LicenceUnknown`` for nothing, and for anything else.
    """
    if OWN_LICENCE.fullmatch(text.strip()):
        return text.strip()
    try:
        parsed = get_spdx_licensing().parse(text.strip(), validate=True) if len(text) <= 256 else None
    except ExpressionError:
        parsed = None
    if parsed is None:
        raise LicenceUnknown(
            f"{text[:80]!r} is no SPDX licence" if text.strip() else "no licence is stated for the examples",
            "state the licence they may be used under as an SPDX id, e.g. MIT, CC-BY-4.0 or LicenseRef-Proprietary",
        )
    return str(parsed)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {first['msg']}", "see: dna mint --help") from None


def _recipe(recipe: Mapping[str, Any]) -> Recipe:
    given = {key: value for key, value in recipe.items() if value is not None}
    lora: dict[str, Any] = {key: given.pop(key) for key in sorted(LORA_KEYS & given.keys())}
    if "rank" in lora:
        lora["alpha"] = 2.0 * lora["rank"]
    lora["seed"] = given.get("seed", 0)
    custom = set(given) - {"seed"} or "rank" in lora
    return Recipe.model_validate({"preset": "custom" if custom else "style", **given, "lora": lora})


def _block_name(name: str | None) -> str | None:
    if name is not None and not re.match(NAME_PATTERN, name):
        raise InputError(
            f"{name!r} cannot be a block's name",
            f"use lower-case letters, digits, dots and hyphens, e.g. {slug(name)}",
        )
    return name


def _refuse_impossible(base: str) -> None:
    """Refuse at once what cannot be a base, before any work is done for it: not bundled, no folder, no hub name."""
    bundled = (Path(__file__).parents[1] / "bases" / base / "config.json").is_file() and base.isidentifier()
    if not bundled and not Path(base).expanduser().is_dir() and not HUB_NAME.match(base):
        raise UnknownBase(
            f"no base is called {base!r}", "use nano, a folder with a model, or a hub name such as owner/model"
        )
