"""How a span becomes a task, whoever writes the words: its form, what is shown of it, and where the answer begins.

What is shown is never in the answer: a head (signature and docstring) is cut from it, and a change shows the lines that it replaced.
"""

from __future__ import annotations

import re

from clonedna.core.work import Form, Span

LANGUAGE_NAMES = {"python": "Python", "javascript": "JavaScript", "typescript": "TypeScript"}
EMAIL = re.compile(r"\S+@\S+\.\w+")


def form_of(span: Span) -> Form:
    """Half of the documented functions ask for the body; which half is decided by the span's digest, so it never changes."""
    if span.kind == "hunk":
        return "change"
    if span.body_start is not None and span.docstring and int(span.sha256[:2], 16) % 2 == 0:
        return "body"
    return "whole"


def completion_start(span: Span) -> int:
    """The line at which the answer begins."""
    return span.body_start if form_of(span) == "body" and span.body_start else span.start


def head_of(span: Span) -> str:
    """The lines before the body: signature and docstring; empty where they are part of the answer."""
    return "\n".join(span.text.split("\n")[: completion_start(span) - span.start])


def shown_of(span: Span) -> str:
    """The code that the task shows: a head, the lines before a change, or nothing."""
    return (span.before or "").rstrip("\n") if form_of(span) == "change" else head_of(span)


def completion_of(span: Span) -> str:
    """The answer: the span's lines from ``completion_start`` on, byte for byte."""
    return "\n".join(span.text.split("\n")[completion_start(span) - span.start :])


def call_of(span: Span) -> str:
    """``name(arguments)``, or a class's bare name."""
    return span.name if span.kind == "class" else f"{span.name}({', '.join(span.arguments)})"


def language_of(span: Span) -> str:
    """The language's name as people write it."""
    return LANGUAGE_NAMES.get(span.language, span.language)


def one_line(text: str, most: int) -> str:
    """Text as one bounded line, without words that look like an e-mail address."""
    flat = " ".join(EMAIL.sub("", text).split())
    return flat if len(flat) <= most else flat[:most].rsplit(" ", 1)[0]
