"""What a client may ask a server to do, in plain words, and the order that becomes of it: checked as the command line's is.

Files are those that were uploaded (``POST /v1/files``), named by id. The base is the server's own. A target is a git or https URL, a GitHub
handle or ``package:NAME``; a path on the server's disk, or an address in its own network, only of somebody who may administer it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field

from clonedna.app import genome_orders, merging
from clonedna.app.bench_values import MOST_MEMBERS, WAYS, BenchOrder, Way
from clonedna.app.comparing import MOST_PROMPT_LENGTH, CompareOrder
from clonedna.app.genome_values import NeedAsk
from clonedna.app.guarding import guard_recipe
from clonedna.app.job_values import MOST_BLOCKS, EvaluateOrder, IdentityOrder, Order, Queued, Reference
from clonedna.app.orders import given_order, order_of
from clonedna.app.parts import Parts
from clonedna.app.uploads import Upload, Uploads
from clonedna.app.versions import Versions
from clonedna.core.block import GivenFile, GivenPairs, Manifest
from clonedna.core.errors import AddressRefused, AuthorNeeded, InputError, Refused, WrongBase
from clonedna.core.merge import MAX_PARENTS, MergeMethod
from clonedna.core.model import BaseInfo
from clonedna.core.seams import Source
from clonedna.core.value import Value
from clonedna.core.work import Identity

HANDLE = re.compile(r"^(?:@|github:)?(?P<login>[A-Za-z0-9][A-Za-z0-9_-]{0,38}(?:\[bot\])?)$")
PACKAGE = re.compile(r"^package:[A-Za-z0-9][A-Za-z0-9._,-]{0,400}$")
URL = re.compile(r"^(?:https|git)://[^/\s@-][^\s@]*$", re.IGNORECASE)
NUMBER = re.compile(r"(?:^|\.)(?:0x[0-9a-f]*|\d+)$")
LOCAL_NAMES = (".local", ".localhost", ".internal")
Text = Annotated[str, Field(min_length=1, max_length=200)]
FileId = Annotated[str, Field(pattern=r"^file-[0-9a-f]{24}$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]


class MintAsk(Value):
    """A block to be minted: of ``target`` (with the ``authors`` where it is a repository), of uploaded ``pairs`` (with their ``licence``),
    or as the next version of the block ``continues``. What is left out is as ``dna mint`` has it."""

    kind: Literal["mint"]
    target: str | None = Field(default=None, min_length=1, max_length=2000)
    authors: tuple[Text, ...] = Field(default=(), max_length=20)
    pairs: FileId | None = None
    licence: str = Field(default="", max_length=256)
    continues: Reference | None = None
    name: str | None = Field(default=None, max_length=64)
    base: str | None = Field(default=None, max_length=200)
    consent: Literal["auto", "self", "granted", "local-only"] = "auto"
    allow_licences: tuple[Text, ...] = Field(default=(), max_length=20)
    teacher: Literal["own-words", "openai", "engine"] = "own-words"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: int | None = Field(default=None, ge=1, le=100)
    rank: Literal[8, 16, 32, 64, 128] | None = None
    learning_rate: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    max_pairs: int | None = Field(default=None, ge=1, le=1_000_000)
    general: Literal["auto", "alpaca-cleaned", "jsonl", "rehearsal"] = "rehearsal"
    general_ratio: float | None = Field(default=None, ge=0, le=4, allow_inf_nan=False)
    replay: float | None = Field(default=None, ge=0, le=10, allow_inf_nan=False)
    guard: tuple[Reference, ...] = Field(default=(), max_length=8)
    guard_weight: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    guard_energy: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)
    guard_orthogonal: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)


class EvaluateAsk(Value):
    """A block to be measured again: on its hold-out, in ``full``, or on uploaded ``pairs``. ``unsafe``: also one that the gate rejected."""

    kind: Literal["evaluate"]
    block: Reference
    full: bool = False
    pairs: FileId | None = None
    tasks: FileId | None = None
    samples: int = Field(default=1, ge=1, le=100)
    seed: Seed | None = None
    unsafe: bool = False


class IdentityAsk(Value):
    """Several blocks whose style is to be told apart; ``controls``: also train one on the others' code for each."""

    kind: Literal["identity"]
    blocks: tuple[Reference, ...] = Field(min_length=1, max_length=MOST_BLOCKS)
    controls: bool = True
    unsafe: bool = False


class CompareAsk(Value):
    """Two blocks to be compared; ``prompts`` of held-out work are answered besides those ``given``."""

    kind: Literal["compare"]
    a: Reference
    b: Reference
    prompts: int = Field(default=16, ge=0, le=64)
    given: tuple[Annotated[str, Field(min_length=1, max_length=MOST_PROMPT_LENGTH)], ...] = Field(
        default=(), max_length=64
    )
    seed: Seed = 0
    weights_only: bool = False
    unsafe: bool = False


class MergeAsk(Value):
    """Blocks of one base to be merged; ``parts`` are references with their weights: ``ada:0.7`` (no weight = 1)."""

    kind: Literal["merge"]
    parts: tuple[Reference, ...] = Field(min_length=1, max_length=MAX_PARENTS)
    name: str = Field(min_length=1, max_length=64)
    method: MergeMethod = "svd"
    rank: int | None = Field(default=None, ge=1, le=4096)
    density: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    majority: Literal["total", "frequency"] | None = None
    seed: Seed | None = None
    check: bool = True


class BenchAsk(Value):
    """Blocks of one base to be composed in each of the ``ways``, and measured on their own held-out pairs."""

    kind: Literal["bench"]
    blocks: tuple[Reference, ...] = Field(min_length=2, max_length=MOST_MEMBERS)
    ways: tuple[Way, ...] = Field(default=WAYS, min_length=1, max_length=len(WAYS))
    pairs: int = Field(default=48, ge=4, le=1000)
    exemplars: int = Field(default=32, ge=4, le=256)
    top_k: int = Field(default=2, ge=1, le=MOST_MEMBERS)
    seed: Seed = 0


class GenomeAsk(Value):
    """A plan of this server to be carried out, by its id, or a need that is planned first and then carried out."""

    kind: Literal["genome"]
    plan: str | None = Field(default=None, min_length=8, max_length=64, pattern=r"^[0-9a-f]+$")
    need: NeedAsk | None = None
    name: str | None = Field(default=None, max_length=64)


Ask: TypeAlias = Annotated[
    MintAsk | EvaluateAsk | IdentityAsk | CompareAsk | MergeAsk | BenchAsk | GenomeAsk, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True)
class Made:
    """What an ask became: the order, the files that go with it (by SHA-256), and what the queue has to know."""

    order: Order
    files: Mapping[str, Path]
    queued: Queued


class Asks:
    """Makes orders for one home whose engine holds ``base``."""

    def __init__(self, parts: Parts, base: str, versions: Versions) -> None:
        self._parts, self._base, self._versions = parts, base, versions
        self._uploads = Uploads(parts.settings)

    def made(self, ask: Ask, *, paths: bool) -> Made:
        """The order for ``ask``. ``paths``: whoever asks may name places of the server's own disk and network.

        Raises ``InputError`` naming the field, ``AuthorNeeded``, ``Refused``, ``AddressRefused``, ``WrongBase``, ``NotFound``, what
        resolving a block raises, and what GitHub's client does where a handle is named.
        """
        match ask:
            case MintAsk():
                return self._mint(ask, paths)
            case EvaluateAsk():
                return self._evaluate(ask)
            case IdentityAsk():
                blocks = [self._block(one, ask.unsafe) for one in ask.blocks]
                order = IdentityOrder(blocks=ask.blocks, controls=ask.controls, unsafe=ask.unsafe)
                return self._queued(order, blocks)
            case CompareAsk():
                two = [self._block(one, ask.unsafe, other_base=ask.weights_only) for one in (ask.a, ask.b)]
                order = CompareOrder(
                    a=ask.a, b=ask.b, prompts=ask.prompts, given=ask.given, seed=ask.seed, unsafe=ask.unsafe,
                    weights_only=ask.weights_only, on=None if ask.weights_only else self._on(two[0]),
                )  # fmt: skip
                return self._queued(order, two)
            case MergeAsk():
                return self._merge(ask)
            case BenchAsk():
                members = [self._block(one, unsafe=False) for one in ask.blocks]
                return self._queued(BenchOrder.model_validate(ask.model_dump()), members)
            case GenomeAsk():
                return self._genome(ask)

    # Mints.

    def _mint(self, ask: MintAsk, paths: bool) -> Made:
        self._own_base(ask.base)
        recipe = {
            "seed": ask.seed, "epochs": ask.epochs, "learning_rate": ask.learning_rate, "max_train_pairs": ask.max_pairs,
            "rank": ask.rank, "general": None if ask.general == "rehearsal" else ask.general, "base_instruct_ratio": ask.general_ratio,
            "guard": guard_recipe(
                self._parts, ask.guard, kl=ask.guard_weight, energy=ask.guard_energy, orthogonal=ask.guard_orthogonal
            ),
        }  # fmt: skip
        if ask.continues is not None:
            return self._continued(ask, recipe, paths)
        if ask.replay is not None:
            raise InputError("replay is of a version that continues a block", "give continues", param="replay")
        if (ask.target is None) == (ask.pairs is None):
            raise InputError("say what to mint from", "give a target, or uploaded pairs", param="target")
        if ask.pairs is not None:
            return self._given_pairs(ask, ask.pairs, recipe)
        if ask.licence:
            raise InputError("licence is of given pairs", "allow_licences accepts further ones", param="licence")
        assert ask.target is not None
        target = where(ask.target, paths=paths)
        order = order_of(
            self._parts.settings, target=target, authors=self._authors(ask, target, paths), name=ask.name, base=self._base,
            consent=ask.consent, allow_licence=ask.allow_licences, recipe=recipe, teacher=ask.teacher,
        )  # fmt: skip
        return Made(order, {}, Queued(base=self._base, outside=not paths))

    def _continued(self, ask: MintAsk, recipe: dict[str, Any], paths: bool) -> Made:
        if ask.pairs is not None or ask.name is not None or ask.licence:
            raise InputError(
                "a version that continues a block has that block's name, and is made from its repository",
                "leave out pairs, licence and name", param="continues",
            )  # fmt: skip
        before = self._block(str(ask.continues), unsafe=False)
        order = self._versions.order(
            str(ask.continues), target=where(ask.target, paths=paths) if ask.target else None,
            authors=_identities(ask.authors), base=self._base, consent=ask.consent, allow_licence=ask.allow_licences,
            recipe={**recipe, "seed": ask.seed or None, "replay_ratio": ask.replay}, teacher=ask.teacher,
            source=self._source(paths or not ask.target),
        )  # fmt: skip
        if not paths:
            where(order.target, paths=False)  # where the version before was read may be a place of the server's own
        return Made(order, {}, Queued(base=self._base, blocks=(before.id,), outside=not paths))

    def _given_pairs(self, ask: MintAsk, file_id: str, recipe: dict[str, Any]) -> Made:
        if ask.consent == "granted":
            raise InputError(
                "given pairs have no account that could grant them", "give consent self or local-only", param="consent"
            )
        if ask.teacher != "own-words":
            raise InputError("given pairs have their instructions", "leave teacher out", param="teacher")
        if len(ask.authors) > 1:
            raise InputError("given pairs are one person's", "name one author", param="authors")
        upload = self._uploads.get(file_id, param="pairs")
        who = _identities(ask.authors) or (Identity(name=ask.name or "unnamed"),)
        order = given_order(
            self._parts.settings, given=GivenPairs(training=_given(upload), licence=ask.licence), author=who[0], name=ask.name,
            base=self._base, consent="self" if ask.consent == "self" else "local-only", recipe=recipe,
        )  # fmt: skip
        return Made(order, {upload.sha256: self._uploads.content(upload)}, Queued(base=self._base))

    def _authors(self, ask: MintAsk, target: str, paths: bool) -> tuple[Identity, ...]:
        """Those that were named; of an account or packages, else, its own."""
        if ask.authors:
            return _identities(ask.authors)
        if PACKAGE.match(target) or target.startswith("@"):
            return tuple(share.identity for share in self._source(paths).find(target).repository.authors)
        raise AuthorNeeded("say whose code to mint", "give authors, e.g. 'Ada <ada@example.org>'", param="authors")

    # Of blocks.

    def _evaluate(self, ask: EvaluateAsk) -> Made:
        if ask.full and ask.pairs is not None:
            raise InputError("full measures the block's own pairs", "leave out full or pairs", param="pairs")
        if not ask.full and (ask.tasks is not None or ask.samples != 1):
            raise InputError("tasks and samples go with full", "give full: true", param="tasks")
        block = self._block(ask.block, ask.unsafe)
        uploads = [
            self._uploads.get(one, param=param) if one else None
            for one, param in ((ask.pairs, "pairs"), (ask.tasks, "tasks"))
        ]
        pairs, tasks = (_given(one) if one else None for one in uploads)
        order = EvaluateOrder(
            block=ask.block, full=ask.full, pairs=pairs, tasks=tasks, samples=ask.samples, on=self._on(block), seed=ask.seed,
            unsafe=ask.unsafe,
        )  # fmt: skip
        return self._queued(order, [block], {one.sha256: self._uploads.content(one) for one in uploads if one})

    def _merge(self, ask: MergeAsk) -> Made:
        order = merging.order_of(
            ask.parts, name=ask.name, method=ask.method, rank=ask.rank, density=ask.density, majority=ask.majority, seed=ask.seed,
            check=ask.check,
        )  # fmt: skip
        parents = [self._block(part.reference, unsafe=False, other_base=not ask.check) for part in order.parts]
        return self._queued(order.model_copy(update={"on": self._on(parents[0]) if ask.check else None}), parents)

    def _genome(self, ask: GenomeAsk) -> Made:
        if (ask.plan is None) == (ask.need is None):
            raise InputError("say what to assemble", "give a plan, or a need", param="plan")
        if ask.need is not None:
            upload = self._uploads.get(ask.need.pairs, param="pairs") if ask.need.pairs else None
            order = genome_orders.of_need(ask.need.asked(_given(upload) if upload else None), ask.name, on=self._base)
            files = {upload.sha256: self._uploads.content(upload)} if upload else {}
            return self._queued(order, [], files)
        order, members = genome_orders.of_plan(self._parts, str(ask.plan), ask.name, on=self._base)
        return Made(order, {}, Queued(base=self._base, blocks=members))

    def _queued(self, order: Order, blocks: list[Manifest], files: Mapping[str, Path] | None = None) -> Made:
        return Made(order, files or {}, Queued(base=self._base, blocks=tuple(one.id for one in blocks)))

    def _block(self, reference: str, unsafe: bool, *, other_base: bool = False) -> Manifest:
        """The block, which must be for this server's base but where that does not matter. Raises ``WrongBase``."""
        manifest = self._parts.registry.resolve(reference, unsafe=unsafe)
        unlike = "" if other_base else manifest.unlike(self._info)
        if unlike:
            raise WrongBase(
                f"{manifest.name}@{manifest.version} {unlike}", "ask a server that holds its base, or a worker's"
            )
        return manifest

    @property
    def _info(self) -> BaseInfo:
        return self._parts.engine(self._base).base

    def _on(self, manifest: Manifest) -> str | None:
        """Where the base is, if not under the name that the block gives."""
        return None if manifest.base_model == self._base else self._base

    def _source(self, paths: bool) -> Source:
        return self._parts.source if paths else self._parts.public_source

    def _own_base(self, base: str | None) -> None:
        if base is not None and base not in (self._base, self._info.id):
            raise InputError(
                f"this server's base is {self._base}, not {base[:80]!r}",
                "leave base out, or ask another one",
                param="base",
            )


def where(target: str, *, paths: bool) -> str:
    """A target as it is ordered. ``paths``: it may be a place of this machine's disk (an absolute path) or network.

    Raises ``Refused``, ``AddressRefused``, ``InputError``.
    """
    if match := HANDLE.match(target):  # with @ before it, it is never taken for a folder
        return f"@{match['login']}"
    if PACKAGE.match(target):
        return target
    if URL.match(target):
        if not paths:
            _refuse_near(target)
        return target
    if paths:
        if target.startswith("/") and Path(target).exists():
            return target
        if re.match(r"^(file:///|http://(127\.0\.0\.1|localhost)[:/]|ssh://)", target):
            return target
    elif target.startswith(("/", ".", "~", "file:", "ssh:", "\\")):
        raise Refused(
            "a place of the server's own disk, or one that its keys open, is for those who administer it",
            "give an https or git URL, a GitHub handle or package:NAME; or send a token with the scope admin", param="target",
        )  # fmt: skip
    raise InputError(
        f"{target[:80]!r} is no place to read from",
        "give an https or git URL (without a password), a GitHub handle, package:NAME, or an absolute path of the server's disk",
        param="target",
    )


def _refuse_near(url: str) -> None:
    """Raises ``AddressRefused`` for a host that is this machine or its own network, by number or by a name that says so.

    A name that only resolves to such an address is found out when it is read (``Parts.public_source``), which goes over https alone.
    """
    if not url.casefold().startswith("https:"):
        raise AddressRefused(
            "only https is read for those who do not administer the server",
            "give the https address, or a token with the scope admin", param="target",
        )  # fmt: skip
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").casefold()
    except ValueError:
        raise InputError(f"{url[:80]!r} is no URL", "give an https or git URL", param="target") from None
    try:
        near = not ipaddress.ip_address(host).is_global
    except ValueError:  # a name; one of digits alone is an address in another spelling
        near = "." not in host or host.endswith(LOCAL_NAMES) or NUMBER.search(host) is not None
    if near:
        raise AddressRefused(
            f"{host[:80]!r} is in the server's own network", "give a public address, or a token with the scope admin",
            param="target",
        )  # fmt: skip


def _identities(texts: tuple[str, ...]) -> tuple[Identity, ...]:
    try:
        return tuple(Identity.parse(text) for text in texts)
    except ValueError as error:
        raise InputError(str(error), "write it as 'Name <mail>'", param="authors") from None


def _given(upload: Upload) -> GivenFile:
    return GivenFile(sha256=upload.sha256, name=upload.filename, bytes=upload.bytes)
