"""RegMean and KnOTS from files: recomputed here densely in fp64, for ranks, scales, modules and weights of every kind; and their memory."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clonedna.core.errors import AdapterInvalid, Corrupt, DnaError, InputError, WrongBase
from clonedna.core.merge import MergePart, MergeReport, MergeSpec
from clonedna.engine.adapters import WEIGHTS
from clonedna.engine.combining import Term, combine, keep_largest
from clonedna.engine.covariance import Covariances
from clonedna.engine.knots import knots_factors
from clonedna.engine.merging import merge_adapters
from clonedna.engine.regmean import regmean_factors
from tests.unit.engine.test_merging import FINGERPRINT, SHAPES, deltas, error, made, spec

Given = Sequence[tuple[Path, float, Path]]
ALL = {f"model.layers.{i}.x.{name}": shape for i in (0, 1) for name, shape in SHAPES.items()}


def observed(
    directory: Path, seed: int, *, tokens: int = 60, fingerprint: str = FINGERPRINT, leave_out: str = ""
) -> Path:
    """Covariances of random inputs with directions of unlike size, in the form in which an engine writes them."""
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {"count": torch.tensor([tokens])}
    for name, (inside, _) in ALL.items():
        h = torch.randn(tokens, inside, generator=draw, dtype=torch.float64)
        h *= torch.linspace(0.1, 3, inside).roll(seed)
        if leave_out != name:
            tensors[name] = (h.T @ h / tokens).float()
    about = {"base_fingerprint": fingerprint, "examples": 3, "format": "dna-covariance/1"}
    directory.mkdir(parents=True)
    safetensors.torch.save_file(tensors, directory / "covariance.safetensors", {"about": json.dumps(about)})
    return directory


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Other ranks, alphas, scales and modules; one weight is negative, one zero."""
    folder = tmp_path_factory.mktemp("four")
    return [
        (made(folder / "a", 1, rank=4, targets=("q_proj", "v_proj", "down_proj")), 0.7, observed(folder / "ca", 1)),
        (made(folder / "b", 2, rank=2, rslora=True, targets=("down_proj", "v_proj")), 1.3, observed(folder / "cb", 2)),
        (made(folder / "c", 3, rank=3, alpha=3, targets=("down_proj",)), -0.4, observed(folder / "cc", 3)),
        (made(folder / "d", 4, rank=1, alpha=5, targets=("q_proj",)), 0.0, observed(folder / "cd", 4)),
    ]


def compose(out: Path, parts: Given, what: MergeSpec) -> MergeReport:
    given = [MergePart(path, weight, covariance) for path, weight, covariance in parts]
    return merge_adapters(given, out, what, base="tiny", fingerprint=FINGERPRINT)


def regmean_of(parts: Given, ridge: float) -> dict[str, Tensor]:
    """The formula, densely, from the files."""
    read = [
        (deltas(path), weight, safetensors.torch.load_file(c / "covariance.safetensors")) for path, weight, c in parts
    ]
    wanted: dict[str, Tensor] = {}
    for name, (inside, outside) in ALL.items():
        above, below = torch.zeros(outside, inside).double(), torch.zeros(inside, inside).double()
        for found, weight, c in read:
            below += c[name].double()
            if name in found:
                above += weight * found[name] @ c[name].double()
        below += ridge * below.trace() / inside * torch.eye(inside).double()
        wanted[name] = above @ torch.linalg.inv(below)
    return wanted


def knots_of(terms: Sequence[tuple[Tensor, float]], density: float) -> Tensor:
    """KnOTS-TIES, densely: SVD of the differences side by side, TIES on the parts of V."""
    inside = terms[0][0].shape[1]
    u, s, vh = torch.linalg.svd(torch.cat([delta for delta, _ in terms], 1), full_matrices=False)
    k = int((s > 1e-9 * s.max()).sum())
    parts = [keep_largest(vh[:k, i * inside : (i + 1) * inside], density) for i in range(len(terms))]
    elected = torch.where(torch.stack(parts).sum(0) >= 0, 1.0, -1.0)
    agree = [part.sign() == elected for part in parts]
    total = torch.stack([w * part * a for (_, w), part, a in zip(terms, parts, agree, strict=True)]).sum(0)
    return u[:, :k] @ torch.diag(s[:k]) @ (total / torch.stack(agree).sum(0).clamp(min=1))


@pytest.mark.parametrize("ridge", [0.0, 0.01, 2.0])
def test_regmean_is_its_formula(ridge: float, four: Given, tmp_path: Path) -> None:
    report = compose(tmp_path / "out", four, spec("regmean", ridge=ridge))
    assert report.rank == 10
    assert error(deltas(tmp_path / "out"), regmean_of(four, ridge)) < 1e-6
    assert report.formula_error is not None
    assert report.formula_error < 1e-6 < report.relative_error


def test_regmean_of_one_adapter_without_a_ridge_is_the_adapter(four: Given, tmp_path: Path) -> None:
    path, _, covariance = four[0]
    report = compose(tmp_path / "out", [(path, 1.0, covariance)], spec("regmean", ridge=0.0))
    assert report.relative_error < 1e-6


def test_regmean_of_adapters_that_read_apart_keeps_both(tmp_path: Path) -> None:
    """Where two adapters' inputs share no direction, the merge does on each what its own adapter does."""
    draw = torch.Generator().manual_seed(0)
    terms = [Term(k, 1.0, 1.0, torch.randn(2, 8, generator=draw), torch.randn(5, 2, generator=draw)) for k in "ab"]
    halves = [torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4)), torch.diag(torch.tensor([0.0] * 4 + [1.0] * 4))]
    inputs = {term.key: Covariances({"m": half}, 1) for term, half in zip(terms, halves, strict=True)}
    a, b = regmean_factors(terms, inputs, 0.0, "m")
    for term, columns in zip(terms, (slice(0, 4), slice(4, 8)), strict=True):
        assert torch.allclose((b @ a)[:, columns], (term.b @ term.a).double()[:, columns], atol=1e-6)


def test_a_rank_budget_is_the_best_of_its_rank(four: Given, tmp_path: Path) -> None:
    report = compose(tmp_path / "out", four, spec("regmean", rank=2))
    wanted = regmean_of(four, 0.01)
    left = sum(float(torch.linalg.svdvals(one)[2:].square().sum()) for one in wanted.values())
    norm = sum(float(one.square().sum()) for one in wanted.values())
    assert report.formula_error == pytest.approx((left / norm) ** 0.5, rel=1e-5)
    assert error(deltas(tmp_path / "out"), wanted) == pytest.approx((left / norm) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
def test_knots_is_its_formula(density: float, four: Given, tmp_path: Path) -> None:
    report = compose(tmp_path / "out", four, spec("knots_ties", density=density))
    ordered = sorted(four, key=lambda part: -part[1])
    wanted: dict[str, Tensor] = {}
    for name in ALL:
        terms = [(found[name], weight) for path, weight, _ in ordered if name in (found := deltas(path))]
        wanted[name] = knots_of(terms, density)
    assert error(deltas(tmp_path / "out"), wanted) < 1e-6
    assert report.formula_error is not None
    assert report.formula_error < 1e-6


part = st.tuples(st.floats(-3, 3), st.floats(0.1, 4), st.integers(1, 5), st.integers(0, 2**31))


@settings(max_examples=40, deadline=None)
@given(st.lists(part, min_size=1, max_size=4), st.integers(2, 18), st.integers(3, 18), st.floats(0.1, 1))
def test_knots_for_any_terms(
    parts: list[tuple[float, float, int, int]], outside: int, inside: int, density: float
) -> None:
    terms: list[Term] = []
    for number, (weight, scale, rank, seed) in enumerate(parts):
        draw = torch.Generator().manual_seed(seed)
        a, b = torch.randn(rank, inside, generator=draw), torch.randn(outside, rank, generator=draw)
        terms.append(Term(str(number), weight, scale, a.double(), b.double()))
    a, b = knots_factors(terms, spec("knots_ties", density=density, majority="total"))
    whole = [(t.scale * t.b @ t.a, t.weight) for t in terms]
    # Twins make directions that an SVD may turn at will; there the formula itself says nothing certain. Nor does it for one difference
    # with two columns, whose V turns a plane: its entries are of two sizes, twice each, and which of a size are the largest is rounding.
    singular = torch.linalg.svdvals(torch.cat([delta for delta, _ in whole], 1))
    k = int((singular > 1e-9 * singular.max()).sum())
    if k > 1 and float((singular[: k - 1] - singular[1:k]).min()) < 1e-3 * float(singular.max()):
        return
    wanted = knots_of(whole, density)
    assert float((b @ a - wanted).norm()) <= 1e-6 * max(1e-9, float(sum(abs(w) * d.norm() for d, w in whole)))


@pytest.mark.parametrize("density", [0.7, 0.3])
@pytest.mark.parametrize("method", ["ties_svd", "magnitude_prune_svd"])
def test_a_rule_on_whole_differences_is_its_formula(method: str, density: float, four: Given, tmp_path: Path) -> None:
    """At a rank that cuts nothing."""
    compose(tmp_path / "out", four, spec(method, density=density, rank=12))
    wanted: dict[str, Tensor] = {}
    for name in ALL:
        terms = [(found[name], weight) for path, weight, _ in four if name in (found := deltas(path))]
        kept = [
            delta * (delta.abs() >= delta.abs().flatten().topk(int(density * delta.numel())).values[-1])
            for delta, _ in terms
        ]
        if method == "magnitude_prune_svd":
            wanted[name] = sum((w * k for (_, w), k in zip(terms, kept, strict=True)), torch.zeros(1))
            continue
        elected = torch.where(sum(kept, torch.zeros(1)) >= 0, 1.0, -1.0)
        agree = [k.sign() == elected for k in kept]
        total = sum((w * k * a for (_, w), k, a in zip(terms, kept, agree, strict=True)), torch.zeros(1))
        wanted[name] = total / sum(a.double() for a in agree).clamp(min=1)
    assert error(deltas(tmp_path / "out"), wanted) < 1e-6


@pytest.mark.parametrize("method", ["regmean", "knots_ties"])
def test_the_same_bytes_in_any_order(method: str, four: Given, tmp_path: Path) -> None:
    compose(tmp_path / "one", four, spec(method))
    compose(tmp_path / "two", four[::-1], spec(method))
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("method", ["cat", "svd", "ties_svd", "dare_linear_svd"])
def test_a_weight_of_zero_adds_nothing(method: str, four: Given, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if method == "cat" else {"rank": 10}
    if "ties" in method or "dare" in method:
        options["density"] = 1.0
    if method == "ties_svd":  # the vote is the adapters' own; the mean counts all that agree
        parts = [four[0], (four[3][0], 0.0, four[3][2])]
    else:
        parts = list(four)
    report = compose(tmp_path / "out", parts, spec(method, **options))
    if method != "ties_svd":
        assert report.relative_error < 1e-6
    else:
        assert deltas(tmp_path / "out").keys() == ALL.keys()


@pytest.mark.parametrize(
    ("change", "kind"), [("none", InputError), ("lost", Corrupt), ("base", WrongBase), ("module", Corrupt)]
)
def test_covariances_that_cannot_be_used(change: str, kind: type[DnaError], four: Given, tmp_path: Path) -> None:
    path, weight, covariance = four[0]
    given: Path | None = covariance
    if change == "none":
        given = None
    elif change == "lost":
        given = tmp_path / "nowhere"
    elif change == "base":
        given = observed(tmp_path / "other", 1, fingerprint="e" * 64)
    else:
        given = observed(tmp_path / "less", 1, leave_out="model.layers.1.x.v_proj")
    with pytest.raises(kind) as raised:
        merge_adapters(
            [MergePart(path, weight, given), MergePart(four[1][0], 1.0, four[1][2])], tmp_path / "out", spec("regmean"),
            base="tiny", fingerprint=FINGERPRINT,
        )  # fmt: skip
    assert raised.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["regmean", "knots_ties", "cat"])
@pytest.mark.parametrize(
    "option",
    [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]}, {"alpha_pattern": {"q_proj": 4}}],
)
def test_what_is_more_than_a_product_is_refused_with_its_name(
    option: dict[str, Any], method: str, four: Given, tmp_path: Path
) -> None:
    path, weight, covariance = four[0]
    odd = tmp_path / "odd"
    shutil.copytree(path, odd)
    config = json.loads((odd / "adapter_config.json").read_text()) | option
    (odd / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterInvalid, match=next(iter(option))):
        compose(tmp_path / "out", [(odd, weight, covariance), *four[1:]], spec(method))
    assert not (tmp_path / "out").exists()


def test_too_few_exemplars_without_a_ridge(four: Given, tmp_path: Path) -> None:
    path, _, _ = four[0]
    with pytest.raises(InputError, match="cannot be inverted"):
        compose(tmp_path / "out", [(path, 1.0, observed(tmp_path / "few", 1, tokens=2))], spec("regmean", ridge=0.0))
    assert compose(tmp_path / "out", [(path, 1.0, tmp_path / "few")], spec("regmean")).rank == 4


def test_options_of_other_methods_are_refused(four: Given, tmp_path: Path) -> None:
    for what in (
        spec("regmean", density=0.5),
        spec("svd", ridge=0.1),
        spec("knots_ties", seed=1),
        spec("regmean", rank=11),
    ):
        with pytest.raises(InputError):
            compose(tmp_path / "out", four, what)


# 32 parents of a wide module: one large matrix at a time.


class _Counted:
    """Tensors made one after the other, and how many of them were alive at once."""

    def __init__(self, make: Any) -> None:
        self._make, self._alive, self.most = make, weakref.WeakSet[Any](), 0

    def one(self, number: int) -> Tensor:
        made = self._make(number)
        self._alive.add(made)
        self.most = max(self.most, len(self._alive))
        return made


def test_differences_are_formed_one_at_a_time() -> None:
    counted = _Counted(lambda i: torch.full((64, 64), float(i + 1)))

    def tensors() -> Iterator[Tensor]:
        return (counted.one(i) for i in range(32))

    for rule in ("ties", "dare_ties", "magnitude_prune", "dare_linear"):
        combine(rule, tensors, [1.0] * 32, spec(rule, density=0.5), lambda tensor, _: tensor * 1)
    assert counted.most <= 3


def test_covariances_are_held_one_at_a_time() -> None:
    counted = _Counted(lambda i: torch.eye(64) * (i + 1))
    terms = [Term(str(i), 1.0, 1.0, torch.randn(2, 64), torch.randn(16, 2)) for i in range(32)]

    class Lazy(Covariances):
        def __init__(self, number: int) -> None:
            self._number = number

        def width(self, name: str) -> int:
            return 64

        def dense(self, name: str) -> Tensor:
            return counted.one(self._number)

    a, b = regmean_factors(terms, {str(i): Lazy(i) for i in range(32)}, 0.01, "m")
    assert (a.shape, b.shape) == ((64, 64), (16, 64))
    assert counted.most <= 2
