"""Merging: identities that must hold for any adapters, PEFT's own results, what is refused, and equal bytes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor

from clonedna.core.errors import AdapterInvalid, InputError, WrongBase
from clonedna.core.merge import MergePart, MergeReport, MergeSpec
from clonedna.engine.adapters import CONFIG, WEIGHTS, Adapter, read_adapter, write_adapter
from clonedna.engine.combining import Term, combine, distance
from clonedna.engine.merging import merge_adapters, merge_module, own_shapes
from tests.unit.engine import small

pytestmark = pytest.mark.usefixtures("one_thread")

FINGERPRINT = "f" * 64
SHAPES = {"q_proj": (12, 12), "v_proj": (12, 6), "down_proj": (20, 12)}
METHODS = [
    "cat", "svd", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
]  # fmt: skip


def spec(method: str, **options: Any) -> MergeSpec:
    return MergeSpec.model_validate({"method": method, **options})


def made(
    directory: Path, seed: int, *, rank: int = 4, alpha: float = 8, rslora: bool = False, targets: Sequence[str] = ("q_proj", "v_proj"),
    layers: Sequence[int] = (0, 1), fingerprint: str = FINGERPRINT, shapes: dict[str, tuple[int, int]] = SHAPES,
) -> Path:  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    matrices = {
        f"model.layers.{layer}.x.{target}": (
            torch.randn(rank, shapes[target][0], generator=draw),
            torch.randn(shapes[target][1], rank, generator=draw),
        )
        for layer in layers
        for target in targets
    }
    write_adapter(directory, matrices, rank=rank, alpha=alpha, rslora=rslora, base="tiny", fingerprint=fingerprint)
    return directory


def merge(out: Path, parts: Sequence[tuple[Path, float]], what: MergeSpec) -> MergeReport:
    return merge_adapters([MergePart(path, w) for path, w in parts], out, what, base="tiny", fingerprint=FINGERPRINT)


def read(directory: Path) -> Adapter:
    return read_adapter(directory, own_shapes(directory), FINGERPRINT)


def deltas(directory: Path) -> dict[str, Tensor]:
    adapter = read(directory)
    return {name: adapter.scale * (b.double() @ a.double()) for name, (a, b) in adapter.matrices.items()}


def target(parts: Sequence[tuple[Path, float]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for path, weight in parts:
        for name, delta in deltas(path).items():
            total[name] = total.get(name, torch.zeros_like(delta)) + weight * delta
    return total


def error(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert set(got) == set(wanted)
    off = sum(float((got[name] - wanted[name]).square().sum()) for name in wanted)
    return (off / sum(float(delta.square().sum()) for delta in wanted.values())) ** 0.5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, float]]:
    """Two adapters of one rank and the same modules."""
    folder = tmp_path_factory.mktemp("pair")
    return [(made(folder / "a", 1), 0.7), (made(folder / "b", 2, alpha=4), 0.3)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, float]]:
    """Three adapters of other ranks, scales and modules; one weight is negative."""
    folder = tmp_path_factory.mktemp("mixed")
    return [
        (made(folder / "a", 1, rank=4), 0.7),
        (made(folder / "b", 2, rank=2, rslora=True, targets=("down_proj", "v_proj")), 0.5),
        (made(folder / "c", 3, rank=3, alpha=3, targets=("down_proj",)), -0.4),
    ]


# Identities, for any terms of one module.

weights = st.floats(-3, 3).filter(lambda w: abs(w) > 0.05)
part = st.tuples(weights, st.floats(0.1, 4), st.integers(1, 5), st.integers(0, 2**31))


def terms_of(parts: Sequence[tuple[float, float, int, int]], outside: int, inside: int) -> list[Term]:
    terms: list[Term] = []
    for weight, scale, rank, seed in parts:
        draw = torch.Generator().manual_seed(seed)
        a, b = torch.randn(rank, inside, generator=draw), torch.randn(outside, rank, generator=draw)
        terms.append(Term(f"{seed:016x}{len(terms)}", weight, scale, a, b))
    return terms


def dense(terms: Sequence[Term]) -> Tensor:
    return sum((t.weight * t.scale * (t.b.double() @ t.a.double()) for t in terms), torch.tensor(0.0))


any_terms = st.builds(terms_of, st.lists(part, min_size=1, max_size=4), st.integers(3, 24), st.integers(3, 24))
quick = settings(max_examples=60, deadline=None)


@quick
@given(any_terms)
def test_cat_is_the_weighted_sum(terms: list[Term]) -> None:
    a, b = merge_module(terms, spec("cat"), sum(len(t.a) for t in terms))
    assert float((b.double() @ a.double() - dense(terms)).norm()) <= 1e-6 * sum(
        float((t.factor * t.b @ t.a).norm()) for t in terms
    )


@quick
@given(any_terms)
def test_svd_at_the_full_rank_is_the_weighted_sum(terms: list[Term]) -> None:
    a, b = merge_module(terms, spec("svd"), sum(len(t.a) for t in terms))
    assert float((b.double() @ a.double() - dense(terms)).norm()) <= 1e-6 * float(dense(terms).norm()) + 1e-9


@quick
@given(any_terms, st.integers(1, 6))
def test_svd_is_the_best_of_its_rank(terms: list[Term], rank: int) -> None:
    a, b = merge_module(terms, spec("svd"), rank)
    assert a.shape == (rank, terms[0].a.shape[1])
    left = torch.linalg.svdvals(dense(terms))[rank:].norm()  # Eckart and Young 1936
    assert float((b.double() @ a.double() - dense(terms)).norm()) == pytest.approx(
        float(left), rel=1e-5, abs=1e-5 * float(dense(terms).norm())
    )


@quick
@given(any_terms, st.integers(1, 6), st.integers(0, 99))
def test_the_distance_from_factors_is_the_dense_one(terms: list[Term], rank: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(rank, terms[0].a.shape[1], generator=draw),
        torch.randn(terms[0].b.shape[0], rank, generator=draw),
    )
    norm, off, apart = distance(terms, a, b)
    assert apart == pytest.approx(sum(float(dense([term]).norm()) for term in terms), rel=1e-9)
    assert norm == pytest.approx(float(dense(terms).norm()), rel=1e-9, abs=1e-9)
    assert off == pytest.approx(float((b.double() @ a.double() - dense(terms)).norm()), rel=1e-9, abs=1e-9)


# Whole adapters.


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_of_weight_one_is_itself(method: str, tmp_path: Path) -> None:
    one = [(made(tmp_path / "a", 5), 1.0)]
    density = {} if method in ("cat", "svd", "linear") else {"density": 1.0}
    report = merge(tmp_path / "out", one, spec(method, **density))
    assert error(deltas(tmp_path / "out"), target(one)) < 1e-6
    assert report.relative_error < 1e-6
    assert report.rank == 4


@pytest.mark.parametrize("method", METHODS)
def test_the_reported_error_is_the_dense_one(method: str, pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    report = merge(tmp_path / "out", pair, spec(method))
    got, wanted = deltas(tmp_path / "out"), target(pair)
    assert report.relative_error == pytest.approx(error(got, wanted), rel=2e-5, abs=1e-9)
    assert report.norm == pytest.approx(sum(float(one.square().sum()) for one in got.values()) ** 0.5, rel=2e-5)
    assert report.sum_norm == pytest.approx(sum(float(one.square().sum()) for one in wanted.values()) ** 0.5, rel=2e-5)
    assert [one.module for one in report.modules] == list(wanted)
    for one in report.modules:
        single = {one.module: got[one.module]}, {one.module: wanted[one.module]}
        assert one.relative_error == pytest.approx(error(*single), rel=2e-5, abs=1e-9)


def test_linear_is_far_from_the_weighted_sum(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    assert merge(tmp_path / "l", pair, spec("linear")).relative_error > 0.5
    assert merge(tmp_path / "c", pair, spec("cat")).relative_error < 1e-6


@pytest.mark.parametrize("method", ["cat", "svd", *(m for m in METHODS if m.endswith("_svd"))])
def test_other_ranks_and_modules(method: str, mixed: list[tuple[Path, float]], tmp_path: Path) -> None:
    report = merge(tmp_path / "out", mixed, spec(method, **({"density": 1.0} if method.endswith("_svd") else {})))
    assert report.target_modules == ("down_proj", "q_proj", "v_proj")
    assert report.rank == (9 if method == "cat" else 4)
    got, wanted = deltas(tmp_path / "out"), target(mixed)
    assert report.relative_error == pytest.approx(error(got, wanted), rel=2e-5, abs=1e-8)
    if method == "cat":
        assert report.relative_error < 1e-6
    if "ties" not in method:  # a module of one adapter alone is whole where its rank fits
        assert float((got["model.layers.0.x.q_proj"] - wanted["model.layers.0.x.q_proj"]).norm()) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_again_and_in_any_order(method: str, pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    for name, parts in (("one", pair), ("two", pair), ("three", pair[::-1])):
        merge(tmp_path / name, parts, spec(method))
    for file in (CONFIG, WEIGHTS):
        assert len({(tmp_path / name / file).read_bytes() for name in ("one", "two", "three")}) == 1


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "dare_linear_svd"])
def test_another_seed_drops_other_entries(method: str, pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    for seed in (0, 1):
        merge(tmp_path / str(seed), pair, spec(method, seed=seed))
    assert (tmp_path / "0" / WEIGHTS).read_bytes() != (tmp_path / "1" / WEIGHTS).read_bytes()


def test_dare_is_right_on_average(tmp_path: Path) -> None:
    one = [(made(tmp_path / "a", 5, targets=("q_proj",), layers=(0,)), 1.0)]
    (wanted,) = target(one).values()
    total = torch.zeros_like(wanted)
    for seed in range(60):
        merge(tmp_path / "out", one, spec("dare_linear_svd", seed=seed, rank=12, density=0.5))
        total += deltas(tmp_path / "out")["model.layers.0.x.q_proj"]
    # Each entry's mean of 60 draws deviates by |w| / sqrt(60) = 0.13 |w|.
    assert float((total / 60 - wanted).norm() / wanted.norm()) < 0.2


def test_a_lower_density_keeps_less(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    errors = [
        merge(tmp_path / str(d), pair, spec("magnitude_prune_svd", density=d, rank=12)).relative_error
        for d in (1.0, 0.6, 0.2)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-5 < errors[1] < errors[2]


def test_progress_counts_modules(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    merge_adapters(
        [MergePart(path, w) for path, w in pair], tmp_path, spec("cat"), base="tiny", fingerprint=FINGERPRINT,
        progress=lambda done, total: heard.append((done, total)),
    )  # fmt: skip
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_layers_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    one = [(made(tmp_path / "a", 5, layers=range(11), targets=("v_proj",)), 1.0)]
    report = merge(tmp_path / "out", one, spec("cat"))
    assert [one.module.split(".")[2] for one in report.modules] == [str(layer) for layer in range(11)]


# PEFT itself.


@pytest.fixture(scope="module")
def same_rank(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, float]]:
    directory = tmp_path_factory.mktemp("adapters") / "same"
    other = small.make_adapter(base, directory, seed=3, lora_alpha=4, target_modules=["q_proj", "gate_proj"])
    return [(adapter, 0.7), (other, 0.4)]


def by_peft(base: Path, parts: Sequence[tuple[Path, float]], **options: Any) -> dict[str, Tensor]:
    with small.peft_quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density")
        model = peft.PeftModel.from_pretrained(small.plain_model(base), str(parts[0][0]), adapter_name="0")
        for number, (path, _) in enumerate(parts[1:], 1):
            model.load_adapter(str(path), str(number))
        names = [str(number) for number in range(len(parts))]
        model.add_weighted_adapter(names, [weight for _, weight in parts], "merged", **options)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("merged").detach().double()
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer) and "merged" in module.lora_A
    }


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("cat", {}), ("linear", {}), ("svd", {"rank": 3}), ("svd", {}),
        ("ties", {"density": 0.4}), ("ties", {"density": 0.4, "majority": "frequency"}), ("magnitude_prune", {"density": 0.4}),
        ("ties_svd", {"density": 0.4}), ("ties_svd", {"density": 0.4, "majority": "frequency", "rank": 6}),
        ("magnitude_prune_svd", {"density": 0.3}), ("dare_linear", {"density": 1.0}), ("dare_ties", {"density": 1.0}),
        ("dare_linear_svd", {"density": 1.0}), ("dare_ties_svd", {"density": 1.0}),
    ],
)  # fmt: skip
def test_peft_gives_the_same(
    method: str, options: dict[str, Any], sign: float, base: Path, same_rank: list[tuple[Path, float]], tmp_path: Path
) -> None:
    parts = [same_rank[0], (same_rank[1][0], sign * same_rank[1][1])]
    merge(tmp_path, parts, spec(method, **options))
    theirs = {"rank": "svd_rank", "majority": "majority_sign_method"}
    wanted = by_peft(
        base, parts, combination_type=method, **{theirs.get(key, key): value for key, value in options.items()}
    )
    assert error(deltas(tmp_path), wanted) < 2e-5


def test_peft_gives_the_same_for_other_ranks(base: Path, adapter: Path, other_adapter: Path, tmp_path: Path) -> None:
    parts = [(adapter, 0.7), (other_adapter, 0.3)]
    for method, options in (("cat", {}), ("svd", {"rank": 5}), ("ties_svd", {"density": 0.5})):
        merge(tmp_path / method, parts, spec(method, **options))
        theirs = {"svd_rank" if key == "rank" else key: value for key, value in options.items()}
        assert error(deltas(tmp_path / method), by_peft(base, parts, combination_type=method, **theirs)) < 2e-5


@pytest.mark.parametrize("rule", ["dare_linear", "dare_ties"])
def test_with_the_same_draw_the_rule_is_pefts(rule: str) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(6, 9, generator=draw) for _ in range(3)]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        wanted = getattr(merge_utils, rule)(tensors, torch.tensor([0.5, 0.3, -0.2]), density=0.6)
        torch.manual_seed(7)
        dropped = [merge_utils.random_pruning(tensor, 0.6, rescale=True) for tensor in tensors]
        got = combine(
            rule, lambda: tensors, [0.5, 0.3, -0.2], spec(rule, density=0.6, majority="total"),
            lambda _, place: dropped[place],
        )  # fmt: skip
    assert torch.allclose(got, wanted)


def test_the_engine_serves_the_merge_as_the_two_layers(
    engine: Any, adapter: Path, other_adapter: Path, examples: Any, tmp_path: Path
) -> None:
    import anyio

    from clonedna.core.model import Layer

    parts = [MergePart(adapter, 0.7), MergePart(other_adapter, 0.3)]
    merge_adapters(parts, tmp_path, spec("cat"), base=engine.base.id, fingerprint=engine.base.fingerprint)

    async def work() -> None:
        merged = await engine.load(tmp_path)
        layers = [Layer(adapter=(await engine.load(p.directory)).id, weight=p.weight) for p in parts]
        one = await engine.nll(examples, [Layer(adapter=merged.id)])
        both = await engine.nll(examples, layers)
        assert [s.nll for s in one] == pytest.approx([s.nll for s in both], rel=1e-5)

    anyio.run(work)


# Refusals.


def refused(tmp_path: Path, parts: Sequence[tuple[Path, float]], what: MergeSpec, kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        merge(tmp_path / "out", parts, what)
    assert not (tmp_path / "out").exists()
    assert caught.value.hint  # type: ignore[attr-defined]
    return caught.value


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_rules_on_factors_need_one_rank(method: str, mixed: list[tuple[Path, float]], tmp_path: Path) -> None:
    hint = refused(tmp_path, mixed, spec(method), InputError).hint
    assert hint.endswith("svd")
    merge(tmp_path / "hinted", mixed, spec(hint.rpartition(" ")[2]))


def test_a_rank_that_is_not_served(tmp_path: Path) -> None:
    wide = {"q_proj": (80, 80)}
    parts = [(made(tmp_path / str(i), i, rank=65, targets=("q_proj",), shapes=wide), 0.5) for i in (1, 2)]
    assert "svd --rank 64" in refused(tmp_path, parts, spec("cat"), InputError).hint
    assert merge(tmp_path / "hinted", parts, spec("svd", rank=64)).rank == 64
    refused(tmp_path, parts, spec("svd", rank=129), InputError)


@pytest.mark.parametrize(
    "what",
    [
        spec("svd", rank=9), spec("cat", rank=8), spec("ties", rank=4), spec("svd", density=0.5), spec("linear", seed=1),
        spec("dare_linear", majority="total"), spec("ties", seed=0),
    ],
)  # fmt: skip
def test_an_option_that_means_nothing(what: MergeSpec, pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    refused(tmp_path, pair, what, InputError)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_none(weight: float, pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    refused(tmp_path, [pair[0], (pair[1][0], weight)], spec("cat"), InputError)


def test_an_adapter_named_twice_and_none_at_all(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    refused(tmp_path, [pair[0], pair[0]], spec("cat"), InputError)
    refused(tmp_path, [], spec("cat"), InputError)


def test_adapters_that_cancel_out(tmp_path: Path) -> None:
    one = made(tmp_path / "a", 1)
    other = tmp_path / "b"
    matrices = {name: (2 * a, b / 2) for name, (a, b) in read(one).matrices.items()}
    write_adapter(other, matrices, rank=4, alpha=8, rslora=False, base="tiny", fingerprint=FINGERPRINT)
    refused(tmp_path, [(one, 1.0), (other, -1.0)], spec("svd"), InputError)


def test_another_base_and_other_shapes(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    refused(tmp_path, [pair[0], (made(tmp_path / "x", 1, fingerprint="e" * 64), 1.0)], spec("cat"), WrongBase)
    foreign = made(tmp_path / "y", 1, shapes={**SHAPES, "q_proj": (13, 12)})
    refused(tmp_path, [pair[0], (foreign, 1.0)], spec("cat"), AdapterInvalid)


def test_modules_of_some_layers_only(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    some = made(tmp_path / "x", 1, targets=("down_proj",), layers=(0,))
    refused(tmp_path, [pair[0], (some, 1.0)], spec("cat"), AdapterInvalid)


def test_files_that_are_no_adapter(pair: list[tuple[Path, float]], tmp_path: Path) -> None:
    refused(tmp_path, [pair[0], (tmp_path / "gone", 1.0)], spec("cat"), AdapterInvalid)
    broken = made(tmp_path / "x", 1)
    (broken / WEIGHTS).write_bytes(b"nothing")
    refused(tmp_path, [pair[0], (broken, 1.0)], spec("cat"), AdapterInvalid)
    odd = made(tmp_path / "y", 1)
    (odd / CONFIG).write_text(json.dumps(json.loads((odd / CONFIG).read_text()) | {"use_dora": True}))
    refused(tmp_path, [pair[0], (odd, 1.0)], spec("cat"), AdapterInvalid)
