"""Training beside others: each term's gradient against finite differences, what it keeps, and that without it nothing changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
import torch

from clonedna.core.block import Recipe
from clonedna.core.canonical import canonical
from clonedna.core.errors import Corrupt, InputError, NotFound
from clonedna.core.model import Beside, Example, Guarded, Layer, LoraSpec
from clonedna.engine.adapters import read_adapter
from clonedna.engine.beside import Company, Frozen, energy, overlap
from clonedna.engine.covariance import Covariances
from clonedna.engine.local import LocalEngine
from clonedna.engine.loss import divergence
from clonedna.engine.merging import own_shapes
from clonedna.engine.slots import Factors
from tests.unit.engine import small

OWN = [Example(text="def area(", completion="width, height):\n    return width * height\n")]
OTHER = [
    Example(text="for name in ", completion="names:\n    print(name)\n"),
    Example(text="class ", completion="Stack:\n    pass\n"),
]


class Slot(SimpleNamespace):
    """As much of a trained slot as terms need."""

    def factors(self, linear) -> Factors | None:
        pair = self.matrices.get(linear.name)
        return None if pair is None else Factors(pair[0], pair[1].t(), self.scale)


def slot(engine: LocalEngine, seed: int = 0, names: str = "q_proj", size: float = 0.3) -> Slot:
    draw = torch.Generator().manual_seed(seed)
    return Slot(
        scale=0.5,
        matrices={
            name: ((size * torch.randn(3, i, generator=draw)).requires_grad_(), (size * torch.randn(o, 3, generator=draw)).requires_grad_())
            for name, (i, o) in engine._model.shapes.items()
            if name.endswith(names)
        },
    )  # fmt: skip


def slopes(loss, of: Slot, *, step: float, seed: int = 1) -> tuple[float, float]:
    """The slope of ``loss()`` in a random direction of all matrices: by its gradient, and by central differences."""
    leaves = [matrix for pair in of.matrices.values() for matrix in pair]
    for leaf in leaves:
        leaf.grad = None
    loss().backward()
    draw = torch.Generator().manual_seed(seed)
    ways = [torch.randn(leaf.shape, generator=draw) for leaf in leaves]
    by_gradient = sum(
        float((leaf.grad * way).sum()) for leaf, way in zip(leaves, ways, strict=True) if leaf.grad is not None
    )
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, way in zip(leaves, ways, strict=True):
                leaf.add_(sign * step * way)
        values.append(float(loss().detach()))
        with torch.no_grad():
            for leaf, way in zip(leaves, ways, strict=True):
                leaf.sub_(sign * step * way)
    return by_gradient, (values[0] - values[1]) / (2 * step)


def test_divergence_is_kl_and_its_gradient_is_right_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False).double().requires_grad_(False)
    hidden, reference = torch.randn(5, 6).double().requires_grad_(), torch.randn(5, 6).double()
    q, p = (torch.log_softmax(head(x), -1) for x in (hidden, reference))
    expected = (p.exp() * (p - q)).sum(1)
    monkeypatch.setattr("clonedna.engine.loss.CHUNK_LOGITS", 22)
    got = divergence(hidden, reference, head)
    assert torch.allclose(got.double(), expected, atol=1e-6)
    weights = torch.arange(1.0, 6.0).double()
    (wanted,) = torch.autograd.grad((expected * weights).sum(), hidden)
    (had,) = torch.autograd.grad((got * weights).sum(), hidden)
    assert torch.allclose(had, wanted, atol=1e-6)
    assert float(divergence(reference, reference, head).abs().max()) < 1e-12


@pytest.mark.parametrize("with_neighbour", [False, True])
def test_the_guard_s_gradient_is_that_of_its_divergence(
    base: Path, engine: LocalEngine, tmp_path: Path, with_neighbour: bool
) -> None:
    trained = slot(engine, names="v_proj")
    path = small.make_adapter(base, tmp_path / "a")
    frozen = (
        Frozen([(read_adapter(path, own_shapes(path), engine.base.fingerprint), 0.7)], "cpu")
        if with_neighbour
        else None
    )
    rows = engine._texts.rows(OTHER)
    company = Company(Beside(guard=(Guarded(examples=tuple(OTHER)),)), [(rows, [])], [], [], 0)

    def loss() -> torch.Tensor:
        return company.divergences(engine._model, trained, rows, [frozen] * len(rows)).sum()

    by_gradient, by_differences = slopes(loss, trained, step=2e-3)
    assert by_gradient == pytest.approx(by_differences, rel=2e-2)
    with torch.no_grad():
        for _, b in trained.matrices.values():
            b.zero_()
    assert float(loss().detach()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("sketched", [False, True])
def test_the_energy_is_relative_to_the_base_and_its_gradient_is_right(engine: LocalEngine, sketched: bool) -> None:
    trained, draw = slot(engine), torch.Generator().manual_seed(5)
    known = {}
    for name, (a, _) in trained.matrices.items():
        x = torch.randn(40, a.shape[1], generator=draw)
        c = x.T @ x / 40
        parts = (x[:4] / 3, torch.rand(a.shape[1], generator=draw)) if sketched else (c, None)
        known[name] = (*parts, 2.5)
    by_gradient, by_differences = slopes(lambda: energy(trained, known), trained, step=1e-2)
    assert by_gradient == pytest.approx(by_differences, rel=1e-2)
    expected = []
    for name, (a, b) in trained.matrices.items():
        main, diagonal, _ = known[name]
        c = main if diagonal is None else main.T @ main + torch.diag(diagonal)
        d = 0.5 * b.detach().double() @ a.detach().double()
        expected.append(float(torch.trace(d @ c.double() @ d.T)) / 2.5)
    assert float(energy(trained, known).detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_overlap_is_o_lora_s_and_its_gradient_is_right(base: Path, engine: LocalEngine, tmp_path: Path) -> None:
    trained = slot(engine)
    path = small.make_adapter(base, tmp_path / "a")
    other = read_adapter(path, own_shapes(path), engine.base.fingerprint)
    by_gradient, by_differences = slopes(lambda: overlap(trained, [other]), trained, step=1e-2)
    assert by_gradient == pytest.approx(by_differences, rel=1e-2)
    expected = [
        float((other.matrices[name][0] @ a.detach().T).square().sum()) for name, (a, _) in trained.matrices.items()
    ]
    assert float(overlap(trained, [other]).detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


async def trained_files(
    engine: LocalEngine, directory: Path, beside: Beside | None, *, steps: int = 12, stop: int = 0
) -> Path:
    """Trained on ``OWN``; with ``stop``, saved and taken up again after that many steps."""
    spec = LoraSpec(rank=4, alpha=8, clip=0.0)
    trainer = await engine.train(spec, beside=beside)
    for step in range(steps):
        if stop and step == stop:
            await trainer.save(directory / "half", resumable=True)
            await trainer.close()
            trainer = await engine.train(spec, resume=directory / "half", beside=beside)
        await trainer.forward_backward(OWN)
        await trainer.optim_step(5e-3)
    await trainer.save(directory)
    await trainer.close()
    return directory


async def losses(engine: LocalEngine, directory: Path, examples: list[Example]) -> float:
    info = await engine.load(directory)
    return sum(score.nll for score in await engine.nll(examples, [Layer(adapter=info.id)]))


def test_a_guarded_training_changes_the_guarded_less_and_learns_all_the_same(
    engine: LocalEngine, tmp_path: Path
) -> None:
    async def run() -> None:
        guard = Beside(guard=(Guarded(examples=tuple(OTHER)),), guard_weight=5.0)
        base_own, base_other = [sum(s.nll for s in await engine.nll(e)) for e in (OWN, OTHER)]
        plain = await trained_files(engine, tmp_path / "plain", None)
        kept = await trained_files(engine, tmp_path / "kept", guard)
        moved = [abs(await losses(engine, one, OTHER) - base_other) for one in (plain, kept)]
        gained = [base_own - await losses(engine, one, OWN) for one in (plain, kept)]
        assert moved[1] < 0.5 * moved[0]
        assert gained[1] > 0.4 * gained[0] > 0

    anyio.run(run)


def test_an_energy_penalty_keeps_the_energy_down(engine: LocalEngine, tmp_path: Path) -> None:
    async def run() -> None:
        await engine.observe(OTHER, (), tmp_path / "c")
        beside = Beside(covariances=(tmp_path / "c",), energy_weight=2000.0)
        plain = await trained_files(engine, tmp_path / "plain", None)
        kept = await trained_files(engine, tmp_path / "kept", beside)
        sizes = []
        for path in (plain, kept):
            adapter = read_adapter(path, own_shapes(path), engine.base.fingerprint)
            company = Company(beside, [], [], [_covariances(engine, tmp_path / "c")], 0)
            company.settle(engine._model)
            found = company.penalty(Slot(scale=adapter.scale, matrices=adapter.matrices))
            assert found is not None
            sizes.append(float(found))
        assert sizes[1] < 0.5 * sizes[0]

    anyio.run(run)


def _covariances(engine: LocalEngine, folder: Path) -> Covariances:
    from clonedna.engine.covariance import read_covariances

    return read_covariances(folder, engine.base.fingerprint)


def test_a_guarded_training_is_repeatable_and_goes_on_bit_for_bit(engine: LocalEngine, tmp_path: Path) -> None:
    guard = Beside(guard=(Guarded(examples=tuple(OTHER)),), guard_examples=1)
    once, again = (anyio.run(trained_files, engine, tmp_path / name, guard) for name in ("once", "again"))
    broken = anyio.run(lambda: trained_files(engine, tmp_path / "broken", guard, stop=5))
    plain = anyio.run(trained_files, engine, tmp_path / "plain", None)
    data = [(path / "adapter_model.safetensors").read_bytes() for path in (once, again, broken, plain)]
    assert data[0] == data[1] == data[2] != data[3]


def test_nothing_to_keep_to_unknown_layers_and_other_covariances_are_refused(
    engine: LocalEngine, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        anyio.run(lambda: engine.train(LoraSpec(), beside=Beside()))
    with pytest.raises(InputError):
        anyio.run(
            lambda: engine.train(LoraSpec(), beside=Beside(guard=(Guarded(examples=tuple(OWN)),), guard_weight=0))
        )
    guarded = Guarded(examples=tuple(OWN), layers=(Layer(adapter="nobody"),))
    with pytest.raises(NotFound):
        anyio.run(lambda: engine.train(LoraSpec(), beside=Beside(guard=(guarded,))))
    with pytest.raises(Corrupt):
        anyio.run(lambda: engine.train(LoraSpec(), beside=Beside(covariances=(tmp_path,), energy_weight=1.0)))
    assert engine.status.training == 0


def test_a_recipe_without_a_guard_is_the_recipe_that_it_was() -> None:
    assert b"guard" not in canonical(Recipe())
    assert Recipe.model_validate_json(canonical(Recipe())) == Recipe()
