"""The versions of a block's name: the next one from new work, which one the name means, going back to an earlier one.

Going back writes one small file beside the blocks and a line in the audit log; nothing of any block changes, and a version that is accepted
later counts again by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clonedna.app.blocks import Blocks
from clonedna.app.continuing import consent_at, repository_at, verified
from clonedna.app.jobs import Jobs
from clonedna.app.lineage import Relative
from clonedna.app.minting import Ordered
from clonedna.app.orders import order_of
from clonedna.app.parts import Parts, factory
from clonedna.app.workspace import naming
from clonedna.core.block import BlockRef, Manifest, Measure, MintOrder, Recipe, not_available
from clonedna.core.errors import BlockNotFound, BlockRejected, DnaError, InputError, NoSuchAuthor
from clonedna.core.seams import Source
from clonedna.core.value import Value
from clonedna.core.work import Identity
from clonedna.mint.continuing import REPLAY_RATIO
from clonedna.mint.continuing_gate import NEW_GAIN, OLD_CHANGE

# What a block's recipe says of the mint that made it, and the next one finds out for itself.
FOUND_OUT = ("general_source", "general_pairs", "teaching", "libraries", "threads", "dtype")


class VersionLine(Value):
    """One version. ``means``: whether the name alone stands for it; ``passed_over``: whether a rollback goes behind it.

    ``gain`` is over the base on its whole hold-out, ``new_gain`` and ``old_change`` over the version that it continues.
    """

    version: str
    id: str
    created_at: str
    relation: str
    parents: tuple[str, ...]
    gate: Literal["accepted", "rejected"]
    gain: Measure
    new_gain: Measure
    old_change: Measure
    means: bool
    passed_over: bool


class RolledBack(Value):
    """``name`` meant ``was`` and means ``now``."""

    name: str
    was: BlockRef
    now: BlockRef


class Versions:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts, jobs: Jobs) -> None:
        self.parts, self.jobs = parts, jobs

    # The next version.

    def order(
        self, reference: str, *, target: str | None, authors: Sequence[Identity], base: str | None,
        consent: Literal["auto", "self", "granted", "local-only"], allow_licence: Sequence[str], recipe: Mapping[str, Any],
        teacher: Literal["own-words", "openai", "engine"] = "own-words", source: Source | None = None,
    ) -> MintOrder:  # fmt: skip
        """The order for the next version of ``reference``: where it was read, whose it is and its recipe, but for what is given here.
        ``source``: what may read it (default: the home's own).

        Raises ``InputError`` when it must be told where to read, when a recipe's entry changes the adapter's shape, or when the block was
        not minted from a history; ``NoSuchAuthor``; and what resolving and verifying raise.
        """
        manifest = self.parts.registry.resolve(reference)
        manifest, path = verified(self.parts, manifest.id)
        repository_at(manifest, path)
        earlier = self._order_of(manifest.id)
        name = f"{manifest.name}@{manifest.version}"
        if target is None and earlier is None:
            raise InputError(
                f"the job that minted {name} is not on this machine, so it is not known where to read",
                f"say where: dna mint --continue {reference} REPOSITORY", param="target",
            )  # fmt: skip
        where = target or (earlier.target if earlier else "")
        digest = consent_at(path).identity_digest
        people = tuple(authors) or (
            earlier.authors if earlier else self._people(source or self.parts.source, where, digest, name)
        )
        order = order_of(
            self.parts.settings, target=where, authors=people, name=manifest.name,
            base=base, consent=consent,
            allow_licence=(*(earlier.licences if earlier else ()), *allow_licence), recipe={}, teacher=teacher,
        )  # fmt: skip
        changed: dict[str, Any] = {"recipe": _recipe(manifest, recipe), "continues": manifest.id}
        if base is None:
            changed["base"] = earlier.base if earlier else manifest.base_model
        return order.model_copy(update=changed)

    def _order_of(self, block_id: str) -> MintOrder | None:
        """The order of the job that made a block, if it is still here."""
        for workspace in self.jobs.workspaces():
            with contextlib.suppress(DnaError):  # a job that cannot be read is not it
                result = self.jobs.result(workspace)
                if result is not None and result.block is not None and result.block.id == block_id:
                    return workspace.read("order.json", Ordered).order
        return None

    def _people(self, source: Source, target: str, digest: str, name: str) -> tuple[Identity, ...]:
        """Who among the authors at ``target`` the block is of: a block keeps only the digest of an address."""
        shares = source.find(target).repository.authors
        digest_of = factory("identity", "digest")
        found = tuple(share.identity for share in shares if digest_of(share.identity) == digest)
        if not found:
            raise NoSuchAuthor(
                f"none of the {len(shares)} authors there is the person of {name}",
                "give the repository that it was minted from, or name them: --author 'Name <mail>'",
            )
        return found

    # All versions, and which one counts.

    def list(self, name: str) -> tuple[VersionLine, ...]:
        """All versions of ``name``, newest first, rejected ones among them. Raises ``BlockNotFound``, ``BadReference``."""
        found = self._named(name)
        back = factory("rollbacks", "files")(self._root).get(name)
        means = self._means(name)
        return tuple(self._line(one, means, back) for one in found)

    def _line(self, manifest: Manifest, means: str | None, back: Any) -> VersionLine:
        gain, change = not_available("it continues no other version"), not_available("it continues no other version")
        if manifest.lineage.relation == "continued":
            try:
                measures = Blocks(self.parts).show(manifest.id).evaluation.measures
                gain, change = (measures.get(one, not_available("not measured")) for one in (NEW_GAIN, OLD_CHANGE))
            except DnaError as error:
                gain = change = not_available(error.message)
        return VersionLine(
            version=manifest.version, id=manifest.id, created_at=manifest.created_at, relation=manifest.lineage.relation,
            parents=tuple(self.called(one) for one in manifest.lineage.parents), gate=manifest.gate.status,
            gain=manifest.eval_summary.nll_delta, new_gain=gain, old_change=change, means=manifest.id == means,
            passed_over=back is not None and manifest.id in back.over,
        )  # fmt: skip

    def rollback(self, name: str, version: str | None = None) -> RolledBack:
        """Have ``name`` mean ``version`` (default: the accepted one before what it means now) until a later one is accepted.

        The newest accepted version takes a rollback back. Raises ``BlockNotFound`` (no such version, or none before), ``BlockRejected``,
        ``BlockRevoked``, ``BadReference``, ``NoSpace``.
        """
        rollbacks = factory("rollbacks", "files")(self._root)
        with naming(self.parts.settings.home):
            number = factory("rollbacks", "number")
            accepted = [one for one in self._named(name) if one.gate.status == "accepted"]
            was = self.parts.registry.resolve(name)
            if version is None:
                older = [one for one in accepted if number(one.version) < number(was.version)]
                if not older:
                    raise BlockNotFound(
                        f"there is no accepted version before {name}@{was.version}", f"see: dna versions {name}"
                    )
                now = older[0]
            else:
                now = self._version(name, version)
            over = tuple(one.id for one in accepted if number(one.version) > number(now.version))
            if over:
                rollbacks.put(factory("rollbacks", "record")(name=name, to=now.version, over=over))
            else:
                rollbacks.remove(name)
            self.parts.audit.append("rolled_back", now.id, name=name, was=was.version, now=now.version)
        return RolledBack(name=name, was=_ref(was), now=_ref(now))

    def _version(self, name: str, version: str) -> Manifest:
        """Raises ``BlockRejected``, ``BlockRevoked``, ``BlockNotFound``, ``BadReference``."""
        manifest = self.parts.registry.resolve(f"{name}@{version}")
        if manifest.gate.status == "rejected":
            raise BlockRejected(f"{name}@{version} was rejected by the gate", f"see: dna versions {name}")
        return verified(self.parts, manifest.id)[0]

    def called(self, block_id: str) -> str:
        """``name@version (digits)``, or the digits alone of a block that is not here."""
        found: Sequence[Relative] = factory("registry", "kin")(self.parts.database, self.parts.store).named([block_id])
        if not found or found[0].status == "revoked":
            return f"{block_id[:12]}, which is not here"
        one = found[0].manifest
        return f"{one.name}@{one.version} ({one.id[:12]})"

    @property
    def _root(self) -> Path:
        return self.parts.settings.home / "store"

    def _named(self, name: str) -> list[Manifest]:
        number = factory("rollbacks", "number")
        found = list(self.parts.registry.manifests(name))
        if not found:
            self.parts.registry.resolve(name)  # raises, with the closest names
            raise BlockNotFound(f"no block is called {name[:80]!r}", "see: dna ls")
        return sorted(found, key=lambda one: (number(one.version), one.created_at, one.id), reverse=True)

    def _means(self, name: str) -> str | None:
        try:
            return self.parts.registry.resolve(name).id
        except DnaError:
            return None


def _ref(manifest: Manifest) -> BlockRef:
    return BlockRef(name=manifest.name, version=manifest.version, id=manifest.id, status="registered")


def _recipe(manifest: Manifest, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of the version before with ``changes`` (``None``: none), its replay ratio 1 unless it is given or had one."""
    before = manifest.recipe
    if before is None:
        raise InputError(f"{manifest.name}@{manifest.version} was not trained", "continue a block that was minted")
    given = {key: value for key, value in changes.items() if value is not None}
    if given.pop("rank", before.lora.rank) != before.lora.rank:
        raise InputError(
            f"{manifest.name}@{manifest.version} has rank {before.lora.rank}, and a version that continues it has the same",
            "leave --rank out, or mint a new block", param="rank",
        )  # fmt: skip
    kept = before.model_dump(exclude=set(FOUND_OUT))
    kept["preset"] = "custom" if given else before.preset
    kept["replay_ratio"] = before.replay_ratio or REPLAY_RATIO
    try:
        return Recipe.model_validate(kept | given)
    except ValueError as error:
        raise InputError(f"the recipe cannot be so: {error}", "see: dna mint --help") from None
