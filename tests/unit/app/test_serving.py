"""Names become verified, consented, loaded layers; what is gone is not served."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.serving import Serving, Term
from clonedna.core.errors import (
    BlockCorrupt,
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    ConsentMissing,
    DnaError,
    InputError,
    NotFound,
    Refused,
    WrongBase,
)
from tests.serving import ScriptedEngine, ServerParts, add_block
from tests.unit.store.making import rejected


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path)


@pytest.fixture
def engine(parts: ServerParts) -> ScriptedEngine:
    assert isinstance(parts.fake, ScriptedEngine)
    return parts.fake


@pytest.fixture
def serving(parts: ServerParts) -> Serving:
    return Serving(parts, "fake")


def run(work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    async def call() -> Any:
        return await work(*arguments)

    return anyio.run(call)


def failure(work: Callable[..., Awaitable[Any]], *arguments: Any) -> DnaError:
    with pytest.raises(DnaError) as caught:
        run(work, *arguments)
    assert caught.value.hint
    return caught.value


def test_the_base_is_a_model_and_needs_no_layers(serving: Serving) -> None:
    assert [model.id for model in run(serving.models)] == ["fake"]
    found = run(serving.prepare, "fake")
    assert (found.layers, found.served.block, found.served.weights_loaded) == ((), None, False)


def test_a_block_has_three_names_and_they_mean_the_same(parts: ServerParts, serving: Serving) -> None:
    old = add_block(parts, "ada", note="1")
    new = add_block(parts, "ada", version="1.1.0", created_at="2026-02-02T03:04:05Z")
    names = [model.id for model in run(serving.models)]
    expected = ["ada", "ada@1.1.0", f"ada@{new.id[:8]}", "ada@1.0.0", f"ada@{old.id[:8]}"]
    assert names == ["fake", *expected]
    for name in expected:
        found = run(serving.prepare, name)
        assert found.served.block_id == (old.id if name in expected[3:] else new.id), name
        assert found.served.weights_loaded
        assert [layer.weight for layer in found.layers] == [1.0]
        assert run(serving.model, name).parent == "fake"


def test_what_is_not_there_or_of_another_name_is_not_found(parts: ServerParts, serving: Serving) -> None:
    manifest = add_block(parts, "ada")
    for name in ("bob", "ada@9.9.9", f"bob@{manifest.id[:8]}", "0" * 64, 17):
        with pytest.raises(NotFound):
            run(serving.prepare, "fake", (Term(model=name, weight=1.0),))


def test_rejected_blocks_and_those_of_another_base_are_no_models(parts: ServerParts, serving: Serving) -> None:
    bad = add_block(parts, "bad", gate=rejected())
    add_block(parts, "other", base_fingerprint="0" * 64)
    assert [model.id for model in run(serving.models)] == ["fake"]
    assert isinstance(failure(serving.prepare, "bad"), BlockRejected)
    assert isinstance(failure(serving.prepare, f"bad@{bad.id[:8]}"), BlockRejected)
    assert isinstance(failure(serving.prepare, "other"), WrongBase)


def test_first_requests_at_the_same_time_load_once(
    parts: ServerParts, serving: Serving, engine: ScriptedEngine
) -> None:
    add_block(parts, "ada")

    async def many() -> set[str]:
        ids: set[str] = set()

        async def one() -> None:
            ids.add((await serving.prepare("ada")).layers[0].adapter)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
        return ids

    assert len(anyio.run(many)) == 1
    assert len(engine.loads) == 1


@pytest.mark.parametrize("how", ["removed", "revoked"])
def test_what_is_removed_or_revoked_is_refused_at_once_and_leaves_the_engine(
    how: str, parts: ServerParts, serving: Serving, engine: ScriptedEngine
) -> None:
    manifest = add_block(parts, "ada")
    loaded = run(serving.prepare, "ada").layers[0].adapter
    if how == "removed":
        Blocks(parts).remove("ada")
    else:
        parts.registry.revoke(manifest.id)
    assert isinstance(failure(serving.prepare, "ada"), BlockNotFound if how == "removed" else BlockRevoked)
    assert engine.unloads == [loaded]
    assert [model.id for model in run(serving.models)] == ["fake"]


def test_a_changed_file_is_found_although_the_block_was_verified_before(
    parts: ServerParts, serving: Serving, engine: ScriptedEngine
) -> None:
    manifest = add_block(parts, "ada")
    run(serving.prepare, "ada")
    weights = parts.store.path(manifest.id) / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    assert isinstance(failure(serving.prepare, "ada"), BlockCorrupt)
    assert len(engine.unloads) == 1


def test_an_untouched_block_is_hashed_once(
    parts: ServerParts, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clonedna.store.blocks as blocks

    add_block(parts, "ada")
    count = 0
    whole = blocks.verify_block

    def verify(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return whole(*arguments, **options)

    monkeypatch.setattr(blocks, "verify_block", verify)
    for _ in range(3):
        run(serving.prepare, "ada")
    assert count == 1


def test_consent_is_checked_at_every_request(
    parts: ServerParts, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_block(parts, "ada")
    run(serving.prepare, "ada")

    def check(record: Any, use: str) -> None:
        raise ConsentMissing(f"no consent to {use}", "ask the person")

    monkeypatch.setattr(parts.consents, "check", check)
    assert "serve" in failure(serving.prepare, "ada").message


def test_a_blend_has_its_layers_and_weights_by_name_and_by_index(parts: ServerParts, serving: Serving) -> None:
    add_block(parts, "ada", says="ab")
    add_block(parts, "bob", says="xy", created_at="2026-02-02T03:04:05Z")
    terms = (Term(model="ada", weight=0.7), Term(model=1, weight=-0.3))
    found = run(serving.prepare, "fake", terms)
    assert [layer.weight for layer in found.layers] == [0.7, -0.3]
    assert [(layer.block, layer.weight) for layer in found.served.layers] == [("ada@1.0.0", 0.7), ("bob@1.0.0", -0.3)]
    assert (found.served.block, found.label) == (None, "blend")
    written = run(serving.prepare, "ada:0.7+bob@1.0.0:-0.3")
    assert (written.layers, written.served) == (found.layers, found.served)


def test_an_index_stays_with_its_block_when_others_come_and_go(parts: ServerParts, serving: Serving) -> None:
    add_block(parts, "ada", says="ab")
    bob = add_block(parts, "bob", says="xy", created_at="2026-02-02T03:04:05Z")
    assert run(serving.models)[1].index == 1
    Blocks(parts).remove("ada")
    add_block(parts, "cid", says="pq", created_at="2026-01-01T00:00:00Z")
    assert run(serving.prepare, "fake", (Term(model=1, weight=1.0),)).served.block_id == bob.id
    assert {model.id: model.index for model in run(serving.models)}["cid"] == 2
    assert isinstance(failure(serving.prepare, "fake", (Term(model=0, weight=1.0),)), BlockNotFound)


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        ("ada", (Term(model="ada", weight=1.0),)),
        ("fake", (Term(model="ada", weight=1e9),)),
        ("fake", (Term(model="ada", weight=float("nan")),)),
        ("fake", (Term(model="ada", weight=0.1),) * 17),
        ("ada:much", ()),
        ("ada:nan", ()),
    ],
)
def test_what_cannot_be_blended_is_said(
    model: str, terms: tuple[Term, ...], parts: ServerParts, serving: Serving
) -> None:
    add_block(parts, "ada")
    assert isinstance(failure(serving.prepare, model, terms), InputError)


def test_a_name_added_later_is_a_model_until_it_is_removed(
    parts: ServerParts, serving: Serving, engine: ScriptedEngine
) -> None:
    manifest = add_block(parts, "ada")

    async def work() -> None:
        await serving.add("mine", "ada@1.0.0")
        assert (await serving.models())[-1].id == "mine"
        assert (await serving.prepare("mine")).served.block_id == manifest.id
        await serving.remove("mine")

    anyio.run(work)
    assert isinstance(failure(serving.prepare, "mine"), BlockNotFound)
    assert len(engine.unloads) == 1
    assert run(serving.prepare, "ada").served.weights_loaded


def test_a_block_s_own_folder_is_a_place_to_load_from_and_no_other_is(
    parts: ServerParts, serving: Serving, tmp_path: Path
) -> None:
    manifest = add_block(parts, "ada")
    inside = parts.store.path(manifest.id)
    copy = Path(shutil.copytree(inside, tmp_path / "copy"))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    run(serving.add, "mine", str(inside))
    assert run(serving.model, "mine").block_id == manifest.id
    for place in (
        copy,
        inside / "..",
        inside / "../../..",
        "/etc",
        "./adapter",
        "~/adapter",
        link / "copy",
        inside.parent,
    ):
        assert isinstance(failure(serving.add, "more", str(place)), Refused), place


def test_names_that_are_taken_or_impossible_are_refused(parts: ServerParts, serving: Serving) -> None:
    add_block(parts, "ada")
    run(serving.add, "mine", "ada")
    for name in ("fake", "ada", "mine", "Mine", "a b", "", "a@1.0.0"):
        assert isinstance(failure(serving.add, name, "ada"), InputError), name

    async def again() -> None:
        await serving.add("mine", "ada", replace=True)

    anyio.run(again)
    assert isinstance(failure(serving.remove, "fake"), InputError)
    assert isinstance(failure(serving.remove, "nobody"), NotFound)


def test_two_blocks_with_the_same_adapter_do_not_unload_each_other(
    parts: ServerParts, serving: Serving, engine: ScriptedEngine
) -> None:
    add_block(parts, "ada", says="ab")
    add_block(parts, "eve", says="ab")
    assert run(serving.prepare, "ada").layers == run(serving.prepare, "eve").layers
    run(serving.remove, "eve")
    assert engine.unloads == []
    run(serving.remove, "ada")
    assert len(engine.unloads) == 1
