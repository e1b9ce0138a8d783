"""A block is for one base: its fingerprint, and its weights where both sides know them."""

from __future__ import annotations

import pytest

from clonedna.core.model import BaseInfo
from tests.unit.store.making import manifest

BASE = BaseInfo(
    id="nano", fingerprint="f" * 64, parameters=1, context=1, vocabulary=1, dtype="float32", device="cpu", threads=1
)


@pytest.mark.parametrize(
    ("block", "base", "fits"),
    [("1", "1", True), ("1", "2", False), (None, "2", True), ("1", None, True), (None, None, True)],
)
def test_weights_are_compared_where_both_sides_know_them(block: str | None, base: str | None, fits: bool) -> None:
    made = manifest({}, "k" * 64, base_weights_digest=block and block * 64)
    unlike = made.unlike(BASE.model_copy(update={"weights_digest": base and base * 64}))
    assert (unlike == "") is fits
    assert fits or "other weights" in unlike


def test_another_fingerprint_is_another_base_whatever_the_weights() -> None:
    made = manifest({}, "k" * 64, base_weights_digest="1" * 64)
    assert "not nano" in made.unlike(BASE.model_copy(update={"fingerprint": "e" * 64, "weights_digest": "1" * 64}))
