"""A serving step in any composition computes what whole sequences by themselves compute (``packed.py``)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clonedna.core.model import AdapterInfo
from clonedna.engine.adapters import Adapter
from clonedna.engine.bases import load_base
from clonedna.engine.batch import GAP, BatchStep, Piece, Token
from clonedna.engine.exact import ROWS
from clonedna.engine.lanes import Lane, Lanes
from clonedna.engine.model import LoadedModel
from clonedna.engine.packed import Part
from clonedna.engine.stacks import Block, Stacks


@pytest.fixture(scope="module")
def model(base: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return LoadedModel(load_base(str(base)))


def adapter(model: LoadedModel, number: int, rank: int = 4) -> Adapter:
    draw = torch.Generator().manual_seed(number)
    matrices = {
        name: (
            torch.randn(rank, inside, generator=draw) / inside**0.5,
            torch.randn(outside, rank, generator=draw) * 0.2,
        )
        for i, (name, (inside, outside)) in enumerate(model.shapes.items())
        if number % 3 == 0 or i % 3 != number % 3
    }
    info = AdapterInfo(id=f"a{number}", digest="", rank=rank, alpha=8, target_modules=(), bytes=0)
    return Adapter(info, 1.0, matrices)


@dataclass(eq=False)
class Run:
    """A request: all its tokens, how many are in its lane, and the hidden states seen so far."""

    ids: list[int]
    prompt: int
    block: Block | None
    lane: Lane
    seen: list[Tensor]

    @property
    def done(self) -> bool:
        return self.lane.length == len(self.ids)


class Bench:
    def __init__(self, model: LoadedModel, blocks: int, seed: int) -> None:
        self.model, self.draw = model, random.Random(seed)
        self.stacks = Stacks(model.shapes, "cpu", 1 << 30)
        self.lanes = Lanes(model.kept, model.lengths, 1 << 30)
        made = [adapter(model, i, self.draw.choice((2, 4, 16, 20))) for i in range(blocks)]
        self.blocks = [self.use((one, 1.0)) for one in made]
        if blocks > 2:
            self.blocks += [
                self.use((made[0], 0.7), (made[1], 0.3)),
                self.use((made[0], 0.5), (made[1], -1.0), (made[2], 2.0)),
            ]

    def use(self, *parts: tuple[Adapter, float]) -> Block:
        with torch.inference_mode():
            return self.stacks.use(tuple((one.info.id, weight) for one, weight in parts), parts)

    def begin(self, block: Block | None, prompt: int, tokens: int) -> Run:
        ids = [self.draw.randrange(self.model.vocabulary) for _ in range(prompt + tokens)]
        return Run(ids, prompt, block, self.lanes.take(len(ids)), [])

    @torch.inference_mode()
    def step(self, prompts: list[tuple[Run, int]], decoding: list[Run]) -> BatchStep:
        """One pass: so many further tokens of each prompt (in pieces of up to 64), and one of each that decodes."""
        pieces: list[tuple[Run, Piece]] = []
        for run, count in prompts:
            start = run.lane.length
            for at in range(start, start + count, 64):
                pieces.append((run, Piece(run.ids[at : min(at + 64, start + count)], run.lane, run.block)))
        step = BatchStep(
            [piece for _, piece in pieces], [Token(run.ids[run.lane.length], run.lane, run.block) for run in decoding],
            self.model.lengths, "cpu",
        )  # fmt: skip
        hidden = step.run(self.model.decoder)
        assert len(step.ids) % ROWS == 0
        for (run, piece), last in zip(pieces, step.last, strict=True):
            run.seen += hidden[last + 1 - len(piece.ids) : last + 1]
        for run, row in zip(decoding, step.order, strict=True):
            run.seen.append(hidden[row])
        return step

    @torch.inference_mode()
    def check(self, run: Run) -> None:
        """All hidden states, to 1e-4 of those of one pass over the whole."""
        ids = run.ids[: len(run.seen)]
        assert run.lane.length == len(ids)
        wanted = self.model.run([ids], [Part(len(ids), run.block)])
        torch.testing.assert_close(torch.stack(run.seen), wanted, atol=1e-4, rtol=1e-4)

    def drain(self, runs: list[Run]) -> None:
        """Whatever order: at each step some go on and some do not."""
        left = list(runs)
        while left:
            prompts = [run for run in left if run.lane.length < run.prompt and self.draw.random() < 0.7]
            decoding = [run for run in left if run.lane.length >= run.prompt and self.draw.random() < 0.8]
            counts = [(run, min(self.draw.choice((1, 3, 64, 200)), run.prompt - run.lane.length)) for run in prompts]
            self.draw.shuffle(decoding)
            if prompts or decoding:
                self.step(counts, decoding)
            for run in [run for run in left if run.done]:
                self.check(run)
                left.remove(run)
                with torch.inference_mode():
                    self.lanes.give(run.lane)


@pytest.mark.parametrize("seed", range(3))
def test_random_plans_compute_what_whole_sequences_compute(model: LoadedModel, seed: int) -> None:
    bench = Bench(model, 6, seed)
    paths = [None, *bench.blocks]
    runs = [
        bench.begin(bench.draw.choice(paths), bench.draw.choice((1, 3, 64, 65, 120, 190)), bench.draw.randint(1, 12))
        for _ in range(18)
    ]
    bench.drain(runs)
    assert bench.lanes.used == 0


def test_blocks_far_apart_and_several_rows_of_one_are_each_their_own(model: LoadedModel) -> None:
    """Gaps between slots, on both sides of the one that splits a run; all orders of rows."""
    bench = Bench(model, 0, 1)
    blocks = [bench.use((adapter(model, i), 1.0)) for i in range(2 * GAP + 6)]
    assert [block.position for block in blocks] == list(range(len(blocks)))
    for chosen in (
        [0, 0, 0, 0, 0], [3, 3, 3, 3, 4], [0, 1, 2], [0, 2, 4, 6], [0, GAP, 2 * GAP], [0, GAP + 1], [1, 1, GAP + 3, 2 * GAP + 5, 5],
        [7, 6, 5, 4, 7, 6, 5, 7, 6, 7],
    ):  # fmt: skip
        order = list(chosen)
        bench.draw.shuffle(order)
        runs = [bench.begin(blocks[number], 2, 3) for number in order] + [bench.begin(None, 2, 3)]
        bench.step([(run, 2) for run in runs], [])
        for _ in range(3):
            bench.step([], runs)
        for run in runs:
            bench.check(run)
            bench.lanes.give(run.lane)


def products(step: BatchStep) -> list[tuple[int, int, int]]:
    """``(slots, rows, gathered)`` of each planned product."""
    return [(run.high - run.low, run.stop - run.start, run.gather is not None) for run in step._runs]


def test_the_plan_makes_few_products(model: LoadedModel) -> None:
    bench = Bench(model, 0, 1)
    blocks = [bench.use((adapter(model, i), 1.0)) for i in range(2 * GAP + 6)]

    def planned(*chosen: int) -> list[Any]:
        runs = [bench.begin(blocks[number], 1, 1) for number in chosen]
        bench.step([(run, 1) for run in runs], [])
        made = products(bench.step([], runs))
        for run in runs:
            bench.check(run)
            bench.lanes.give(run.lane)
        return made

    assert planned(0, 1, 2, 3) == [(4, 4, False)]
    assert planned(2, 2, 2, 2) == [(1, 4, False)]
    assert planned(0, 1, 0, 1) == [(2, 2, False), (2, 2, False)]
    assert planned(0, 3) == [(4, 2, True)]
    assert planned(0, GAP) == [(GAP + 1, 2, True)]
    assert planned(0, GAP + 1) == [(1, 1, False), (1, 1, False)]


def test_lanes_that_take_no_part_are_neither_read_nor_written(model: LoadedModel) -> None:
    bench = Bench(model, 3, 2)
    runs = [bench.begin(block, 5, 8) for block in (*bench.blocks, None)]
    bench.step([(run, 5) for run in runs], [])
    with torch.inference_mode():
        for run in runs[::2]:  # idle ones hold what is no number, and it spreads to nobody
            for layer in range(model.layers):
                run.lane.keys(layer).fill_(float("nan"))
                run.lane.values(layer).fill_(float("nan"))
    for _ in range(8):
        bench.step([], runs[1::2])
    for run in runs[1::2]:
        bench.check(run)
    for run in runs[::2]:
        assert run.lane.length == 5
        assert bool(torch.isnan(run.lane.keys(0)).all())


def test_lanes_of_several_lengths_and_a_prompt_beside_them(model: LoadedModel) -> None:
    bench = Bench(model, 3, 3)
    runs = [bench.begin(block, prompt, 4) for block, prompt in zip(bench.blocks, (4, 130, 250, 60), strict=False)]
    assert len({run.lane.pool.capacity for run in runs}) > 1
    late = bench.begin(bench.blocks[0], 200, 1)
    bench.step([(run, run.prompt) for run in runs], [])
    bench.step([(late, 100)], runs)
    bench.step([(late, 100)], runs)
    bench.step([], [*runs, late])
    for run in (*runs, late):
        bench.check(run)


@torch.inference_mode()
def test_a_row_s_bits_are_the_same_in_any_company(model: LoadedModel) -> None:
    assert model.lengths.exact
    alone = Bench(model, 5, 4)
    company = Bench(model, 5, 4)
    for block in range(7):
        one, same = alone.begin(alone.blocks[block], 70, 6), company.begin(company.blocks[block], 70, 6)
        same.ids = list(one.ids)
        others = [company.begin(company.draw.choice([None, *company.blocks]), 40, 6) for _ in range(9)]
        alone.step([(one, 64)], [])
        alone.step([(one, 6)], [])
        company.step([(other, 40) for other in others[:5]] + [(same, 70)], [])
        company.step([(other, 40) for other in others[5:]], others[:5])
        for turn in range(6):
            alone.step([], [one])
            company.step([], [*others[turn % 5 :][:5], same])
            others = [other for other in others if not other.done]
        assert torch.equal(torch.stack(one.seen), torch.stack(same.seen))
        alone.check(one)
