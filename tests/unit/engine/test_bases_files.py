"""The files of a base: damaged, hostile or unfit ones are refused by name; the digest of the weights tells bases apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clonedna.core.errors import BadConfig, UnknownBase
from clonedna.engine import base_files
from clonedna.engine.base_files import stored_tensors, weights_digest
from clonedna.engine.bases import choose_device, choose_dtype, load_base, outline_base
from tests.unit.engine import small


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(directory: Path) -> dict[str, str]:
    """Split the weights into two files with an index; gives its weight map."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, mine in halves.items():
        save_file({name: tensors[name] for name in mine}, directory / file, {"format": "pt"})
    placed = {name: file for file, mine in halves.items() for name in mine}
    (directory / base_files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return placed


def digest_of(directory: Path) -> str:
    return weights_digest(stored_tensors("a", directory))


def refused(directory: Path, words: str) -> None:
    with pytest.raises(UnknownBase, match=words):
        load_base(str(directory))


def test_shards_load_and_change_neither_fingerprint_nor_digest(base: Path, copy: Path) -> None:
    shard(copy)
    one, two = load_base(str(base)), load_base(str(copy))
    assert (one.fingerprint, one.weights_digest) == (two.fingerprint, two.weights_digest)


def test_a_base_trained_further_has_the_fingerprint_but_not_the_digest(base: Path, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] += 1e-3
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert outline_base(str(copy)).fingerprint == outline_base(str(base)).fingerprint
    assert digest_of(copy) != digest_of(base)


@pytest.mark.parametrize("at", [0, -1, 1024])
def test_large_tensors_are_sampled_from_their_first_byte_to_their_last(tmp_path: Path, at: int) -> None:
    large = torch.zeros(1 << 20)
    save_file({"a": large}, tmp_path / "model.safetensors")
    before = digest_of(tmp_path)
    large[at] = 1
    save_file({"a": large}, tmp_path / "model.safetensors")
    assert digest_of(tmp_path) != before


def test_what_lies_between_the_pieces_is_not_seen_as_the_docstring_says(tmp_path: Path) -> None:
    large = torch.zeros(1 << 20)
    save_file({"a": large}, tmp_path / "model.safetensors")
    before = digest_of(tmp_path)
    large[base_files.PIECE // 4 + 10] = 1  # just behind the first piece
    save_file({"a": large}, tmp_path / "model.safetensors")
    assert digest_of(tmp_path) == before


def test_truncated_and_overlong_files_are_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    for content in (whole[:-8], whole + b"12345678", whole[:4], b""):
        (copy / "model.safetensors").write_bytes(content)
        refused(copy, "model.safetensors is not a whole safetensors file")


def test_an_index_is_held_to_files_beside_it_and_to_what_is_in_them(copy: Path, base: Path) -> None:
    placed = shard(copy)
    first = min(placed)
    for elsewhere in ("../small-qwen2/model.safetensors", str(base / "model.safetensors"), "model.bin"):
        edit(copy / base_files.INDEX, weight_map=placed | {first: elsewhere})
        refused(copy, "which is no file beside it")
    edit(copy / base_files.INDEX, weight_map=placed | {"model.more": placed[first]})
    refused(copy, r"lacks weights: model\.more")
    edit(copy / base_files.INDEX, weight_map=placed | {first: "model-9.safetensors"})
    refused(copy, r"lacks model-9\.safetensors")
    edit(copy / base_files.INDEX, weight_map={})
    refused(copy, "has no weight_map")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(copy: Path, value: float) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    refused(copy, r"no finite number in model\.layers\.1\.mlp\.up_proj\.weight")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_config": {"hidden_size": 8}}, "is multimodal"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "their_own", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "never executed"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"stored quantised \(gptq\)"),
        ({"final_logit_softcapping": 30.0}, "caps its logits"),
        ({"num_hidden_layers": 10**9}, "more than 1000"),
        ({"vocab_size": 300}, "its tokenizer gives ids up to"),
        ({"vocab_size": 10**8}, "its config asks for"),
        ({"num_attention_heads": 0}, "cannot be read"),
        ({"layer_types": ["linear_attention"] * 3}, "layers of type linear_attention"),
    ],
)
def test_what_the_config_says_is_enough_to_refuse(
    copy: Path, changes: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("weights read")
    )
    edit(copy / "config.json", **changes)
    refused(copy, words)


def test_an_adapter_is_no_base_and_is_not_followed_to_one(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    refused(copy, "is an adapter")


def test_weights_in_a_quantised_form_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    refused(copy, "stored as F8_E4M3")


def test_a_base_without_a_chat_template_loads(tmp_path: Path) -> None:
    assert load_base(str(small.make_base(tmp_path / "plain", template=None))).tokenizer.chat_template is None


def test_rotary_factors_that_depend_on_the_whole_pass_bound_the_context(tmp_path: Path) -> None:
    factors = [1.0] * 8
    rope = {
        "rope_type": "longrope", "short_factor": factors, "long_factor": [2.0] * 8, "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    made = small.make_base(tmp_path / "long", kind="llama", rope_parameters=rope)
    assert outline_base(str(made)).context == 32


def test_dtype_and_device_that_are_not_here_are_refused() -> None:
    assert choose_dtype("", "cpu") == ("float32", "default on a CPU")
    assert choose_dtype("bfloat16", "cpu") == ("bfloat16", "asked for")
    for call in (lambda: choose_dtype("int8", "cpu"), lambda: choose_device("tpu"), lambda: choose_device("cuda:99")):
        with pytest.raises(BadConfig):
            call()


@pytest.mark.slow
def test_a_cached_hub_base_is_found_offline_by_name_and_by_revision(base: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--someone--small"
    commit = "a" * 40
    shutil.copytree(base, repository / "snapshots" / commit)
    for reference in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / reference).write_text(commit)
    code = (
        "from clonedna.engine.base_files import resolve_base\nfrom clonedna.core.errors import UnknownBase\n"
        "for name in ('someone/small', 'someone/small@v1', 'someone/small@" + commit + "', 'someone/small@v2'):\n"
        "    try:\n        found = resolve_base(name); print(found[0], found[1].name)\n"
        "    except UnknownBase as error:\n        print('refused')"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.splitlines() == [f"someone/small {commit}"] * 3 + ["refused"], done.stderr
