"""A GitHub of our own on loopback: its REST routes, a little of its GraphQL, its faults, and clones over (dumb) HTTP.

The API stands where an Enterprise server has it: ``fake.url`` is ``http://127.0.0.1:PORT/api/v3``. ``fake.asked`` tells what came in.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.github_world import Account, Repository, World

API = "/api/v3"


@dataclass
class Fault:
    """What happens to requests whose path (below ``/api/v3``) matches ``path``, the next ``times`` times.

    ``kind``: ``primary`` (403, limit used up, reset in ``seconds``), ``secondary`` (``status`` with Retry-After ``seconds``), ``status``,
    ``garbage`` (200, no JSON), ``packed`` (gzip that nobody asked for), ``away`` (302 to another host), ``drop`` (the connection ends).
    """

    path: str
    kind: str
    status: int = 403
    seconds: int = 0
    times: int = 1_000_000


@dataclass(frozen=True)
class Asked:
    path: str
    status: int
    query: dict[str, str]
    token: str
    if_none_match: str


@dataclass
class FakeGitHub:
    world: World
    folder: Path
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    limit: int = 5000
    require_token: str = ""

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.web + API

    def paths(self, status: int = 200) -> list[str]:
        return [one.path for one in self.asked if one.status == status]

    def take(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def bare(self, repository: Repository) -> Path:
        """What a clone is served from: plain files, as git's dumb protocol wants them. Made anew when there are new commits."""
        head = repository.resolve("HEAD")
        target = self.folder / f"{repository.id}-{head}.git"
        if not target.exists():
            making = target.with_suffix(".new")
            subprocess.run(
                ["git", "clone", "-q", "--bare", str(repository.git), str(making)], check=True, capture_output=True
            )
            for command in (["repack", "-adq"], ["update-server-info"]):
                subprocess.run(["git", "-C", str(making), *command], check=True, capture_output=True)
            making.rename(target)
        return target


@contextmanager
def serving(world: World, folder: Path) -> Iterator[FakeGitHub]:
    """A fake that answers until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    fake = FakeGitHub(world, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    fake.port = server.server_address[1]
    world.noreply = "users.noreply.127.0.0.1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Answered(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGitHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._handle(self._get)

    def do_POST(self) -> None:
        self._handle(self._post)

    def _handle(self, answer: Callable[[], None]) -> None:
        parts = urlsplit(self.path)
        self.plain = unquote(parts.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        try:
            if self.plain.startswith("/api/") and self._faulty(self.plain.removeprefix(API)):
                return
            answer()
        except _Answered as error:
            self._send(error.status, {"message": error.message, "documentation_url": "https://docs.github.com/rest"})

    # Sending.

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None, raw: bytes | None = None) -> None:
        data = json.dumps(body).encode() if raw is None else raw
        etag = f'W/"{hashlib.sha256(data).hexdigest()}"'
        given = self.headers.get("If-None-Match", "")
        if status == 200 and self.command == "GET" and given == etag:
            status, data = 304, b""
        token = self.headers.get("Authorization", "").partition(" ")[2]
        self.fake.asked.append(Asked(self.plain.removeprefix(API), status, self.query, token, given))
        self.send_response(status)
        now = int(time.time())
        sent = {
            "Content-Type": "application/json; charset=utf-8", "X-RateLimit-Limit": str(self.fake.limit),
            "X-RateLimit-Remaining": str(max(1, self.fake.limit - len(self.fake.asked))), "X-RateLimit-Reset": str(now + 3600),
            "Cache-Control": "private, max-age=60, s-maxage=60", "Vary": "Accept, Authorization, Cookie, X-GitHub-OTP",
        }  # fmt: skip
        if status in (200, 304):
            sent["ETag"] = etag
        for key, value in (sent | (headers or {})).items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _faulty(self, path: str) -> bool:
        fault = self.fake.take(path)
        if fault is None:
            return False
        reset = str(int(time.time()) + fault.seconds)
        if fault.kind == "primary":
            limit = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
            self._send(403, {"message": "API rate limit exceeded for 127.0.0.1."}, limit)
        elif fault.kind == "secondary":
            self._send(
                fault.status,
                {"message": "You have exceeded a secondary rate limit."},
                {"Retry-After": str(fault.seconds)},
            )
        elif fault.kind == "garbage":
            self._send(200, None, raw=b"<html>not JSON</html>")
        elif fault.kind == "packed":
            self._send(200, None, {"Content-Encoding": "gzip"}, raw=gzip.compress(b"[]"))
        elif fault.kind == "away":
            self._send(302, {}, {"Location": "http://127.0.0.2:9/elsewhere"})
        elif fault.kind == "drop":
            self.close_connection = True
            self.fake.asked.append(Asked(path, 0, {}, "", ""))
        else:
            self._send(fault.status, {"message": "made-up fault"})
        return True

    def _list(self, items: list[Any]) -> None:
        """One page, with a Link header to the next and the last (RFC 8288)."""
        size, page = min(100, int(self.query.get("per_page", "30"))), int(self.query.get("page", "1"))
        last = max(1, -(-len(items) // size))
        links: dict[str, str] = {}
        if page < last:
            links["Link"] = ", ".join(
                f'<{self.fake.web}{self.plain}?{urlencode(self.query | {"page": number})}>; rel="{name}"'
                for name, number in (("next", page + 1), ("last", last))
            )
        self._send(200, items[(page - 1) * size : page * size], links)

    # Routes.

    def _get(self) -> None:
        if not self.plain.startswith(API):
            return self._clone()
        token = self.headers.get("Authorization", "").partition(" ")[2]
        if token and self.fake.require_token and token != self.fake.require_token:
            raise _Answered(401, "Bad credentials")
        match self.plain.removeprefix(API).strip("/").split("/"):
            case ["rate_limit"]:
                self._send(200, {"resources": {"core": {"limit": self.fake.limit}}})
            case ["search", "users"]:
                self._search()
            case ["user", number]:
                found = next((one for one in self.fake.world.accounts if str(one.id) == number), None)
                if found is None:
                    raise _Answered(404, "Not Found")
                self._send(200, self.fake.world.user_json(found))
            case ["users", login, *rest]:
                self._user(self._account(login), rest)
            case ["gists", name]:
                found = next((g for a in self.fake.world.accounts for g in a.gists if g["id"] == name), None)
                if found is None:
                    raise _Answered(404, "Not Found")
                self._send(200, found)
            case ["repos", owner, name, *rest]:
                self._repository(f"{owner}/{name}", rest)
            case ["repositories", number, *rest]:
                found = next((one for one in self.fake.world.repositories if str(one.id) == number), None)
                self._of_repository(found, rest)
            case _:
                raise _Answered(404, "Not Found")
        return None

    def _account(self, login: str) -> Account:
        account = self.fake.world.account(login)
        if account is None:
            raise _Answered(404, "Not Found")
        return account

    def _search(self) -> None:
        """Words look at login, name and bio; ``key:value`` ones are accepted, and only ``type:user`` and ``location:`` have an effect."""
        words = self.query.get("q", "").casefold().split()
        if not words:
            raise _Answered(422, "Validation Failed")
        plain = [word for word in words if ":" not in word]
        places = [word.partition(":")[2] for word in words if word.startswith("location:")]
        found = [
            one
            for one in self.fake.world.accounts
            if (one.type == "User" or "type:user" not in words)
            and all(word in f"{one.login} {one.name} {one.bio or ''}".casefold() for word in plain)
            and all(place in (one.location or "").casefold() for place in places)
        ]
        size = int(self.query.get("per_page", "30"))
        items = [one.brief() | {"score": 1.0} for one in found[:size]]
        self._send(200, {"total_count": len(found), "incomplete_results": False, "items": items})

    def _user(self, account: Account, rest: list[str]) -> None:
        world = self.fake.world
        match rest:
            case []:
                self._send(200, world.user_json(account))
            case ["repos"]:
                own = [one for one in world.repositories if one.owner is account and not one.private]
                self._list([world.repository_json(one, self.fake.web) for one in own])
            case ["keys"]:
                self._list([{"id": i, "key": key} for i, key in enumerate(account.keys, 1)])
            case ["ssh_signing_keys"]:
                keys = [
                    {"id": i, "key": key, "title": f"key {i}", "created_at": "2026-01-01T00:00:00Z"}
                    for i, key in enumerate(account.signing_keys, 1)
                ]
                self._list(keys)
            case ["gists"]:
                self._list(account.gists)
            case _:
                raise _Answered(404, "Not Found")

    def _repository(self, full_name: str, rest: list[str]) -> None:
        number = self.fake.world.renamed.get(full_name.casefold())
        if number is not None:
            query = f"?{urlencode(self.query)}" if self.query else ""
            self._send(
                301,
                {"message": "Moved Permanently"},
                {"Location": "/".join([f"{self.fake.url}/repositories/{number}", *rest]) + query},
            )
        elif full_name.casefold() in {name.casefold() for name in self.fake.world.blocked}:
            self._send(451, {"message": "Repository access blocked", "block": {"reason": "dmca"}})
        else:
            self._of_repository(self.fake.world.repository(full_name), rest)

    def _of_repository(self, one: Repository | None, rest: list[str]) -> None:
        if one is None or one.private:
            raise _Answered(404, "Not Found")
        world, fake = self.fake.world, self.fake
        if rest and rest[0] != "languages" and one.git is None:
            raise _Answered(409, "Git Repository is empty.")
        match rest:
            case []:
                self._send(200, world.repository_json(one, fake.web))
            case ["languages"]:
                self._send(200, one.languages if one.git else {})
            case ["commits"]:
                self._list(
                    world.commits_json(one, self._at(one, self.query.get("sha", "HEAD")), self.query.get("author"))
                )
            case ["commits", revision]:
                self._send(200, world.commits_json(one, self._at(one, revision), None)[0])
            case ["compare", both]:
                base, _, head = both.partition("...")
                ahead = one.run("rev-list", "--count", f"{self._at(one, base)}..{self._at(one, head)}").strip()
                behind = one.run("rev-list", "--count", f"{self._at(one, head)}..{self._at(one, base)}").strip()
                status = {
                    (True, True): "diverged",
                    (True, False): "ahead",
                    (False, True): "behind",
                    (False, False): "identical",
                }
                self._send(
                    200,
                    {"status": status[ahead != b"0", behind != b"0"], "ahead_by": int(ahead), "behind_by": int(behind)},
                )
            case ["license"]:
                content = world.content_json(one, "LICENSE", "HEAD")
                if content is None or one.spdx is None:
                    raise _Answered(404, "Not Found")
                self._send(200, content | {"license": {"spdx_id": one.spdx}})
            case ["git", "trees", revision]:
                self._send(200, world.tree_json(one, self._at(one, revision), "recursive" in self.query))
            case ["contents", *path]:
                content = world.content_json(one, "/".join(path), self._at(one, self.query.get("ref", "HEAD")))
                if content is None:
                    raise _Answered(404, "Not Found")
                self._send(200, content)
            case _:
                raise _Answered(404, "Not Found")

    @staticmethod
    def _at(one: Repository, revision: str) -> str:
        commit = one.resolve(revision)
        if commit is None:
            raise _Answered(404, "No commit found")
        return commit

    def _clone(self) -> None:
        """A file of a bare repository at ``/{owner}/{name}.git/``."""
        match = re.fullmatch(r"/([^/]+/[^/]+?)\.git/(.+)", self.plain)
        full_name = match[1] if match else ""
        number = self.fake.world.renamed.get(full_name.casefold())
        found = next((r for r in self.fake.world.repositories if r.id == number), None) or self.fake.world.repository(
            full_name
        )
        if match is None or found is None or found.git is None or found.private or full_name in self.fake.world.blocked:
            raise _Answered(404, "Not Found")
        if number is not None:
            return self._send(
                301, {}, {"Location": f"{self.fake.web}/{found.full_name}.git/{match[2]}?{urlencode(self.query)}"}
            )
        bare = self.fake.bare(found).resolve()
        file = (bare / match[2]).resolve()
        if not file.is_relative_to(bare) or not file.is_file():
            raise _Answered(404, "Not Found")
        return self._send(
            200, None, {"Content-Type": "application/octet-stream", "Cache-Control": "no-cache"}, raw=file.read_bytes()
        )

    def _post(self) -> None:
        """GraphQL: ``user(login:)`` and its most starred repositories, whatever of their fields is asked for."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if self.plain != "/api/graphql":
            raise _Answered(404, "Not Found")
        if not self.headers.get("Authorization"):
            raise _Answered(401, "This endpoint requires you to be authenticated.")
        world, login = self.fake.world, str(asked.get("variables", {}).get("login", ""))
        account = world.account(login)
        if account is None:
            error = {
                "type": "NOT_FOUND",
                "path": ["user"],
                "message": f"Could not resolve to a User with the login of '{login}'.",
            }
            return self._send(200, {"data": {"user": None}, "errors": [error]})
        own = [one for one in world.repositories if one.owner is account and not one.private]
        own.sort(key=lambda one: -one.stars)
        first, start = int(asked["variables"].get("first", 100)), int(asked["variables"].get("after") or 0)
        nodes = [self._node(one) for one in own[start : start + first]]
        more = start + first < len(own)
        page = {"hasNextPage": more, "endCursor": str(start + first) if more else None}
        user = {"databaseId": account.id, "login": account.login}
        found = {"totalCount": len(own), "pageInfo": page, "nodes": nodes}
        return self._send(200, {"data": {"user": user | {"repositories": found}}})

    @staticmethod
    def _node(one: Repository) -> dict[str, Any]:
        return {
            "databaseId": one.id, "name": one.name, "description": one.description, "stargazerCount": one.stars, "forkCount": 0,
            "diskUsage": one.kilobytes if one.git else 0, "isArchived": one.archived, "isFork": one.fork, "isPrivate": one.private,
            "pushedAt": "2026-02-01T00:00:00Z", "licenseInfo": {"spdxId": one.spdx} if one.spdx else None,
            "primaryLanguage": {"name": next(iter(one.languages))} if one.languages else None,
            "repositoryTopics": {"nodes": [{"topic": {"name": topic}} for topic in one.topics]},
            "owner": {"login": one.owner.login, "databaseId": one.owner.id},
        }  # fmt: skip
