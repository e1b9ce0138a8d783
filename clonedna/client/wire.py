"""Requests to a server of ours, and its errors as what they were there. Sizes and times are bounded; the token is in no message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from clonedna import __version__
from clonedna.core.canonical import plain
from clonedna.core.errors import BadAnswer, DnaError, InputError, Unauthorised, Unavailable, error_of

MOST_BYTES = 64 * 1024 * 1024
V = TypeVar("V", bound=BaseModel)


class Wire:
    """One server's address and key, over one pool of connections."""

    def __init__(self, url: str, token: str, *, timeout: float) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise InputError(f"{url[:200]!r} is no URL of a server", "write it as http://127.0.0.1:8000")
        headers = {"User-Agent": f"clone-dna/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(
            base_url=self.url, headers=headers, timeout=timeout, follow_redirects=False, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, kind: type[V], *, query: Mapping[str, Any] | None = None) -> V:
        """What is at ``path``. Raises the server's own errors, ``Unavailable``, ``BadAnswer``."""
        return self.ask("GET", path, kind, query=query)

    def post(self, path: str, kind: type[V], body: Any = None, *, headers: Mapping[str, str] | None = None) -> V:
        """What ``path`` answers to ``body`` (a value, or what is JSON). Raises as ``get``."""
        return self.ask("POST", path, kind, body=body, headers=headers)

    def delete(self, path: str, kind: type[V]) -> V:
        """What ``path`` answers when it is deleted. Raises as ``get``."""
        return self.ask("DELETE", path, kind)

    def ask(
        self, method: str, path: str, kind: type[V], *, query: Mapping[str, Any] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> V:  # fmt: skip
        """One request; the answer is a ``kind``."""
        sent = {key: value for key, value in (query or {}).items() if value is not None}
        given: dict[str, Any] = {} if body is None else {"json": plain(body)}
        try:
            with self._http.stream(method, path, params=sent, headers=headers, **given) as answer:
                data = _bounded(answer)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status_code >= 300:
            raise self.error(answer.status_code, data)
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BadAnswer(
                f"{self.url} answered something else than was asked for ({place}: {first['msg']})",
                "is it a server of this program, of this version? see: GET /version",
            ) from None

    def error(self, status: int, data: bytes) -> DnaError:
        """What the server says went wrong, as what it was there."""
        found = error_of(data)
        if found is not None:
            return found
        if status == 401:
            return Unauthorised(f"{self.url} wants a token", "set DNA_TOKEN to one that it gave out")
        return Unavailable(
            f"{self.url} answered with status {status}, and not as a server of this program", "check the address"
        )

    def _unreachable(self, error: Exception) -> DnaError:
        return Unavailable(
            f"no server answers at {self.url}: {type(error).__name__}", "start one with: dna serve, or check --server"
        )


def _bounded(answer: httpx2.Response) -> bytes:
    """The whole body. Raises ``BadAnswer`` over ``MOST_BYTES``."""
    pieces: list[bytes] = []
    size = 0
    for piece in answer.iter_bytes():
        size += len(piece)
        if size > MOST_BYTES:
            raise BadAnswer(f"the answer has more than {MOST_BYTES} bytes", "ask for less at once")
        pieces.append(piece)
    return b"".join(pieces)
