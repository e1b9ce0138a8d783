"""A small Hugging Face hub on loopback: what huggingface_hub calls to make a repository, commit to it, look at it and fetch files.

Large files go by git-lfs's batch API (basic transfer). What it does not have, such as Xet, answers 404.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, Files]] = field(default_factory=lambda: [("0" * 40, {".gitattributes": b""})])

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)


@dataclass
class FakeHub:
    """``token`` may write, and read what is private. ``asked``: methods and paths. ``ignored``: names that the server leaves out."""

    token: str
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict[str, Repository])
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    asked: list[str] = field(default_factory=list[str])
    ignored: set[str] = field(default_factory=set[str])
    broken: int | None = None

    def commit(self, name: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.repositories[name].commits[-1][1])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case "header":
                    pass
                case other:
                    raise AssertionError(other)
        number = hashlib.sha1(repr(sorted(files.items())).encode() + str(len(self.asked)).encode()).hexdigest()
        self.repositories[name].commits.append((number, files))
        return number


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in ({"content-length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _handle(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.broken is not None:
            return self._answer(self.hub.broken)
        parts = path.strip("/").split("/")
        if parts[0] == "objects" and self.command == "PUT":  # a signed address: no token
            self.hub.objects[parts[1]] = body
            return self._answer(200)
        knows = self.headers.get("authorization") == f"Bearer {self.hub.token}"
        if self.headers.get("authorization") and not knows:
            return self._answer(401, {"error": "Invalid credentials"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), knows)
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not knows):
            return self._answer(
                401 if not knows else 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
            )
        if self.command == "POST" and not knows:
            return self._answer(403, {"error": "Forbidden"})
        return self._of(name, found, parts, body)

    def _create(self, asked: dict[str, Any], knows: bool) -> None:
        if not knows:
            return self._answer(401)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._answer(409, {"error": "already"})
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _of(self, name: str, found: Repository, parts: list[str], body: bytes) -> None:
        match (self.command, parts[0], parts[4 if parts[0] == "api" else 2 :]):
            case ("GET", "api", [] | ["revision", _] as rest):
                commit = found.at(rest[1] if rest else "main")
                return self._no_revision() if commit is None else self._info(name, found, commit)
            case ("GET", "api", ["tree", revision]):
                commit = found.at(revision)
                return self._no_revision() if commit is None else self._answer(200, [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in sorted(commit[1].items())
                ])  # fmt: skip
            case ("POST", "api", ["preupload", _]):
                asked = json.loads(body)["files"]
                return self._answer(200, {"files": [
                    {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular",
                     "shouldIgnore": one["path"] in self.hub.ignored, "oid": None} for one in asked
                ]})  # fmt: skip
            case ("POST", "api", ["commit", _]):
                oid = self.hub.commit(name, [json.loads(line) for line in body.splitlines()])
                return self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})
            case ("POST", _, ["info", "lfs", "objects", "batch"]):
                return self._answer(200, {"transfer": "basic", "objects": [
                    one | {"actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}} for one in json.loads(body)["objects"]
                ]})  # fmt: skip
            case ("GET" | "HEAD", _, ["resolve", revision, *rest]):
                return self._file(found.at(revision), "/".join(rest))
            case _:
                return self._answer(404)

    def _no_revision(self) -> None:
        self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")

    def _info(self, name: str, found: Repository, commit: tuple[str, Files]) -> None:
        siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(commit[1].items())]
        self._answer(
            200,
            {"id": name, "modelId": name, "sha": commit[0], "private": found.private, "siblings": siblings, "tags": []},
        )

    def _file(self, commit: tuple[str, Files] | None, path: str) -> None:
        if commit is None or path not in commit[1]:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        data = commit[1][path]
        return self._answer(200, data, X_Repo_Commit=commit[0], ETag=f'"{hashlib.sha256(data).hexdigest()}"')

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def fake_hub(token: str) -> Generator[FakeHub]:
    """One that answers until the end of the block."""
    made = FakeHub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
