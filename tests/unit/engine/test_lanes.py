"""Lanes: what a request kept stays its own while lanes come, go and move, and leaves nothing for the next."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest
import safetensors.torch
import torch

from clonedna.core.model import Layer, SampleRequest
from clonedna.engine.exact import Shapes
from clonedna.engine.lanes import Lane, Lanes, Shape
from clonedna.engine.local import LocalEngine
from tests.unit.engine import small

SHAPE = Shape(layers=2, heads=2, width=4, dtype=torch.float32, device="cpu")
LENGTHS = Shapes(True, (128, 256, 384, 512, 640))


def fill(lane: Lane, mark: float, length: int) -> None:
    for layer in range(SHAPE.layers):
        lane.keys(layer)[:, :length] = mark
        lane.values(layer)[:, :length] = -mark
    lane.length = length


def holds(lane: Lane, mark: float, length: int) -> bool:
    """The lane's own marks, and zeros behind them."""
    return lane.length == length and all(
        bool((rows[:, :length] == sign * mark).all()) and not bool(rows[:, length:].any())
        for layer in range(SHAPE.layers)
        for rows, sign in ((lane.keys(layer), 1), (lane.values(layer), -1))
    )


def test_lanes_that_come_go_and_move_keep_their_own_and_leave_zeros() -> None:
    draw = random.Random(1)
    lanes = Lanes(SHAPE, LENGTHS, 1 << 40)
    taken: list[tuple[Lane, float, int]] = []
    for turn in range(400):
        if taken and draw.random() < (0.3 if turn < 200 else 0.6):
            lanes.give(taken.pop(draw.randrange(len(taken)))[0])
        else:
            tokens = draw.choice((5, 100, 129, 300, 600))
            lane = lanes.take(tokens)
            assert holds(lane, 0.0, 0)
            fill(lane, float(turn + 1), draw.randint(1, tokens))
            taken.append((lane, float(turn + 1), lane.length))
        assert all(holds(*one) for one in taken)
        for pool in {id(lane.pool): lane.pool for lane, _, _ in taken}.values():
            assert [lane.index for lane in pool.lanes] == list(range(len(pool.lanes)))
            assert pool.size <= max(8, 4 * len(pool.lanes))
        assert lanes.used == sum(lane.pool.lane_bytes for lane, _, _ in taken)
    for lane, _, _ in taken:
        lanes.give(lane)
    assert lanes.used == 0
    assert all(pool.size == 0 for pool in lanes._pools.values())


def test_a_lane_covers_its_tokens_and_attention_may_run_over_all_of_it() -> None:
    gaps = Shapes(True, (384, 512, 640))  # shorter ones did not hold on some machine
    for lengths in (LENGTHS, gaps):
        lanes = Lanes(SHAPE, lengths, 1)
        for tokens in range(1, 641):
            capacity = lanes.capacity(tokens)
            assert capacity >= tokens
            assert all(lengths.length(n) <= capacity for n in (1, tokens))


def test_the_budget_counts_whole_lanes_and_one_is_always_allowed() -> None:
    lane = 128 * SHAPE.token_bytes
    lanes = Lanes(SHAPE, LENGTHS, 3 * lane)
    assert Lanes(SHAPE, LENGTHS, 1).fits(600)
    taken = [lanes.take(10)]
    assert lanes.fits(200)  # one of 256
    assert not lanes.fits(300)
    taken.append(lanes.take(200))
    assert lanes.used == 3 * lane
    assert not lanes.fits(1)
    for one in taken:
        lanes.give(one)
    assert lanes.fits(600)


def test_a_lane_that_cannot_be_had_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(SHAPE, LENGTHS, 1 << 40)

    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", full)
        with pytest.raises(RuntimeError):
            lanes.take(10)
    assert lanes.used == 0
    assert lanes.take(10).index == 0


def test_an_adapter_that_computes_no_numbers_spoils_nobody_s_tokens_after_it(
    engine: LocalEngine, base: Path, tmp_path: Path
) -> None:
    """Finite weights whose products are not: what its request leaves in a lane must not reach the next request there."""
    broken = small.make_adapter(base, tmp_path / "broken", seed=3, r=4)
    path = broken / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: torch.full_like(t, 1e30) for name, t in tensors.items()}, path)

    async def run() -> None:
        request = SampleRequest(prompt="def area(", max_tokens=12, ignore_eos=True, logprobs=True)

        async def tokens(**changes: object) -> list[tuple[int | None, float | None]]:
            asked = request.model_copy(update=changes)
            return [(c.token, c.logprob.logprob if c.logprob else None) async for c in engine.sample(asked)]

        before = await tokens()
        info = await engine.load(broken)
        beside = engine.sample(
            request.model_copy(update={"max_tokens": 90})
        )  # holds the pool, and the first lane of it
        await anext(beside)
        spoilt = await tokens(layers=(Layer(adapter=info.id),), prompt="x = " * 20, max_tokens=30)
        assert any(logprob != logprob for _, logprob in spoilt if logprob is not None), "this adapter should give NaN"
        after = await tokens()
        await beside.aclose()
        assert after == before
        await engine.unload(info.id)

    anyio.run(run)
