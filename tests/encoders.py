"""Encoders for tests: a tiny sentence-transformers model made on the spot, and a server on loopback that answers `/v1/embeddings`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS = ("a", "http", "client", "in", "python", "bakes", "bread", "text", "parse", "file", "test")


def tiny_transformer(folder: Path, dimension: int) -> Path:
    """The files of a BERT with one layer and made-up weights (seed 0), ``dimension`` wide, that reads ``WORDS``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    raw = folder / "raw"
    raw.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=dimension, num_hidden_layers=1, num_attention_heads=8, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(raw)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(tokens)}).save_pretrained(raw)
    reader = Transformer(str(raw), max_seq_length=32)
    made = folder / f"tiny-{dimension}"
    SentenceTransformer(modules=[reader, Pooling(dimension)], device="cpu").save(str(made), create_model_card=False)
    return made


def minilm_adapter(path: Path, scale: float = 0.1, **parts: Any) -> Path:
    """An adapter for two of MiniLM's matrices, drawn (seed 0). ``parts``: in place of them."""
    import numpy as np
    from safetensors.numpy import save_file

    draw = np.random.default_rng(0)
    sizes = {"encoder.layer.0.attention.self.query": (384, 384), "encoder.layer.5.intermediate.dense": (1536, 384)}
    for name, (out, into) in sizes.items() if not parts else ():
        parts[f"{name}.lora_A"] = draw.normal(size=(4, into)).astype(np.float16) / np.float16(into**0.5)
        parts[f"{name}.lora_B"] = (scale * draw.normal(size=(out, 4))).astype(np.float16)
    save_file(parts, path)
    return path


def embedding(text: str, dimension: int) -> list[float]:
    """Numbers that hang on the text alone; not of length 1."""
    found: list[float] = []
    for block in range(-(-dimension // 16)):
        digest = hashlib.blake2b(f"{block} {text}".encode(), digest_size=64).digest()
        found += [int.from_bytes(digest[4 * i : 4 * i + 4], "little") / 2**31 - 1 for i in range(16)]
    return found[:dimension]


class EmbeddingServer:
    """What it was asked (``requests``), and what it does wrong next: ``faults`` are taken one for each request.

    A fault is a status; a status and headers; ``bytes`` that are sent as the answer; or a dict that replaces parts of it.
    """

    def __init__(self, dimension: int, key: str = "") -> None:
        self.dimension, self.key = dimension, key
        self.requests: list[dict[str, Any]] = []
        self.faults: list[Any] = []
        self.url = ""

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {"object": "embedding", "index": i, "embedding": embedding(text, self.dimension)}
            for i, text in enumerate(asked["input"])
        ]
        return {"object": "list", "model": asked["model"], "data": rows[::-1]}  # the order is told by "index" alone


@contextmanager
def embedding_server(dimension: int = 8, key: str = "") -> Generator[EmbeddingServer]:
    """A server in a thread, on a free port of loopback."""
    made = EmbeddingServer(dimension, key)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            made.requests.append(asked | {"path": self.path})
            fault = made.faults.pop(0) if made.faults else None
            if made.key and self.headers.get("authorization") != f"Bearer {made.key}":
                fault = 401
            status, headers = (
                (fault, {}) if isinstance(fault, int) else fault if isinstance(fault, tuple) else (200, {})
            )
            told = made.answer(asked) | (fault if isinstance(fault, dict) else {})
            data = fault if isinstance(fault, bytes) else json.dumps(told).encode() if status == 200 else b"{}"
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
