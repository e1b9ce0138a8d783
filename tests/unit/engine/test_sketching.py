"""Sizes, inner products and energies against the formed updates in fp64; weight sketches against their factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import AdapterInvalid, InputError
from clonedna.core.model import AdapterInfo
from clonedna.engine.adapters import Adapter, lora_scale, write_adapter
from clonedna.engine.covariance import Covariances, Moments, Sketch, write_moments
from clonedna.engine.sketching import DIMENSION, energies, inner_products, norms, pairs_of, sketch_of, weight_sketch

BASE = "a" * 64
SHAPES = {
    "layers.0.q_proj": (24, 16),
    "layers.0.down_proj": (40, 24),
    "layers.1.q_proj": (24, 16),
    "layers.1.down_proj": (40, 24),
}


def made(seed: int, rank: int = 3, *, alpha: float = 6.0, rslora: bool = False, shapes=SHAPES) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        name: (torch.randn(rank, i, generator=draw), torch.randn(o, rank, generator=draw))
        for name, (i, o) in shapes.items()
    }
    info = AdapterInfo(id="x", digest="x", rank=rank, alpha=alpha, target_modules=(), bytes=0)
    return Adapter(info, lora_scale(alpha, rank, rslora=rslora), matrices)


def formed(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: adapter.scale * b.double() @ a.double() for name, (a, b) in adapter.matrices.items()}


def save(adapter: Adapter, directory: Path, *, rslora: bool = False) -> Path:
    write_adapter(
        directory,
        adapter.matrices,
        rank=adapter.info.rank,
        alpha=adapter.info.alpha,
        rslora=rslora,
        base="b",
        fingerprint=BASE,
    )
    return directory


def covariances(seed: int, directory: Path | None = None) -> Covariances:
    draw = torch.Generator().manual_seed(seed)
    moments = Moments(SHAPES, "cpu")
    for name, (inside, _) in SHAPES.items():
        moments.add(name, torch.randn(70, inside, generator=draw) * torch.linspace(0.1, 2, inside))
        moments.rest()
    moments.tokens = 70
    if directory is not None:
        write_moments(directory, moments, BASE, 1)
    tensors = moments.tensors()
    tensors.pop("count")
    return Covariances(tensors, 70)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_norms_inner_products_and_energies_are_those_of_the_formed_updates(
    seed: int, r: int, q: int, rslora: bool
) -> None:
    x, y, c = made(seed, r, rslora=rslora), made(seed + 1, q, alpha=5.0), covariances(seed + 2)
    dx, dy = formed(x), formed(y)
    for name in SHAPES:
        assert norms(x)[name] == pytest.approx(float(dx[name].norm()), rel=1e-10)
        assert inner_products(x, y)[name] == pytest.approx(float((dx[name] * dy[name]).sum()), rel=1e-8, abs=1e-9)
        expected = float(torch.trace(dx[name] @ c.dense(name).double() @ dx[name].T))
        assert energies(x, c)[name] == pytest.approx(expected, rel=1e-10)


def test_an_energy_from_a_sketch_is_off_by_no_more_than_its_bound() -> None:
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.05, 3, 40)
    sketch = Sketch(40, "cpu", 6)
    sketch.add(x)
    read, one = Covariances(sketch.tensors("m", 500), 500), made(2, shapes={"m": (40, 8)})
    dense = Covariances({"m": (x.T @ x / 500)}, 500)
    off = abs(energies(one, read)["m"] - energies(one, dense)["m"])
    assert 0 < off <= norms(one)["m"] ** 2 * read.bound("m") * (1 + 1e-6)


def test_pairs_are_ordered_and_a_missing_module_counts_nothing(tmp_path: Path) -> None:
    few = {name: shape for name, shape in SHAPES.items() if "q_proj" in name}
    x, y = made(1), made(2, shapes=few)
    c = covariances(3, tmp_path / "c")
    folders = [(save(x, tmp_path / "x"), tmp_path / "c"), (save(y, tmp_path / "y"), None)]
    found = pairs_of(folders, fingerprint=BASE)
    assert set(found) == {(0, 1), (1, 0)}
    assert found[1, 0].norms["layers.0.down_proj"] == (0.0, pytest.approx(norms(x)["layers.0.down_proj"]))
    assert found[0, 1].norms["layers.0.q_proj"] == tuple(reversed(found[1, 0].norms["layers.0.q_proj"]))
    assert found[0, 1].inner == found[1, 0].inner
    assert set(found[0, 1].inner) == set(few)
    assert found[0, 1].energies is None
    got = found[1, 0].energies
    assert got is not None
    assert got["layers.1.q_proj"] == (
        pytest.approx(energies(y, c)["layers.1.q_proj"]),
        pytest.approx(energies(x, c)["layers.1.q_proj"]),
    )
    assert got["layers.0.down_proj"][0] == 0.0


def test_layers_of_other_shapes_and_too_many_are_refused(tmp_path: Path) -> None:
    x = save(made(1), tmp_path / "x")
    y = save(made(1, shapes={name: (i + 8, o) for name, (i, o) in SHAPES.items()}), tmp_path / "y")
    with pytest.raises(AdapterInvalid):
        pairs_of([(x, None), (y, None)], fingerprint=BASE)
    with pytest.raises(InputError):
        pairs_of([(x, None)] * 33, fingerprint=BASE)


# Weight sketches.


def rewritten(x: Adapter, seed: int, *, rank: int, alpha: float) -> Adapter:
    """The same updates by other factors: turned and scaled in the rank's space, of another rank and alpha, modules in another order."""
    draw = torch.Generator().manual_seed(seed)
    scale = lora_scale(alpha, rank, rslora=False)
    matrices: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, (a, b) in reversed(x.matrices.items()):
        turn = torch.randn(len(a), len(a), generator=draw).double() + 2 * torch.eye(len(a))
        new_a, new_b = turn @ a.double(), b.double() @ torch.linalg.inv(turn) * (x.scale / scale)
        swap = torch.randperm(rank, generator=draw)
        pad = rank - len(a)
        wide_a, wide_b = (
            torch.cat([new_a, torch.randn(pad, a.shape[1])]),
            torch.cat([new_b, torch.zeros(len(b), pad)], 1),
        )
        matrices[name] = wide_a[swap].float(), wide_b[:, swap].float()
    return Adapter(x.info.model_copy(update={"rank": rank, "alpha": alpha}), scale, matrices)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(4, 8), st.floats(0.5, 40))
def test_equal_updates_have_equal_sketches_whatever_their_factors(
    seed: int, rank: int, more: int, alpha: float
) -> None:
    x = made(seed, rank)
    first, again = weight_sketch(x), weight_sketch(rewritten(x, seed, rank=more, alpha=alpha))
    assert first.row.shape == (DIMENSION,)
    assert np.allclose(first.row, again.row, atol=2e-5)
    assert float(first.row @ again.row) == pytest.approx(1.0, abs=1e-5)
    assert first.norm == pytest.approx(again.norm, rel=1e-4)


def test_cosines_of_sketches_are_near_those_of_the_updates_and_sums_are_sums() -> None:
    offs = []
    for seed in range(12):
        x, y = made(seed, 4), made(seed + 100, 4)
        z = Adapter(
            x.info,
            x.scale,
            {
                n: (
                    torch.cat([x.matrices[n][0], y.matrices[n][0]]),
                    torch.cat([x.matrices[n][1], 0.5 * y.matrices[n][1]], 1),
                )
                for n in SHAPES
            },
        )
        dx, dz = formed(x), formed(z)
        true = sum(float((dx[n] * dz[n]).sum()) for n in SHAPES)
        true /= (
            sum(float(d.square().sum()) for d in dx.values()) ** 0.5
            * sum(float(d.square().sum()) for d in dz.values()) ** 0.5
        )
        sx, sy, sz = weight_sketch(x), weight_sketch(y), weight_sketch(z)
        offs.append(float(sx.row @ sz.row) - true)
        whole = sx.norm * sx.row + 0.5 * sy.norm * sy.row
        # Rows have length 1 by their own length, so a sum is one up to that.
        assert float(whole @ sz.row) / float(np.linalg.norm(whole)) > 0.995
    assert float(np.std(offs)) < 0.03
    assert max(map(abs, offs)) < 0.08


def test_nothing_has_a_zero_sketch_and_files_give_what_the_adapter_does(tmp_path: Path) -> None:
    x = made(5)
    zero = Adapter(x.info, x.scale, {name: (a, torch.zeros_like(b)) for name, (a, b) in x.matrices.items()})
    assert not weight_sketch(zero).row.any()
    assert weight_sketch(zero).norm == 0
    assert np.array_equal(sketch_of(save(x, tmp_path / "x"), fingerprint=BASE).row, weight_sketch(x).row)
    assert not np.allclose(weight_sketch(x, seed=1).row, weight_sketch(x).row)
