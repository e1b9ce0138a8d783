"""Adapter files: what is written is PEFT's, what is not plain LoRA on this base is refused with the reason."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anyio
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from clonedna.core.canonical import sha256
from clonedna.core.errors import AdapterInvalid, NoMemory, NoSpace, WrongBase
from clonedna.core.model import Example, Layer, LoraSpec
from clonedna.engine import adapters, memory
from clonedna.engine.adapters import CONFIG, WEIGHTS, write_adapter
from clonedna.engine.local import LocalEngine
from tests.unit.engine import small
from tests.unit.engine.test_slots import difference, engine_logits

Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def config(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        fields = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps(fields | changes))

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        held = load_file(directory / WEIGHTS)
        change(held)
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, directory / WEIGHTS, {"format": "pt"})

    return edit


def poisoned(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda held: held[Q0.format("B")].view(-1)[3:4].fill_(value)


def only_pickle(directory: Path) -> None:
    torch.save(load_file(directory / WEIGHTS), directory / "adapter_model.bin")
    (directory / WEIGHTS).unlink()


def endless_alpha(directory: Path) -> None:
    text = (directory / CONFIG).read_text()
    (directory / CONFIG).write_text(text.replace('"lora_alpha": 8', '"lora_alpha": 1e999'))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "dora": (config(use_dora=True), "use_dora"),
    "bias": (config(bias="lora_only"), "bias = 'lora_only'"),
    "saved modules": (config(modules_to_save=["lm_head"]), "modules_to_save"),
    "rank pattern": (config(rank_pattern={"q_proj": 2}), "rank_pattern"),
    "alpha pattern": (config(alpha_pattern={"q_proj": 2}), "alpha_pattern"),
    "replication": (config(layer_replication=[[0, 2]]), "layer_replication"),
    "some layers": (config(layers_to_transform=[0]), "layers_to_transform"),
    "rewritten base": (config(init_lora_weights="pissa"), "changes the base's own weights"),
    "unknown option": (config(brand_new_trick=1), "brand_new_trick"),
    "other method": (config(peft_type="IA3"), "peft_type is 'IA3'"),
    "pattern of modules": (config(target_modules=".*_proj"), "target_modules"),
    "module of no base": (config(target_modules=["q_proj", "fc1"]), "no adaptable module 'fc1'"),
    "head": (config(target_modules=["lm_head"]), "no adaptable module 'lm_head'"),
    "rank of text": (config(r="4"), "r = '4'"),
    "rank zero": (config(r=0), "r = 0"),
    "wrong rank": (config(r=8), r"need \[8, 64\]"),
    "untargeted tensors": (config(target_modules=["q_proj"]), "does not target"),
    "missing tensors": (config(target_modules=["q_proj", "v_proj", "down_proj", "up_proj"]), "lacks .*up_proj"),
    "endless alpha": (endless_alpha, "alpha"),
    "flipped": (tensors(lambda h: h.update({Q0.format("A"): h[Q0.format("A")].T})), r"is \[64, 4\]"),
    "one missing": (tensors(lambda h: h.pop(Q0.format("B"))), "lacks .*lora_B"),
    "extra tensor": (tensors(lambda h: h.update({"base_model.model.lm_head.bias": torch.ones(2)})), "no LoRA matrix"),
    "nan": (tensors(poisoned(float("nan"))), "not finite"),
    "infinity": (tensors(poisoned(float("inf"))), "not finite"),
    "integers": (tensors(lambda h: h.update({Q0.format("A"): h[Q0.format("A")].to(torch.int32)})), "torch.int32"),
    "pickle": (only_pickle, "is a pickle"),
    "pickle beside": (lambda d: (d / "adapter_model.bin").write_bytes(b""), "is a pickle"),
    "cut short": (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-7]), "not a safetensors file"),
    "too large": (lambda d: (d / WEIGHTS).write_bytes(bytes(17 << 20)), "larger than"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "missing"),
    "no config": (lambda d: (d / CONFIG).unlink(), "missing"),
    "config twice": (lambda d: (d / CONFIG).write_text('{"peft_type": "LORA", "peft_type": "LORA"}'), "duplicate key"),
    "config list": (lambda d: (d / CONFIG).write_text("[]"), "not an object"),
    "no directory": (lambda d: shutil.rmtree(d), "no adapter directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_lora_of_this_base_is_refused_with_the_reason(
    engine: LocalEngine, copy: Path, case: str
) -> None:
    spoil, reason = REFUSED[case]
    anyio.run(engine.load, copy)  # it is fine before
    spoil(copy)
    with pytest.raises(AdapterInvalid, match=reason) as caught:
        anyio.run(engine.load, copy)
    assert caught.value.hint


@pytest.mark.parametrize("where", ["config", "metadata"])
def test_an_adapter_that_names_another_base_is_refused(engine: LocalEngine, copy: Path, where: str) -> None:
    for name, ok in ((engine.base.fingerprint, True), ("0" * 64, False)):
        if where == "config":
            config(base_model_fingerprint=name)(copy)
        else:
            save_file(load_file(copy / WEIGHTS), copy / WEIGHTS, {"format": "pt", "base_model_fingerprint": name})
        if ok:
            anyio.run(engine.load, copy)
        else:
            with pytest.raises(WrongBase, match="000000000000"):
                anyio.run(engine.load, copy)


def test_an_adapter_of_a_base_with_other_shapes_is_refused(engine: LocalEngine, tmp_path: Path) -> None:
    wider = small.make_base(tmp_path / "wider", hidden_size=96)
    with pytest.raises(AdapterInvalid, match=r"need \[4, 64\]"):
        anyio.run(engine.load, small.make_adapter(wider, tmp_path / "adapter", target_modules=["q_proj"]))


def test_too_little_memory_is_said_before_anything_is_read(
    engine: LocalEngine, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: memory.RESERVE)
    with pytest.raises(NoMemory):
        anyio.run(engine.load, adapter)
    with pytest.raises(NoMemory, match="training rank 8"):
        anyio.run(engine.train, LoraSpec(rank=8))


def test_the_same_files_are_the_same_adapter(engine: LocalEngine, adapter: Path, copy: Path) -> None:
    one, two = anyio.run(engine.load, adapter), anyio.run(engine.load, copy)
    assert one == two
    config(lora_alpha=9)(copy)
    assert anyio.run(engine.load, copy).id != one.id


def test_bf16_files_are_read(engine: LocalEngine, copy: Path, base: Path) -> None:
    tensors(lambda held: held.update({name: tensor.bfloat16() for name, tensor in held.items()}))(copy)
    assert anyio.run(engine.load, copy).rank == 4


def saved(engine: LocalEngine, directory: Path, *, rslora: bool = False) -> Path:
    async def make() -> None:
        trainer = await engine.train(LoraSpec(rank=8, alpha=12, rslora=rslora, seed=3))
        for _ in range(2):
            await trainer.forward_backward([Example(text="def ", completion=small.SENTENCES[0])])
            await trainer.optim_step(1e-2)
        await trainer.save(directory)
        await trainer.close()

    anyio.run(make)
    return directory


def test_what_is_saved_has_the_bytes_of_its_values_and_peft_s_names(
    engine: LocalEngine, base: Path, tmp_path: Path
) -> None:
    one, two = saved(engine, tmp_path / "one"), saved(engine, tmp_path / "two")
    for name in (CONFIG, WEIGHTS):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert sorted(p.name for p in one.iterdir()) == [CONFIG, WEIGHTS]
    fields = json.loads((one / CONFIG).read_text())
    assert fields["base_model_name_or_path"] == "small-qwen2"
    assert fields["target_modules"] == sorted(fields["target_modules"])
    assert (fields["r"], fields["lora_alpha"], fields["task_type"], fields["inference_mode"]) == (
        8,
        12,
        "CAUSAL_LM",
        True,
    )
    theirs = small.make_adapter(base, tmp_path / "peft", r=8, target_modules=fields["target_modules"])
    ours, peft_s = load_file(one / WEIGHTS), load_file(theirs / WEIGHTS)
    assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in peft_s.items()}


@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_saved_gives_peft_the_same_logits_without_a_warning(
    engine: LocalEngine, base: Path, tmp_path: Path, rslora: bool
) -> None:
    directory = saved(engine, tmp_path / "saved", rslora=rslora)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.PeftConfig.from_pretrained(str(directory))
    info = anyio.run(engine.load, directory)
    probes = engine_logits(engine, (Layer(adapter=info.id),), tmp_path)
    assert difference(small.with_adapter(base, directory), probes) <= 1e-5
    assert difference(small.plain_model(base), probes) > 1e-3


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    matrices = {"model.layers.0.self_attn.q_proj": (torch.ones(1, 2), torch.ones(2, 1))}
    with pytest.raises(NoSpace, match="cannot write the adapter"):
        write_adapter(tmp_path / "file" / "x", matrices, rank=1, alpha=1, rslora=False, base="b", fingerprint="f")


def test_files_that_were_hashed_are_hashed_again_once_anything_wrote_to_them(
    engine: LocalEngine, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counted(data: bytes) -> str:
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(adapters, "sha256", counted)
    monkeypatch.setattr(adapters, "_SETTLED", 0)
    seen = adapters.Seen()
    shapes, fingerprint = engine._model.shapes, engine.base.fingerprint

    def read() -> adapters.Adapter:
        return adapters.read_adapter(copy, shapes, fingerprint, seen)

    first, again = read(), read()
    assert again.info == first.info
    assert len(hashed) == 2
    before = (copy / WEIGHTS).stat()
    tensors(lambda held: held[Q0.format("A")].mul_(2))(copy)
    os.utime(
        copy / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # of equal size and, as it claims, of equal age
    other = read()
    assert (copy / WEIGHTS).stat().st_size == before.st_size
    assert len(hashed) == 4
    assert other.info.digest != first.info.digest
    tensors(poisoned(float("nan")))(copy)
    with pytest.raises(AdapterInvalid, match="not finite"):
        read()
    with pytest.raises(AdapterInvalid, match="not finite"):
        read()


def test_files_that_have_just_changed_are_not_taken_as_known(engine: LocalEngine, copy: Path) -> None:
    (copy / CONFIG).touch()
    seen = adapters.Seen()
    adapters.read_adapter(copy, engine._model.shapes, engine.base.fingerprint, seen)
    assert not seen._digests
