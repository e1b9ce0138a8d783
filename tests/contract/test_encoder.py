"""What every ``Encoder`` must do, at three sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clonedna.core.fakes import FakeEncoder
from clonedna.core.seams import Encoder
from clonedna.engine.encoder import open_minilm
from clonedna.engine.hashed import HashedEncoder

PARTS: dict[str, Callable[[], Encoder]] = {"minilm": open_minilm, "hashed": HashedEncoder, "fake": FakeEncoder}
TEXTS = ("a http client in python", "bakes bread", "a http client in python", "")


@pytest.fixture(params=PARTS, scope="module")
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return PARTS[request.param]()


def test_a_row_of_length_one_for_each_text(encoder: Encoder) -> None:
    made = encoder.encode(TEXTS)
    assert made.encoder == encoder.name
    assert made.rows.shape == (len(TEXTS), encoder.dimension)
    assert made.rows.dtype == np.float32
    lengths = np.linalg.norm(made.rows, axis=1)
    assert np.allclose(lengths[:3], 1, atol=1e-5)
    assert np.isfinite(lengths).all()


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode(()).rows.shape == (0, encoder.dimension)


def test_the_same_text_is_the_same_alone_and_in_company(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS).rows
    assert np.allclose(together[0], together[2], atol=1e-5)
    assert np.allclose(encoder.encode(TEXTS[:1]).rows[0], together[0], atol=1e-5)
    assert float(together[0] @ together[1]) < 0.95


def test_a_text_over_the_bound_is_cut(encoder: Encoder) -> None:
    long = encoder.encode(("bread " * 20_000, "bread " * 3 * encoder.max_tokens)).rows
    assert np.allclose(long[0], long[1], atol=1e-5)


@pytest.mark.parametrize("text", ["\x00", "\u202e‮", "😀" * 50, "a" * 100_000, "[CLS] [MASK] [SEP]", "\n\t "])
def test_any_text_can_be_encoded(encoder: Encoder, text: str) -> None:
    assert np.isfinite(encoder.encode((text,)).rows).all()
