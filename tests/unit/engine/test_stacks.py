"""Slots: what a block adds is the plain sum, wherever it lies and whatever lay there before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from clonedna.core.errors import NoMemory, Overloaded
from clonedna.core.model import AdapterInfo
from clonedna.engine.adapters import Adapter
from clonedna.engine.slots import SlotLinear, add
from clonedna.engine.stacks import Block, Key, Stacks

SHAPES = {"up": (12, 20), "down": (20, 12)}
LINEARS = {name: SlotLinear(name, nn.Linear(*shape)) for name, shape in SHAPES.items()}
SLOT = 4 * 16 * sum(sum(shape) for shape in SHAPES.values())  # bytes of the smallest


def adapter(number: int, rank: int = 4, modules: Sequence[str] = tuple(SHAPES)) -> Adapter:
    draw = torch.Generator().manual_seed(number)
    matrices = {
        name: (torch.randn(rank, SHAPES[name][0], generator=draw), torch.randn(SHAPES[name][1], rank, generator=draw))
        for name in modules
    }
    info = AdapterInfo(id=f"a{number}", digest="", rank=rank, alpha=8, target_modules=(), bytes=0)
    return Adapter(info, 2.0, matrices)


def use(stacks: Stacks, *parts: tuple[Adapter, float]) -> Block:
    key: Key = tuple(sorted((one.info.id, weight) for one, weight in parts))
    return stacks.use(key, parts)


def use_and_leave(stacks: Stacks, *parts: tuple[Adapter, float]) -> Block:
    block = use(stacks, *parts)
    stacks.leave(block)
    return block


def check(block: Block, *parts: tuple[Adapter, float]) -> None:
    """Against ``out + sum_i w_i s_i B_i A_i x`` in fp64."""
    for name, (inside, outside) in SHAPES.items():
        x, out = torch.randn(5, inside), torch.randn(5, outside)
        wanted = out.double()
        for one, weight in parts:
            if name in one.matrices:
                a, b = one.matrices[name]
                wanted = wanted + weight * one.scale * (x.double() @ a.double().t() @ b.double().t())
        torch.testing.assert_close(
            add(x, out.clone(), [(0, len(x), block.factors(LINEARS[name]))]).double(), wanted, atol=1e-4, rtol=1e-5
        )


def stacks_for(slots: int) -> Stacks:
    return Stacks(SHAPES, "cpu", slots * SLOT)


def test_adapters_and_blends_of_any_rank_and_with_missing_modules_add_the_plain_sum() -> None:
    stacks = stacks_for(1000)
    one, two, wide, part = adapter(1), adapter(2, 7), adapter(3, 24), adapter(4, 4, ["down"])
    cases = [
        [(one, 1.0)], [(two, -0.5)], [(part, 1.0)], [(wide, 1.0)], [(one, 0.7), (two, 0.3)], [(part, 2.0), (wide, 0.5)],
        [(one, 0.7), (two, -0.3), (wide, 1.5), (part, 1.0)], [(one, 0.0)],
    ]  # fmt: skip
    blocks = [use(stacks, *case) for case in cases]
    for block, case in zip(blocks, cases, strict=True):
        check(block, *case)
    assert sorted({block.stack.rank for block in blocks}) == [16, 32, 64]
    assert len(stacks) == len(cases)


def test_neighbours_lie_close_and_growing_moves_nothing() -> None:
    stacks = stacks_for(1000)
    made = [adapter(i) for i in range(11)]
    blocks = [use(stacks, (one, 1.0)) for one in made]
    assert [block.position for block in blocks] == list(range(11))
    assert stacks.slots == 16
    stacks.leave(blocks[3])
    stacks.leave(blocks[7])
    assert stacks.drop("a3")
    assert stacks.drop("a7")
    assert use(stacks, (adapter(20), 1.0)).position == 3
    for i, block in enumerate(blocks):
        if i not in (3, 7):
            check(block, (made[i], 1.0))


def test_a_slot_that_is_written_again_has_no_trace_of_what_lay_there() -> None:
    stacks = stacks_for(1)
    use_and_leave(stacks, (adapter(1, 16), 3.0))
    second = (adapter(2, 3, ["up"]), 1.0)
    block = use(stacks, second)
    assert (block.position, len(stacks)) == (0, 1)
    a, b = block.stack.pair("up")
    assert not a[0, 3:].any()
    assert not b[0, 3:].any()
    assert not any(bool(side.any()) for side in block.stack.pair("down"))
    check(block, second)


def test_the_same_block_is_laid_once_and_other_weights_are_another() -> None:
    stacks = stacks_for(8)
    one, two = adapter(1), adapter(2)
    first = use(stacks, (one, 1.0), (two, 0.5))
    assert use(stacks, (one, 1.0), (two, 0.5)) is first
    assert first.uses == 2
    assert use(stacks, (one, 1.0), (two, 0.25)) is not first
    assert stacks.adapters() == {"a1", "a2"}


def test_the_least_recently_used_idle_block_goes_and_never_one_in_use() -> None:
    stacks = stacks_for(4)
    made = [adapter(i) for i in range(6)]
    held = use(stacks, (made[0], 1.0))
    for one in made[1:4]:
        use_and_leave(stacks, (one, 1.0))
    use_and_leave(stacks, (made[1], 1.0))
    use_and_leave(stacks, (made[4], 1.0))
    assert stacks.adapters() == {"a0", "a1", "a3", "a4"}
    check(held, (made[0], 1.0))
    for one in (made[1], made[3], made[4]):
        use(stacks, (one, 1.0))
    with pytest.raises(Overloaded) as refused:
        use(stacks, (made[5], 1.0))
    assert refused.value.facts["retry_after"] == 1
    stacks.leave(held)
    check(use(stacks, (made[5], 1.0)), (made[5], 1.0))


def test_what_is_in_use_is_dropped_when_it_is_left() -> None:
    stacks = stacks_for(4)
    block = use(stacks, (adapter(1), 1.0), (adapter(2), 1.0))
    use_and_leave(stacks, (adapter(1), 1.0))
    assert not stacks.drop("a1")
    assert len(stacks) == 1
    stacks.leave(block)
    assert stacks.drop("a1")
    assert len(stacks) == 0
    assert stacks.drop("a1")


def test_idle_room_of_another_rank_is_given_up_and_room_in_use_is_waited_for() -> None:
    stacks = stacks_for(4)
    blend = [(adapter(1, 16), 1.0), (adapter(2, 16), 1.0)]  # rank 32: two slots of 16
    for i in range(4):
        use_and_leave(stacks, (adapter(i), 1.0))
    block = use(stacks, *blend)
    check(block, *blend)
    assert stacks.bytes <= stacks.budget
    stacks.leave(block)
    held = [use(stacks, (adapter(i), 1.0)) for i in range(4)]
    assert stacks.bytes <= stacks.budget
    with pytest.raises(Overloaded):
        use(stacks, *blend)
    for one in held:
        stacks.leave(one)
    check(use(stacks, *blend), *blend)


def test_what_can_never_fit_says_so() -> None:
    stacks = stacks_for(1)
    with pytest.raises(NoMemory, match="rank 32"):
        use(stacks, (adapter(2, 17), 1.0))
    check(use(stacks, (adapter(1, 16), 1.0)), (adapter(1, 16), 1.0))
    with pytest.raises(NoMemory, match="rank 32"):
        use(stacks, (adapter(2, 17), 1.0))


def test_growth_keeps_to_the_budget() -> None:
    stacks = stacks_for(11)
    for i in range(30):
        use_and_leave(stacks, (adapter(i), 1.0))
        assert stacks.bytes <= stacks.budget
    assert stacks.slots == 11
    assert len(stacks) == 11


def test_a_term_in_half_precision_is_summed_in_full() -> None:
    block = use(stacks_for(4), (adapter(1), 1.0))
    x, out = torch.randn(3, 12), torch.randn(3, 20)
    got: Tensor = add(x.bfloat16(), out.bfloat16(), [(0, len(x), block.factors(LINEARS["up"]))])
    wanted = add(x.bfloat16().float(), out.bfloat16().float(), [(0, len(x), block.factors(LINEARS["up"]))]).bfloat16()
    assert torch.equal(got, wanted)
