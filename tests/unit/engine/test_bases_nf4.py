"""NF4 by bitsandbytes: the same base by its fingerprint, smaller in memory; without the library a clear refusal."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from clonedna.core.errors import BadConfig
from clonedna.engine import bases
from clonedna.engine.bases import load_base
from clonedna.engine.slots import shapes_of

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra: nf4)"
)


def test_without_the_library_the_refusal_says_how_to_install_it(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadConfig) as caught:
        load_base(str(base), quantize="nf4")
    assert "clone-dna[nf4]" in caught.value.hint
    with pytest.raises(BadConfig, match="int3"):
        load_base(str(base), quantize="int3")


@needs_library
def test_a_quantised_base_is_the_same_base_with_the_same_targets(base: Path) -> None:
    plain, packed = load_base(str(base)), load_base(str(base), quantize="nf4")
    assert packed.dtype == "nf4"
    assert (packed.fingerprint, packed.weights_digest) == (plain.fingerprint, plain.weights_digest)
    assert shapes_of(packed.model) == shapes_of(plain.model)
    target = packed.model.get_submodule("model.layers.0.mlp.up_proj")
    assert target.weight.dtype == torch.uint8
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        a, b = plain.model(input_ids=ids).logits, packed.model(input_ids=ids).logits
    assert 0 < float((a - b).norm() / a.norm()) < 0.5
