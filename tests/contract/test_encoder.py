"""What every ``Encoder`` must do, at three sizes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from clonedna.core.fakes import FakeEncoder
from clonedna.core.seams import Encoder
from clonedna.engine.encoder import open_minilm
from clonedna.engine.encoder_http import HttpEncoder
from clonedna.engine.encoder_transformer import open_transformer
from clonedna.engine.hashed import HashedEncoder
from tests.encoders import embedding_server, minilm_adapter, tiny_transformer


def transformer(size: int) -> Callable[[Path, ExitStack], Encoder]:
    return lambda path, _: open_transformer(str(tiny_transformer(path / str(size), size)))


def served(size: int) -> Callable[[Path, ExitStack], Encoder]:
    return lambda _, stack: HttpEncoder(stack.enter_context(embedding_server(size)).url, "made-up", size)


PARTS: dict[str, Callable[[Path, ExitStack], Encoder]] = {
    "minilm": lambda *_: open_minilm(),
    "minilm-384": lambda path, _: open_minilm(str(minilm_adapter(path / "adapter.safetensors"))),
    "fake": lambda *_: FakeEncoder(),
    "hashed": lambda *_: HashedEncoder(),
    **{f"hashed-{size}": lambda *_, size=size: HashedEncoder(size) for size in (384, 768, 1024)},
    **{f"transformer-{size}": transformer(size) for size in (768, 1024)},
    **{f"http-{size}": served(size) for size in (384, 768, 1024)},
}
SIZES = {"minilm": 384, "fake": 27, "hashed": 512}
TEXTS = ("a http client in python", "bakes bread", "a http client in python", "")


@pytest.fixture(params=PARTS, scope="module")
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, Encoder]]:
    with ExitStack() as stack:
        yield request.param, PARTS[request.param](tmp_path_factory.mktemp("encoder"), stack)


@pytest.fixture(scope="module")
def encoder(named: tuple[str, Encoder]) -> Encoder:
    return named[1]


def test_its_name_has_a_revision_and_its_size_is_told(named: tuple[str, Encoder]) -> None:
    name, encoder = named
    kind, _, revision = encoder.name.partition("@")
    assert kind
    assert revision
    assert encoder.dimension == (SIZES.get(name) or int(name.rpartition("-")[2]))
    assert encoder.max_tokens > 0


def test_no_two_have_the_same_name() -> None:
    assert len({HashedEncoder(size).name for size in (384, 512, 768, 1024)}) == 4
    urls = [
        ("http://a.example", "m", 8),
        ("http://b.example", "m", 8),
        ("http://a.example", "n", 8),
        ("http://a.example", "m", 9),
    ]
    assert len({HttpEncoder(*one).name for one in urls}) == 4


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
