"""GitHub's API over `githubkit`: one place for its address, its token, its cache, its limits and its errors.

Answers are kept with their ETag on the disk and asked for again with ``If-None-Match``, so what has not changed costs nothing of the
hourly limit. The token is added below that cache and only for the API's own host: it is neither kept, nor logged, nor sent anywhere that
an answer points to. Waits that a limit asks for are waited for up to ``max_wait`` seconds; a longer one is an error that says how long.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx
from githubkit import GitHub as Kit
from githubkit import UnauthAuthStrategy
from githubkit.cache import MemCacheStrategy
from githubkit.exception import (
    GitHubException,
    GraphQLFailed,
    PrimaryRateLimitExceeded,
    RateLimitExceeded,
    RequestError,
    RequestFailed,
    RequestTimeout,
)
from githubkit.retry import RetryOption
from hishel import SyncBaseStorage, SyncSqliteStorage

from clonedna.core.errors import (
    BadConfig,
    DnaError,
    InputError,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unauthorised,
    Unavailable,
)

API = "https://api.github.com"
VERSION = "2022-11-28"  # https://docs.github.com/en/rest/about-the-rest-api/api-versions
MAX_ANSWER = 16_000_000
PER_PAGE = 100
CACHE_SECONDS = 7 * 24 * 3600.0
SERVER_TRIES, LIMIT_TRIES = 3, 3


class _Cache(MemCacheStrategy):
    """Answers in one SQLite file instead of memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def get_hishel_storage(self) -> SyncBaseStorage:  # type: ignore[override]
        """A new one each time: a client closes its own."""
        return SyncSqliteStorage(database_path=self._path, default_ttl=CACHE_SECONDS)


class _Transport(httpx.BaseTransport):
    """Adds the token below the cache, speaks to one host only, and bounds what an answer may bring."""

    def __init__(self, url: httpx.URL, token: str | None) -> None:
        self._home, self._token = (url.scheme, url.host, url.port), token
        proxy = None if _loopback(url.host) or proxy_bypass(url.host) else getproxies().get(url.scheme)
        self._next = httpx.HTTPTransport(proxy=proxy)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if (request.url.scheme, request.url.host, request.url.port) != self._home:
            raise Unavailable(
                "GitHub's answer points to another host, which is not followed", "check github_url (DNA_GITHUB_URL)"
            )
        headers = request.headers.copy()
        headers["Accept-Encoding"] = "identity"  # what is counted below is then what is read
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        sent = httpx.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        answer = self._next.handle_request(sent)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.stream.close()
            raise Unavailable("GitHub's answer is packed, which was not asked for", "check github_url (DNA_GITHUB_URL)")
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=_Bounded(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._next.close()


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        left = MAX_ANSWER
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise TooLarge(f"an answer of GitHub has more than {MAX_ANSWER} bytes", "ask for less")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class Patience:
    """Whether to ask again, and when. ``pause`` (seconds) is the least wait, and the unit of those after an error of the server."""

    def __init__(self, max_wait: float, pause: float) -> None:
        self.max_wait, self.pause = max_wait, pause

    def __call__(self, error: GitHubException, tried: int) -> RetryOption:
        if isinstance(error, RateLimitExceeded):
            # Never zero: githubkit takes that for "unknown" and waits a minute.
            wait = max(error.retry_after.total_seconds(), self.pause)
            return RetryOption(tried < LIMIT_TRIES and wait <= self.max_wait, timedelta(seconds=wait))
        failed = isinstance(error, RequestFailed) and error.response.status_code >= 500
        lost = isinstance(error, RequestError) and isinstance(error.exc, httpx.TransportError)
        wait = self.pause * (tried + 1) ** 2
        return RetryOption((failed or lost) and tried < SERVER_TRIES, timedelta(seconds=wait))


class GitHub:
    """A client of one GitHub: github.com, or an Enterprise server by ``url`` (its API's address, e.g. ``https://HOST/api/v3``).

    ``cache``: directory for kept answers. Use it as a context manager, or ``close`` it. All methods raise ``DnaError`` only.
    """

    def __init__(
        self, *, url: str = API, token: str | None = None, cache: Path, max_wait: float = 60.0, pause: float = 1.0,
        timeout: float = 30.0,
    ) -> None:  # fmt: skip
        base = _checked(url)
        self.url = str(base).rstrip("/")
        self.host = "github.com" if base.host == "api.github.com" else base.netloc.decode()
        self.web = "https://github.com" if base.host == "api.github.com" else f"{base.scheme}://{self.host}"
        self.authorised = bool(token)
        try:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"GitHub's answers cannot be kept: {error}", "choose another DNA_HOME") from error
        self._kit = Kit(
            UnauthAuthStrategy(), base_url=base, user_agent="clone-dna", timeout=timeout, cache_strategy=_Cache(cache / "answers.sqlite"),
            transport=_Transport(base, token), auto_retry=Patience(max_wait, pause),
        )  # fmt: skip
        self._kit.__enter__()

    def __enter__(self) -> GitHub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._kit.__exit__(None, None, None)

    @property
    def noreply_host(self) -> str:
        """Where GitHub's own addresses of accounts live, e.g. ``users.noreply.github.com``."""
        return f"users.noreply.{self.host.partition(':')[0]}"

    def get(self, path: str, **parameters: str | int) -> Any:
        """The JSON of one route, e.g. ``users/ada-example``. Raises ``NotFound`` (with ``status`` 404, 410 or 451, RFC 7725),
        ``Refused``, ``Unauthorised``, ``InputError`` (422), ``Overloaded`` (a limit, with ``retry_after``), ``TimedOut``, ``Unavailable``.
        """
        return _json(self._ask(path, parameters), path)

    def pages(self, path: str, most: int, **parameters: str | int) -> Iterator[Any]:
        """Up to ``most`` items of a route that gives a list, page after page by the ``Link`` header (RFC 8288)."""
        answer = self._ask(path, {"per_page": min(PER_PAGE, most), **parameters})
        for _ in range(-(-most // PER_PAGE)):
            items = _json(answer, path)
            if not isinstance(items, list):
                raise Unavailable(f"GitHub's answer to {path} is no list", "check github_url (DNA_GITHUB_URL)")
            yield from items[:most]
            most -= len(items)
            following = answer.links.get("next", {}).get("url")
            if most <= 0 or not following:
                return
            answer = self._ask(following, {})

    def graphql(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The ``data`` of a GraphQL query. GitHub answers these with a token only. Raises as ``get`` does."""
        if not self.authorised:
            raise Unauthorised("GitHub's GraphQL needs a token", "set DNA_GITHUB_TOKEN")
        try:
            return self._kit.graphql.request(query, dict(variables))
        except GraphQLFailed as error:
            kinds = {str(one.type) for one in error.response.errors or []}
            if "NOT_FOUND" in kinds:
                raise NotFound("GitHub has no such account or repository", "check the name") from None
            raise Unavailable(f"GitHub's GraphQL failed: {', '.join(sorted(kinds))}", "try again later") from None
        except (GitHubException, ValueError) as error:
            raise self._explain(error, "graphql") from None

    def _ask(self, path: str, parameters: Mapping[str, str | int]) -> httpx.Response:
        try:
            headers = {"X-GitHub-Api-Version": VERSION}
            return self._kit.request("GET", path, params=dict(parameters) or None, headers=headers).raw_response
        except (GitHubException, ValueError) as error:
            raise self._explain(error, path) from None

    def _explain(self, error: Exception, path: str) -> DnaError:
        """The error of our tree for one of githubkit's; never with the answer's text."""
        if path.startswith(self.url):
            path = path.removeprefix(self.url).lstrip("/").partition("?")[0]
        if isinstance(error, RateLimitExceeded):
            return self._limited(error)
        if isinstance(error, RequestTimeout):
            return TimedOut(f"GitHub did not answer {path} in time", "try again later")
        if isinstance(error, RequestFailed):
            return _of_status(error.response.status_code, path)
        cause = error.exc if isinstance(error, RequestError) else error
        if isinstance(cause, DnaError):
            return cause
        if isinstance(error, ValueError):
            return Unavailable(f"GitHub's answer to {path} cannot be read", "try again later")
        return Unavailable(
            f"GitHub cannot be reached at {self.url}: {type(cause).__name__}",
            "check the network and github_url (DNA_GITHUB_URL)",
        )

    def _limited(self, error: RateLimitExceeded) -> Overloaded:
        seconds = max(1, round(error.retry_after.total_seconds()))
        again = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%H:%M:%S UTC")
        which = "primary" if isinstance(error, PrimaryRateLimitExceeded) else "secondary"
        hint = f"try again after {again}" + ("" if self.authorised else "; a token raises the limit: DNA_GITHUB_TOKEN")
        return Overloaded(
            f"GitHub's {which} rate limit is used up for {seconds} s", hint, retry_after=seconds, limit=which
        )


def forget_answers(cache: Path) -> None:
    """Delete all kept answers: they tell of people whose consent may be gone. A client that is open keeps its own until it is closed."""
    for file in cache.glob("answers.sqlite*"):
        file.unlink(missing_ok=True)


def _of_status(status: int, path: str) -> DnaError:
    if status in (404, 410):
        hint = "check the name; what was deleted or made private is not there either"
        return NotFound(f"GitHub has no {path}", hint, status=status)
    if status == 451:
        return NotFound(f"GitHub may not show {path} for legal reasons", "it cannot be used", status=status)
    if status == 401:
        return Unauthorised("GitHub does not accept the token", "check DNA_GITHUB_TOKEN, or go without one")
    if status in (400, 422):
        return InputError(f"GitHub cannot work with {path} as asked", "use another query", status=status)
    if status < 500:
        return Refused(f"GitHub refuses {path} (HTTP {status})", "a token may help: DNA_GITHUB_TOKEN", status=status)
    return Unavailable(f"GitHub answered {path} with HTTP {status}, again and again", "try again later", status=status)


def _json(answer: httpx.Response, path: str) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise Unavailable(f"GitHub's answer to {path} is no JSON", "check github_url (DNA_GITHUB_URL)") from None


def _checked(url: str) -> httpx.URL:
    """An API's address: https, or http on this machine. Raises ``BadConfig``."""
    try:
        base = httpx.URL(url.rstrip("/") + "/")
    except httpx.InvalidURL:
        raise BadConfig("github_url is no URL", "e.g. https://HOST/api/v3") from None
    safe = base.scheme == "https" or (base.scheme == "http" and _loopback(base.host))
    if not (safe and base.host) or base.userinfo or base.query or base.fragment:
        raise BadConfig(
            "github_url must be https (http only on this machine), without user, query or fragment",
            "e.g. https://HOST/api/v3",
        )
    return base


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
