"""Comparing adapters: what the factors say is what the formed products say, for any adapters; and what has no direction gets none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from clonedna.core.comparison import WeightSimilarity
from clonedna.core.errors import AdapterInvalid, WrongBase
from clonedna.engine.adapters import read_adapter, write_adapter
from clonedna.engine.comparing import Update, compare_adapters, difference, inner, principal_angles, spaces
from clonedna.engine.merging import own_shapes

pytestmark = pytest.mark.usefixtures("one_thread")

FINGERPRINT = "f" * 64
SHAPES = {"self_attn.q_proj": (12, 12), "self_attn.v_proj": (12, 6), "mlp.down_proj": (20, 12)}
ALL = tuple(SHAPES)


def write(
    directory: Path, seed: int, *, rank: int = 4, alpha: float = 8, rslora: bool = False, targets: tuple[str, ...] = ALL, layers: int = 3,
    size: float = 1.0, fingerprint: str = FINGERPRINT, shapes: dict[str, tuple[int, int]] = SHAPES,
) -> Path:  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        f"model.layers.{layer}.{target}": (
            torch.randn(rank, shapes[target][0], generator=draw),
            size * torch.randn(shapes[target][1], rank, generator=draw),
        )
        for layer in range(layers)
        for target in targets
    }
    write_adapter(directory, matrices, rank=rank, alpha=alpha, rslora=rslora, base="tiny", fingerprint=fingerprint)
    return directory


def compare(a: Path, b: Path) -> WeightSimilarity:
    return compare_adapters(a, b, fingerprint=FINGERPRINT)


def formed(directory: Path) -> dict[str, Tensor]:
    adapter = read_adapter(directory, own_shapes(directory), FINGERPRINT)
    return {name: adapter.scale * (b.double() @ a.double()) for name, (a, b) in adapter.matrices.items()}


def flat(products: dict[str, Tensor], like: dict[str, Tensor]) -> Tensor:
    """All modules of either as one vector; what is missing is zero."""
    names = sorted({*products, *like})
    return torch.cat([products.get(n, torch.zeros_like(like.get(n, torch.zeros(0)))).flatten() for n in names])


# Any two updates of one module.


def update(seed: int, rank: int, outside: int, inside: int, scale: float) -> Update:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, inside, generator=draw), torch.randn(outside, rank, generator=draw)
    return Update(scale, a.double(), b.double())


scales = st.floats(-4, 4).filter(lambda s: abs(s) > 0.05)
ranks, sides, seeds = st.integers(1, 6), st.integers(2, 20), st.integers(0, 2**31)
quick = settings(max_examples=60, deadline=None)


def dense(x: Update) -> Tensor:
    return x.scale * (x.b @ x.a)


@quick
@given(seeds, seeds, ranks, ranks, sides, sides, scales, scales)
def test_products_and_distances_are_those_of_the_formed_matrices(
    one: int, two: int, p: int, q: int, outside: int, inside: int, s: float, t: float
) -> None:
    x, y = update(one, p, outside, inside, s), update(two, q, outside, inside, t)
    size = float(dense(x).norm() * dense(y).norm())
    assert inner(x, y) == pytest.approx(float((dense(x) * dense(y)).sum()), abs=1e-12 * size)
    assert inner(x, y) == pytest.approx(inner(y, x), abs=1e-12 * size)
    assert inner(x, x) == pytest.approx(spaces(x).norm ** 2, rel=1e-12)
    assert spaces(x).norm == pytest.approx(float(dense(x).norm()), rel=1e-12)
    apart = float((dense(x) - dense(y)).norm())
    assert difference(x, y) == pytest.approx(apart, rel=1e-9, abs=1e-12 * math.sqrt(size))
    assert abs(inner(x, y)) <= spaces(x).norm * spaces(y).norm * (1 + 1e-12)  # Cauchy and Schwarz


@quick
@given(seeds, seeds, ranks, ranks, sides, sides)
def test_angles_are_those_of_the_formed_matrices(one: int, two: int, p: int, q: int, outside: int, inside: int) -> None:
    x, y = update(one, p, outside, inside, 1.0), update(two, q, outside, inside, 2.0)
    mine, theirs = spaces(x), spaces(y)
    for own, other, side in ((mine.columns, theirs.columns, 0), (mine.rows, theirs.rows, 1)):
        projectors = []
        for product in (dense(x), dense(y)):
            u, s, vh = torch.linalg.svd(product)
            kept = int((s > 1e-7 * s[0]).sum())
            basis = u[:, :kept] if side == 0 else vh[:kept].T
            projectors.append(basis @ basis.T)
        angles = principal_angles(own, other)
        # The squared cosines are the largest eigenvalues of the product of both projectors.
        wanted = torch.linalg.svdvals(projectors[0] @ projectors[1])[: len(angles)]
        assert torch.allclose(angles.cos(), wanted.clamp(max=1), atol=1e-7)
        assert bool((angles[1:] >= angles[:-1] - 1e-12).all())
        assert torch.allclose(angles, principal_angles(other, own), atol=1e-12)


@quick
@given(seeds, ranks, sides, st.floats(1e-9, math.pi / 2 - 1e-9))
def test_a_planted_angle_is_found_however_small(seed: int, dimension: int, room: int, angle: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(dimension + room, dimension + 1, generator=draw, dtype=torch.float64))
    turned = basis[:, :dimension].clone()
    turned[:, 0] = math.cos(angle) * basis[:, 0] + math.sin(angle) * basis[:, dimension]
    found = principal_angles(basis[:, :dimension], turned)
    assert float(found[-1]) == pytest.approx(angle, rel=1e-6)
    assert torch.allclose(found[:-1], torch.zeros(dimension - 1, dtype=torch.float64), atol=1e-12)


@quick
@given(seeds, ranks, sides, sides, scales)
def test_factors_of_one_product_have_no_angle_and_no_distance(
    seed: int, rank: int, outside: int, inside: int, scale: float
) -> None:
    """Only the product counts: factors mixed by any invertible matrix, and the scale moved into them, are the same update."""
    x = update(seed, rank, outside, inside, scale)
    mixed = torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    assume(float(torch.linalg.cond(mixed)) < 1e3)
    y = Update(1.0, torch.linalg.solve(mixed, x.a), scale * x.b @ mixed)
    assert difference(x, y) <= 1e-9 * spaces(x).norm
    mine, theirs = spaces(x), spaces(y)
    assume(mine.columns.shape == theirs.columns.shape)
    assert float(principal_angles(mine.columns, theirs.columns).max()) < 1e-6
    assert float(principal_angles(mine.rows, theirs.rows).max()) < 1e-6


# Whole adapters.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"rank": 2}, {"rank": 8, "alpha": 3}),
        ({"rslora": True}, {"alpha": 1}),
        ({"targets": ALL[:2]}, {"targets": ALL[1:]}),
        ({"targets": ALL[:1]}, {"targets": ALL[1:]}),
        ({"size": 1e-4}, {"size": 1e4}),
    ],
)
def test_the_whole_and_its_groups_are_those_of_the_formed_products(
    tmp_path: Path, one: dict[str, float], other: dict[str, float]
) -> None:
    a, b = write(tmp_path / "a", 1, **one), write(tmp_path / "b", 2, **other)  # type: ignore[arg-type]
    found = compare(a, b)
    mine, theirs = formed(a), formed(b)

    def check(names: set[str], cosine: float | None, norms: tuple[float, float], apart: float) -> None:
        x = flat({n: m for n, m in mine.items() if n in names}, {n: m for n, m in theirs.items() if n in names})
        y = flat({n: m for n, m in theirs.items() if n in names}, {n: m for n, m in mine.items() if n in names})
        assert norms == pytest.approx((float(x.norm()), float(y.norm())), rel=1e-8)
        assert apart == pytest.approx(float((x - y).norm()), rel=1e-8)
        if cosine is not None:
            assert cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-8)
        else:
            assert not x.norm() or not y.norm()

    everything = {*mine, *theirs}
    check(everything, found.whole.cosine, (found.whole.norm_a, found.whole.norm_b), found.whole.difference)
    for group, part in (("attention", ("q_proj", "v_proj")), ("mlp", ("down_proj",))):
        names = {n for n in everything if n.endswith(part)}
        chosen = [g for g in found.groups if g.name == group]
        assert len(chosen) == bool(names)
        for g in chosen:
            assert g.modules == len(names)
            check(names, g.cosine, (g.norm_a, g.norm_b), g.difference)
    for module in found.modules:
        check({module.module}, module.cosine, (module.norm_a, module.norm_b), module.difference)
    assert set(found.only_a) == set(mine) - set(theirs)
    assert set(found.only_b) == set(theirs) - set(mine)
    assert sum(g.modules for g in found.groups if g.name.endswith("third")) == len(everything)


def test_an_adapter_is_itself(tmp_path: Path) -> None:
    found = compare(write(tmp_path / "a", 1), write(tmp_path / "b", 1))
    assert found.whole.cosine == 1
    assert found.whole.difference == 0
    assert all(m.difference == 0 for m in found.modules)
    assert found.whole.columns is not None
    assert found.whole.columns.largest == 0
    assert found.whole.columns.overlap == 1
    assert all(m.cosine == 1 and m.rows is not None and m.rows.largest == 0 for m in found.modules)


def test_one_bit_of_one_factor_is_a_difference(tmp_path: Path) -> None:
    a = write(tmp_path / "a", 1)
    adapter = read_adapter(a, own_shapes(a), FINGERPRINT)
    matrices = dict(adapter.matrices)
    down, up = matrices["model.layers.0.mlp.down_proj"]
    down = down.clone()
    down[0, 0] = torch.nextafter(down[0, 0], torch.tensor(9.0))
    matrices["model.layers.0.mlp.down_proj"] = down, up
    write_adapter(tmp_path / "b", matrices, rank=4, alpha=8, rslora=False, base="tiny", fingerprint=FINGERPRINT)
    found = compare(a, tmp_path / "b")
    assert 0 < found.whole.difference < 1e-6
    assert [m.difference > 0 for m in found.modules].count(True) == 1


def test_the_opposite_adapter_is_the_opposite(tmp_path: Path) -> None:
    found = compare(write(tmp_path / "a", 1), write(tmp_path / "b", 1, size=-0.5))
    assert found.whole.cosine == -1
    assert found.whole.columns is not None
    assert found.whole.columns.largest == 0
    assert found.whole.difference == pytest.approx(1.5 * found.whole.norm_a, rel=1e-8)


def test_strangers_overlap_as_much_as_chance_says(tmp_path: Path) -> None:
    """The mean squared cosine of random subspaces is max(p, q) / d: the reference that is reported beside it."""
    wide = {"self_attn.q_proj": (400, 300)}
    a = write(tmp_path / "a", 1, rank=8, targets=("self_attn.q_proj",), shapes=wide, layers=12)
    b = write(tmp_path / "b", 2, rank=32, targets=("self_attn.q_proj",), shapes=wide, layers=12)
    found = compare(a, b)
    assert found.whole.columns is not None
    assert found.whole.rows is not None
    assert found.whole.columns.by_chance == pytest.approx(32 / 300)
    assert found.whole.columns.overlap == pytest.approx(32 / 300, rel=0.1)
    assert found.whole.rows.overlap == pytest.approx(32 / 400, rel=0.1)
    assert found.whole.columns.n == 12 * 8
    assert abs(found.whole.cosine or 0) < 0.01


def test_modules_that_only_one_has_count_as_zero(tmp_path: Path) -> None:
    found = compare(write(tmp_path / "a", 1, targets=ALL[:1]), write(tmp_path / "b", 2, targets=ALL[1:]))
    assert found.whole.cosine == 0
    assert found.whole.columns is None
    assert {m.only for m in found.modules} == {"a", "b"}
    assert all(m.cosine is None and m.columns is None for m in found.modules)
    assert found.undefined == ""


@pytest.mark.parametrize(
    ("sizes", "named"), [((0.0, 1.0), ["first"]), ((1.0, 0.0), ["second"]), ((0.0, 0.0), ["first", "second"])]
)
def test_zero_has_no_direction(tmp_path: Path, sizes: tuple[float, float], named: list[str]) -> None:
    a, b = (write(tmp_path / str(i), i, size=size) for i, size in enumerate(sizes))
    found = compare(a, b)
    assert found.whole.cosine is None
    assert found.whole.columns is None
    assert all(word in found.undefined for word in named)
    assert found.whole.difference == pytest.approx(max(found.whole.norm_a, found.whole.norm_b), rel=1e-8)
    assert (found.whole.norm_a == 0, found.whole.norm_b == 0) == (sizes[0] == 0, sizes[1] == 0)


def test_thirds_follow_the_depth_and_modules_the_order_of_the_base(tmp_path: Path) -> None:
    found = compare(write(tmp_path / "a", 1, layers=12), write(tmp_path / "b", 2, layers=12))
    assert [m.depth for m in found.modules] == [layer for layer in range(12) for _ in ALL]
    assert [g.name for g in found.groups] == ["attention", "mlp", "first third", "middle third", "last third"]
    assert [g.modules for g in found.groups[2:]] == [12, 12, 12]
    two = compare(write(tmp_path / "c", 1, layers=2), write(tmp_path / "d", 2, layers=2))
    assert [g.name for g in two.groups] == ["attention", "mlp"]


def test_other_shapes_are_not_one_base(tmp_path: Path) -> None:
    a = write(tmp_path / "a", 1)
    b = write(tmp_path / "b", 2, shapes=SHAPES | {"mlp.down_proj": (24, 12)})
    with pytest.raises(AdapterInvalid, match=r"down_proj .*other shapes"):
        compare(a, b)


def test_files_of_another_base_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongBase):
        compare(write(tmp_path / "a", 1), write(tmp_path / "b", 2, fingerprint="e" * 64))


def test_progress_is_told(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    compare_adapters(
        write(tmp_path / "a", 1), write(tmp_path / "b", 2), fingerprint=FINGERPRINT, progress=lambda *at: heard.append(at)
    )  # fmt: skip
    assert heard == [(i, 9) for i in range(1, 10)]
