"""An encoder on a server: `/v1/embeddings` as OpenAI has it, asked in batches, within bounds.

Promises: a timeout on every wait, a bound on every answer and on the time of all tries together, no redirect followed (the key goes to the
server that was named alone), and an answer is used only if it has a row of the right size for each text. Statuses decide what an error is,
never its text. What is encoded leaves this machine if the server is another one.
"""

from __future__ import annotations

import hashlib
import json
import math
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import httpx2
import numpy as np
from numpy.typing import NDArray

from clonedna.core.errors import (
    BadAnswer,
    BadConfig,
    DnaError,
    InputError,
    Overloaded,
    TimedOut,
    Unauthorised,
    Unavailable,
)
from clonedna.core.vectors import Vectors

BATCH = 64
MAX_TOKENS = 512
LETTERS = 8 * MAX_TOKENS  # of a text that is sent
MOST_DIMENSION = 8192
BYTES_A_NUMBER = 32  # of an answer, for each number that was asked for
PAUSE, LONGEST_PAUSE = 0.25, 20.0
CHECK = "check encoder_url, and whether the server is up"


class HttpEncoder:
    """Fulfils ``core.seams.Encoder``. ``elsewhere``: what is encoded leaves this machine.

    The server's name and the model's are the revision that is known: whoever changes the model behind them must encode again
    (`dna reindex`).
    """

    max_tokens = MAX_TOKENS

    def __init__(
        self, url: str, model: str, dimension: int, *, key: str = "", timeout: float = 30.0, retries: int = 3,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """``url`` may end in ``/v1``; ``timeout`` in seconds without a byte, ``retries`` where that helps. Raises ``BadConfig``."""
        if not model or not 1 <= dimension <= MOST_DIMENSION:
            raise BadConfig(
                f"an HTTP encoder needs its model and the size of its vectors (1 to {MOST_DIMENSION})",
                "set encoder = 'http:MODEL', encoder_url and encoder_dimension",
            )
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, TypeError) as error:
            raise BadConfig(
                f"encoder_url is not a URL ({error})", "give one such as http://127.0.0.1:8080/v1"
            ) from error
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise BadConfig(
                "encoder_url must be http:// or https:// with a host and no password", "give the key as encoder_key"
            )
        self.url = str(parsed.copy_with(query=None, fragment=None)).rstrip("/").removesuffix("/v1")
        self.elsewhere = parsed.host not in ("localhost", "127.0.0.1", "::1")
        self.dimension, self._model = dimension, model
        self.name = f"http-{model}-{dimension}@{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout, self._retries, self._pause = timeout, retries, pause
        self._tls = ssl.create_default_context() if parsed.scheme == "https" else False

    def encode(self, texts: Sequence[str]) -> Vectors:
        """A row of length 1 for each text; a text of blanks is all zeros and is not sent. What is over ``max_tokens`` is cut.

        Raises ``Unavailable``, ``TimedOut``, ``Overloaded``, ``Unauthorised``, ``InputError`` (the server refuses what was asked),
        ``BadAnswer``.
        """
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        # The server's own bound is not known: a text is cut by words and letters, so that the same beginning is sent of any longer one.
        sent = [(i, " ".join(text[:LETTERS].split()[:MAX_TOKENS])) for i, text in enumerate(texts)]
        sent = [(i, text) for i, text in sent if text]
        with httpx2.Client(headers=self._headers, timeout=self._timeout, verify=self._tls) as client:
            for start in range(0, len(sent), BATCH):
                some = sent[start : start + BATCH]
                rows[[i for i, _ in some]] = self._batch(client, [text for _, text in some])
        return Vectors(self.name, rows)

    def _batch(self, client: httpx2.Client, texts: list[str]) -> NDArray[np.float32]:
        for attempt in range(self._retries + 1):
            try:
                return self._rows(self._post(client, texts), len(texts))
            except (Unavailable, Overloaded) as error:
                if attempt == self._retries:
                    raise
                told = error.facts.get("retry_after")
                wait = float(told) if isinstance(told, int | float) else PAUSE * 4**attempt
                self._pause(min(LONGEST_PAUSE, wait))
        raise AssertionError("unreachable")

    def _post(self, client: httpx2.Client, texts: list[str]) -> bytes:
        end = time.monotonic() + 4 * self._timeout  # of the whole answer, however slowly it trickles
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        most = 100_000 + BYTES_A_NUMBER * self.dimension * len(texts)
        try:
            with client.stream("POST", f"{self.url}/v1/embeddings", json=body) as response:
                if response.status_code != 200:
                    raise _refusal(response)
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    if time.monotonic() > end:
                        raise TimedOut("the encoder's server takes too long to answer", CHECK)
                    if len(data) > most:
                        raise BadAnswer(f"the encoder's server sends more than {most} bytes", "check encoder_dimension")
                return bytes(data)
        except httpx2.TimeoutException as error:
            raise TimedOut(f"the encoder's server did not answer in time ({type(error).__name__})", CHECK) from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"no encoder answers at {self.url} ({type(error).__name__})", CHECK) from error

    def _rows(self, data: bytes, count: int) -> NDArray[np.float32]:
        """The answer's vectors in the order that was asked, at length 1. Raises ``BadAnswer``."""
        try:
            found = json.loads(data)
            listed = cast("list[dict[str, Any]]", found["data"])
            by_place = {int(one["index"]): one["embedding"] for one in listed}
            if len(listed) != count or by_place.keys() != set(range(count)):
                raise ValueError(f"{len(listed)} rows for {count} texts")
            rows = np.array([by_place[i] for i in range(count)], dtype=np.float64)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise BadAnswer(f"the encoder's server does not answer with vectors: {str(error)[:200]}", CHECK) from error
        if rows.shape != (count, self.dimension):
            raise BadAnswer(
                f"the encoder's vectors have {rows.shape[-1]} numbers, not {self.dimension}",
                "correct encoder_dimension",
            )
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise BadAnswer("the encoder's server sends vectors that point nowhere", CHECK)
        return (rows / lengths).astype(np.float32)


def _refusal(response: httpx2.Response) -> DnaError:
    """The server's status as an error of ours; its words are not repeated."""
    status, said = response.status_code, f"the encoder's server answers {response.status_code}"
    if status in (401, 403):
        return Unauthorised(said, "set DNA_ENCODER_KEY to a key of that server")
    if status == 429 or status >= 500:
        kind = Overloaded if status == 429 else Unavailable
        after = _seconds(response.headers.get("retry-after", ""))
        return kind(said, "ask again in a moment", **({"retry_after": after} if after is not None else {}))
    if 300 <= status < 400:
        return BadConfig(f"{said}: it wants to send us elsewhere", "give the server's own address as encoder_url")
    if status == 404:
        return BadConfig(f"{said}: it has no such address or model", "check encoder_url and the model's name")
    return InputError(said, "check the model's name, and see the server's log")


def _seconds(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return max(0.0, found) if math.isfinite(found) else None
