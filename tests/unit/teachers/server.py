"""A small loopback server with the one OpenAI route that a teacher uses. It says what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "xai-madeup0madeup1madeup2madeup3"


def completion(content: object, **message: object) -> dict[str, Any]:
    """A chat completion whose content is ``content`` as JSON (a text as it is)."""
    text = content if isinstance(content, str) else json.dumps(content)
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220},
    }  # fmt: skip


def task_for(body: dict[str, Any]) -> dict[str, Any]:
    """What an honest model would say."""
    question = json.loads(body["messages"][1]["content"])
    return completion(
        {"instruction": f"Provide the {question['kind']} that the project needs here, as {question['name']}."}
    )


@dataclass
class Script:
    """``answer``: body -> (status, headers, bytes) or a completion; ``refuse``: answers that come first, whatever was asked."""

    answer: Callable[[dict[str, Any]], Any] = task_for
    refuse: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(script: Script) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        if script.hold:
            script.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        script = self.script
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with script.lock:
            script.bodies.append(body)
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            script.running += 1
            script.most = max(script.most, script.running)
            first = script.refuse.pop(0) if script.refuse else None
        if script.hold:
            script.hold.wait(5)
        said = first or script.answer(body)
        status, headers, data = said if isinstance(said, tuple) else (200, {}, json.dumps(said).encode())
        with script.lock:
            script.running -= 1
        try:
            self.send_response(status if self.path.endswith("/v1/chat/completions") else 404)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            """The client had enough."""
