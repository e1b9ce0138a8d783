"""A very small GitHub on loopback, and people with real SSH keys, for the tests of consent. Nobody in it exists."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class SmallGitHub:
    """Answers by path, as JSON; a number is a status. ``asked`` are the paths, in order."""

    routes: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[str] = field(default_factory=list[str])
    url: str = ""

    def person(
        self, login: str, number: int, *, signing: list[str] | None = None, keys: list[str] | None = None
    ) -> None:
        """An account with its keys, under its number and its login."""
        about = {"id": number, "login": login, "type": "User"}
        self.routes |= {f"/users/{login}": about, f"/user/{number}": about}
        for kind, lines in (("ssh_signing_keys", signing or []), ("keys", keys or [])):
            self.routes[f"/users/{login}/{kind}"] = [{"id": i, "key": line} for i, line in enumerate(lines)]

    def gone(self, login: str, number: int) -> None:
        for path in (f"/users/{login}", f"/user/{number}", f"/users/{login}/ssh_signing_keys", f"/users/{login}/keys"):
            self.routes.pop(path, None)

    def profile(
        self, login: str, number: int, commit: str, path: str, data: bytes, *, status: str = "ahead", **about: Any
    ) -> None:
        """A profile repository with one file at ``commit``, which stands to its default branch as ``status`` says."""
        name = f"/repos/{login}/{login}"
        self.routes[name] = {"owner": {"id": number}, "default_branch": "main", "fork": False, "private": False} | about
        self.routes[f"{name}/compare/{commit}...main"] = {
            "status": status, "merge_base_commit": {"sha": commit if status in ("ahead", "identical") else "0" * 40}
        }  # fmt: skip
        self.routes[f"{name}/contents/{path}"] = {
            "type": "file", "encoding": "base64", "content": base64.encodebytes(data).decode()
        }  # fmt: skip

    def gist(self, gist: str, number: int, *contents: str) -> None:
        files = {f"{i}.json": {"content": text, "truncated": False} for i, text in enumerate(contents)}
        self.routes[f"/gists/{gist}"] = {"owner": {"id": number}, "files": files}


@contextmanager
def small_github() -> Generator[SmallGitHub]:
    """One that answers until the end of the block."""
    made = SmallGitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server wants
            path = urlsplit(self.path).path
            made.asked.append(path)
            found = made.routes.get(path, 404)
            status, body = (found, b"{}") if isinstance(found, int) else (200, json.dumps(found).encode())
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ssh_key(path: Path, kind: str = "ed25519") -> str:
    """A new key at ``path``; gives its public line."""
    bits = ["-b", "2048"] if kind == "rsa" else []
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-C", "somewhere", "-f", str(path)], check=True, capture_output=True
    )  # fmt: skip
    return path.with_suffix(".pub").read_text().strip()


def ssh_sign(key: Path, data: bytes, namespace: str = "consent@clone.dna") -> bytes:
    """What ``ssh-keygen -Y sign`` makes of ``data``."""
    command = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(key)]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout
