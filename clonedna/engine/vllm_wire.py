"""HTTP with one vLLM server: bounded requests, its refusals as this project's errors, and its answers read strictly.

Promises: a timeout on every wait, a bound on every answer, no redirect followed (the key goes to the server that was named and nowhere
else). Only requests that change nothing are sent again, at most twice. Statuses decide what an error is, never its text.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import Any, cast

import anyio
import httpx2
from prometheus_client.parser import text_string_to_metric_families

from clonedna.core.errors import (
    DnaError,
    InputError,
    NotFound,
    Overloaded,
    TimedOut,
    Unauthorised,
    Unavailable,
)

CONNECT = 10.0
MOST_BYTES = 64 << 20
RETRIES = 2
START = "start vLLM as docs/vllm.md says, or correct vllm_url"


class Wire:
    """One server. ``url`` may end in ``/v1``; ``key`` goes out as a bearer token; ``timeout``: seconds without a byte of an answer.

    May be used from several event loops: each exchange has connections of its own.
    """

    def __init__(self, url: str, key: str = "", timeout: float = 120.0) -> None:
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, TypeError) as error:
            raise InputError(
                f"vllm_url {url!r} is not a URL ({error})", "give one such as http://127.0.0.1:8000"
            ) from error
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise InputError(
                "vllm_url must be http:// or https:// with a host and no password", "give the key as vllm_key"
            )
        self.url = str(parsed.copy_with(query=None, fragment=None)).rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = httpx2.Timeout(timeout, connect=CONNECT)
        self._tls = ssl.create_default_context()  # made once: it takes longer than a request

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(headers=self._headers, timeout=self._timeout, verify=self._tls)

    def get(self, path: str, *, timeout: float = CONNECT) -> bytes:
        """The body of a GET, waiting in this thread. Raises ``Unavailable``, ``TimedOut``, ``Unauthorised``, ``NotFound``."""
        return self._once("GET", path, None, timeout)

    def post_now(self, path: str, body: dict[str, Any], *, timeout: float = CONNECT) -> dict[str, Any]:
        """The object that a POST gives, waiting in this thread."""
        return as_object(self._once("POST", path, body, timeout))

    def _once(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> bytes:
        with self._named(path), httpx2.Client(headers=self._headers, timeout=timeout, verify=self._tls) as client:
            with client.stream(method, self.url + path, json=body) as response:
                data = b""
                for piece in response.iter_bytes():
                    data += piece
                    _bound(len(data), path)
            if response.status_code != 200:
                raise refusal(response, data, path)
            return data

    def metrics(self, *, timeout: float) -> dict[str, float]:
        """Counters and gauges of ``/metrics``, summed over their labels, by name."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics", timeout=timeout).decode("utf-8", "replace")):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    async def post(self, path: str, body: dict[str, Any], *, again: bool = False) -> bytes:
        """The body of an answer with status 200. ``again``: the request changes nothing and may be sent again when the server is
        not there, is full or fails."""
        for attempt in range(RETRIES + 1):
            try:
                return await self._post(path, body)
            except (Overloaded, Unavailable) as error:
                if not again or attempt == RETRIES or isinstance(error, TimedOut):
                    raise
                await anyio.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        with self._named(path):
            async with (
                self._client() as client,
                client.stream("POST", self.url + path, json=body) as response,
            ):
                data = await _all(response, path)
                if response.status_code != 200:
                    raise refusal(response, data, path)
                return data

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The objects of a server-sent stream, until ``[DONE]``. Closing the generator closes the connection, which cancels the request.

        Raises ``Unavailable`` when the stream ends early or carries an error.
        """
        with self._named(path):
            async with (
                self._client() as client,
                client.stream("POST", self.url + path, json=body) as response,
            ):
                if response.status_code != 200:
                    raise refusal(response, await _all(response, path), path)
                async with aclosing(
                    cast("AsyncGenerator[httpx2.ServerSentEvent]", aiter(httpx2.EventSource(response)))
                ) as source:
                    async for event in source:
                        if event.data == "[DONE]":
                            return
                        told = as_object(event.data.encode())
                        if "error" in told:
                            raise Unavailable(
                                f"vLLM gave up a request: {_said(told)}", "see the server's log, then ask again"
                            )
                        yield told
        raise Unavailable(f"vLLM's answer from {path} ended early", "see the server's log, then ask again")

    @contextmanager
    def _named(self, path: str) -> Generator[None]:
        """The client library's errors as ours."""
        try:
            yield
        except httpx2.TimeoutException as error:
            raise TimedOut(
                f"vLLM at {self.url} did not answer {path} in time ({type(error).__name__})",
                "see whether it is overloaded or hangs",
            ) from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"no vLLM answers at {self.url} ({type(error).__name__}: {error})", START) from error


async def _all(response: httpx2.Response, path: str) -> bytes:
    data = b""
    async for piece in response.aiter_bytes():
        data += piece
        _bound(len(data), path)
    return data


def refusal(response: httpx2.Response, data: bytes, path: str) -> DnaError:
    """The error that a status other than 200 stands for."""
    status = response.status_code
    try:
        said = _said(as_object(data))
    except Unavailable:
        said = data[:200].decode("utf-8", "replace")
    told = f"vLLM refused {path} with {status}: {said}"
    if status in (401, 403):
        return Unauthorised(told, "set vllm_key to the key that the server was started with (--api-key)")
    if status == 404:
        return NotFound(told, "load the adapter again; the server may have been started anew")
    if status == 429:
        return Overloaded(told, "ask again later", retry_after=retry_after(response))
    if 400 <= status < 500:
        return InputError(told, "correct what the server names, or start it with other limits (docs/vllm.md)")
    return Unavailable(told, "see the server's log, then ask again")


def retry_after(response: httpx2.Response) -> int:
    """Whole seconds of the header, 1 where it is missing or a date, at most 600."""
    given = response.headers.get("retry-after", "")
    return min(600, max(1, int(given))) if given.isdecimal() else 1


def as_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Unavailable(
            f"the server's answer is not JSON: {data[:80]!r}", "see whether vllm_url is a vLLM server"
        ) from error
    if not isinstance(value, dict):
        raise Unavailable(f"the server's answer is no object: {data[:80]!r}", "see whether vllm_url is a vLLM server")
    return cast("dict[str, Any]", value)


def _said(told: dict[str, Any]) -> str:
    error: Any = told.get("error", told.get("detail", told))
    return str(cast("dict[str, Any]", error).get("message", "") if isinstance(error, dict) else error)[:400]


def _bound(size: int, path: str) -> None:
    if size > MOST_BYTES:
        raise Unavailable(
            f"vLLM's answer from {path} is larger than {MOST_BYTES >> 20} MiB", "see whether vllm_url is right"
        )


class Reading:
    """Something of the server's that is asked for at most once a second, and then told again."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._read, self._told = wire, float("-inf"), dict[str, float]()

    def metrics(self) -> dict[str, float]:
        """The server's counters, at most a second old. Raises ``Unavailable`` when they cannot be had."""
        if time.monotonic() - self._read > 1.0:
            self._told = self._wire.metrics(timeout=2.0)
            self._read = time.monotonic()
        return self._told
