"""Any model of the library sentence-transformers as an encoder: a folder, or a name whose files are on this machine already.

Nothing is fetched, no code that comes with a model is run, and weights are read from safetensors alone. The name that vectors carry holds
the revision: the commit of files that came from the hub, the digest of the files of a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clonedna.core.errors import Corrupt, InputError, NotFound, Unavailable
from clonedna.core.vectors import Vectors

BATCH = 32
MOST_DIMENSION = 8192
MOST_FILES = 200
LETTERS = 16  # of a text that the tokenizer sees, for each token that is read
CHUNK = 1 << 20


def open_transformer(model: str) -> TransformerEncoder:
    """The encoder of a folder or of the hub's name ``model``; takes seconds. Raises ``NotFound`` (no such files here), ``InputError`` (not
    a model of that library, or one without safetensors), ``Corrupt``, ``Unavailable`` (the library is not installed)."""
    folder, name, revision = _found(model)
    if not (folder / "modules.json").is_file():
        raise InputError(
            f"{model!r} is no model of sentence-transformers: it has no modules.json", "choose another encoder"
        )
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"{model!r} has no weights as safetensors", "choose a model whose weights are safetensors")
    _refuse_code(folder, model)
    try:
        from sentence_transformers import SentenceTransformer

        from clonedna.engine.bases import quiet  # loads torch, too
    except ImportError as error:
        raise Unavailable(
            f"the library sentence-transformers cannot be loaded: {error}", "pip install sentence-transformers"
        ) from error
    try:
        with quiet():
            loaded = SentenceTransformer(
                str(folder), device="cpu", trust_remote_code=False, local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )  # fmt: skip
    except Exception as error:  # whatever the library makes of damaged files
        raise Corrupt(f"the encoder {model!r} cannot be read: {error}", "get its files again") from error
    return TransformerEncoder(loaded, f"{name}@{revision}")


class TransformerEncoder:
    """Fulfils ``core.seams.Encoder``; threads may share it, one of them encodes at a time."""

    def __init__(self, model: Any, name: str) -> None:
        """``model``: a ``SentenceTransformer``. Raises ``InputError`` for one that does not say how long its vectors are."""
        dimension, tokens = model.get_embedding_dimension(), model.max_seq_length
        if not isinstance(dimension, int) or not 1 <= dimension <= MOST_DIMENSION:
            raise InputError(f"the encoder {name} has vectors of {dimension} numbers", "choose another encoder")
        self.name, self.dimension = name, dimension
        self.max_tokens = int(tokens) if tokens else 512
        self._model, self._lock = model, threading.Lock()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """A row of length 1 for each text. What is over ``max_tokens`` is not read."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if len(texts):
            cut = [text[: LETTERS * self.max_tokens] for text in texts]
            with self._lock:
                made = self._model.encode(
                    cut, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
                )
            rows[:] = np.asarray(made, dtype=np.float32)
        if not np.isfinite(rows).all():
            raise Corrupt(
                f"the encoder {self.name} gives numbers that are none", "get its files again, or choose another"
            )
        return Vectors(self.name, rows)


def _found(model: str) -> tuple[Path, str, str]:
    """Folder, name and revision."""
    folder = Path(os.path.expanduser(model))
    if os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        return folder, folder.resolve().name, _digest(folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = model if "/" in model else f"sentence-transformers/{model}"
    try:
        there = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        raise NotFound(
            f"no files of the encoder {model!r} are on this machine",
            "give its folder, or get it first: hf download NAME",
        ) from None
    return there, name, there.name[:12]


def _digest(folder: Path) -> str:
    """Of every file that makes the model, so that another model never has the same name."""
    files = sorted(path for kind in ("*.json", "*.safetensors", "*.txt", "*.model") for path in folder.rglob(kind))
    if len(files) > MOST_FILES:
        raise InputError(f"{folder} has {len(files)} files, more than a model has", "give the folder of one model")
    told = hashlib.sha256()
    for path in files:
        sha = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    sha.update(piece)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}", "check who may read it") from error
        told.update(f"{path.relative_to(folder)} {sha.hexdigest()}\n".encode())
    return told.hexdigest()[:12]


def _refuse_code(folder: Path, model: str) -> None:
    """Raises ``InputError`` where the model names modules of its own: their code would be run."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        kinds = [str(one["type"]) for one in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"modules.json of the encoder {model!r} cannot be read", "get its files again") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise InputError(f"the encoder {model!r} needs code of its own ({kind[:80]})", "choose another encoder")
