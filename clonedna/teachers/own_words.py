"""The `own-words` teacher: the person's own docstring, comment, commit subject, signature and path become the instruction.

Needs no key and no network, and invents nothing. What it shows in the instruction is not in the answer: a docstring and its
signature are shown only in the ``body`` form, where the completion starts behind them; the ``whole`` form uses only text that
stands outside of the span (leading comment, commit subject, path) and the bare name with its argument names.
"""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from clonedna.core.work import Form, Instruction, Span

LANGUAGE_NAMES = {"python": "Python", "javascript": "JavaScript", "typescript": "TypeScript"}
MAX_COMMENT = 300
_EMAIL = re.compile(r"\S+@\S+\.\w+")


class OwnWords:
    """Fulfils the ``Teacher`` seam."""

    name = "own-words"

    def __init__(self) -> None:
        self._prompts = Environment(  # noqa: S701 - plain text prompts, never HTML
            loader=PackageLoader("clonedna.teachers", "prompts"), undefined=StrictUndefined, keep_trailing_newline=False
        )

    async def write_instruction(self, span: Span) -> Instruction:
        """The instruction for ``span``; the same span always gives the same text."""
        form = self._form(span)
        lines = span.text.split("\n")
        head = "\n".join(lines[: (span.body_start or span.start) - span.start])
        text = self._prompts.get_template(f"{form}.j2").render(
            language=LANGUAGE_NAMES[span.language],
            fence=span.language,
            kind=span.kind,
            call=self._call(span),
            path=span.path,
            comment=_one_line(span.comment),
            subject=span.subject,
            head=head,
            before=(span.before or "").rstrip("\n"),
        )
        start = span.body_start if form == "body" and span.body_start else span.start
        return Instruction(form=form, text=text, completion_start=start)

    @staticmethod
    def _form(span: Span) -> Form:
        """Half of the documented functions ask for the body; which half is decided by the span's digest, so it never changes."""
        if span.kind == "hunk":
            return "change"
        if span.body_start is not None and span.docstring and int(span.sha256[:2], 16) % 2 == 0:
            return "body"
        return "whole"

    @staticmethod
    def _call(span: Span) -> str:
        return span.name if span.kind == "class" else f"{span.name}({', '.join(span.arguments)})"


def _one_line(comment: str) -> str:
    """A comment as one bounded line, without words that look like an e-mail address."""
    flat = _EMAIL.sub("", " ".join(comment.split()))
    return flat if len(flat) <= MAX_COMMENT else flat[:MAX_COMMENT].rsplit(" ", 1)[0]
