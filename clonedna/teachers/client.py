"""A client of any OpenAI-compatible server (xAI, vLLM, Ollama, ...), through the openai SDK, that trusts nothing it hears.

The key goes to that server alone and into no log, error or file; an error says the status, never the server's words. A call has a
deadline and an answer a size; compressed answers and redirects are refused; nothing of an answer is used but one JSON object's fields.
Retries, back-off and `Retry-After` (up to two minutes) are the SDK's: connection errors, timeouts, 408, 409, 429 and 5xx.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx2
import openai
from openai.types.chat import ChatCompletionMessageParam

from clonedna.core.canonical import strict_json
from clonedna.core.errors import BadConfig, DnaError, Overloaded, TimedOut, Unauthorised, Unavailable
from clonedna.teachers.answers import bad
from clonedna.teachers.asking import Answer

MOST_BYTES = 256 * 1024
BRIEF_TOKENS, MOST_TOKENS = 2048, 8192  # a reasoning model's thoughts count as well
MOST_COUNTED = 10_000_000
SENT = {"host", "content-type", "content-length", "accept", "user-agent", "connection"}


class OpenAIModel:
    """One model of one server. ``schema``: how the form of an answer is asked for; a server that refuses it is an error, not a fallback.

    ``timeout``: seconds for one try of one call; ``retries`` of it; ``at_once`` calls run side by side.
    """

    def __init__(
        self, *, url: str, model: str, key: str = "", schema: Literal["json_schema", "json_object"] = "json_schema",
        timeout: float = 60.0, retries: int = 4, at_once: int = 8,
    ) -> None:  # fmt: skip
        _refuse_open_wire(url, key)
        self.host = urlsplit(url).netloc
        self.identity = f"{url.rstrip('/')} {model} {schema}"
        self._model, self._schema = model, schema
        self._limit = anyio.CapacityLimiter(at_once)
        self._understood = False
        transport = _Bounded(timeout, f"Bearer {key}" if key else None)
        self._client = openai.AsyncOpenAI(
            api_key=key or "none", base_url=url, max_retries=retries, timeout=timeout,
            http_client=httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False),
        )  # fmt: skip

    async def ask(self, system: str, data: dict[str, Any], schema: dict[str, Any], *, brief: bool) -> Answer:
        """One answer. Raises ``BadAnswer``, ``BadConfig`` (no such model, or a request that it never understands), ``Unauthorised``,
        ``Overloaded``, ``TimedOut``, ``Unavailable``."""
        if self._schema == "json_object":
            system = f"{system}\nThe object fits this JSON schema: {json.dumps(schema)}"
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": system},
            {"role": "user", "content": json.dumps(data, ensure_ascii=False)},
        ]
        form: Any = {"type": "json_object"}
        if self._schema == "json_schema":
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        async with self._limit:
            try:
                reply = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,
                    response_format=form,
                    max_completion_tokens=BRIEF_TOKENS if brief else MOST_TOKENS,
                )
                body = reply.http_response.content
            except openai.OpenAIError as error:
                raise self._explained(error) from None  # its text is the server's, and its request holds the key
            except httpx2.HTTPError as error:
                raise Unavailable(f"no answer from {self.host}: {type(error).__name__}", "try again later") from None
        answer = parse(body)
        self._understood = True
        return answer

    def known(self) -> None:
        self._understood = True

    async def close(self) -> None:
        await self._client.close()

    def _explained(self, error: openai.OpenAIError) -> DnaError:
        """Our error for the SDK's, by its class and status alone."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return Unauthorised(
                f"{self.host} refused the key (status {status})", "set DNA_TEACHER_KEY to a key of that server"
            )
        if isinstance(error, openai.NotFoundError):
            return BadConfig(
                f"{self.host} knows no model {self._model!r} at this address", "correct teacher_model or teacher_url"
            )
        if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
            if self._understood:  # the others were answered: it is this question
                return bad("request_refused")
            return BadConfig(
                f"{self.host} refused the request (status {status})",
                "if it does not know response_format json_schema, set teacher_schema = 'json_object'; else try another model",
            )
        if isinstance(error, openai.RateLimitError):
            return Overloaded(
                f"{self.host} is asked too much (status 429)", "try again later: what was answered is kept"
            )
        if isinstance(error, openai.APITimeoutError):
            return TimedOut(f"no answer from {self.host} in time", "try again later, or raise teacher_timeout")
        if status is not None and status < 500:
            return bad("request_refused")
        return Unavailable(
            f"no answer from {self.host}" + (f" (status {status})" if status else ""),
            "check teacher_url; try again later: what was answered is kept",
        )


def parse(body: bytes) -> Answer:
    """The fields of the JSON object in a chat completion's body. Raises ``BadAnswer``: ``too_large``, ``not_json``, ``tool_call``,
    ``declined``, ``cut``."""
    if len(body) >= MOST_BYTES:
        raise bad("too_large")
    try:
        whole = json.loads(body)
        choice = whole["choices"][0]
        message = choice["message"]
        if message.get("tool_calls") or message.get("function_call"):
            raise bad("tool_call")
        if message.get("refusal"):
            raise bad("declined")
        if choice.get("finish_reason") not in ("stop", None):
            raise bad("cut")
        fields = strict_json(message["content"])
        usage = whole.get("usage") or {}
        counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise bad("not_json") from None
    if not isinstance(fields, dict):
        raise bad("not_json")
    return Answer(fields, counts[0], counts[1])


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COUNTED else None


def _refuse_open_wire(url: str, key: str) -> None:
    """A key is never sent where others can read it. Raises ``BadConfig``."""
    parts = urlsplit(url)
    if key and parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise BadConfig(f"a key would be sent unencrypted to {parts.netloc}", "give an https address as teacher_url")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Bounded(httpx2.AsyncBaseTransport):
    """Reads each answer whole, within ``seconds`` and ``MOST_BYTES``; what is longer is cut there, and what is compressed is dropped.

    Only the headers that a call needs are sent: the SDK would add what its own environment variables say, and tell of this machine.
    """

    def __init__(self, seconds: float, authorisation: str | None) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._seconds, self._authorisation = seconds, authorisation

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = bytearray()
        headers = [(name, value) for name, value in request.headers.items() if name in SENT]
        headers += [("accept-encoding", "identity")]
        headers += [("authorization", self._authorisation)] if self._authorisation else []
        sent = httpx2.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        try:
            with anyio.fail_after(self._seconds):
                response = await self._inner.handle_async_request(sent)
                try:
                    async for piece in response.aiter_raw():
                        body += piece[: MOST_BYTES - len(body)]
                        if len(body) >= MOST_BYTES:
                            break
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
        except TimeoutError:
            raise httpx2.ReadTimeout("no whole answer in time", request=request) from None
        dropped = {"content-encoding", "content-length", "transfer-encoding"}
        if response.headers.get("content-encoding", "identity") != "identity":
            body.clear()
        headers = [(name, value) for name, value in response.headers.items() if name not in dropped]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()
