"""Models of sentence-transformers as encoders: whose revision is known, whose code is not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clonedna.core.errors import Corrupt, InputError, NotFound
from clonedna.engine.encoder_transformer import open_transformer
from tests.encoders import tiny_transformer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_transformer(tmp_path_factory.mktemp("models"), 64)


def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / model.name))


def test_other_weights_are_another_revision(model: Path, tmp_path: Path) -> None:
    first, other = open_transformer(str(model)), copied(model, tmp_path)
    assert open_transformer(str(other)).name == first.name
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: array + np.float32(0.25) for name, array in weights.items()},
        other / "model.safetensors",
        metadata={"format": "pt"},
    )
    changed = open_transformer(str(other))
    assert changed.name != first.name
    assert changed.name.partition("@")[0] == first.name.partition("@")[0]
    assert not np.allclose(changed.encode(["a text"]).rows, first.encode(["a text"]).rows, atol=1e-3)


def test_code_of_a_models_own_is_refused(model: Path, tmp_path: Path) -> None:
    other = copied(model, tmp_path)
    modules = json.loads((other / "modules.json").read_text())
    modules[0]["type"] = "custom.Evil"
    (other / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError) as caught:
        open_transformer(str(other))
    assert "custom.Evil" in caught.value.message


def test_what_is_no_model_or_broken_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_transformer(str(tmp_path))
    other = copied(model, tmp_path)
    (other / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Corrupt):
        open_transformer(str(other))
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(InputError):
        open_transformer(str(other))
    (other / "model.safetensors").write_bytes(b"")
    (other / "modules.json").write_text("{")
    with pytest.raises(Corrupt):
        open_transformer(str(other))


@pytest.mark.parametrize("name", ["nobody/nothing-here", "nothing-here", "../../nothing-here", "a b", "x" * 300])
def test_a_name_whose_files_are_not_here_is_not_fetched(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        open_transformer(name)
    assert caught.value.hint
