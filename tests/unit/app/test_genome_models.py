"""A genome as a model: its members' sum, one adapter of them, or the layer that suits what is asked; what is gone is not served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from clonedna.app.revoking import Revoking
from clonedna.app.serving import Prepared, Serving
from clonedna.core.block import Lineage, Manifest
from clonedna.core.errors import (
    BadConfig,
    BlockNotFound,
    BlockRevoked,
    DnaError,
    GenomeNotFound,
    InputError,
    WrongBase,
)
from clonedna.core.genome import Composition, Gate, GenomeLayer
from clonedna.core.vectors import Vectors
from clonedna.genomes.gating import fit_gate
from clonedna.genomes.routing import routed
from clonedna.server.answer import label
from tests.genomes import signed
from tests.serving import ServerParts, add_block

SQL = "write a query that joins two tables of the database"
CSS = "make the button of the page round and blue"


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path, encoder="hashed")


@pytest.fixture
def blocks(parts: ServerParts) -> tuple[Manifest, ...]:
    return tuple(add_block(parts, name, says=says, license="MIT") for name, says in (("ada", "ab"), ("bob", "xy")))


def layers(blocks: Sequence[Manifest], *weights: float) -> tuple[GenomeLayer, ...]:
    return tuple(
        GenomeLayer(
            id=m.id, name=m.name, version=m.version, weight=weight, license=m.license, consent_mode=m.consent_mode, rank=m.rank,
            alpha=m.alpha, target_modules=m.target_modules,
        )
        for m, weight in zip(blocks, weights or [1.0] * len(blocks), strict=True)
    )  # fmt: skip


def put(parts: ServerParts, blocks: Sequence[Manifest], how: Composition, *weights: float, **changes: Any) -> str:
    made = signed(parts.signer, layers=layers(blocks, *weights), composition=how, license=blocks[0].license, **changes)
    parts.genomes.put(made)
    return made.manifest.id


def gate(parts: ServerParts, **changes: Any) -> Gate:
    rows = parts.encoder.encode([SQL, CSS]).rows
    made = Gate(
        encoder=parts.encoder.name, dimension=rows.shape[1], centroids=tuple((tuple(map(float, row)),) for row in rows), floor=0.2,
        hysteresis=0.05,
    )  # fmt: skip
    return made.model_copy(update=changes)


def prepare(parts: ServerParts, model: str, *said: str) -> Prepared:
    return run(Serving(parts, "fake").prepare, model, said=said)


def run(work: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
    async def call() -> Any:
        return await work(*arguments, **named)

    return anyio.run(call)


def failure(parts: ServerParts, model: str, *said: str) -> DnaError:
    with pytest.raises(DnaError) as caught:
        prepare(parts, model, *said)
    assert caught.value.hint
    return caught.value


def names(found: Prepared) -> list[tuple[str, float]]:
    return [(one.block, one.weight) for one in found.served.layers]


STACK = Composition(kind="stack", method="cat")
ROUTE = Composition(kind="route", method="gate")


def test_a_stack_is_its_members_sum_with_their_weights(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    made = put(parts, blocks, STACK, 0.5, 0.25)
    for model in ("genome:stack", "genome:stack@1.0.0", f"genome:{made[:8]}"):
        found = prepare(parts, model)
        assert names(found) == [("ada@1.0.0", 0.5), ("bob@1.0.0", 0.25)]
        assert [layer.weight for layer in found.layers] == [0.5, 0.25]
        assert found.mixture is None
        assert found.served.genome is not None
        assert (found.served.genome.genome, found.served.genome.genome_id) == ("stack@1.0.0", made)
        assert found.served.block is None
        assert found.served.weights_loaded


def test_a_merged_one_is_its_artifact_and_names_its_members(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    lineage = Lineage(parents=tuple(one.id for one in blocks), relation="merged")
    artifact = add_block(parts, "both", says="abxy", lineage=lineage)
    put(parts, blocks, Composition(kind="merge", method="svd"), artifact=artifact.id)
    found = prepare(parts, "genome:stack")
    assert names(found) == [("both@1.0.0", 1.0)]
    assert found.served.genome is not None
    assert [one.block for one in found.served.genome.members] == ["ada@1.0.0", "bob@1.0.0"]


def test_each_request_goes_to_the_layer_that_is_near(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    made = put(parts, blocks, ROUTE, gate=gate(parts))
    assert names(prepare(parts, "genome:stack", SQL)) == [("ada@1.0.0", 1.0)]
    near = prepare(parts, "genome:stack", CSS)
    assert names(near) == [("bob@1.0.0", 1.0)]
    assert label(near.served) == f"fake+genome:stack@1.0.0#{made[:12]}+bob@1.0.0#{blocks[1].id[:12]}*1"
    away = prepare(parts, "genome:stack", "?!?! 0000")
    assert names(away) == []
    assert not away.served.weights_loaded
    assert away.served.genome is not None
    assert away.served.genome.route is not None
    assert away.served.genome.route.block is None
    assert away.served.genome.route.cosine is not None
    assert away.served.genome.route.cosine < 0.2
    assert isinstance(failure(parts, "genome:stack"), InputError)
    assert isinstance(failure(parts, "genome:stack", " "), InputError)


def test_a_conversation_stays_with_its_layer_until_another_is_clearly_better(
    parts: ServerParts, blocks: tuple[Manifest, ...]
) -> None:
    put(parts, blocks, ROUTE, gate=gate(parts, floor=0.0, hysteresis=0.9))
    assert names(prepare(parts, "genome:stack", SQL, "the button, please")) == [("ada@1.0.0", 1.0)]
    assert names(prepare(parts, "genome:stack", "the button, please")) == [("bob@1.0.0", 1.0)]
    assert names(prepare(parts, "genome:stack", SQL, CSS)) == [("ada@1.0.0", 1.0)]
    again = put(parts, blocks, ROUTE, gate=gate(parts, floor=0.0), version="1.1.0")
    assert names(prepare(parts, f"genome:{again}", SQL, CSS)) == [("bob@1.0.0", 1.0)]


def test_arrow_and_a_mixture_are_offered(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    put(parts, blocks, Composition(kind="route", method="arrow", top_k=1))
    found = prepare(parts, "genome:stack")
    assert found.mixture is not None
    assert (found.mixture.top_k, found.layers, len(found.mixture.layers)) == (1, (), 2)
    assert names(found) == [("ada@1.0.0", 1.0), ("bob@1.0.0", 1.0)]
    shares = fit_gate(parts.encoder.encode([SQL, CSS]), [0, 1], 2)
    put(parts, blocks, Composition(kind="route", method="mixture"), 1.0, 2.0, shares=shares, version="1.1.0")
    (_, first), (_, second) = names(prepare(parts, "genome:stack", CSS))
    assert first + second / 2 == pytest.approx(1)
    assert second / 2 > 0.5
    assert isinstance(failure(parts, "genome:stack"), InputError)


def test_a_member_that_is_revoked_afterwards_ends_it(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    put(parts, blocks, ROUTE, gate=gate(parts))
    serving = Serving(parts, "fake")
    assert names(run(serving.prepare, "genome:stack", said=[SQL])) == [("ada@1.0.0", 1.0)]
    assert "genome:stack" in [one.id for one in run(serving.models)]
    Revoking(parts).block("bob")
    with pytest.raises(BlockRevoked):  # not the one that would answer
        run(serving.prepare, "genome:stack", said=[SQL])
    assert "genome:stack" not in [one.id for one in run(serving.models)]


def test_what_cannot_be_asked_says_why(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    assert isinstance(failure(parts, "genome:nobody"), GenomeNotFound)
    for bad in ("genome:", "genome:../x", "genome:a:0.5"):
        assert failure(parts, bad).http_status in (400, 404)
    put(parts, blocks, STACK)
    assert failure(parts, "ada+genome:stack").http_status in (400, 404)
    put(parts, blocks, ROUTE, name="gateless")
    assert "no gate" in failure(parts, "genome:gateless", SQL).message
    put(parts, blocks, Composition(kind="merge", method="svd"), name="unmade")
    assert "no merged block" in failure(parts, "genome:unmade").message
    put(parts, blocks, Composition(kind="route", method="mixture"), name="shareless")
    assert "no shares" in failure(parts, "genome:shareless", SQL).message
    put(parts, blocks, ROUTE, name="foreign", gate=gate(parts, encoder="another@1"))
    assert isinstance(failure(parts, "genome:foreign", SQL), BadConfig)
    put(parts, blocks, STACK, name="elsewhere", base_fingerprint="0" * 64)
    assert isinstance(failure(parts, "genome:elsewhere"), WrongBase)
    parts.registry.forget(blocks[1].id)
    parts.store.delete(blocks[1].id)
    assert isinstance(failure(parts, "genome:stack"), BlockNotFound)


def test_a_changed_file_is_looked_at_again(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    made = put(parts, blocks, STACK)
    serving = Serving(parts, "fake")
    run(serving.prepare, "genome:stack")
    file = parts.settings.home / "genomes" / made / "genome.json"
    file.write_bytes(file.read_bytes().replace(b'"weight":1', b'"weight":2'))
    with pytest.raises(DnaError):
        run(serving.prepare, "genome:stack")


def test_a_newer_version_is_what_the_name_means(parts: ServerParts, blocks: tuple[Manifest, ...]) -> None:
    put(parts, blocks, STACK)
    serving = Serving(parts, "fake")
    run(serving.prepare, "genome:stack")
    put(parts, blocks[:1], Composition(kind="stack", method="single"), version="1.1.0")
    assert names(run(serving.prepare, "genome:stack")) == [("ada@1.0.0", 1.0)]
    listed = [one.id for one in run(serving.models) if one.genome]
    assert listed == ["genome:stack", "genome:stack@1.1.0", "genome:stack@1.0.0"]


# The choice itself, on numbers.


def turns(*rows: Sequence[float]) -> Vectors:
    return Vectors("e@1", np.array(rows, dtype=np.float32))


PLAIN = Gate(encoder="e@1", dimension=2, centroids=(((1.0, 0.0),), ((0.0, 1.0), (0.6, 0.8))), floor=0.5, hysteresis=0.1)


def test_the_nearest_centroid_decides_and_equals_keep_the_first() -> None:
    assert routed(PLAIN, turns((1, 0))) == (0, 1.0)
    assert routed(PLAIN, turns((0, 1))) == (1, 1.0)
    assert routed(PLAIN, turns((-1, 0)))[0] is None
    assert routed(PLAIN.model_copy(update={"centroids": (((1.0, 0.0),),) * 2}), turns((1, 0))).layer == 0


def test_a_turn_that_is_near_nothing_ends_what_was() -> None:
    held = PLAIN.model_copy(update={"hysteresis": 0.5})
    assert routed(held, turns((1, 0), (0.8, 0.6))).layer == 0
    assert routed(held, turns((1, 0), (-1, 0), (0.6, 0.8))).layer == 1


def test_none_and_anothers_are_refused() -> None:
    others = (Vectors("e@2", np.ones((1, 2), np.float32)), Vectors("e@1", np.ones((1, 3), np.float32)))
    for bad in (*others, turns(), Vectors("e@1", np.ones((0, 2), np.float32))):
        with pytest.raises(InputError):
            routed(PLAIN, bad)
