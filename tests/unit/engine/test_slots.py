"""Adapters as arguments: the numbers are PEFT's, the base is never touched."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import torch
from safetensors.torch import load_file

from clonedna.core.errors import InputError, NotFound
from clonedna.core.model import ALL_LINEAR, Example, Layer, LoraSpec
from clonedna.engine.local import LocalEngine, open_engine
from tests.unit.engine import small

IDS = torch.arange(3, 43)[None]


def engine_logits(
    engine: LocalEngine, layers: tuple[Layer, ...], tmp_path: Path
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``(ids, logits of the last 64 positions)`` of a few plain texts, computed by the engine's owner."""
    texts = [Example(text=a, completion=b) for a, b in zip(small.SENTENCES, reversed(small.SENTENCES), strict=True)]
    anyio.run(engine.write_probe, texts, layers, tmp_path / "probe.safetensors")
    tensors = load_file(tmp_path / "probe.safetensors")
    return [(tensors[f"ids.{i}"], tensors[f"logits.{i}"]) for i in range(len(texts))]


def difference(model: torch.nn.Module, probes: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    with torch.inference_mode():
        return max(
            float((model(input_ids=ids[None]).logits[0, -len(want) :] - want).abs().max()) for ids, want in probes
        )


@pytest.mark.parametrize(
    "options",
    [
        {"r": 1, "lora_alpha": 2},
        {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_LINEAR)},
        {"r": 16, "lora_alpha": 16, "use_rslora": True},
        {"r": 3, "lora_alpha": 7, "target_modules": ["k_proj", "up_proj"]},
    ],
    ids=str,
)
def test_logits_are_those_of_peft(engine: LocalEngine, base: Path, tmp_path: Path, options: dict[str, object]) -> None:
    directory = small.make_adapter(base, tmp_path / "adapter", **options)
    info = anyio.run(engine.load, directory)
    probes = engine_logits(engine, (Layer(adapter=info.id),), tmp_path)
    assert difference(small.with_adapter(base, directory), probes) <= 1e-5
    assert difference(small.plain_model(base), probes) > 1e-2
    anyio.run(engine.unload, info.id)


def test_logits_are_those_of_peft_on_a_llama(tmp_path: Path) -> None:
    base = small.make_base(tmp_path / "llama", kind="llama")
    directory = small.make_adapter(base, tmp_path / "adapter")
    engine = open_engine(str(base), threads=1)
    info = anyio.run(engine.load, directory)
    assert (
        difference(small.with_adapter(base, directory), engine_logits(engine, (Layer(adapter=info.id),), tmp_path))
        <= 1e-5
    )
    anyio.run(engine.close)


def test_without_layers_it_is_the_unwrapped_model_bit_for_bit(
    engine: LocalEngine, base: Path, adapter: Path, tmp_path: Path
) -> None:
    anyio.run(engine.load, adapter)  # a loaded adapter that no request names
    reference = small.plain_model(base)
    with torch.inference_mode():
        assert torch.equal(engine._model.base.model(input_ids=IDS).logits, reference(input_ids=IDS).logits)
    assert difference(reference, engine_logits(engine, (), tmp_path)) == 0.0


def test_a_blend_is_the_exact_weighted_sum(
    engine: LocalEngine, base: Path, adapter: Path, other_adapter: Path, tmp_path: Path
) -> None:
    """Against weights merged by hand in fp64: W + sum w_i s_i B_i A_i, with adapters of different rank on different modules."""
    layers = tuple(
        Layer(adapter=anyio.run(engine.load, path).id, weight=weight)
        for path, weight in ((adapter, 0.7), (other_adapter, 0.3))
    )
    merged = small.plain_model(base).double()
    for path, weight in ((adapter, 0.7 * 8 / 4), (other_adapter, 0.3 * 4 / 8)):
        tensors = load_file(path / "adapter_model.safetensors")
        for key, a in tensors.items():
            if ".lora_A." in key:
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[key.replace("lora_A", "lora_B")]
                merged.get_submodule(name).weight.data += weight * (b.double() @ a.double())
    assert difference(merged, engine_logits(engine, layers, tmp_path)) < 1e-5
    assert difference(merged, engine_logits(engine, layers[:1], tmp_path)) > 1e-2


def test_naming_an_adapter_twice_adds_its_weights(engine: LocalEngine, adapter: Path, examples: list[Example]) -> None:
    info = anyio.run(engine.load, adapter)
    halves = anyio.run(engine.nll, examples, (Layer(adapter=info.id, weight=0.5),) * 2)
    assert halves == anyio.run(engine.nll, examples, (Layer(adapter=info.id),))


def test_base_weights_are_never_written(
    engine: LocalEngine, base: Path, adapter: Path, examples: list[Example]
) -> None:
    parameters = dict(engine._model.base.model.named_parameters())
    before = {name: (p.data_ptr(), p._version, p.detach().clone()) for name, p in parameters.items()}

    async def use() -> None:
        info = await engine.load(adapter)
        await engine.nll(examples, [Layer(adapter=info.id)])
        trainer = await engine.train(LoraSpec(rank=4))
        await trainer.forward_backward(examples)
        await trainer.optim_step(1e-2)
        await trainer.close()
        await engine.unload(info.id)

    anyio.run(use)
    for name, parameter in parameters.items():
        pointer, version, value = before[name]
        assert (parameter.data_ptr(), parameter._version, parameter.requires_grad, parameter.grad) == (
            pointer,
            version,
            False,
            None,
        )
        assert torch.equal(parameter, value)


def test_layers_that_cannot_be_used_are_refused(engine: LocalEngine, adapter: Path, examples: list[Example]) -> None:
    info = anyio.run(engine.load, adapter)
    with pytest.raises(InputError, match="weight nan"):
        anyio.run(engine.nll, examples, (Layer(adapter=info.id, weight=float("nan")),))
    anyio.run(engine.unload, info.id)
    with pytest.raises(NotFound, match=info.id):
        anyio.run(engine.nll, examples, (Layer(adapter=info.id),))


def test_an_example_does_not_depend_on_its_neighbours(
    engine: LocalEngine, adapter: Path, examples: list[Example]
) -> None:
    layers = (Layer(adapter=anyio.run(engine.load, adapter).id),)
    long = Example(text="for name in names:\n" * 20, completion="x = 1\n" * 30)
    together = anyio.run(engine.nll, [long, *examples, long], layers)
    for example, score in zip([long, *examples, long], together, strict=True):
        (alone,) = anyio.run(engine.nll, [example], layers)
        assert (alone.tokens, alone.bytes) == (score.tokens, score.bytes)
        assert abs(alone.nll - score.nll) / alone.tokens < 1e-5


def test_likelihood_is_the_plain_model_s(engine: LocalEngine, base: Path, examples: list[Example]) -> None:
    model = small.plain_model(base)
    for example, score in zip(examples, anyio.run(engine.nll, examples), strict=True):
        (row,) = engine._texts.rows([example])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(row.ids[row.start :]), reduction="sum")
        assert score.nll == pytest.approx(float(wanted), rel=1e-6)
        assert (score.tokens, score.bytes) == (row.scored, len(example.completion.encode()))
