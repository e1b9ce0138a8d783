"""Bases: what loads, what is refused and why, and a fingerprint that only the base itself decides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from clonedna.core.errors import NoMemory, UnknownBase
from clonedna.engine import memory
from clonedna.engine.bases import load_base, resolve_base
from clonedna.engine.model import LoadedModel
from tests.unit.engine import small


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | changes))


def test_importing_the_room_loads_no_model_library() -> None:
    code = "import sys, clonedna.engine, clonedna.engine.check; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_loading_says_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_base(str(base))
    assert capfd.readouterr() == ("", "")


def test_the_id_of_a_directory_is_its_name_and_never_its_path(base: Path) -> None:
    assert resolve_base(str(base)) == ("small-qwen2", base.resolve())


@pytest.mark.slow
def test_fingerprint_is_independent_of_dtype_place_and_process(base: Path, copy: Path) -> None:
    edit(copy / "config.json", transformers_version="1.0", dtype="bfloat16", _name_or_path="elsewhere", use_cache=False)
    here = load_base(str(base)).fingerprint
    assert load_base(str(copy), dtype="bfloat16").fingerprint == here
    code = f"from clonedna.engine.bases import load_base; print(load_base({str(copy)!r}).fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == here


@pytest.mark.parametrize("what", ["config", "tokenizer", "shape"])
def test_fingerprint_tells_bases_apart(base: Path, copy: Path, what: str, tmp_path: Path) -> None:
    if what == "config":
        edit(copy / "config.json", rms_norm_eps=1e-5)
    elif what == "tokenizer":
        fields = json.loads((copy / "tokenizer.json").read_text())
        fields["added_tokens"][0]["lstrip"] = True
        (copy / "tokenizer.json").write_text(json.dumps(fields))
    else:
        copy = small.make_base(tmp_path / "wider", intermediate_size=128)
    assert load_base(str(copy)).fingerprint != load_base(str(base)).fingerprint


def test_the_tokenizer_is_what_its_file_says(base: Path) -> None:
    """Also where the model's type has a tokenizer class of its own, which would normalise U+F900 away."""
    written = Tokenizer.from_file(str(base / "tokenizer.json"))
    for text in ("\uf900 def\n  f(x)", "it's 12345 'käse'"):
        assert load_base(str(base)).tokenizer(text)["input_ids"] == written.encode(text).ids


@pytest.mark.parametrize("reference", ["no such thing", "nano2", "", "../../etc"])
def test_an_unknown_base_says_what_would_work(reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownBase) as caught:
        load_base(reference or "nothing")
    assert "nano" in caught.value.hint
    assert "Qwen/" in caught.value.hint


@pytest.mark.slow
def test_a_hub_name_that_cannot_be_had_is_an_unknown_base() -> None:
    code = (
        "from clonedna.engine.bases import resolve_base\nfrom clonedna.core.errors import UnknownBase\n"
        "try:\n    resolve_base('nobody/nothing-at-all')\nexcept UnknownBase as error:\n    print(error.hint)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "Hugging Face name" in done.stdout, done.stderr


def test_missing_weights_are_never_filled_in(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnknownBase, match=r"lacks weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_base(str(copy))


def test_broken_and_missing_files_are_named(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(UnknownBase, match="not a whole safetensors file"):
        load_base(str(copy))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnknownBase, match="pickled weights are never loaded"):
        load_base(str(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UnknownBase, match=r"no readable tokenizer\.json"):
        load_base(str(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(UnknownBase, match=r"config\.json is not valid JSON"):
        load_base(str(copy))


def test_what_is_no_causal_model_or_a_mixture_of_experts_is_refused(copy: Path) -> None:
    edit(copy / "config.json", num_experts=8)
    with pytest.raises(UnknownBase, match="mixture of experts"):
        load_base(str(copy))
    edit(copy / "config.json", num_experts=0, model_type="vit")
    with pytest.raises(UnknownBase, match="no causal language model"):
        load_base(str(copy))


def test_an_architecture_without_the_seven_linears_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = small.make_tokenizer(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UnknownBase, match="has 0 modules called q_proj in 1 layers"):
        load_base(str(tmp_path))


def test_a_model_that_this_engine_would_run_wrongly_is_refused(base: Path) -> None:
    """As of an architecture that scales its logits outside of its head: its own pass and the head by itself disagree."""
    loaded = load_base(str(base))
    head = loaded.model.get_output_embeddings()
    doubled = torch.nn.Linear(head.in_features, head.out_features, bias=False)
    doubled.weight = torch.nn.Parameter(head.weight * 2, requires_grad=False)
    loaded.model.get_output_embeddings = lambda: doubled  # type: ignore[method-assign]
    with pytest.raises(UnknownBase, match="does not run right here"):
        LoadedModel(loaded)


def test_the_context_stays_inside_a_sliding_window(tmp_path: Path) -> None:
    slides = small.make_base(tmp_path / "slides", use_sliding_window=True, sliding_window=48, max_window_layers=1)
    assert load_base(str(slides)).context == 48


def test_too_little_memory_is_said_with_figures(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: memory.RESERVE + 100_000)
    with pytest.raises(NoMemory, match="MiB are available") as caught:
        load_base(str(base))
    assert caught.value.facts["available_bytes"] == memory.RESERVE + 100_000
