"""Genomes of which several layers answer at once: in shares by a request's words, or a few for each token; and what is none."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from clonedna.app import genome_checks
from clonedna.app.genome_apply import Evaluated
from clonedna.app.genome_choosing import LEAST_PROMPTS, gate_of, shares_of
from clonedna.app.genome_composite import Composed, Composite
from clonedna.app.genome_models import GenomeModels
from clonedna.app.genome_plan import Planning
from clonedna.app.genome_plan_values import composition_of
from clonedna.app.genome_values import NeedAsk, PlanAsk
from clonedna.app.serving import Serving
from clonedna.app.workspace import Workspace
from clonedna.core.block import Capability
from clonedna.core.canonical import canonical
from clonedna.core.errors import Corrupt, InputError, Refused
from clonedna.core.fakes import FakeEncoder
from clonedna.core.genome import Composition, GenomeManifest, LogisticGate
from clonedna.core.model import Example, Message
from tests.genomes import GenomeParts
from tests.judges import ToldJudge
from tests.serving import add_block
from tests.unit.app.test_genome_apply import BRINGS, applied, made, planned, work
from tests.values import pair

Made = tuple[GenomeParts, dict[str, tuple[GenomeManifest, Path]]]


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A home with a genome of the same two layers for each way, and the folder of the job that made it."""
    folder = tmp_path_factory.mktemp("mixed")
    parts, found = made(folder / "home"), dict[str, tuple[GenomeManifest, Path]]()
    for way, top_k in (("mixture", None), ("arrow", 1), ("route", None)):
        kept = planned(parts, "alpha beta", compose=way, top_k=top_k)
        found[way] = applied(parts, kept, folder / way).genome, folder / way
    return parts, found


def test_a_mixture_has_shares_of_its_own_prompts_and_is_measured_through_them(genomes: Made) -> None:
    parts, genome = genomes[0], genomes[1]["mixture"][0]
    assert (genome.composition.kind, genome.composition.method, genome.gate) == ("route", "mixture", None)
    assert [one.weight for one in genome.layers] == [1.0, 1.0]
    assert genome.shares is not None
    assert genome.shares.encoder == parts.encoder.name
    kept = genome.evaluation.retention
    assert set(kept) == {one.id for one in genome.layers}
    assert all(one.value == pytest.approx(1.0, abs=0.1) for one in kept.values())  # by its own shares, not at a half
    assert genome.evaluation.interference.status == genome.evaluation.guard.status == "measured"
    assert set(genome.evaluation.similarity) == {"alpha", "beta"}
    models = GenomeModels(parts, parts.engine("nano").base)
    ada, bob = (dict(models.going(f"genome:{genome.id}", [text]).parts) for text in ("alpha 3", "beta 3"))
    first, second = (one.id for one in genome.layers)
    assert ada[first] > 0.5 > ada[second]
    assert bob[second] > 0.5 > bob[first]


def test_arrow_sends_each_token_through_some(genomes: Made) -> None:
    parts, genome = genomes[0], genomes[1]["arrow"][0]
    assert genome.composition == Composition(kind="route", method="arrow", top_k=1)
    assert genome.gate is None
    assert genome.shares is None
    assert all(one.value is not None and one.value > 0.5 for one in genome.evaluation.retention.values())
    going = GenomeModels(parts, parts.engine("nano").base).going(f"genome:{genome.id}", [])
    assert (going.top_k, len(going.parts)) == (1, 2)


def test_what_is_measured_is_what_is_served(genomes: Made) -> None:
    parts, found = genomes
    engine, serving = parts.engine("nano"), Serving(parts, "fake")
    examples = [
        Example(messages=(Message(role="user", content=text),), completion="abcabc") for text in ("alpha 1", "beta 2")
    ]

    async def both(genome: GenomeManifest, folder: Path) -> None:
        value = Workspace(folder).read("stages/compose.json", Composed)
        adapters = {one.id: (await engine.load(parts.store.path(one.id))).id for one in genome.layers}
        measured = await Composite(engine, value, adapters, parts.encoder).nll(examples)
        for one, score in zip(examples, measured, strict=True):
            through = await serving.prepare(f"genome:{genome.id}", said=[one.messages[0].content])
            assert await engine.nll([one], through.layers, mixture=through.mixture) == (score,)

    for genome, folder in found.values():
        anyio.run(both, genome, folder)


def test_what_was_fitted_is_not_asked_by_another_encoder(genomes: Made) -> None:
    parts, found = genomes
    for way in ("mixture", "route"):
        value = Workspace(found[way][1]).read("stages/compose.json", Composed)
        model = Composite(parts.engine("nano"), value, {}, FakeEncoder())
        with pytest.raises(InputError, match="not of letters"):
            anyio.run(model.nll, [Example(messages=(Message(role="user", content="alpha"),), completion="a")])


@pytest.mark.parametrize("compose", ["mixture", "arrow"])
def test_a_mixture_of_one_is_refused(tmp_path: Path, compose: str) -> None:
    parts = made(tmp_path / "home")
    with pytest.raises(InputError, match="several layers") as caught:
        planned(parts, "alpha", compose=compose)
    assert caught.value.facts["param"] == "compose"
    assert not (parts.settings.home / "plans").exists()


def test_so_many_layers_a_token_are_arrows_alone() -> None:
    assert composition_of(2, PlanAsk(request="x", compose="arrow"), gated=True).top_k == 2
    assert composition_of(2, PlanAsk(request="x", compose="arrow", top_k=8), gated=True).top_k == 2
    assert composition_of(5, PlanAsk(request="x", compose="arrow", top_k=3), gated=False).top_k == 3
    for wrong in (
        {"top_k": 2},
        {"compose": "mixture", "top_k": 2},
        {"compose": "arrow", "top_k": 0},
        {"compose": "arrow", "top_k": 9},
    ):
        for kind in (PlanAsk, NeedAsk):
            with pytest.raises(ValueError, match="top_k"):
                kind.model_validate({"request": "x"} | wrong)


def test_a_layer_with_few_prompts_has_no_shares(tmp_path: Path) -> None:
    parts = made(tmp_path / "home")
    few = [pair(f"few-{i}", "abab\n", task=f"gamma {i % (LEAST_PROMPTS - 1)}") for i in range(20)]
    add_block(parts, "cora", pairs=few, capability=Capability(text="gamma"))
    members = [genome_checks.member(parts, parts.registry.resolve(name).id) for name in ("ada", "cora")]
    with pytest.raises(Refused, match=f"cora.*{LEAST_PROMPTS - 1} prompts"):
        shares_of(parts, members)
    assert len(gate_of(parts, members).centroids) == 2


def test_no_prompt_of_a_local_only_layer_leaves_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = made(tmp_path / "home")
    monkeypatch.setattr(parts.encoder, "elsewhere", True, raising=False)
    monkeypatch.setattr(parts.encoder, "encode", pytest.fail)
    members = [genome_checks.member(parts, parts.registry.resolve(name).id) for name in ("ada", "bob")]
    for make in (gate_of, shares_of):
        with pytest.raises(Refused, match="local-only"):
            make(parts, members)


def test_a_genome_that_chooses_between_other_layers_is_refused(genomes: Made) -> None:
    parts, genome = genomes[0], genomes[1]["mixture"][0]
    assert genome.shares is not None
    rows, bias = genome.shares.weights, genome.shares.bias
    for weights, more in (
        (rows[:1], bias[:1]),
        (rows, bias[:1]),
        ((rows[0], rows[1][:-1]), bias),
        ((*rows, rows[0]), (*bias, 0.0)),
    ):
        wrong = LogisticGate(encoder=genome.shares.encoder, weights=weights, bias=more)
        with pytest.raises(Corrupt, match="other layers"):
            genome_checks.members(parts, genome.model_copy(update={"shares": wrong}))
        assert [one.code for one in genome_checks.faults(parts, genome.model_copy(update={"shares": wrong}))] == [
            "corrupt"
        ]
    gate = gate_of(parts, genome_checks.members(parts, genome))
    for centroids in (gate.centroids[:1], (gate.centroids[0], (gate.centroids[1][0][:-1],))):
        bad = genome.model_copy(update={"gate": gate.model_copy(update={"centroids": centroids})})
        with pytest.raises(Corrupt, match="other layers"):
            genome_checks.members(parts, bad)


def stages(folder: Path) -> tuple[bytes, bytes]:
    """What was composed, and what it was found to be worth."""
    place = Workspace(folder)
    evaluated = place.read("stages/evaluate.json", Evaluated)
    return canonical(place.read("stages/compose.json", Composed)), canonical(evaluated.evaluation)


def test_done_again_it_is_the_same_to_the_byte(genomes: Made) -> None:
    parts, found = genomes
    genome, folder = found["mixture"]
    first = stages(folder)
    kept = Planning(parts, ToldJudge(parts, BRINGS)).find(genome.plan)
    assembling = work(parts, kept, folder)
    for stage in ("compose", "evaluate"):
        assembling.run(stage)
    assert stages(folder) == first
