"""Adapters made to fail, on the bundled base: one that learnt by heart, one of zeros, one that was shuffled. The gate lets none of them by.

What is counted here of the weights is counted again in plain numpy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clonedna.core.block import Check, Evaluation, GateVerdict, Recipe
from clonedna.core.fakes import FakeConsents
from clonedna.core.model import LoraSpec
from clonedna.core.work import Instruction, Pair, Split
from clonedna.engine.drift import layer_drift
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.evals.examination import ELSEWHERE, QUICK, Lent, Subject, examine
from clonedna.evals.latency import latency
from clonedna.evals.likelihood import example_of
from clonedna.evals.memorisation import memorisation
from clonedna.mint.gate import GateLimits, judge
from clonedna.mint.instruct import make_pair
from clonedna.mint.overlap import overlaps
from tests.values import ADA, REPOSITORY, WORDS, span

pytestmark = pytest.mark.slow
ALL = ("likelihood", "leakage", "forgetting", "drift", "memorisation")


def pair(number: int, split: Split, lines: int) -> Pair:
    draw = random.Random(number)
    body = "".join(f"    {draw.choice(WORDS)} = {draw.choice(WORDS)}({draw.choice(WORDS)})\n" for _ in range(lines))
    one = span(number, text=f"def step_{number}(a, b):\n{body}    return a\n", path=f"abacus/{split}_{number}.py")
    instruction = Instruction(form="whole", text=f"Write `step_{number}`.", completion_start=one.start)
    return make_pair(one, instruction, split, REPOSITORY, "Ada", "test")


TRAINED = [pair(i, "train", 14) for i in range(2)]
HELD = [pair(i, "holdout", 3) for i in range(10, 16)]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = open_engine("nano", threads=1)
    yield engine
    anyio.run(engine.close)


@pytest.fixture(scope="module")
def adapters(engine: LocalEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``zero`` as it is before the first step, ``memory`` after forty on two examples, ``shuffled`` with that one's numbers in disorder."""
    folder = tmp_path_factory.mktemp("adapters")

    async def train() -> None:
        trainer = await engine.train(LoraSpec(rank=16, alpha=32, seed=0))
        await trainer.save(folder / "zero")
        for step in range(40):
            await trainer.forward_backward([example_of(one) for one in TRAINED])
            await trainer.optim_step(6e-3 if step < 30 else 2e-3)
        await trainer.save(folder / "memory")
        await trainer.close()

    anyio.run(train)
    draw = np.random.default_rng(0)
    tensors = {
        name: draw.permutation(values.reshape(-1)).reshape(values.shape)
        for name, values in load_file(folder / "memory" / "adapter_model.safetensors").items()
    }
    (folder / "shuffled").mkdir()
    save_file(tensors, folder / "shuffled" / "adapter_model.safetensors", {"format": "pt"})
    (folder / "shuffled" / "adapter_config.json").write_bytes((folder / "memory" / "adapter_config.json").read_bytes())
    return {path.name: path for path in folder.iterdir()}


def examined(engine: LocalEngine, directory: Path, *names: str, trained: list[Pair] = TRAINED) -> Evaluation:
    lent = Lent(secret_in=lambda text: None, overlaps=overlaps, layer_drift=layer_drift)

    async def work() -> Evaluation:
        adapter = await engine.load(directory)
        subject = Subject(
            engine=engine,
            adapter=adapter.id,
            directory=directory,
            holdout=HELD,
            trained=trained,
            recipe=Recipe(),
            seed=0,
        )
        return await examine(subject, lent, [one for one in QUICK if one[0] in names], emit=lambda event: None)

    return anyio.run(work)


def judged(evaluation: Evaluation) -> GateVerdict:
    consent = FakeConsents().local_only([ADA], "local:abacus")
    return judge(evaluation, Check(value=True, how="test"), consent, "MIT", GateLimits())


def test_what_was_learnt_by_heart_is_found_and_rejected(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    found = examined(engine, adapters["memory"], "memorisation")
    assert found.measures["memorisation.rate"].value == 1.0
    assert found.measures["memorisation.base"].value == 0.0
    assert any("memorisation excess 100.0% is over" in reason for reason in judged(found).reasons)


def test_zeros_measure_exactly_like_the_base_and_are_rejected(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    found = examined(engine, adapters["zero"], *ALL)
    measures = found.measures
    assert measures["nll.delta"].value == 0.0
    assert measures["nll.delta"].ci95 == (0.0, 0.0)
    assert measures["perplexity_reduction_ratio"].value == 1.0
    assert measures["nll.base"].value == measures["nll.adapter"].value
    assert measures["forgetting"].value == 0.0
    assert measures["memorisation.excess"].value == 0.0
    assert measures["layer_drift.norm"].value == 0.0
    assert [reason[:12] for reason in judged(found).reasons] == ["no sure gain"]


def test_shuffled_weights_are_rejected(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    found = examined(engine, adapters["shuffled"], "likelihood")
    assert (found.measures["nll.delta"].value or 0) < 0
    assert any("no sure gain" in reason for reason in judged(found).reasons)


def test_a_hold_out_that_was_trained_on_is_rejected(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    trained = [*TRAINED, HELD[0].model_copy(update={"split": "train"})]
    found = examined(engine, adapters["zero"], "leakage", trained=trained)
    assert found.measures["leakage"].value == pytest.approx(1 / 6)
    assert any("16.7% of its hold-out was trained on" in reason for reason in judged(found).reasons)


def test_a_secret_in_a_generation_is_counted_and_never_kept(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    line = TRAINED[0].completion.splitlines()[8].strip()

    async def work() -> Evaluation:
        adapter = await engine.load(adapters["memory"])
        found = await memorisation(
            engine, adapter.id, TRAINED, secret_in=lambda text: "a key" if line in text else None
        )
        return Evaluation(measures=found)

    found = anyio.run(work)
    assert found.measures["secrets"].value == 1.0
    assert line not in found.model_dump_json()
    assert any("secrets in 1 of 2" in reason for reason in judged(found).reasons)


def test_sizes_are_those_of_the_products_themselves(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    report = anyio.run(layer_drift, engine, adapters["memory"])
    tensors = load_file(adapters["memory"] / "adapter_model.safetensors")
    weights = {name: linear.base.weight.detach().numpy() for name, linear in engine._model.linears.items()}
    assert len(report.modules) == len(weights)
    total = 0.0
    for one in report.modules:
        a, b = (tensors[f"base_model.model.{one.module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        norm = float(np.linalg.norm(32 / 16 * b @ a))
        total += norm**2
        assert one.norm == pytest.approx(norm, rel=1e-5)
        assert one.relative == pytest.approx(norm / np.linalg.norm(weights[one.module].astype(np.float64)), rel=1e-5)
    assert report.norm == pytest.approx(total**0.5, rel=1e-5)


def test_rank_stabilised_scales_are_known(engine: LocalEngine, adapters: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((adapters["memory"] / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (adapters["memory"] / "adapter_model.safetensors").read_bytes()
    )
    plain, stabilised = (anyio.run(layer_drift, engine, path) for path in (adapters["memory"], tmp_path))
    assert stabilised.norm == pytest.approx(4 * plain.norm, rel=1e-5)  # alpha / sqrt(16) is 4 times alpha / 16


def test_a_time_is_measured_and_stands_in_no_block(engine: LocalEngine, adapters: dict[str, Path]) -> None:
    async def work() -> Evaluation:
        adapter = await engine.load(adapters["memory"])
        return Evaluation(measures=await latency(engine, adapter.id, rounds=2))

    found = anyio.run(work).measures["latency_overhead_ms"]
    assert found.status == "measured"
    assert found.ci95 is not None
    stored = examined(engine, adapters["memory"], "leakage").measures["latency_overhead_ms"]
    assert (stored.status, stored.how) == ("not_available", ELSEWHERE["latency_overhead_ms"])
    assert not any(name == "latency" for name, _ in QUICK)
