"""A small HTTP server with vLLM 0.32's routes and the shapes of its answers, as recorded from a real one. It computes nothing: it
says what a test told it to, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

USAGE = {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}


@dataclass
class State:
    """``tokens``: the completion, one event each (lists: several in one); ``refuse``: path -> (status, body, headers), as often as
    ``refusals`` says; ``hold``: waited for before each event but the first; ``cut``: end the stream after so many events."""

    base: Path
    name: str = "small"
    longest: int = 256
    key: str = ""
    tokens: list[list[int]] = field(default_factory=list)
    finish: str = "length"
    refuse: dict[str, tuple[int, str, dict[str, str]]] = field(default_factory=dict)
    refusals: int = 1_000
    hold: threading.Event | None = None
    cut: int | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    queries: int = 10

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]


@contextmanager
def serving(state: State) -> Iterator[str]:
    handler = type(
        "Handler", (_Handler,), {"state": state, "tokenizer": Tokenizer.from_file(str(state.base / "tokenizer.json"))}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        if state.hold:
            state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    state: State
    tokenizer: Tokenizer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path == "/v1/models":
            base = {
                "id": self.state.name,
                "root": str(self.state.base),
                "parent": None,
                "max_model_len": self.state.longest,
            }
            loaded = [
                {"id": name, "root": path, "parent": self.state.name, "max_model_len": None}
                for name, path in self.state.adapters.items()
            ]
            self._json({"object": "list", "data": [base, *loaded]})
        elif self.path == "/version":
            self._json({"version": "0.32.0"})
        elif self.path == "/metrics":
            lines = '# TYPE vllm:prefix_cache_queries counter\nvllm:prefix_cache_queries_total{engine="0"} %d\n'
            self._send(200, (lines % self.state.queries).encode(), "text/plain")
        else:
            self._json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.state.asked.append((self.path, body))
        if self._refused():
            return
        if self.path == "/tokenize":
            ids = self.tokenizer.encode(body["prompt"], add_special_tokens=False).ids
            self._json({"count": len(ids), "max_model_len": self.state.longest, "tokens": ids, "token_strs": None})
        elif self.path == "/v1/load_lora_adapter":
            self.state.adapters[body["lora_name"]] = body["lora_path"]
            self._send(200, f"Success: LoRA adapter '{body['lora_name']}' added successfully.".encode(), "text/plain")
        elif self.path == "/v1/unload_lora_adapter":
            found = self.state.adapters.pop(body["lora_name"], None)
            self._send(200, b"Success", "text/plain") if found else self._error(404, "NotFoundError")
        elif self.path == "/v1/completions" and body["model"] not in (self.state.name, *self.state.adapters):
            self._error(404, "NotFoundError")
        elif self.path == "/v1/completions" and body["stream"]:
            self._stream(body)
        elif self.path == "/v1/completions":
            prompt = body["prompt"]
            scores = [None, *({str(token): {"logprob": -0.5, "rank": 1, "decoded_token": "x"}} for token in prompt[1:])]
            wanted = {f"token_id:{token}": -2.0 for token in body["logprob_token_ids"]}
            told = {"top_logprobs": [wanted], "tokens": ["token_id:9"], "token_logprobs": [-0.1], "text_offset": [0]}
            self._json(
                {
                    "choices": [
                        {
                            "index": 0,
                            "text": "x",
                            "logprobs": told,
                            "finish_reason": "length",
                            "prompt_logprobs": scores,
                        }
                    ]
                }
            )
        else:
            self._json({"detail": "Not Found"}, 404)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            for number, tokens in enumerate(self.state.tokens):
                if self.state.hold and number:
                    self.state.hold.wait(10)
                if number == self.state.cut:
                    return
                told = None
                if "logprobs" in body:
                    told = {
                        "tokens": [f"token_id:{t}" for t in tokens], "token_logprobs": [-1.0 for _ in tokens], "text_offset": [0],
                        "top_logprobs": [{"token_id:5": -3.0, f"token_id:{t}": -1.0, "token_id:6": -0.5} for t in tokens],
                    }  # fmt: skip
                last = number == len(self.state.tokens) - 1
                choice = {
                    "index": 0, "text": "not used", "logprobs": told, "finish_reason": self.state.finish if last else None,
                    "stop_reason": None, "prompt_token_ids": None, "token_ids": tokens,
                }  # fmt: skip
                self._event({"object": "text_completion", "choices": [choice]})
            self._event({"object": "text_completion", "choices": [], "usage": USAGE})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.state.gone.set()

    def _event(self, value: object) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _refused(self) -> bool:
        if self.state.key and self.headers.get("authorization") != f"Bearer {self.state.key}":
            self._json({"error": "Unauthorized"}, 401)
            return True
        told = self.state.refuse.get(self.path)
        if told is None or self.state.refusals <= 0:
            return False
        self.state.refusals -= 1
        self._send(told[0], told[1].encode(), "application/json", told[2])
        return True

    def _error(self, status: int, kind: str) -> None:
        self._json({"error": {"message": "no", "type": kind, "param": None, "code": status}}, status)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"content-type": kind, "content-length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
