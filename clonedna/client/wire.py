"""Requests to a server of ours, and its errors as what they were there.

Sizes, times and repetitions are bounded; the token is in no message.
What only reads (``GET``) is asked again when the server says that it is busy (429, 503) or drops the connection: at most ``AGAIN`` times,
after the time that it names (``Retry-After``), else longer each time. What changes something is sent once. A stream of events that breaks
goes on behind the last event that came (``Last-Event-ID``). A server of another major version of the API is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from clonedna import API_VERSION, __version__
from clonedna.core.canonical import plain
from clonedna.core.errors import BadAnswer, DnaError, InputError, TimedOut, Unauthorised, Unavailable, error_of

MOST_BYTES = 64 * 1024 * 1024
MOST_EVENT_BYTES = 4 * 1024 * 1024
AGAIN = 3
LONGEST_PAUSE = 30.0
SILENCE_SECONDS = 60.0
BUSY = frozenset({429, 503})
API_HEADER = "X-DNA-API"
V = TypeVar("V", bound=BaseModel)
ServerEvent = httpx2.ServerSentEvent


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
        self._timeout = timeout
        self._http = httpx2.Client(
            base_url=self.url, headers=headers, timeout=timeout, follow_redirects=False, trust_env=False
        )
        self.pause: Callable[[float], None] = time.sleep

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, kind: type[V], *, query: Mapping[str, Any] | None = None) -> V:
        """What is at ``path``. Raises the server's own errors, ``Unavailable``, ``TimedOut``, ``BadAnswer``."""
        return self.ask("GET", path, kind, query=query)

    def post(
        self, path: str, kind: type[V], body: Any = None, *, headers: Mapping[str, str] | None = None, silence: float | None = None
    ) -> V:  # fmt: skip
        """What ``path`` answers to ``body`` (a value, or what is JSON). ``silence``: as of ``read``. Raises as ``get``."""
        return self.ask("POST", path, kind, body=body, headers=headers, silence=silence)

    def delete(self, path: str, kind: type[V]) -> V:
        """What ``path`` answers when it is deleted. Raises as ``get``."""
        return self.ask("DELETE", path, kind)

    def ask(
        self, method: str, path: str, kind: type[V], *, query: Mapping[str, Any] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None, silence: float | None = None,
    ) -> V:  # fmt: skip
        """One request; the answer is a ``kind``."""
        data = self.read(method, path, query=query, body=body, headers=headers, silence=silence)
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BadAnswer(
                f"{self.url} answered something else than was asked for ({place}: {first['msg']})",
                "is it a server of this program, of this version? see: GET /version",
            ) from None

    def read(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None, silence: float | None = None,
    ) -> bytes:  # fmt: skip
        """The bytes of the answer to one request; a ``GET`` is repeated as the module says. Raises as ``get``.

        ``silence``: seconds without a byte until it is given up, where that is longer than the client's timeout.
        """
        timeout = httpx2.Timeout(self._timeout, read=max(self._timeout, silence or 0.0))
        given: dict[str, Any] = (
            {} if body is None else {"content": body} if isinstance(body, bytes) else {"json": plain(body)}
        )
        for turn in range(AGAIN + 1):
            last = turn == AGAIN or method != "GET"
            try:
                with self._http.stream(
                    method, path, params=_known(query), headers=headers, timeout=timeout, **given
                ) as answer:
                    data = _bounded(answer)
            except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
                if last:
                    raise self._unreachable(error) from None
                self.pause(_backoff(turn))
                continue
            except httpx2.HTTPError as error:
                raise self._unreachable(error) from None
            if answer.status_code in BUSY and not last:
                self.pause(_pause(answer, turn))
                continue
            self._check(answer, data)
            return data
        raise AssertionError("the last turn returns or raises")

    @contextmanager
    def stream(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None, json: Any = None, silence: float | None = None,
    ) -> Generator[httpx2.Response]:  # fmt: skip
        """An answer whose body is read piece by piece (``iter_bytes``), to a body that may be sent piece by piece (``content``).

        Sent once. ``silence``: seconds without a byte until it is given up, default the client's timeout. Raises as ``get``, also while
        the body is read.
        """
        given: dict[str, Any] = {} if json is None else {"json": plain(json)}
        if content is not None:
            given["content"] = content
        timeout = httpx2.Timeout(self._timeout, read=silence or self._timeout)
        try:
            with self._http.stream(
                method, path, params=_known(query), headers=headers, timeout=timeout, **given
            ) as answer:
                if answer.status_code >= 300:
                    self._check(answer, _bounded(answer))
                self._check(answer, b"")
                yield answer
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def events(
        self, path: str, last_id: str | None = None, *, query: Mapping[str, Any] | None = None
    ) -> Iterator[ServerEvent]:
        """The server-sent events at ``path`` behind ``last_id``, until the server ends the stream.

        A stream that breaks (not one that ends) is asked for again from the last event's id, ``AGAIN`` times without a new event between.
        An event called ``error`` is raised as the error that it holds. Raises as ``get``.
        """
        turn = 0
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                with self._http.stream(
                    "GET", path, params=_known(query), headers=headers, timeout=httpx2.Timeout(self._timeout, read=SILENCE_SECONDS)
                ) as answer:  # fmt: skip
                    if answer.status_code in BUSY and turn < AGAIN:
                        self.pause(_pause(answer, turn))
                        turn += 1
                        continue
                    for event in self._told(answer):
                        turn, last_id = 0, event.id or last_id
                        yield event
                return
            except httpx2.HTTPError as error:
                if turn >= AGAIN:
                    raise self._unreachable(error) from None
            self.pause(_backoff(turn))
            turn += 1

    def said(self, path: str, body: Any) -> Generator[ServerEvent]:
        """The events that answer a ``POST``; sent once, so a stream that breaks is an error. Raises as ``events``."""
        with self.stream(
            "POST", path, json=body, headers={"Accept": "text/event-stream"}, silence=SILENCE_SECONDS
        ) as answer:
            yield from self._told(answer)

    def _told(self, answer: httpx2.Response) -> Iterator[ServerEvent]:
        """The events of one answer. Raises the server's error, whether it is the answer or one of its events."""
        if answer.status_code >= 300:
            self._check(answer, _bounded(answer))
        self._check(answer, b"")
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise BadAnswer(f"{self.url} answered with no stream of events", "is it a server of this program?")
        for event in httpx2.EventSource(answer, max_event_size=MOST_EVENT_BYTES):
            if event.event == "error":
                raise error_of(event.data.encode()) or BadAnswer("the stream ended with an error that cannot be read")
            yield event

    def _check(self, answer: httpx2.Response, data: bytes) -> None:
        """Raises what the answer says went wrong, and ``BadAnswer`` for a server of another major version of the API."""
        theirs = answer.headers.get(API_HEADER, "")
        if theirs and theirs.partition(".")[0] != API_VERSION.partition(".")[0]:
            raise BadAnswer(
                f"{self.url} speaks version {theirs[:20]!r} of the API, this program version {API_VERSION!r}",
                "use a clone-dna of the server's version (GET /version)", why="api_version",
            )  # fmt: skip
        if answer.status_code >= 300:
            raise self.error(answer.status_code, data)

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
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Unavailable(
                f"no server answers at {self.url}: {type(error).__name__}", "start one with: dna serve, or check --server"
            )  # fmt: skip
        if isinstance(error, httpx2.TimeoutException):
            return TimedOut(f"{self.url} did not answer in time ({type(error).__name__})", "ask again; see its log")
        return Unavailable(
            f"the connection to {self.url} broke: {type(error).__name__}", "ask again; see the server's log"
        )


def _known(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (query or {}).items() if value is not None}


def _backoff(turn: int) -> float:
    return 0.2 * 2**turn


def _pause(answer: httpx2.Response, turn: int) -> float:
    """Seconds that the server wants to be left alone, within bounds; a date in ``Retry-After`` is not read."""
    told = answer.headers.get("retry-after", "")
    wanted = float(told[:9]) if told.isascii() and told.isdigit() else _backoff(turn)
    return min(wanted, LONGEST_PAUSE)


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
