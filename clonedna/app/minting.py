"""One mint, stage by stage. Each stage reads what earlier ones left in the workspace and leaves one value; doing it again gives the same.

find -> consent -> collect -> filter -> split -> instruct -> mix -> train -> evaluate -> gate -> pack -> sign -> register
read -> consent -> pairs                                  -> mix -> ... (the same), when the pairs were given as a file

A mint that continues a block goes the same way: ``find`` also reads what the versions before it have (``clonedna.app.continuing``).

A stage that is asked to stop raises ``Interrupted`` soon: training between two steps, behind a checkpoint; others where they wait.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version as installed
from pathlib import Path
from typing import TypeVar

import anyio

from clonedna.app import continuing
from clonedna.app.focus import focused
from clonedna.app.guarding import beside_of
from clonedna.app.job_values import Queued
from clonedna.app.orders import refuse_consent
from clonedna.app.parts import Parts, factory
from clonedna.app.profiles_text import code_markdown
from clonedna.app.querying import ASKED, Querying
from clonedna.app.stages import watched
from clonedna.app.workspace import Workspace, naming, require_space, write_atomic
from clonedna.core.block import (
    Candidate,
    Capability,
    Check,
    ConsentRecord,
    GivenPairs,
    Lineage,
    Manifest,
    MintOrder,
    Share,
)
from clonedna.core.errors import ConsentMissing, DnaError, Internal
from clonedna.core.events import Emit, Note, StageFinished, StageStarted
from clonedna.core.people import Account
from clonedna.core.profile import Counted
from clonedna.core.seams import Source
from clonedna.core.value import Value
from clonedna.core.work import Collection, Found, Identity, Refusal
from clonedna.evals.examination import Subject, examine, joined, summary, trained_part
from clonedna.evals.likelihood import example_of
from clonedna.evals.maturity import with_maturity
from clonedna.genomes.exemplars import digests, drawn
from clonedna.mint.capability import capability_text
from clonedna.mint.continuing import Heritage, divide_new, nothing_new, only_new, with_inherited
from clonedna.mint.continuing_gate import judge_continued
from clonedna.mint.divide import divide
from clonedna.mint.gate import GateLimits, judge
from clonedna.mint.given import pairs_of, read_examples
from clonedna.mint.instruct import about, instruct
from clonedna.mint.mix import mix
from clonedna.mint.overlap import apart
from clonedna.mint.papers import Draft, languages, papers, slug
from clonedna.mint.sift import sift
from clonedna.mint.training import train
from clonedna.mint.values import Divided, Examined, Judged, Mixed, Read, Sifted, Taught, Trained

LAST_STAGES = ("mix", "train", "evaluate", "gate", "pack", "sign", "register")
STAGES = ("find", "consent", "collect", "filter", "split", "instruct", *LAST_STAGES)
GIVEN_STAGES = ("read", "consent", "pairs", *LAST_STAGES)
Outcome = tuple[Value, dict[str, int | float | str]]
V = TypeVar("V", bound=Value)
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MODELLED_BYTES = 200_000_000


def stages_of(order: MintOrder) -> tuple[str, ...]:
    """The stages of this order's mint, in their order."""
    return STAGES if order.given is None else GIVEN_STAGES


def full_name(url: str) -> str:
    """``owner/name`` of a forge's repository."""
    return "/".join(url.rstrip("/").removesuffix(".git").split("/")[-2:])


class Ordered(Value):
    """A job's order with the moment it was given: the only time that reaches a block."""

    order: MintOrder
    created_at: str


class Signed(Value):
    key_id: str


class Packed(Value):
    id: str


class Minting:
    """Runs single stages of one job. ``stopped`` raises ``Interrupted`` once the job should stop; ``emit`` does so as well."""

    def __init__(self, workspace: Workspace, parts: Parts, emit: Emit, stopped: Callable[[], None]) -> None:
        self.workspace, self.parts, self.emit, self.stopped = workspace, parts, emit, stopped
        ordered = workspace.read("order.json", Ordered)
        self.order, self.created_at = ordered.order, ordered.created_at

    def run(self, stage: str) -> str:
        """Do ``stage``, keep its value in the workspace, give the value's sha256. Errors are ``DnaError``."""
        began = time.monotonic()
        self.emit(StageStarted(stage=stage))
        work: Callable[[], Awaitable[Outcome]] = getattr(self, f"_{stage}")
        # Training is not watched: it stops by itself, between two steps.
        value, counts = anyio.run(work) if stage == "train" else anyio.run(watched, work, self.stopped)
        kept = self.workspace.write(f"stages/{stage}.json", value)
        self.emit(StageFinished(stage=stage, seconds=round(time.monotonic() - began, 3), counts=counts))
        return kept

    def _source(self) -> Source:
        """What may read the target: for somebody who only has public addresses to name, one that asks no others."""
        queued = self.workspace.exists("queued.json") and self.workspace.read("queued.json", Queued).outside
        return self.parts.public_source if queued else self.parts.source

    # What earlier stages left.

    def _load(self, stage: str, kind: type[V]) -> V:
        return self.workspace.read(f"stages/{stage}.json", kind)

    @property
    def author(self) -> str:
        """The person's name: as ordered, or as the repository has it for the e-mail that was ordered. Never an e-mail address."""
        if self.order.given is not None:
            return next((a.name for a in self.order.authors if a.name), "unnamed")
        found = self._load("find", Found).repository.authors
        as_found = (
            s.identity.name
            for s in found
            if any(a.matches(s.identity.name, s.identity.email) for a in self.order.authors)
        )
        return next((a.name for a in self.order.authors if a.name), None) or next(as_found, "unnamed")

    # The stages, in their order. Each gives its value and the counts that are worth a line.

    async def _find(self) -> Outcome:
        require_space(self.workspace.directory, self.parts.settings.min_free_bytes)
        found = await anyio.to_thread.run_sync(lambda: self._source().find(self.order.target))
        repository = found.repository
        if (parent := self.order.continues) is not None:
            heritage = await anyio.to_thread.run_sync(continuing.heritage_of, self.parts, parent)
            self.workspace.write(continuing.HERITAGE, heritage)
            if heritage.repository is not None and heritage.repository.commit == repository.commit:
                raise nothing_new(heritage, next((a.name for a in self.order.authors if a.name), "the author"))
        await anyio.to_thread.run_sync(self._refined)
        return found, {
            "commits": repository.commits,
            "authors": len(repository.authors),
            "licence": repository.licence.spdx or "unknown",
        }

    async def _read(self) -> Outcome:
        """The given files, from the job's directory; the giver may have taken theirs away since."""
        require_space(self.workspace.directory, self.parts.settings.min_free_bytes)
        given, base = self._given(), self.parts.engine(self.order.base).base
        await anyio.to_thread.run_sync(self._refined)
        limit = min(self.order.recipe.max_tokens, base.context)
        files = [given.training, *([given.holdout] if given.holdout else [])]
        read = [
            read_examples(
                self.workspace.given(file.sha256), file, max_tokens=limit, secret_in=factory("secrets", "patterns")
            )
            for file in files
        ]
        value = Read(
            training=read[0][0], holdout=read[1][0] if given.holdout else (), refusals=tuple(r for _, refused in read for r in refused)
        )  # fmt: skip
        return value, {"examples": len(value.training) + len(value.holdout), "refused": len(value.refusals)}

    async def _pairs(self) -> Outcome:
        taught = pairs_of(self._load("read", Read), self._given(), self.order.recipe, self.author)
        if (heritage := self._heritage()) is not None:
            taught = with_inherited(taught, self.order.recipe, heritage)
        splits = [pair.split for pair in taught.pairs]
        return taught, {split: splits.count(split) for split in ("train", "validation", "holdout")}

    async def _consent(self) -> Outcome:
        record = await anyio.to_thread.run_sync(self._consented)
        if self.order.forks is not None:
            record = await anyio.to_thread.run_sync(continuing.consent_with, self.parts, record, self.order.forks)
        self.parts.consents.check(record, "mint")
        if self.order.continues is not None and (heritage := self._heritage()) is not None:
            await anyio.to_thread.run_sync(continuing.refuse_other_person, self.parts, heritage, record)
        if record.mode == "local-only":
            self.emit(Note(text="local-only: this block can never be published, pushed or downloaded"))
        return record, {"mode": record.mode}

    def _consented(self) -> ConsentRecord:
        """The record for this mint. An account's own code needs its consent, unless it is yours or the block stays on this machine."""
        consents, order, account = self.parts.consents, self.order, self._account()
        if order.given is None:
            refuse_consent(order, self._load("find", Found))
        consents.refuse_revoked(order.authors, account.login if account else "")
        you, where = self._origin()
        mine = you is not None and any(a.matches(you.name, you.email) for a in order.authors)
        mode = order.consent if order.consent != "auto" else "self" if mine else "granted" if account else "local-only"
        if mode == "self":
            return consents.grant_self(you, order.authors, where)
        if mode == "local-only":
            return consents.local_only(order.authors, where)
        if account is None:
            raise ConsentMissing("only an account can have granted something", "give a handle, or --consent local-only")
        names = [full_name(part.url) for part in self._load("find", Found).repository.parts]
        return consents.granted(account, names, "mint")

    async def _collect(self) -> Outcome:
        found, order = self._within_consent(self._load("find", Found)), self.order
        heritage = self._heritage()
        since = heritage.repository if self.order.continues is not None and heritage is not None else None
        collection = await anyio.to_thread.run_sync(
            lambda: self.parts.source.collect(
                found, order.authors, licences=order.licences, owned_share=order.owned_share,
                max_files=order.max_files, max_changes=order.max_changes, emit=self.emit, since=since,
            )
        )  # fmt: skip
        facts = await anyio.to_thread.run_sync(
            lambda: self.parts.count_code(found, order.authors, collection.repository.parts)
        )
        self.workspace.write("stages/counted.json", Counted(facts=facts))
        return collection, {
            "files": collection.files_used, "spans": len(collection.spans), "lines": collection.lines_owned,
            "refused": len(collection.refusals),
        }  # fmt: skip

    def _within_consent(self, found: Found) -> Found:
        """Of an account that granted some repositories, only those; the others are refusals."""
        consent = self._load("consent", ConsentRecord)
        if consent.mode != "granted":
            return found
        parts = found.repository.parts
        kept = tuple(part for part in parts if full_name(part.url) in consent.repositories)
        left = tuple(Refusal(path=full_name(part.url), reason="no_consent") for part in parts if part not in kept)
        repository = found.repository.model_copy(update={"parts": kept})
        return found.model_copy(update={"repository": repository, "refusals": (*found.refusals, *left)})

    async def _filter(self) -> Outcome:
        sifted = sift(self._load("collect", Collection), max_tokens=self.order.recipe.max_tokens)
        if (heritage := self._heritage()) is not None:
            sifted = only_new(sifted, heritage)
        return sifted, {"spans": len(sifted.spans), "refused": len(sifted.refusals)}

    async def _split(self) -> Outcome:
        sifted, recipe, heritage = self._load("filter", Sifted), self.order.recipe, self._heritage()
        continued = heritage is not None and self.order.continues is not None
        divided = (
            divide_new(sifted, recipe, heritage, self.author) if continued and heritage else divide(sifted, recipe)
        )
        if divided.by.startswith("definition"):
            self.emit(
                Note(level="warning", text="most of this code stands in one file: held out by definition, not by file")
            )
        return divided, {
            "train": len(divided.train),
            "validation": len(divided.validation),
            "holdout": len(divided.holdout),
        }

    async def _instruct(self) -> Outcome:
        found, divided = self._load("find", Found), self._load("split", Divided)
        teacher = self.parts.teacher(self.order.teacher, base=self.order.base, about=about(divided.train, found.about))
        try:
            taught = await instruct(
                divided, found.repository, self.author, teacher=teacher, examiner=self.parts.teacher("own-words"),
                secret_in=factory("secrets", "patterns"), emit=self.emit,
            )  # fmt: skip
            if self.order.focus:
                taught = await anyio.to_thread.run_sync(
                    focused, self.parts, taught, self.order.focus, self.order.recipe
                )
            if (heritage := self._heritage()) is not None:
                taught = with_inherited(taught, self.order.recipe, heritage)
            taught = apart(taught)
            took = teacher.teaching
        finally:
            with anyio.CancelScope(shield=True):
                await teacher.close()
        counts: dict[str, int | float | str] = {"pairs": len(taught.pairs), "teacher": taught.teacher}
        if took.model:
            counts |= {"calls": took.calls, "cached": took.cached, "dropped": took.dropped}
            counts |= {"prompt_tokens": took.prompt_tokens, "answer_tokens": took.completion_tokens}
            counts["cost"] = took.cost.how if took.cost.value is None else f"${took.cost.value:.4f}"
        return taught, counts

    async def _mix(self) -> Outcome:
        settings = self.parts.settings
        require_space(self.workspace.directory, min(MODELLED_BYTES, settings.min_free_bytes))
        pairs = [pair for pair in self._taught().pairs if pair.split == "train"]
        mixed = await mix(
            self.parts.engine(self.order.base), self.order.recipe, len(pairs), dataset=settings.general_dataset,
            file=settings.general_file, secret_in=factory("secrets", "patterns"), emit=self.emit,
        )  # fmt: skip
        return mixed, {"general": len(mixed.general), "tool_use": len(mixed.tool_use)}

    async def _train(self) -> Outcome:
        pairs, mixed = self._taught().pairs, self._load("mix", Mixed)
        examples = [example_of(pair) for pair in pairs if pair.split == "train"] + [*mixed.general, *mixed.tool_use]
        validation = [example_of(pair) for pair in pairs if pair.split == "validation"]
        shutil.rmtree(self.workspace.adapter, ignore_errors=True)
        engine, heritage = self.parts.engine(self.order.base), self._heritage()
        start = None if heritage is None else continuing.starting_point(self.parts, heritage, engine)
        if self.order.forks is not None:
            start = continuing.forked(self.parts, self.order.forks, engine)
        beside = await beside_of(
            self.parts, self.order.recipe, engine, [*mixed.general, *mixed.tool_use], self._load("consent", ConsentRecord)
        )  # fmt: skip
        trained = await train(
            engine, self.order.recipe, examples, validation, self.workspace.adapter,
            checkpoints=self.workspace.checkpoints, every=self.parts.settings.checkpoint_seconds, emit=self.emit, start=start,
            beside=beside,
        )  # fmt: skip
        return trained, {
            "epochs": trained.epochs, "steps": trained.steps, "tokens": trained.tokens, "loss": round(trained.losses[-1], 4)
        }  # fmt: skip

    async def _evaluate(self) -> Outcome:
        pairs, trained = self._taught().pairs, self._load("train", Trained)
        engine = self.parts.engine(self.order.base)
        holdout = [pair for pair in pairs if pair.split == "holdout"]
        own = [pair for pair in pairs if pair.split == "train"]
        adapter = await engine.load(self.workspace.adapter)
        subject = Subject(
            engine=engine, adapter=adapter.id, directory=self.workspace.adapter, holdout=holdout, trained=own,
            recipe=self.order.recipe, seed=self.order.recipe.seed,
        )  # fmt: skip
        evaluation = joined(
            await examine(subject, self.parts.lent(), emit=self.emit),
            trained_part(trained.losses, trained.validation_losses, len(own)),
        )
        if (heritage := self._heritage()) is not None:
            evaluation = joined(
                evaluation,
                await continuing.continued_part(self.parts, engine, adapter.id, heritage, pairs, subject.seed),
            )
        peft = await self.parts.check_adapter(
            self.order.base, self.workspace.adapter, [example_of(pair) for pair in holdout[:3]]
        )
        delta = evaluation.measures["nll.delta"]
        low, high = delta.ci95 or (0.0, 0.0)
        return Examined(evaluation=evaluation, peft=peft), {
            "gain": round(delta.value or 0.0, 4), "low": round(low, 4), "high": round(high, 4), "peft": str(peft.value),
        }  # fmt: skip

    async def _gate(self) -> Outcome:
        examined, consent = self._load("evaluate", Examined), self._load("consent", ConsentRecord)
        verdict = judge(examined.evaluation, examined.peft, consent, self._licence(), GateLimits())
        if self._heritage() is not None:
            verdict = judge_continued(verdict, examined.evaluation.measures)
        for reason in verdict.reasons:
            self.emit(Note(level="warning", text=f"rejected: {reason}"))
        return Judged(verdict=verdict), {"status": verdict.status}

    async def _pack(self) -> Outcome:
        staging = self.workspace.block
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in ADAPTER_FILES:
            write_atomic(staging / name, (self.workspace.adapter / name).read_bytes())
        draft = self._draft()
        for name, data in papers(draft).items():
            write_atomic(staging / name, data)
        manifest = self._manifest(draft, staging)
        factory("block", "pack")(staging, manifest)
        return Packed(id=manifest.id), {"id": manifest.id[:12], "version": manifest.version}

    async def _sign(self) -> Outcome:
        factory("block", "sign")(self.workspace.block, self.parts.signer)
        return Signed(key_id=self.parts.signer.key_id), {"key": self.parts.signer.key_id[:12]}

    async def _register(self) -> Outcome:
        """If another mint took this version since the block was packed, it is packed and signed again as the next one; its id stays."""
        # Consent again: it may have been taken back while the block was trained.
        account = self._account()
        self.parts.consents.refuse_revoked(self.order.authors, account.login if account else "")
        self.parts.consents.check(self._load("consent", ConsentRecord), "mint")
        with naming(self.parts.settings.home):
            manifest = factory("block", "verify")(self.workspace.block, self.parts.signer)
            if self._version(manifest.name, manifest.id)[1] != manifest.version:
                await self._pack()
                await self._sign()
                manifest = factory("block", "verify")(self.workspace.block, self.parts.signer)
            heritage = self._heritage() if self.order.continues is not None else None
            if heritage is not None and manifest.gate.status == "accepted":
                continuing.refuse_moved(self.parts, manifest, heritage)
            self.parts.store.put(self.workspace.block)
            reference = self.parts.registry.publish(manifest)
        counts: dict[str, int | float | str] = {"block": str(reference), "status": reference.status}
        if reference.status == "registered" and self.order.given is None and self.order.teacher in ASKED:
            counts["queried"] = await self._query(manifest.id)
        self._learn(manifest.id)
        return reference, counts

    async def _query(self, block_id: str) -> int:
        """Let the teacher that was asked for instructions write what people may type who look for the block; how many lines there are.
        The block is there and found without, so nothing that goes wrong ends the mint."""
        try:
            found = await Querying(self.parts, self.order.teacher, self.order.base).write(
                only=(block_id,), emit=self.emit
            )
            why = ", ".join(sorted(found.left_out.keys() - {"local_only"}))
        except DnaError as error:
            why = error.code
        if why:
            later = f"dna reindex --teacher {self.order.teacher}"
            self.emit(
                Note(
                    level="warning", text=f"what people may type who look for it is not written ({why}); later: {later}"
                )
            )
        return len(self.parts.queries.of(block_id))

    def _learn(self, block_id: str) -> None:
        """Make its vectors now. They are a cache: where that cannot be done, they are made when somebody searches."""
        try:
            self.parts.meanings.learn(block_id)
        except DnaError as error:
            self.emit(Note(level="warning", text=f"it is not found by meaning yet ({error.code}); then: dna reindex"))

    # What the papers and the manifest are made of.

    def _heritage(self) -> Heritage | None:
        """What the versions before have, where this one continues a block."""
        return self.workspace.read(continuing.HERITAGE, Heritage) if self._inherits else None

    @property
    def _inherits(self) -> bool:
        """Whether pairs of a block before are trained on again: it is the next version of one, or refines one."""
        return self.order.continues is not None or (self.order.forks is not None and self.order.recipe.replay_ratio > 0)

    def _refined(self) -> None:
        """Keep what a layer that is refined has."""
        if self.order.forks is not None and self._inherits:
            self.workspace.write(continuing.HERITAGE, continuing.refined(self.parts, self.order.forks))

    def _account(self) -> Account | None:
        return None if self.order.given is not None else self._load("find", Found).account

    def _given(self) -> GivenPairs:
        if self.order.given is None:
            raise Internal(f"job {self.workspace.id} has no given pairs", "please report this")
        return self.order.given

    def _origin(self) -> tuple[Identity | None, str]:
        """Who works on this machine, and the name of what the consent is about."""
        if self.order.given is not None:
            return factory("identity", "git")(
                self.workspace.directory
            ), f"urn:sha256:{self.order.given.training.sha256}"
        found = self._load("find", Found)
        return found.you, found.repository.url

    def _taught(self) -> Taught:
        return self._load("instruct" if self.order.given is None else "pairs", Taught)

    def _refusals(self) -> tuple[Refusal, ...]:
        if self.order.given is not None:
            return (*self._load("read", Read).refusals, *self._taught().refusals)
        sifted, divided = self._load("filter", Sifted), self._load("split", Divided)
        return (*sifted.refusals, *divided.refusals, *self._taught().refusals)

    def _licence(self) -> str | None:
        found = sorted({pair.provenance.licence for pair in self._taught().pairs})
        licence = " AND ".join(f"({name})" if " " in name and len(found) > 1 else name for name in found) or None
        if licence is not None and self.order.forks is not None:
            parent, _ = continuing.verified(self.parts, self.order.forks)
            return continuing.both_licences(licence, parent.license)
        heritage = self._heritage()
        return licence if heritage is None else continuing.licence_with(licence, heritage)

    def _draft(self) -> Draft:
        taught, mixed, trained = self._taught(), self._load("mix", Mixed), self._load("train", Trained)
        repository = self._load("collect", Collection).repository if self.order.given is None else None
        counted = self._load("counted", Counted).facts if self.order.given is None else ()
        verdict, own = self._load("gate", Judged).verdict, sum(pair.split == "train" for pair in taught.pairs)
        evaluation = with_maturity(self._load("evaluate", Examined).evaluation, pairs=own, gate=verdict)
        return Draft(
            name=self.order.name or slug(self.author), author=self.author, order=self.order, base=self.parts.engine(self.order.base).base,
            repository=repository, given=self.order.given, pairs=taught.pairs, refusals=self._refusals(), teacher=taught.teacher,
            split_by=taught.by,
            consent=self._load("consent", ConsentRecord), evaluation=evaluation, verdict=verdict,
            licence=self._licence() or "unknown",
            general_pairs=len(mixed.general), general_source=mixed.general_source,
            tool_use_pairs=len(mixed.tool_use), epochs=trained.epochs,
            profile="\n\n".join(code_markdown(one) for one in counted),
        )  # fmt: skip

    def _lineage(self) -> Lineage:
        parent = self.order.continues
        if self.order.forks is not None:
            return Lineage(parents=(self.order.forks,), relation="forked")
        return Lineage() if parent is None else Lineage(parents=(parent,), relation="continued")

    def _version(self, name: str, block_id: str) -> tuple[Manifest | None, str, str | None]:
        """These files as they are registered under this name, if they are; their version, else the next; the one before it."""
        before = next((m for m in self.parts.registry.manifests(name) if m.id == block_id), None)
        if before is not None:
            return before, before.version, before.previous_version
        return None, *self.parts.registry.next_version(name)

    def _manifest(self, draft: Draft, staging: Path) -> Manifest:
        """The manifest of the packed files. Exactly these files under this name already registered: that block's version and time."""
        table = factory("block", "table")(staging)
        block_id = factory("block", "id")(table)
        before, version, previous = self._version(draft.name, block_id)
        spoken = tuple(language for language, _ in languages(draft.pairs) if draft.repository is not None)
        if draft.repository is not None:
            specialization = f"{', '.join(spoken)} code by {draft.author} in {draft.repository.name}"
        else:
            specialization = f"examples given by {draft.author}"
        candidates, account = sum(pair.split == "train" for pair in draft.pairs), self._account()
        recipe, lora, base = draft.order.recipe, draft.order.recipe.lora, draft.base
        return Manifest(
            id=block_id, name=draft.name, version=version, previous_version=previous,
            created_at=before.created_at if before else self.created_at, created_by=self.parts.signer.key_id,
            candidate=Candidate(
                handle=account.login if account else slug(draft.author), name=draft.author, expertise_domains=spoken,
                consent_verified=draft.consent.verified,
            ),
            consent_mode=draft.consent.mode, specialization=specialization, tags=("lora", *spoken),
            capability=Capability(
                text=capability_text(draft.pairs, spoken, draft.repository) or specialization, exemplars=digests(drawn(draft.pairs))
            ),
            base_model=base.id, base_fingerprint=base.fingerprint, base_weights_digest=base.weights_digest,
            rank=lora.rank, alpha=lora.alpha, target_modules=lora.target_modules,
            recipe=recipe.model_copy(
                update={
                    "general_source": draft.general_source, "general_pairs": self._load("mix", Mixed).general_pairs,
                    "teaching": self._taught().teaching, "libraries": {name: installed(name) for name in LIBRARIES},
                    "threads": base.threads, "dtype": base.dtype,
                }
            ),
            lineage=self._lineage(), gate=draft.verdict, files=table, license=draft.licence, share=Share(license=draft.licence),
            eval_summary=summary(draft.evaluation, draft.teacher),
            peft_compatible=self._load("evaluate", Examined).peft,
            vllm_compatible=Check(value=None, how="not checked: no vLLM is set up on this machine"),
            training_pairs=candidates + draft.general_pairs + draft.tool_use_pairs, candidate_pairs=candidates,
            base_instruct_pairs=draft.general_pairs, tool_use_pairs=draft.tool_use_pairs, num_epochs=draft.epochs,
        )  # fmt: skip
