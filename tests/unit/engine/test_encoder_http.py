"""The encoder on a server: batches, tries, bounds, and what is made of a server that does not answer as it should."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from clonedna.core.errors import (
    BadAnswer,
    BadConfig,
    DnaError,
    InputError,
    Overloaded,
    TimedOut,
    Unauthorised,
    Unavailable,
)
from clonedna.engine.encoder_http import BATCH, LETTERS, LONGEST_PAUSE, HttpEncoder
from tests.encoders import EmbeddingServer, embedding, embedding_server


@pytest.fixture
def server() -> Generator[EmbeddingServer]:
    with embedding_server(8) as made:
        yield made


def encoder(server: EmbeddingServer, waits: list[float] | None = None, **changes: Any) -> HttpEncoder:
    return HttpEncoder(server.url, "m", 8, pause=(waits if waits is not None else []).append, **changes)


def test_texts_go_in_batches_and_come_back_in_their_order(server: EmbeddingServer) -> None:
    texts = [f"text {n}" for n in range(2 * BATCH + 1)]
    rows = encoder(server).encode([*texts, " "]).rows
    assert [len(one["input"]) for one in server.requests] == [BATCH, BATCH, 1]
    assert {one["path"] for one in server.requests} == {"/v1/embeddings"}
    assert {one["model"] for one in server.requests} == {"m"}
    wanted = np.array([embedding(text, 8) for text in texts])
    assert np.allclose(rows[:-1], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    assert not rows[-1].any()  # of nothing there is no vector, and nothing was sent


def test_what_is_sent_is_bounded(server: EmbeddingServer) -> None:
    encoder(server).encode(["x" * 1_000_000])
    assert len(server.requests[0]["input"][0]) == LETTERS


def test_a_server_that_is_busy_is_asked_again(server: EmbeddingServer) -> None:
    waits: list[float] = []
    server.faults = [503, (429, {"retry-after": "3"}), (500, {"retry-after": "9999"})]
    assert encoder(server, waits).encode(["a"]).rows.any()
    assert waits == [0.25, 3.0, LONGEST_PAUSE]


@pytest.mark.parametrize(
    ("fault", "kind", "tries"),
    [
        (503, Unavailable, 3), (429, Overloaded, 3), (401, Unauthorised, 1), (404, BadConfig, 1), (400, InputError, 1),
        ((302, {"location": "http://127.0.0.1:1/"}), BadConfig, 1), (b"nothing", BadAnswer, 1), (b"[" * 100_000, BadAnswer, 1),
        ({"data": []}, BadAnswer, 1), ({"data": None}, BadAnswer, 1), ({"data": [{"index": 1, "embedding": [1.0] * 8}]}, BadAnswer, 1),
        ({"data": [{"index": 0, "embedding": [1.0] * 9}]}, BadAnswer, 1), ({"data": [{"index": 0, "embedding": [0.0] * 8}]}, BadAnswer, 1),
        ({"data": [{"index": 0, "embedding": [float("nan")] * 8}]}, BadAnswer, 1),
        ({"data": [{"index": 0, "embedding": ["x"] * 8}]}, BadAnswer, 1), ({"data": [{"index": 0, "embedding": 7}]}, BadAnswer, 1),
        ({"padding": "x" * 200_000}, BadAnswer, 1),
    ],
)  # fmt: skip
def test_what_goes_wrong_has_its_error(server: EmbeddingServer, fault: Any, kind: type[DnaError], tries: int) -> None:
    server.faults = [fault] * 9
    with pytest.raises(kind) as caught:
        encoder(server, retries=2).encode(["a"])
    assert type(caught.value) is kind
    assert caught.value.hint
    assert len(server.requests) == tries


def test_the_key_goes_out_and_is_never_told() -> None:
    with embedding_server(8, key="made-up-secret") as server:
        assert encoder(server, key="made-up-secret").encode(["a"]).rows.any()
        with pytest.raises(Unauthorised) as caught:
            encoder(server, key="wrong-secret").encode(["a"])
        assert "secret" not in str(caught.value.as_json())


def test_nobody_there_and_a_server_that_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable):
            HttpEncoder(url, "m", 8, retries=0).encode(["a"])
        silent.listen()
        with pytest.raises(TimedOut):
            HttpEncoder(url, "m", 8, retries=0, timeout=0.2).encode(["a"])


@pytest.mark.parametrize(
    "given",
    [
        ("http://h", "", 8),
        ("http://h", "m", 0),
        ("http://h", "m", 99_999),
        ("ftp://h", "m", 8),
        ("http://a:b@h", "m", 8),
    ],
)
def test_what_is_no_server_is_refused(given: tuple[str, str, int]) -> None:
    with pytest.raises(BadConfig) as caught:
        HttpEncoder(*given)
    assert "encoder_" in f"{caught.value.message} {caught.value.hint}"
