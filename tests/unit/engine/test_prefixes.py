"""Kept beginnings: named by all that they depend on, given back as they were."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.engine.exact import Shapes
from clonedna.engine.lanes import Lane, Lanes, Shape
from clonedna.engine.prefixes import PIECE, Prefixes, names_of

SHAPE = Shape(layers=3, heads=2, width=4, dtype=torch.float32, device="cpu")
SIZE = PIECE * SHAPE.token_bytes
LANES = Lanes(SHAPE, Shapes(True, (128, 256, 512)), 1 << 40)


def drawn(tokens: int, seed: int = 0) -> Lane:
    """A lane as a prompt would have left it."""
    draw = torch.Generator().manual_seed(seed)
    lane = LANES.take(max(tokens, 1))
    for layer in range(SHAPE.layers):
        for rows in (lane.keys(layer), lane.values(layer)):
            rows[:, :tokens] = torch.randn(SHAPE.heads, tokens, SHAPE.width, generator=draw)
    lane.length = tokens
    return lane


def keep(prefixes: Prefixes, names: list[bytes], lane: Lane) -> None:
    for number, name in enumerate(names):
        prefixes.keep(name, lane, number * PIECE)


@given(st.lists(st.integers(0, 4096), min_size=1, max_size=300))
def test_there_is_a_name_for_each_whole_piece_but_never_for_the_whole_prompt(prompt: list[int]) -> None:
    names = names_of("seed", prompt)
    assert len(names) == (len(prompt) - 1) // PIECE
    assert len(names) * PIECE < len(prompt)
    assert len(set(names)) == len(names)
    assert names_of("seed", prompt[: len(names) * PIECE + 1]) == names  # what follows a piece is in no name


@settings(max_examples=60)
@given(st.integers(0, 255), st.integers(0, 1 << 20))
def test_a_token_changes_the_names_from_its_piece_on(at: int, token: int) -> None:
    prompt = list(range(257))
    other = [*prompt[:at], prompt[at] + 1 + token, *prompt[at + 1 :]]
    same = [a == b for a, b in zip(names_of("", prompt), names_of("", other), strict=True)]
    assert same == [number < at // PIECE for number in range(4)]


def test_another_block_weight_or_version_has_other_names() -> None:
    prompt = list(range(100))
    keys = [(), (("a", 1.0),), (("a", 0.5),), (("b", 1.0),), (("a", 0.5), ("b", 0.5)), (("a", 0.7), ("b", 0.3)),
            (("a", 0.5), ("b", 0.5000001))]  # fmt: skip
    assert len({names_of(repr(key), prompt)[0] for key in keys}) == len(keys)


def test_what_was_kept_comes_back_as_it_was() -> None:
    prompt = list(range(200))
    names = names_of("", prompt)
    prefixes = Prefixes(10 * SIZE)
    lane = drawn(200)
    keep(prefixes, names, lane)
    other = LANES.take(400)  # of another length
    assert prefixes.restore(names, other) == other.length == 192
    for layer in range(SHAPE.layers):
        assert torch.equal(other.keys(layer)[:, :192], lane.keys(layer)[:, :192])
        assert torch.equal(other.values(layer)[:, :192], lane.values(layer)[:, :192])
        assert not other.keys(layer)[:, 192:].any()
    assert (prefixes.hits, prefixes.queries) == (192, 192)
    lane.keys(0).fill_(7)  # kept is a copy
    assert torch.equal(prefixes._pieces[names[0]][0, 0], other.keys(0)[:, :PIECE])


def test_only_an_unbroken_beginning_is_restored() -> None:
    prompt = list(range(260))
    names = names_of("", prompt)
    prefixes = Prefixes(10 * SIZE)
    lane = drawn(260)
    for number in (0, 2, 3):
        prefixes.keep(names[number], lane, number * PIECE)
    assert prefixes.restore(names, LANES.take(260)) == PIECE
    assert prefixes.restore(names_of("other", prompt), LANES.take(260)) == 0
    assert prefixes.restore([], LANES.take(1)) == 0


def test_the_budget_holds_and_the_least_recently_used_goes_first() -> None:
    prefixes = Prefixes(3 * SIZE + SIZE // 2)
    lane = drawn(PIECE)
    for name in (b"a", b"b", b"c"):
        prefixes.keep(name, lane, 0)
    prefixes.restore([b"a"], LANES.take(100))
    prefixes.keep(b"b", lane, 0)
    prefixes.keep(b"d", lane, 0)
    assert list(prefixes._pieces) == [b"a", b"b", b"d"]
    assert prefixes.bytes == sum(piece.nbytes for piece in prefixes._pieces.values()) == 3 * SIZE


def test_no_budget_keeps_nothing() -> None:
    for budget in (0, SIZE - 1):
        prefixes = Prefixes(budget)
        prefixes.keep(b"a", drawn(PIECE), 0)
        assert (prefixes.bytes, len(prefixes._pieces)) == (0, 0)
