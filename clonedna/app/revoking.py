"""What follows when a block, or a person's consent, is revoked: at once; what a killed revocation left, the next one finishes.

Each block gets a signed tombstone and is never resolved, opened, imported or made again; what was made from it follows. Weights and
pairs go (or are sealed), answers of teachers about the code, jobs, plans and given files of the person too, and the block itself last:
from it is known what goes. A server in another process sees the tombstones at its next request.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from clonedna.app.evaluations import Evaluations
from clonedna.app.genome_plan import FOLDER as PLANS
from clonedna.app.genome_values import ApplyOrder
from clonedna.app.identity_kept import forget
from clonedna.app.interference_kept import InterferenceKept
from clonedna.app.job_values import Queued
from clonedna.app.jobs import Jobs
from clonedna.app.papers import consent_of, source_of
from clonedna.app.parts import Parts, factory
from clonedna.app.persons import Person
from clonedna.app.uploads import Uploads
from clonedna.app.workspace import Workspace
from clonedna.core.block import ConsentRecord, GivenPairs, Manifest, MintOrder, SourceRecord
from clonedna.core.errors import BlockCorrupt, DnaError
from clonedna.core.people import Account
from clonedna.core.value import Value
from clonedna.trust.consents_state import Given
from clonedna.trust.statements import parsed
from clonedna.trust.tombstones import Reason, Tombstone

WAIT_SECONDS = 10.0


class Effects(Value):
    """What was done: ids of ``blocks`` and of blocks ``derived`` from them; counts of what was purged. ``still_running``: jobs that were
    told to stop and had not within ten seconds; do it again for their files. ``weights``: what became of the blocks' files.
    """

    blocks: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    weights: Literal["deleted", "sealed"] = "deleted"
    pairs: int = 0
    answers: int = 0
    jobs: int = 0
    files: int = 0
    still_running: tuple[str, ...] = ()


class Revoking:
    """Use cases over one process's parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.home = parts, parts.settings.home
        self._blocks = self.home / "store" / "blocks"

    def block(self, reference: str) -> Effects:
        """Revoke one block in this machine's name. Raises ``BlockNotFound``, ``BadReference``, ``BlockRevoked`` when it is already."""
        manifest = self.parts.registry.resolve(reference, unsafe=True)
        return self._carry_out({manifest.id: "holder"}, None)

    def received(self, data: bytes) -> Tombstone:
        """Follow a tombstone that a trusted machine signed. Raises ``BlockUntrusted``, ``SignatureInvalid``, ``Corrupt``."""
        tombstone = self.parts.tombstones.accept(data)
        self.parts.audit.append("tombstone_received", tombstone.id, reason=tombstone.reason)
        self._carry_out({tombstone.id: tombstone.reason}, None)
        return tombstone

    def person(self, given: Given) -> Effects:
        """Everything of the account whose consent was taken back."""
        consents = self.parts.granted_consents
        state = consents.state(given.statement.host, given.statement.account_id)
        return self._everything(Person(state, rivals=consents.states()))

    def identity(self, reference: str) -> Effects:
        """Everything of the person behind a block that was minted ``self`` or ``local-only``; they are never minted again here.

        Raises what resolving ``reference`` raises.
        """
        manifest = self.parts.registry.resolve(reference, unsafe=True)
        digest = self._consent(manifest).identity_digest
        self.parts.granted_consents.revoke_identities([digest])
        return self._everything(Person(digests=[digest]))

    def _everything(self, person: Person) -> Effects:
        theirs: dict[str, Reason] = {}
        for manifest in self.parts.registry.manifests():
            if self.is_of(person, manifest):
                theirs[manifest.id] = "consent-revoked"
        effects = self._carry_out(theirs, person)
        state = person.state  # what was cloned and answered goes after the jobs that read it have ended
        self.parts.forget_account(Account(id=state.account_id, login="", host=state.host) if state else None)
        shutil.rmtree(
            self.home / "profiles", ignore_errors=True
        )  # kept for a day only; whose one is, its name does not tell
        return effects

    def is_of(self, person: Person, manifest: Manifest) -> bool:
        """Whether a stored block was made of this person's own work; a merge is its parents' matter.

        One whose consent cannot be read can be used by nobody; it is taken for the person's whose handle it names.
        """
        if manifest.lineage.relation == "merged":
            return False
        try:
            consent = self._consent(manifest)
        except (OSError, BlockCorrupt):
            return manifest.candidate.handle.casefold() in person.logins
        return person.is_in(consent, self._source(manifest), manifest.created_at)

    def _carry_out(self, reasons: dict[str, Reason], person: Person | None) -> Effects:
        because, earlier = self._descendants(reasons), self._left()
        blocks = {*reasons, *because, *earlier}
        pairs, files = set[str](), set[str]()
        known = person.principal if person is not None else ""
        whose = {block_id: known or _whose(self._blocks / block_id) for block_id in reasons}
        for block_id in blocks:
            pairs |= _digests(self._blocks / block_id / "pairs.jsonl")
            files |= _given_files(self._blocks / block_id)
        for block_id in (*reasons, *because):
            reason = reasons.get(block_id, "derived")
            self.parts.tombstones.make(block_id, reason, because.get(block_id))
            whose.setdefault(block_id, whose.get(because.get(block_id, ""), ""))
            self.parts.audit.append(
                "block_revoked" if block_id in reasons else "derived_refused",
                block_id,
                reason=reason,
                of=whose[block_id],
            )
            self.parts.registry.revoke(block_id)
        plans = self._plans(blocks, pairs, files, person)
        files |= {_given_for(path / "plan.json") for path in plans.values() if _has(path, files)}
        jobs, left, spans = self._purge_jobs(blocks, person, plans)
        for path in plans.values():
            shutil.rmtree(path, ignore_errors=True)
        effects = Effects(
            blocks=tuple(sorted(reasons)), derived=tuple(sorted(because)),
            weights="sealed" if self.parts.settings.revoked_weights == "seal" else "deleted", pairs=len(pairs),
            answers=factory("answers", "purge")(self.home, pairs | spans), jobs=jobs, files=self._purge_files(files), still_running=left,
        )  # fmt: skip
        for block_id in sorted(blocks):
            self._put_away(block_id)
        self.parts.audit.append(
            "purged", ", ".join(one[:12] for one in effects.blocks) or "no block", pairs=str(effects.pairs), answers=str(effects.answers),
            jobs=str(effects.jobs), files=str(effects.files), weights=effects.weights,
        )  # fmt: skip
        return effects

    def _descendants(self, revoked: Iterable[str]) -> dict[str, str]:
        """Blocks made from these, and from those, each with the parent it is refused for."""
        gone, found, manifests = set(revoked), dict[str, str](), self.parts.registry.manifests()
        while True:
            fresh = {
                manifest.id: next(parent for parent in manifest.lineage.parents if parent in gone)
                for manifest in manifests
                if manifest.id not in gone and gone & set(manifest.lineage.parents)
            }
            if not fresh:
                return found
            found |= fresh
            gone |= set(fresh)

    def _put_away(self, block_id: str) -> None:
        folder = self._blocks / block_id
        if self.parts.settings.revoked_weights == "seal" and folder.is_dir():
            sealed = self.home / "sealed"
            sealed.mkdir(mode=0o700, exist_ok=True)
            sealed.chmod(0o700)
            target = sealed / block_id
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
            (target / "pairs.jsonl").unlink(missing_ok=True)
        self.parts.store.delete(block_id)
        Evaluations(self.home).forget(block_id)
        forget(self.home, block_id)
        InterferenceKept(self.home).forget(block_id)
        self.parts.queries.forget(block_id)
        self.parts.forget_vectors((block_id,))

    def _left(self) -> set[str]:
        """Blocks that a revocation that was killed left in the store."""
        folders = self._blocks.iterdir() if self._blocks.is_dir() else ()
        return {folder.name for folder in folders if self.parts.tombstones.get(folder.name) is not None}

    def _purge_jobs(
        self, blocks: set[str], person: Person | None, plans: Collection[str]
    ) -> tuple[int, tuple[str, ...], set[str]]:
        """Jobs that made these blocks, read this person's code or carry out these plans: stopped and removed. Also the digests of spans
        found in them."""
        jobs = Jobs(self.parts.settings, self.parts)
        gone, left, spans = 0, list[str](), set[str]()
        for workspace in jobs.workspaces():
            if not self._concerned(jobs, workspace, blocks, person, plans):
                continue
            jobs.cancel(workspace)
            deadline = time.monotonic() + WAIT_SECONDS
            while workspace.running() and time.monotonic() < deadline:
                time.sleep(0.05)
            spans |= _span_digests(workspace)
            if workspace.running():
                left.append(workspace.id)
                continue
            shutil.rmtree(workspace.directory, ignore_errors=True)
            gone += 1
        return gone, tuple(left), spans

    def _concerned(
        self, jobs: Jobs, workspace: Workspace, blocks: set[str], person: Person | None, plans: Collection[str]
    ) -> bool:
        result = jobs.result(workspace)
        if result is not None and result.block is not None and result.block.id in blocks:
            return True
        try:
            order = jobs.ordered(workspace).order
            reads = workspace.read("queued.json", Queued).blocks if workspace.exists("queued.json") else ()
        except DnaError:  # it can never go on, and may be theirs
            return person is not None
        if isinstance(order, ApplyOrder):
            named = {*blocks, *plans}  # a stage's file is there until the job has ended, and what it trains on with it
            return (
                not blocks.isdisjoint(reads)
                or (order.plan in plans and result is None)
                or _names(workspace.directory / "stages" / "resolve.json", named)
            )
        if not isinstance(order, MintOrder):
            return not blocks.isdisjoint(reads)
        if order.continues in blocks:
            return True
        if person is None:
            return False
        if any(person.wrote(author.email) for author in order.authors):
            return True
        return order.target.removeprefix("@").casefold() in person.logins

    def _plans(self, blocks: set[str], pairs: set[str], files: set[str], person: Person | None) -> dict[str, Path]:
        """Plans by their ids that name these blocks or keep what they were made of: their pairs, the files that were given for them. With a
        person also all that keep pairs of a repository: whose it was is not told apart, and a plan is soon made again."""
        found = dict[str, Path]()
        for path in (self.home / PLANS).glob("*/plan.json"):
            held = path.parent.glob("held-*.jsonl")
            if (
                _names(path, blocks)
                or _has(path.parent, files)
                or any(not pairs.isdisjoint(_digests(one)) for one in held)
                or (person is not None and _names(path, ('"evidence":"source"',)))
            ):
                found[path.parent.name] = path.parent
        return found

    def _purge_files(self, digests: set[str]) -> int:
        uploads, gone = Uploads(self.parts.settings), 0
        for upload in uploads.list():
            if upload.sha256 in digests:
                uploads.delete(upload.id)
                gone += 1
        return gone

    def _consent(self, manifest: Manifest) -> ConsentRecord:
        return consent_of(self._blocks / manifest.id)

    def _source(self, manifest: Manifest) -> SourceRecord | None:
        return _source_of(self._blocks / manifest.id)


def _whose(block: Path) -> str:
    """The account (``12@host``) that consented to a block, else the digest of its person's address; empty where neither can be read."""
    try:
        consent = consent_of(block)
        if consent.mode != "granted":
            return consent.identity_digest
        return parsed(consent.statement.encode("utf-8", "surrogatepass")).principal
    except (OSError, DnaError):
        return ""


def _source_of(block: Path) -> SourceRecord | None:
    """``None`` for a merge, whose sources are its ancestors', and for a file that is not there or no such record."""
    try:
        return source_of(block)
    except OSError:
        return None


def _names(path: Path, words: Collection[str]) -> bool:
    """Whether one of these stands in a file; in one that cannot be read it may."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return any(one in text for one in words)


def _given_files(block: Path) -> set[str]:
    source = _source_of(block)
    given: GivenPairs | None = source.given if source else None
    return set() if given is None else {given.training.sha256, *([given.holdout.sha256] if given.holdout else [])}


def _has(plan: Path, files: Iterable[str]) -> bool:
    """Whether a plan keeps one of these given files."""
    return any((plan / "given" / one).exists() for one in files)


def _given_for(path: Path) -> str:
    """The digest of the file that was given for a plan, of which each skill had a part; empty where there is none."""
    try:
        return str(json.loads(path.read_bytes())["ask"]["pairs"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _digests(path: Path) -> set[str]:
    """Digests of the completions in a file of pairs; a line that cannot be read has none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return set()
    return {digest for line in lines if (digest := _completion(line))}


def _completion(line: bytes) -> str:
    try:
        return str(json.loads(line)["provenance"]["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _span_digests(workspace: Workspace) -> set[str]:
    """Digests of the spans that an unfinished job had collected."""
    from clonedna.core.work import Collection

    try:
        return {span.sha256 for span in workspace.read("stages/collect.json", Collection).spans}
    except DnaError:
        return set()
