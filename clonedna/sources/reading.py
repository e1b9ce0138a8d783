"""Pages and papers of strangers are parsed in a process of their own, with bounds on time, memory and output.

Whatever a document does to its parser ends there: nothing of it is opened in this process but the JSON that the child prints, whose
texts are then cleaned of control characters, e-mail addresses, telephone numbers and lines that hold secrets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any, Literal

import anyio
from anyio.abc import ByteReceiveStream

from clonedna.core.errors import DocumentBroken, DocumentEncrypted, Internal, TimedOut, TooLarge
from clonedna.sources.secrets import secret_in

Kind = Literal["html", "pdf", "docx", "text"]
MAX_LINE = 2000
_EMAIL = re.compile(
    r"(?:mailto:)?[\w.+%-]{1,64}(?:@|\s?[\[(]at[\])]\s?)(?:[\w-]{1,63}(?:\.|\s?[\[(]dot[\])]\s?)){1,5}[A-Za-z]{2,24}",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w/])(?:\+\d[\d ()./-]{6,18}\d|\(\d{2,5}\)[\d ./-]{5,12}\d|\d{3}[-. ]\d{3}[-. ]\d{4})(?!\w)")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one document: ``seconds`` of time, ``memory`` bytes of address space for the child, ``bytes`` of input, ``pages``,
    ``unpacked`` bytes of a DOCX's text part, ``characters`` of text that come out.
    """

    seconds: float = 20.0
    memory: int = 1_500_000_000
    bytes: int = 10_000_000
    pages: int = 40
    unpacked: int = 20_000_000
    characters: int = 200_000


class ParserFailed(Exception):
    """What the child says it could not do; ``reason`` is one of its words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def parse(kind: Kind, data: bytes, limits: Limits, *, what: str, charset: str = "") -> dict[str, Any]:
    """What ``clonedna.sources.reading_child`` makes of ``data``. ``what``: the document's name in errors.

    Raises ``TooLarge``, ``DocumentEncrypted``, ``DocumentBroken``, ``TimedOut``.
    """
    if len(data) > limits.bytes:
        raise TooLarge(f"{what} has more than {limits.bytes} bytes", "give a smaller file")
    command = [
        sys.executable, "-I", "-W", "ignore", "-m", "clonedna.sources.reading_child", kind,
        json.dumps(asdict(limits) | {"charset": charset}),
    ]  # fmt: skip
    out = b""
    environment = {key: os.environ[key] for key in ("PATH", "TMPDIR") if key in os.environ} | {"LC_ALL": "C.UTF-8"}
    process = await anyio.open_process(command, stderr=subprocess.DEVNULL, env=environment, cwd="/")
    try:
        with anyio.fail_after(limits.seconds):
            assert process.stdin is not None
            assert process.stdout is not None
            async with anyio.create_task_group() as group:
                group.start_soon(_give, process.stdin, data)
                out = await _output(process.stdout, limits.characters * 8 + 1_000_000)
            await process.wait()
    except TimeoutError:
        raise TimedOut(
            f"{what} took longer than {limits.seconds:g} s to read", "save it anew, smaller or as plain text"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
    return _answer(out, process.returncode, what)


async def _give(to: Any, data: bytes) -> None:
    try:
        await to.send(data)
        await to.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # it ended early; what it printed says why


async def _output(stream: ByteReceiveStream, most: int) -> bytes:
    out = bytearray()
    async for piece in stream:
        out += piece
        if len(out) > most:
            return b""
    return bytes(out)


def _answer(out: bytes, status: int | None, what: str) -> dict[str, Any]:
    try:
        answer = json.loads(out)
        reason = answer.get("error")
    except (ValueError, AttributeError):
        raise DocumentBroken(
            f"{what} broke its reader (status {status}): more memory, time or output than reading one takes",
            "save it anew, smaller or as plain text",
        ) from None
    match reason:
        case None:
            return answer
        case "encrypted":
            raise DocumentEncrypted(f"{what} is encrypted", "save it without a password and give that file")
        case "pages" | "unpacked":
            raise TooLarge(
                f"{what} has too many {'pages' if reason == 'pages' else 'bytes once unpacked'}", "give a shorter one"
            )
        case "memory":
            raise DocumentBroken(f"{what} takes too much memory to read", "save it anew, smaller or as plain text")
        case "broken" | "empty":
            said = "holds no text" if reason == "empty" else "is damaged, or not what its kind says"
            raise DocumentBroken(f"{what} {said}", "save it again as PDF with text (no scan), DOCX or text")
        case _:
            raise Internal(f"the reader of documents says {reason!r}", "please report this")


def clean(text: str) -> tuple[str, int]:
    """Text that may be kept, line by line, and how many lines were left out because a secret stands in them.

    Unicode NFC; no control, format (zero-width, bidirectional) or private-use characters; at most one blank between words;
    ``[e-mail]`` and ``[phone]`` in the place of those.
    """
    lines: list[str] = []
    secrets = 0
    for line in unicodedata.normalize("NFC", text).splitlines():
        plain = "".join(
            c if c.isprintable() else " " for c in line if unicodedata.category(c) not in ("Cf", "Co", "Cs")
        )
        plain = " ".join(plain.split())[:MAX_LINE]
        if secret_in(plain):
            secrets += 1
            continue
        lines.append(_PHONE.sub("[phone]", _EMAIL.sub("[e-mail]", plain)))
    return "\n".join(lines).strip(), secrets
