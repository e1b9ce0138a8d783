"""What a mint that continues a block needs of it and of those before it: read from the store, verified, and checked again at the end.

The work itself is in ``clonedna.mint.continuing`` and ``clonedna.mint.continuing_gate``; this is their way to blocks, consent and names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from license_expression import get_spdx_licensing

from clonedna.app.papers import consent_of, pairs_of
from clonedna.app.parts import Parts, factory
from clonedna.core.block import ConsentRecord, Evaluation, Manifest, SourceRecord
from clonedna.core.canonical import strict_json
from clonedna.core.errors import BlockNotFound, ConsentMissing, InputError, Refused, WrongBase
from clonedna.core.seams import Engine
from clonedna.core.work import Pair, Repository
from clonedna.mint.continuing import Earlier, Heritage
from clonedna.mint.continuing_gate import Ancestor, compare_with_ancestors

HERITAGE = "stages/heritage.json"
MOST_VERSIONS = 1000


def verified(parts: Parts, block_id: str) -> tuple[Manifest, Path]:
    """A block by its id, with everything checked. Raises ``BlockNotFound``, ``BlockRevoked``, ``BlockRejected``, as verifying does."""
    manifest = parts.registry.resolve(block_id)
    path = parts.store.path(manifest.id)
    manifest = factory("block", "verify")(path, parts.signer, expect_id=block_id)
    parts.store.refuse_revoked(manifest)
    return manifest, path


def consent_at(path: Path) -> ConsentRecord:
    return consent_of(path)


def repository_at(manifest: Manifest, path: Path) -> Repository:
    """What a block was read from. Raises ``InputError`` for one that was not minted from a history: nothing of it can be newer."""
    reference = f"{manifest.name}@{manifest.version}"
    if manifest.lineage.relation == "merged":
        raise InputError(f"{reference} was merged: it has no work of its own", "continue one of its parents")
    record = SourceRecord.model_validate(strict_json((path / "sources.json").read_bytes()))
    if record.repository is None:
        raise InputError(f"{reference} was minted from given pairs", "mint the pairs that are new, with --pairs")
    if record.repository.url.startswith("pkg:"):
        raise InputError(f"{reference} was minted from a package, which has no history", "mint it anew")
    return record.repository


def heritage_of(parts: Parts, block_id: str) -> Heritage:
    """What the block and those that it continues have. Raises what ``verified`` and ``repository_at`` raise, ``ConsentMissing`` when the
    consent that it was minted under no longer holds."""
    manifest, path = verified(parts, block_id)
    repository, consent = repository_at(manifest, path), consent_at(path)
    parts.consents.check(consent, "mint")
    licence, versions = manifest.license, [_earlier(manifest, path)]
    gone: list[str] = []
    while manifest.lineage.relation == "continued" and not gone and len(versions) < MOST_VERSIONS:
        (before,) = manifest.lineage.parents
        try:
            manifest, path = verified(parts, before)
        except BlockNotFound:
            gone.append(before)
        else:
            versions.append(_earlier(manifest, path))
    return Heritage(
        repository=repository, identity_digest=consent.identity_digest, licence=licence,
        versions=tuple(versions), gone=tuple(gone),
    )  # fmt: skip


def refined(parts: Parts, block_id: str) -> Heritage:
    """What a layer that is refined has: its own pairs, some of which are trained on again, and its hold-out, which must not fall.

    Raises what ``verified`` raises, and ``ConsentMissing`` when the consent that it was minted under no longer holds.
    """
    manifest, path = verified(parts, block_id)
    consent = consent_at(path)
    parts.consents.check(consent, "mint")
    return Heritage(
        repository=None,
        identity_digest=consent.identity_digest,
        licence=manifest.license,
        versions=(_earlier(manifest, path),),
    )


def forked(parts: Parts, block_id: str, engine: Engine) -> Path:
    """Where the adapter is whose weights a training begins with. Raises ``WrongBase``, ``ConsentMissing``, and what ``verified`` raises."""
    manifest, path = verified(parts, block_id)
    if unlike := manifest.unlike(engine.base):
        raise WrongBase(f"{manifest.name}@{manifest.version} {unlike}", "give the base it was trained on")
    parts.consents.check(consent_at(path), "mint")
    return path


def consent_with(parts: Parts, record: ConsentRecord, block_id: str) -> ConsentRecord:
    """The record of a block that begins with another's weights: never more than either allows. Raises what ``verified`` raises."""
    manifest, path = verified(parts, block_id)
    other = consent_at(path)
    if (other.mode, other.identity_digest) == (record.mode, record.identity_digest) and set(record.uses) <= set(
        other.uses
    ):
        return record
    uses = tuple(use for use in ("mint", "serve") if use in record.uses and use in other.uses)
    return record.model_copy(
        update={
            "mode": "local-only", "status": "none", "uses": uses, "verified": False,
            "evidence": "none", "statement": "", "signature": "", "key_id": "",
            "how": f"{record.how}; begun with the weights of {manifest.name}@{manifest.version} ({other.mode}), so it is never shared",
        }
    )  # fmt: skip


def _earlier(manifest: Manifest, path: Path) -> Earlier:
    return Earlier(id=manifest.id, reference=f"{manifest.name}@{manifest.version}", pairs=pairs_of(path))


def refuse_other_person(parts: Parts, heritage: Heritage, consent: ConsentRecord) -> None:
    """Raises ``ConsentMissing`` when ``consent`` is another person's, or covers less than what the version before was made from."""
    reference = heritage.parent.reference
    parent = consent_at(verified(parts, heritage.parent.id)[1])
    if (parent.mode == "granted") != (consent.mode == "granted"):
        raise ConsentMissing(
            f"{reference} was minted with consent {parent.mode!r}, and this version would be with {consent.mode!r}",
            f"give --consent {parent.mode}, or mint a new block under another name",
        )
    if consent.identity_digest != heritage.identity_digest:
        raise ConsentMissing(
            f"{reference} is of another person than the author asked for",
            "leave --author out, or name first who the block is of; another person's block is a mint of its own",
        )
    left = sorted(set(parent.repositories) - set(consent.repositories)) if parent.mode == "granted" else []
    if left:
        raise ConsentMissing(
            f"{reference} was made from {', '.join(left)} too, which the consent for this version does not cover",
            "ask for a consent that covers it: dna consent request, or mint a new block from what is covered",
        )


def refuse_moved(parts: Parts, new: Manifest, heritage: Heritage) -> None:
    """Raises ``Refused`` when the name means another version by now, which ``new`` was not compared with (nor is it that one itself)."""
    name = new.name
    means = parts.registry.resolve(name)
    if means.id not in (heritage.parent.id, new.id):
        raise Refused(
            f"{name} means {means.name}@{means.version} by now, and this version was compared with {heritage.parent.reference}",
            f"continue that one: dna mint --continue {name}; or go back to the other: dna rollback {name}",
        )


def starting_point(parts: Parts, heritage: Heritage, engine: Engine) -> Path:
    """Where the adapter is that the training starts from. Raises ``WrongBase``, and what ``verified`` raises."""
    manifest, path = verified(parts, heritage.parent.id)
    if unlike := manifest.unlike(engine.base):
        raise WrongBase(f"{heritage.parent.reference} {unlike}", "give the base it was trained on with --base")
    return path


async def continued_part(
    parts: Parts, engine: Engine, adapter: str, heritage: Heritage, pairs: Sequence[Pair], seed: int
) -> Evaluation:
    """The measures of ``adapter`` against the versions before it, which are loaded for it."""
    ancestors: list[Ancestor] = []
    for version in heritage.versions:
        _, path = verified(parts, version.id)
        info = await engine.load(path)
        ancestors.append(Ancestor(id=version.id, reference=version.reference, adapter=info.id))
    ancestors += [Ancestor(id=one, reference=one[:12], adapter=None) for one in heritage.gone]
    return await compare_with_ancestors(engine, adapter, ancestors, pairs, seed=seed)


def licence_with(licence: str | None, heritage: Heritage) -> str | None:
    """The licences of a version's pairs and of the version that it starts from: all of them hold."""
    return licence if licence is None else both_licences(licence, heritage.licence)


def both_licences(licence: str, other: str) -> str:
    """The SPDX expression under which both hold."""
    if licence == other:
        return licence
    whole: Any = get_spdx_licensing().parse(f"({licence}) AND ({other})")
    return str(whole.simplify())
