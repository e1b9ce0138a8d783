"""Training: the loss terms are the completion's alone, one step is PEFT's and AdamW's, several adapters train as each would by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import anyio
import peft
import pytest
import torch
from safetensors.torch import load_file

from clonedna.core.errors import InputError
from clonedna.core.model import Example, Layer, LoraSpec, Message, StepLoss
from clonedna.engine import model as engine_model
from clonedna.engine.adapters import WEIGHTS
from clonedna.engine.local import LocalEngine, LocalTrainer
from clonedna.engine.loss import token_nll
from clonedna.engine.texts import Row
from tests.unit.engine import small

SPEC = LoraSpec(rank=4, alpha=8, seed=5)


async def trained(
    engine: LocalEngine,
    spec: LoraSpec,
    batches: Sequence[Sequence[Example]],
    rate: float = 5e-3,
    save: Path | None = None,
) -> list[StepLoss]:
    trainer = await engine.train(spec)
    losses: list[StepLoss] = []
    for batch in batches:
        losses.append(await trainer.forward_backward(batch))
        await trainer.optim_step(rate)
    if save is not None:
        await trainer.save(save)
    await trainer.close()
    return losses


def gradients(trainer: LocalTrainer) -> dict[str, torch.Tensor]:
    assert trainer._trained is not None
    return {
        f"{name}.{side}": m.grad.clone()
        for name, pair in trainer._trained.matrices.items()
        for side, m in zip("ab", pair, strict=True)
    }


async def gradient_of(engine: LocalEngine, batch: Sequence[Example], spec: LoraSpec = SPEC) -> dict[str, torch.Tensor]:
    """After one step, so that both matrices have a gradient."""
    trainer = await engine.train(spec)
    await trainer.forward_backward([Example(text="warm", completion=" up the matrices")])
    await trainer.optim_step(1e-2)
    await trainer.forward_backward(batch)
    found = gradients(trainer)
    await trainer.close()
    return found


def test_training_descends(engine: LocalEngine, examples: list[Example]) -> None:
    losses = [loss.loss_sum / loss.tokens for loss in anyio.run(trained, engine, SPEC, [examples] * 12, 1e-2)]
    assert losses[-1] < losses[0] - 1.0
    assert all(b < a for a, b in itertools.pairwise(losses[:6]))


@pytest.mark.parametrize(
    "options", [{}, {"rslora": True, "weight_decay": 0.1, "clip": 0.05}], ids=["plain", "decay, tight clip, rslora"]
)
def test_each_step_is_that_of_peft_and_adamw(
    engine: LocalEngine, base: Path, examples: list[Example], options: dict[str, object], tmp_path: Path
) -> None:
    """Reference: PEFT's modules from the same initial matrices, transformers' own loss with right padding, torch's AdamW and clip."""
    spec = SPEC.model_copy(update=options)

    async def start() -> None:
        trainer = await engine.train(spec)
        await trainer.save(tmp_path / "start")
        await trainer.close()

    anyio.run(start)
    with small.peft_quiet():
        model = peft.PeftModel.from_pretrained(small.plain_model(base), str(tmp_path / "start"), is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay)
    rows = engine._texts.rows(examples)
    ids, labels = padded(rows, pad=7)
    wanted: list[float] = []
    for step in range(6):
        loss = model(input_ids=ids, attention_mask=(labels != -1).long(), labels=labels.where(labels >= 0, -100)).loss
        wanted.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec.clip)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (step + 1)
        optimiser.step()
        optimiser.zero_grad()

    async def ours() -> list[float]:
        trainer, losses = await engine.train(spec), []
        for step in range(6):
            loss = await trainer.forward_backward(examples)
            losses.append(loss.loss_sum / loss.tokens)
            await trainer.optim_step(2e-3 * (step + 1))
        await trainer.save(tmp_path / "end")
        await trainer.close()
        return losses

    assert anyio.run(ours) == pytest.approx(wanted, abs=1e-4)
    end = load_file(tmp_path / "end" / WEIGHTS)
    theirs = {name.replace(".default", ""): p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert max(float((end[key] - theirs[key]).abs().max()) for key in end) < 1e-4


def padded(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids; labels with -2 on the prompt and -1 on padding."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -1)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, : row.start] = -2
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    return ids, labels


def test_the_loss_terms_are_the_completion_s_tokens_and_no_others(engine: LocalEngine, base: Path) -> None:
    """Token by token against the plain model: prompt tokens condition the terms and are in none of them."""
    (row,) = engine._texts.rows([Example(messages=(Message(role="user", content="abc"),), completion="return width")])
    nlls = engine_model.row_nlls(engine._model, [row], [engine_model.Part(len(row.ids) - 1)])[0]
    with torch.inference_mode():
        logits = small.plain_model(base)(input_ids=torch.tensor([row.ids])).logits[0]
    every = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row.ids[1:]), reduction="none")
    assert len(nlls) == row.scored < len(every)
    assert torch.allclose(nlls, every[row.start - 1 :], atol=1e-5)


def test_prompt_tokens_as_labels_and_neighbours_change_no_term(engine: LocalEngine) -> None:
    """A row whose prompt were scored would have other terms; what stands beside a row never counts."""
    row = Row(tuple(range(5, 25)), 12, 8)
    other_label = Row(row.ids, 15, 5)  # the same tokens, three of them now prompt
    part = engine_model.Part
    alone = engine_model.row_nlls(engine._model, [row], [part(19)])[0]
    fewer = engine_model.row_nlls(engine._model, [other_label], [part(19)])[0]
    assert torch.equal(alone[3:], fewer)
    for filler in (3, 99, 250):  # stands where padding would, before and behind
        beside = Row((filler,) * 30, 1, 0)
        packed = engine_model.row_nlls(engine._model, [beside, row, beside], [part(29 + 19 + 29)])[1]
        assert torch.allclose(packed, alone, atol=1e-5)


def test_the_gradient_of_a_batch_is_the_mean_over_its_tokens(engine: LocalEngine, examples: list[Example]) -> None:
    """Weighted by tokens, the gradients of single examples add up to the batch's, also when the batch takes several steps."""
    batch = [*examples, Example(text="long", completion="x = y + 1\n" * 12)]

    async def all_of_them() -> None:
        whole = await gradient_of(engine, batch)
        sizes = [score.tokens for score in await engine.nll(batch)]
        singles = [await gradient_of(engine, [example]) for example in batch]
        for key, wanted in whole.items():
            added = sum(n * single[key] for n, single in zip(sizes, singles, strict=True)) / sum(sizes)
            assert torch.allclose(added, wanted, atol=1e-5), key

    anyio.run(all_of_them)


def test_a_batch_of_several_steps_has_the_gradient_of_one(
    engine: LocalEngine, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = anyio.run(gradient_of, engine, examples)
    monkeypatch.setattr(engine_model.steps_of, "__defaults__", (70,))
    many = anyio.run(gradient_of, engine, examples)
    assert all(torch.allclose(one[key], many[key], atol=1e-5) for key in one)


def test_gradients_of_two_batches_add_up_until_the_step(engine: LocalEngine, examples: list[Example]) -> None:
    async def run() -> None:
        trainer = await engine.train(SPEC)
        await trainer.forward_backward(examples[:3])
        first = gradients(trainer)
        await trainer.forward_backward(examples[:3])
        assert all(torch.allclose(g, 2 * first[key], atol=1e-6) for key, g in gradients(trainer).items())
        await trainer.optim_step(1e-3)
        with pytest.raises(InputError, match="no gradient"):
            await trainer.optim_step(1e-3)
        await trainer.close()

    anyio.run(run)


def test_the_same_seed_and_data_give_the_same_bytes(
    engine: LocalEngine, examples: list[Example], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        torch.rand(7)  # what else draws numbers does not matter
        anyio.run(trained, engine, SPEC, [examples[:3], examples[3:]] * 2, 5e-3, tmp_path / name)
    anyio.run(trained, engine, SPEC.model_copy(update={"seed": 6}), [examples], 5e-3, tmp_path / "other")
    one, two, other = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_adapters_that_train_at_once_train_as_each_would_alone(engine: LocalEngine, examples: list[Example]) -> None:
    """Different ranks, modules, rates and batches; the passes are shared (counted), the losses those of separate runs."""
    jobs = [
        (LoraSpec(rank=4, alpha=8, seed=1), [examples[:4]] * 5, 5e-3),
        (LoraSpec(rank=8, alpha=8, seed=2, target_modules=("q_proj", "down_proj")), [examples[2:]] * 5, 1e-2),
        (LoraSpec(rank=2, alpha=4, seed=3, rslora=True), [examples[1:3]] * 5, 2e-2),
    ]

    async def at_once() -> tuple[list[list[StepLoss]], list[int]]:
        results: list[list[StepLoss]] = [[] for _ in jobs]
        shared: list[int] = []
        gradients_of = engine._training.gradients

        def counting(payloads):
            shared.append(len(payloads))
            return gradients_of(payloads)

        engine._training.gradients = counting  # type: ignore[method-assign]
        barrier = anyio.Event()

        async def run(i: int) -> None:
            spec, batches, rate = jobs[i]
            trainer = await engine.train(spec)
            if engine._training.slots == len(jobs):
                barrier.set()
            await barrier.wait()
            for batch in batches:
                results[i].append(await trainer.forward_backward(batch))
                await trainer.optim_step(rate)
            await trainer.close()

        try:
            async with anyio.create_task_group() as group:
                for i in range(len(jobs)):
                    group.start_soon(run, i)
        finally:
            del engine._training.gradients
        return results, shared

    together, shared = anyio.run(at_once)
    assert max(shared) > 1
    for (spec, batches, rate), losses in zip(jobs, together, strict=True):
        for alone, here in zip(anyio.run(trained, engine, spec, batches, rate), losses, strict=True):
            assert alone.tokens == here.tokens
            assert alone.loss_sum / alone.tokens == pytest.approx(here.loss_sum / here.tokens, abs=1e-5)
            assert [s.nll for s in alone.per_example] == pytest.approx([s.nll for s in here.per_example], rel=1e-4)


def test_a_trainer_measures_its_current_state_and_an_engine_what_was_saved(
    engine: LocalEngine, examples: list[Example], tmp_path: Path
) -> None:
    async def run() -> None:
        trainer = await engine.train(SPEC)
        assert await trainer.nll(examples) == await engine.nll(examples)  # B is zero
        await trainer.forward_backward(examples)
        await trainer.optim_step(1e-2)
        now = await trainer.nll(examples)
        assert sum(s.nll for s in now) < sum(s.nll for s in await engine.nll(examples))
        await trainer.save(tmp_path / "saved")
        await trainer.close()
        info = await engine.load(tmp_path / "saved")
        saved = await engine.nll(examples, [Layer(adapter=info.id)])  # a slot is wider than rank 4: other roundings
        assert [s.nll for s in saved] == pytest.approx([s.nll for s in now], rel=1e-6)

    anyio.run(run)


def test_a_closed_trainer_leaves_nothing_behind(engine: LocalEngine, examples: list[Example]) -> None:
    async def run() -> None:
        before = engine.status.training
        trainer = await engine.train(SPEC)
        await trainer.close()
        await trainer.close()
        assert engine.status.training == before
        with pytest.raises(InputError, match="closed"):
            await trainer.forward_backward(examples)

    anyio.run(run)


def test_nothing_to_score_adds_nothing(engine: LocalEngine) -> None:
    async def run() -> None:
        trainer = await engine.train(SPEC)
        loss = await trainer.forward_backward([Example(text="only a prompt", completion="")])
        assert (loss.loss_sum, loss.tokens, loss.per_example[0].tokens) == (0.0, 0, 0)
        with pytest.raises(InputError, match="no gradient"):
            await trainer.optim_step(1e-3)
        await trainer.close()

    anyio.run(run)


def test_initial_matrices_are_peft_s_distribution(engine: LocalEngine) -> None:
    trainer = anyio.run(engine.train, LoraSpec(rank=64))
    assert trainer._trained is not None
    for a, b in trainer._trained.matrices.values():
        a, b, bound = a.detach(), b.detach(), a.shape[1] ** -0.5
        assert float(a.abs().max()) <= bound
        assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not b.any()
    anyio.run(trainer.close)


def test_the_chunked_loss_has_autograd_s_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=True).double().requires_grad_(False)
    hidden, targets = torch.randn(23, 16).double(), torch.randint(0, 50, (23,))
    weights = torch.rand(23)
    grads = []
    for chunk in (10_000, 100):
        monkeypatch.setattr("clonedna.engine.loss.CHUNK_LOGITS", chunk)
        own = hidden.clone().requires_grad_()
        (token_nll(own, targets, head) * weights).sum().backward()
        grads.append(own.grad)
    reference = hidden.clone().requires_grad_()
    (torch.nn.functional.cross_entropy(head(reference), targets, reduction="none") * weights).sum().backward()
    assert all(torch.allclose(grad, reference.grad, atol=1e-6) for grad in grads)
