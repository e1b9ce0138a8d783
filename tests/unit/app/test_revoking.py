"""What follows a revocation: every entry point refuses, everything is purged, what was made from it is refused too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.archives import Archives
from clonedna.app.blocks import Blocks
from clonedna.app.consent import Consent
from clonedna.app.job_values import EvaluateOrder, Queued
from clonedna.app.jobs import Jobs
from clonedna.app.merging import Merging, order_of
from clonedna.app.revoking import Revoking
from clonedna.app.serving import Serving, Term
from clonedna.app.uploads import Uploads
from clonedna.core.block import GivenFile, GivenPairs, Lineage, Manifest, SourceRecord
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import BlockNotFound, BlockRevoked, BlockUntrusted, ConsentRevoked, DnaError
from clonedna.core.model import Message, SampleRequest
from clonedna.core.work import Identity
from clonedna.store.archive import zip_block
from clonedna.teachers.cache import FOLDER, AnswerCache, Kept
from tests.parts import FakeParts, order
from tests.serving import ScriptedEngine, ServerParts, add_block
from tests.unit.store.making import contents, write_block
from tests.values import ADA

SPAN = sha256("def add(a, b):\n")
PAIR = b'{"provenance": {"sha256": "' + SPAN.encode() + b'"}}\nnot json\n{"x": 1}\n'


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path / "home")


def run(work: Callable[..., Any], *arguments: Any) -> Any:
    async def call() -> Any:
        return await work(*arguments)

    return anyio.run(call)


def refused(work: Callable[[], object]) -> type[DnaError]:
    with pytest.raises(DnaError) as caught:
        work()
    assert caught.value.hint
    return type(caught.value)


def put(parts: ServerParts, name: str, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    directory = parts.settings.home / "work" / name
    fields = {"base_model": "fake", "base_fingerprint": sha256("fake"), "name": name} | changes
    made = write_block(directory, parts.signer, contents(note=name) | (files or {}), **fields)
    parts.store.put(directory)
    parts.registry.publish(made)
    return made


def test_a_revoked_block_at_every_entry_point(parts: ServerParts, tmp_path: Path) -> None:
    own = canonical(parts.consents.grant_self(ADA, [ADA], "local:abacus"))
    ada = put(parts, "ada", {"consent.json": own}, consent_mode="self")
    bob = add_block(parts, "bob", says="ba")
    copy = tmp_path / "copy"
    shutil.copytree(parts.store.path(ada.id), copy)
    archive = tmp_path / "ada.dna"
    zip_block(copy, archive)
    blocks = Blocks(parts)
    assert blocks.verified("ada")[0] == ada
    Revoking(parts).block("ada")
    ways: dict[str, Callable[[], object]] = {
        "show": lambda: blocks.show("ada"), "show by id": lambda: blocks.show(ada.id), "pairs": lambda: blocks.pairs("ada"),
        "verify": lambda: blocks.verified("ada", any_status=True), "a copy": lambda: blocks.verify_directory(copy),
        "run": lambda: run(lambda: blocks.open("ada", unsafe=True)), "rm": lambda: blocks.remove("ada"),
        "revoke again": lambda: Revoking(parts).block(ada.id), "export": lambda: Archives(parts).export("ada", tmp_path / "x.dna"),
        "import": lambda: Archives(parts).load(archive),
        "put": lambda: parts.store.put(copy), "path": lambda: parts.store.path(ada.id), "publish": lambda: parts.registry.publish(ada),
        "merge": lambda: run(Merging(parts).merge, order_of(["ada", "bob"], name="both", method="linear", check=False)),
    }  # fmt: skip
    answers = {name: refused(way) for name, way in ways.items()}
    allowed = {"publish": BlockNotFound}  # its files are gone: there is nothing to catalogue
    assert answers == {name: allowed.get(name, BlockRevoked) for name in ways}
    assert [manifest.id for manifest in blocks.list()] == [bob.id]
    parts.reindex()
    assert [manifest.id for manifest in blocks.list()] == [bob.id]
    assert parts.registry.next_version("ada")[0] == "1.0.0"


def test_a_server_of_another_process_notices_at_its_next_request(parts: ServerParts) -> None:
    ada, bob = add_block(parts, "ada"), add_block(parts, "bob", says="xyz")
    engine = parts.fake
    assert isinstance(engine, ScriptedEngine)
    elsewhere = ServerParts(parts.settings.home)

    async def work() -> None:
        serving = Serving(parts, "fake")
        prepared = await serving.prepare("ada")
        await serving.prepare("bob")
        await serving.add("nickname", "ada")
        request = SampleRequest(messages=(Message(role="user", content="a"),), layers=prepared.layers, max_tokens=2)
        assert [chunk async for chunk in engine.sample(request)]
        Revoking(elsewhere).block("ada")
        # Any request will do: the adapter leaves the engine, and with it whatever was kept for it.
        await serving.prepare("bob")
        assert engine.unloads == [prepared.layers[0].adapter]
        with pytest.raises(DnaError):
            _ = [chunk async for chunk in engine.sample(request)]
        for name in ("ada", "ada@1.0.0", f"ada@{ada.id[:8]}", ada.id, "nickname", "ada:0.5+bob:0.5"):
            with pytest.raises(BlockRevoked):
                await serving.prepare(name)
        with pytest.raises(BlockRevoked):
            await serving.prepare("fake", [Term(model="ada", weight=1.0)])
        with pytest.raises(BlockRevoked):
            await serving.add("again", str(parts.settings.home / "store/blocks" / ada.id))
        assert {model.block_id for model in await serving.models()} == {None, bob.id}

    anyio.run(work)


def test_a_new_server_does_not_list_it(parts: ServerParts) -> None:
    add_block(parts, "ada")
    Revoking(parts).block("ada")
    assert [model.id for model in run(Serving(parts, "fake").models)] == ["fake"]


def test_what_was_made_from_it_is_refused_over_generations(parts: ServerParts, tmp_path: Path) -> None:
    ada, bob = put(parts, "ada"), put(parts, "bob")
    child = put(parts, "child", lineage=Lineage(parents=(ada.id, bob.id), relation="forked"))
    grand = put(parts, "grand", lineage=Lineage(parents=(child.id,), relation="continued"))
    late = tmp_path / "late"
    write_block(
        late, parts.signer, contents(note="late"), name="late", lineage=Lineage(parents=(ada.id,), relation="forked")
    )
    effects = Revoking(parts).block("ada")
    assert (effects.blocks, set(effects.derived)) == ((ada.id,), {child.id, grand.id})
    stone = parts.tombstones.get(grand.id)
    assert stone is not None
    assert (stone.reason, stone.because) == ("derived", child.id)
    for name in ("child", "grand"):
        assert refused(lambda name=name: Blocks(parts).show(name)) is BlockRevoked  # type: ignore[misc]
    assert refused(lambda: parts.store.put(late)) is BlockRevoked
    assert Blocks(parts).verified("bob")[0] == bob
    rebuilt = put(parts, "rebuilt", lineage=Lineage(parents=(bob.id,), relation="forked"))
    assert Blocks(parts).verified("rebuilt")[0] == rebuilt


def test_weights_pairs_and_answers_are_purged(parts: ServerParts) -> None:
    ada = put(parts, "ada", {"pairs.jsonl": PAIR})
    home = parts.settings.home
    cache = AnswerCache(home / FOLDER, Kept)
    for span in (SPAN, sha256("other")):
        kept = Kept(
            span=span,
            completion=sha256("x"),
            model="m",
            prompt="1",
            instruction="Write it.",
            prompt_tokens=1,
            completion_tokens=1,
        )
        cache.put(AnswerCache.key(span, "1", "m"), kept)
    effects = Revoking(parts).block("ada")
    assert (effects.weights, effects.pairs, effects.answers) == ("deleted", 1, 1)
    assert cache.get(AnswerCache.key(SPAN, "1", "m")) is None
    assert cache.get(AnswerCache.key(sha256("other"), "1", "m")) is not None
    assert not (home / "store/blocks" / ada.id).exists()
    assert not any(ada.id in str(path) and path.name.endswith(".safetensors") for path in (home / "store").rglob("*"))


def test_weights_are_sealed_where_the_settings_say_so(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, revoked_weights="seal")
    ada = put(parts, "ada", {"pairs.jsonl": PAIR})
    assert Revoking(parts).block("ada").weights == "sealed"
    assert not (tmp_path / "store/blocks" / ada.id).exists()
    sealed = tmp_path / "sealed" / ada.id
    assert (sealed / "adapter_model.safetensors").exists()
    assert not (sealed / "pairs.jsonl").exists()
    assert (tmp_path / "sealed").stat().st_mode & 0o077 == 0


def test_a_revocation_that_was_killed_is_finished_by_the_next(parts: ServerParts) -> None:
    uploads = Uploads(parts.settings)
    upload = uploads.put(BytesIO(b"{}\n"), "a.jsonl", "fine-tune")
    given = GivenPairs(training=GivenFile(sha256=upload.sha256, name="a.jsonl", bytes=3), licence="MIT")
    source = SourceRecord(repository=None, given=given, author="Ada", files=(), refused=(), refused_counts={})
    ada, bob = put(parts, "ada", {"sources.json": canonical(source)}), put(parts, "bob")
    parts.tombstones.make(ada.id, "holder")
    parts.registry.revoke(ada.id)
    Revoking(parts).block("bob")
    assert not (parts.settings.home / "store/blocks" / ada.id).exists()
    assert not (parts.settings.home / "store/blocks" / bob.id).exists()
    assert uploads.list() == []


def test_given_files_go_with_the_block(parts: ServerParts) -> None:
    uploads = Uploads(parts.settings)
    theirs, others = (
        uploads.put(BytesIO(b"{}\n"), "a.jsonl", "fine-tune"),
        uploads.put(BytesIO(b"[]\n"), "b.jsonl", "fine-tune"),
    )
    given = GivenPairs(training=GivenFile(sha256=theirs.sha256, name="a.jsonl", bytes=3), licence="MIT")
    source = SourceRecord(repository=None, given=given, author="Ada", files=(), refused=(), refused_counts={})
    put(parts, "ada", {"sources.json": canonical(source)})
    assert Revoking(parts).block("ada").files == 1
    assert [one.id for one in uploads.list()] == [others.id]


def test_the_person_behind_a_block_takes_everything_back(parts: ServerParts) -> None:
    eve = Identity(name="Eve Example", email="eve@example.org")
    theirs = canonical(parts.consents.local_only((eve,), "local:abacus"))
    one, two = put(parts, "one", {"consent.json": theirs}), put(parts, "two", {"consent.json": theirs})
    other = put(parts, "other")
    jobs = Jobs(parts.settings, parts)
    mine, _ = jobs.create(order(authors=(eve,)))
    not_mine, _ = jobs.create(order(authors=(Identity(name="Bob", email="bob@example.org"),)))
    unreadable, _ = jobs.create(order(authors=(Identity(name="Cy", email="cy@example.org"),)))
    (unreadable.directory / "order.json").write_text("{")
    (parts.settings.home / "profiles").mkdir()
    (parts.settings.home / "profiles" / "kept.json").write_text("{}")
    done = Consent(parts).revoke("one")
    assert done.given is None
    assert set(done.effects.blocks) == {one.id, two.id}
    assert done.effects.jobs == 2
    assert not mine.directory.exists()
    assert not unreadable.directory.exists()
    assert not (parts.settings.home / "profiles").exists()
    assert not_mine.directory.exists()
    assert [manifest.id for manifest in Blocks(parts).list()] == [other.id]
    with pytest.raises(ConsentRevoked):
        parts.consents.refuse_revoked([eve])
    stored = b"".join(path.read_bytes() for path in (parts.settings.home / "consents").rglob("*.json"))
    assert b"eve@" not in stored


def test_what_jobs_found_out_about_a_block_goes_with_it(parts: ServerParts) -> None:
    ada, bob = put(parts, "ada"), put(parts, "bob")
    jobs = Jobs(parts.settings, parts)
    with jobs.creating():
        both, alone = (
            jobs.put(EvaluateOrder(block="ada"), queued=Queued(base="fake", blocks=blocks))
            for blocks in ((bob.id, ada.id), (bob.id,))
        )
    assert Revoking(parts).block("ada").jobs == 1
    assert [one.id for one in jobs.workspaces()] == [alone.id]
    assert [one.id for one in jobs.waiting()] == [alone.id]
    assert not both.directory.exists()


def test_minting_again_is_refused(tmp_path: Path) -> None:
    parts = FakeParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order())
    block = jobs.run(workspace, lambda _: None)
    # This very block, by whoever holds it ...
    Revoking(parts).block(block.id)
    workspace, _ = jobs.create(order())
    assert refused(lambda: jobs.run(workspace, lambda _: None)) is BlockRevoked
    # ... and everything of this person, by the person.
    workspace, _ = jobs.create(order(name="fresh", owned_share=0.9))
    fresh = jobs.run(workspace, lambda _: None)
    Consent(parts).revoke(fresh.id)
    for consent in ("auto", "self", "local-only"):
        workspace, _ = jobs.create(order(consent=consent, name="again"))
        assert refused(lambda workspace=workspace: jobs.run(workspace, lambda _: None)) is ConsentRevoked  # type: ignore[misc]
    assert ADA.email not in (tmp_path / "audit/log.jsonl").read_text()


def test_a_tombstone_from_another_machine_wins_over_the_block(parts: ServerParts, tmp_path: Path) -> None:
    ada = put(parts, "ada")
    theirs = ServerParts(tmp_path / "theirs")
    theirs.tombstones.make(ada.id, "consent-revoked")
    data = theirs.tombstones.data(ada.id)
    with pytest.raises(BlockUntrusted):
        Revoking(parts).received(data)
    assert Blocks(parts).verified("ada")[0] == ada
    parts.signer.trust(theirs.signer.public_key)
    assert Revoking(parts).received(data).reason == "consent-revoked"
    assert refused(lambda: Blocks(parts).show("ada")) is BlockRevoked


def test_it_is_all_in_the_log(parts: ServerParts) -> None:
    ada = put(parts, "ada")
    put(parts, "child", lineage=Lineage(parents=(ada.id,), relation="forked"))
    Revoking(parts).block("ada")
    assert [entry.kind for entry in Consent(parts).log()] == ["block_revoked", "derived_refused", "purged"]
    assert Consent(parts).verify_log().ok
