"""Tool calls out of a streamed text.

A model writes a call as ``<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`` (the Hermes form). ``CallReader`` takes the text
piece by piece, cut anywhere, and gives words and calls as soon as they are certain: the name once it is closed, arguments as they come.
What looks like a call and is none is given back as the words it was written in. Blank space around calls belongs to nobody.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from uuid import uuid4

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class Words:
    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    index: int
    text: str


Piece = Words | CallStarted | CallArguments


class CallReader:
    """One choice's text. ``calls`` counts those begun."""

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""
        self._read = self._words
        self._depth, self._quoted, self._escaped = 0, False, False

    def feed(self, text: str) -> list[Piece]:
        """What this text makes certain."""
        self._held += text
        pieces: list[Piece] = []
        while self._read(pieces):
            pass
        return pieces

    def end(self) -> list[Piece]:
        """What was held back, now that no more comes."""
        held, self._held = self._held, ""
        if self._read == self._head:
            return [Words(OPEN + held)]
        if self._read == self._words and held and (held.strip() or not self.calls):
            return [Words(held)]
        return []

    # Each reader below takes from what is held, and says whether another one should look at the rest.

    def _words(self, pieces: list[Piece]) -> bool:
        before, tag, after = self._held.partition(OPEN)
        if tag:
            self._held, self._read = after, self._head
        else:
            keep = _overlap(before, OPEN)
            before, self._held = before[: len(before) - keep], before[len(before) - keep :]
            if not before.strip():  # blank space before a call is not said
                self._held = before + self._held
        if before.strip():
            pieces.append(Words(before))
        return bool(tag)

    def _head(self, pieces: list[Piece]) -> bool:
        head = _HEAD.match(self._held)
        if head is not None and (name := _string(head[1])) is not None:
            self._held, self._read = self._held[head.end() :], self._arguments
            self._depth, self._quoted, self._escaped = 0, False, False
            self._start(name, pieces)
            return True
        inside, tag, after = self._held.partition(CLOSE)
        if not tag:
            return False
        self._held, self._read = after, self._words
        call = _whole(inside)
        if call is None:
            pieces.append(Words(OPEN + inside + CLOSE))
        else:
            self._start(call[0], pieces)
            pieces.append(CallArguments(self.calls - 1, call[1]))
        return True

    def _arguments(self, pieces: list[Piece]) -> bool:
        for i, c in enumerate(self._held):
            if self._quoted:
                self._quoted = self._escaped or c != '"'
                self._escaped = c == "\\" and not self._escaped
                continue
            self._quoted = c == '"'
            self._depth += (c in "{[") - (c in "}]")
            if self._depth == 0:
                pieces.append(CallArguments(self.calls - 1, self._held[: i + 1]))
                self._held, self._read = self._held[i + 1 :], self._tail
                return True
        if self._held:
            pieces.append(CallArguments(self.calls - 1, self._held))
            self._held = ""
        return False

    def _tail(self, pieces: list[Piece]) -> bool:
        _, tag, after = self._held.partition(CLOSE)
        if tag:
            self._held, self._read = after, self._words
        return bool(tag)

    def _start(self, name: str, pieces: list[Piece]) -> None:
        pieces.append(CallStarted(self.calls, f"call_{uuid4().hex[:24]}", name))
        self.calls += 1


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``tag``."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)


def _string(quoted: str) -> str | None:
    try:
        return json.loads(quoted)
    except ValueError:
        return None


def _whole(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call in any order of keys."""
    try:
        call = json.loads(text)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
