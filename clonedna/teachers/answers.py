"""What a model's instruction must be before it is used: of a bounded length, plain text, and without the answer in it.

An answer that is not so is refused whole, with a stable word for the reason; nothing is repaired, so nothing of a hostile answer stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from clonedna.core.errors import BadAnswer
from clonedna.core.work import Span
from clonedna.teachers.forms import call_of, completion_of

SHORTEST, LONGEST, MOST_LINES = 12, 600, 8
SHORTEST_PHRASE, LONGEST_PHRASE = 3, 240
MOST_CODE = 3000
"""Bytes of an answer that a teacher writes itself."""
WORDS_IN_A_ROW = 8
CODE_IN_A_ROW, MARKS_IN_CODE = 5, 2
_TOKEN = re.compile(r"\w+|[^\w\s]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_MARKUP = re.compile(r"```|<\||\|>|</?tool|</?s>|\[/?INST\]", re.IGNORECASE)
_PLAIN_MARKS = frozenset(".,:;!?'\"`-")
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
_GAP = "\0"


def checked(text: str, span: Span, secret_in: Callable[[str], str | None]) -> str:
    """``text`` without space around it. Raises ``BadAnswer``; ``facts["why"]`` is one of ``length``, ``unseen_characters``, ``markup``,
    ``email``, ``secret``, ``leak``."""
    text = prose(text, secret_in)
    if leaks(text, completion_of(span), (span.signature, call_of(span))):
        raise bad("leak")
    return text


def prose(text: str, secret_in: Callable[[str], str | None]) -> str:
    """``text`` without space around it: a task in plain words. Raises ``BadAnswer`` as ``checked`` does, but for ``leak``."""
    text = text.strip()
    if not SHORTEST <= len(text) <= LONGEST or text.count("\n") >= MOST_LINES or len(text.split()) < 3:
        raise bad("length")
    _sound(text, "\n", secret_in)
    if _EMAIL.search(text):
        raise bad("email")
    return text


def phrase(text: str, secret_in: Callable[[str], str | None]) -> str:
    """``text`` without space around it: one line, a few words or a sentence. Raises ``BadAnswer`` as ``prose`` does."""
    text = text.strip()
    if not SHORTEST_PHRASE <= len(text) <= LONGEST_PHRASE:
        raise bad("length")
    _sound(text, "", secret_in)
    if _EMAIL.search(text):
        raise bad("email")
    return text


def code(text: str, secret_in: Callable[[str], str | None]) -> str:
    """``text`` with one end of line behind it: an answer that is code. Raises ``BadAnswer`` as ``prose``; an address may stand in code."""
    text = text.strip("\n") + "\n"
    if not SHORTEST <= len(text.encode("utf-8", "replace")) <= MOST_CODE or not text.strip():
        raise bad("length")
    _sound(text, "\n\t", secret_in)
    return text


def _sound(text: str, spaces: str, secret_in: Callable[[str], str | None]) -> None:
    if any(unicodedata.category(one) in _UNSEEN and one not in spaces for one in text):
        raise bad("unseen_characters")
    if _MARKUP.search(text):
        raise bad("markup")
    if secret_in(text):
        raise bad("secret")


def bad(why: str) -> BadAnswer:
    return BadAnswer(f"the teacher's answer cannot be used: {why}", "nothing: this pair is left out", why=why)


def leaks(instruction: str, completion: str, allowed: Sequence[str] = ()) -> bool:
    """Whether the instruction says the answer: 8 tokens in a row of it, or 5 with at least 2 marks that prose does not have.

    Single identifiers are no leak, nor is what is ``allowed`` (the signature). A token is a word or one mark; case does not count.
    """
    said = _tokens(instruction)
    for phrase in sorted(allowed, key=len, reverse=True):
        said = _without(said, _tokens(phrase))
    answer = _tokens(completion)
    rows = _rows(said, WORDS_IN_A_ROW) & _rows(answer, WORDS_IN_A_ROW)
    code = _rows(said, CODE_IN_A_ROW) & _rows(answer, CODE_IN_A_ROW)
    return bool(rows) or any(
        sum(not token.isidentifier() and not token.isalnum() and token not in _PLAIN_MARKS for token in row) >= MARKS_IN_CODE
        for row in code
    )  # fmt: skip


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _rows(tokens: Sequence[str], length: int) -> set[tuple[str, ...]]:
    rows = (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))
    return {row for row in rows if _GAP not in row}


def _without(tokens: list[str], phrase: list[str]) -> list[str]:
    """``tokens`` with a gap for each time that ``phrase`` stands in it."""
    if not phrase:
        return tokens
    left: list[str] = []
    i = 0
    while i < len(tokens):
        if tokens[i : i + len(phrase)] == phrase:
            left.append(_GAP)
            i += len(phrase)
        else:
            left.append(tokens[i])
            i += 1
    return left
