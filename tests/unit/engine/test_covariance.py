"""Second moments: against the dense sum, streamed in any pieces, as a sketch within its bound, and read strictly."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import Corrupt, InputError, WrongBase
from clonedna.core.model import Example, Layer
from clonedna.engine import covariance
from clonedna.engine.covariance import (
    FILE,
    Covariances,
    Moments,
    Sketch,
    read_covariances,
    sketched_widths,
    write_moments,
)
from clonedna.engine.local import LocalEngine
from tests.unit.engine import small

BASE = "a" * 64
EXAMPLES = [
    Example(text="def area(", completion="width, height):\n    return width * height\n"),
    Example(text="for name in ", completion="names:\n    print(name)\n"),
]


def hooked(model: torch.nn.Module, engine: LocalEngine) -> dict[str, torch.Tensor]:
    """Sums over the same tokens by hooks on an ordinary forward pass, in fp64."""
    sums: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: sums.__setitem__(
                name, sums.get(name, 0) + inputs[0][0].double().T @ inputs[0][0].double()
            )
        )
        for name, module in model.named_modules()
        if name in engine._model.shapes
    ]
    count = 0
    with torch.inference_mode():
        for row in engine._texts.rows(EXAMPLES):
            model(input_ids=torch.tensor([row.ids[:-1]]), use_cache=False)
            count += len(row.ids) - 1
    for handle in handles:
        handle.remove()
    return {name: total / count for name, total in sums.items()}


def test_every_module_s_second_moments_are_those_of_an_ordinary_pass(
    base: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    expected = hooked(small.plain_model(base), engine)
    told = anyio.run(engine.observe, EXAMPLES, (), tmp_path)
    read = read_covariances(tmp_path, engine.base.fingerprint)
    assert set(expected) == read.modules == set(engine._model.shapes)
    assert (told.exact, told.sketched, told.error) == (len(expected), 0, 0.0)
    for name, matrix in expected.items():
        assert torch.allclose(read.dense(name).double(), matrix, rtol=1e-4, atol=1e-5 * float(matrix.diagonal().max()))


def test_through_an_adapter_they_are_those_of_the_adapted_model(
    base: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    adapter = small.make_adapter(base, tmp_path / "adapter")
    info = anyio.run(engine.load, adapter)
    anyio.run(engine.observe, EXAMPLES, [Layer(adapter=info.id)], tmp_path / "with")
    anyio.run(engine.observe, EXAMPLES, (), tmp_path / "without")
    merged = small.with_adapter(base, adapter).merge_and_unload()
    expected = hooked(merged, engine)
    got = read_covariances(tmp_path / "with", engine.base.fingerprint)
    plain = read_covariances(tmp_path / "without", engine.base.fingerprint)
    for name, matrix in expected.items():
        assert torch.allclose(got.dense(name).double(), matrix, rtol=1e-3, atol=1e-4 * float(matrix.diagonal().max()))
    last = [name for name in expected if name.endswith("down_proj")][-1]
    assert not torch.allclose(got.dense(last), plain.dense(last), rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 48), st.integers(1, 400), st.integers(2, 12))
def test_a_sketch_is_within_its_bound_and_has_the_true_diagonal(seed: int, width: int, rows: int, keep: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    decay = torch.linspace(1, 0.01, width)
    x = (torch.randn(rows, width, generator=draw) * decay) @ torch.linalg.qr(
        torch.randn(width, width, generator=draw)
    ).Q
    sketch = Sketch(width, "cpu", keep)
    sketch._shrink()
    for part in x.split(37):
        sketch.add(part)
    tensors = sketch.tensors("m", rows)
    true = x.double().T @ x.double() / rows
    read = Covariances(tensors, rows)
    off = torch.linalg.matrix_norm(read.dense("m").double() - true, 2)
    assert float(off) <= read.bound("m") * (1 + 1e-4) + 1e-5 * float(true.diagonal().max())
    assert torch.allclose(read.dense("m").diagonal().double(), true.diagonal(), rtol=1e-3, atol=1e-6)
    a = torch.randn(3, width, generator=draw)
    assert torch.allclose(
        read.through("m", a), a.double() @ read.dense("m").double() @ a.double().T, rtol=1e-4, atol=1e-5
    )


def test_a_sketch_of_few_directions_loses_nothing(tmp_path: Path) -> None:
    low = torch.randn(600, 5) @ torch.randn(5, 40)
    sketch = Sketch(40, "cpu", 8)
    sketch.add(low)
    tensors = sketch.tensors("m", 600)
    assert float(tensors["m.bound"]) < 1e-8
    assert torch.allclose(Covariances(tensors, 600).dense("m"), low.T @ low / 600, rtol=1e-3, atol=1e-3)


def test_wide_modules_of_a_base_are_sketched_within_their_bound(
    base: Path, engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance, "EXACT_WIDTH", 80)
    monkeypatch.setattr(covariance, "DIRECTIONS", 8)
    monkeypatch.setattr(Sketch.__init__, "__defaults__", (8,))
    told = anyio.run(engine.observe, EXAMPLES, (), tmp_path)
    expected = hooked(small.plain_model(base), engine)
    read = read_covariances(tmp_path, engine.base.fingerprint)
    assert read.modules == set(expected)
    wide = [name for name, (inside, _) in engine._model.shapes.items() if inside > 80]
    assert (told.sketched, told.exact) == (len(wide), len(expected) - len(wide))
    assert 0 < told.error < 0.5
    for name in wide:
        off = float(torch.linalg.matrix_norm(read.dense(name).double() - expected[name], 2))
        assert 0 < off <= read.bound(name) * 1.001
        assert read.bound(name) <= told.error * float(expected[name].trace()) * 1.001


def test_the_memory_that_is_asked_for_counts_each_shared_input_once() -> None:
    layer = {"q_proj": (896, 896), "k_proj": (896, 128), "v_proj": (896, 128), "down_proj": (4864, 896)}
    shapes = {f"layers.{i}.{name}": shape for i in range(24) for name, shape in layer.items()}
    assert covariance.moments_bytes(shapes) < 2 << 30
    assert covariance.moments_bytes({"q_proj": (64, 64)}) == 8 * 64 * 64 + 2 * 4 * 64 * 64


def test_wide_modules_are_sketched_until_the_file_fits() -> None:
    assert sketched_widths([64, 64, 112]) == frozenset()
    assert sketched_widths([896, 4864]) == {4864}
    assert sketched_widths([896] * 10 + [1024], most=4 * 896 * 896 * 10) == {1024, 896}
    assert sketched_widths([64] * 10, most=1) == frozenset()


def written(directory: Path, x: torch.Tensor, *, sketched: bool = False) -> None:
    moments = Moments({"m": (x.shape[1], 4)}, "cpu")
    if sketched:
        moments._sums["m"] = Sketch(x.shape[1], "cpu", 4)
    moments.add("m", x)
    moments.tokens = len(x)
    write_moments(directory, moments, BASE, 1)


def test_what_was_not_observed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_moments(tmp_path, Moments({"m": (4, 4)}, "cpu"), BASE, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t | {"m": t["m"] * float("nan")},
        lambda t: t | {"m": t["m"].double()},
        lambda t: t | {"m": t["m"][:3]},
        lambda t: t | {"m": -t["m"]},
        lambda t: t | {"m": t["m"] + torch.triu(torch.ones(8, 8), 1) * t["m"].max()},
        lambda t: t | {"count": torch.tensor([0])},
        lambda t: {"m": t["m"]},
        lambda t: t | {"n.factors": torch.ones(2, 8)},
        lambda t: t | {"n.diagonal": torch.ones(8)},
    ],
)
def test_files_that_cannot_be_second_moments_are_refused(tmp_path: Path, spoil) -> None:
    written(tmp_path, torch.randn(30, 8))
    assert read_covariances(tmp_path, BASE).count == 30
    tensors = safetensors.torch.load_file(tmp_path / FILE)
    about = {"about": '{"base_fingerprint": "' + BASE + '", "examples": 1, "format": "dna-covariance/1"}'}
    safetensors.torch.save_file(spoil(tensors), tmp_path / FILE, about)
    with pytest.raises(Corrupt):
        read_covariances(tmp_path, BASE)


def test_other_files_and_other_bases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Corrupt):
        read_covariances(tmp_path, BASE)
    written(tmp_path, torch.randn(30, 8), sketched=True)
    read = read_covariances(tmp_path, BASE)
    with pytest.raises(WrongBase):
        read_covariances(tmp_path, "b" * 64)
    for wrong in (lambda: read.through("m", torch.ones(2, 9)), lambda: read.dense("other")):
        with pytest.raises(Corrupt):
            wrong()
    monkeypatch.setattr(covariance, "MOST_BYTES", 10)
    monkeypatch.setattr(covariance, "MOST_HEADER", 10)
    with pytest.raises(Corrupt, match="more than"):
        read_covariances(tmp_path, BASE)
    (tmp_path / FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(Corrupt):
        read_covariances(tmp_path, BASE)
