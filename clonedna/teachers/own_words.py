"""The `own-words` teacher: the person's own docstring, comment, commit subject, signature and path become the instruction.

Needs no key and no network, and invents nothing. What it shows in the instruction is not in the answer: a docstring and its
signature are shown only in the ``body`` form, where the completion starts behind them; the ``whole`` form uses only text that
stands outside of the span (leading comment, commit subject, path) and the bare name with its argument names; the ``change`` form
shows the lines that a commit replaced. A comment or subject whose words stand in the answer as well is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from clonedna.core.block import Teaching
from clonedna.core.work import Instruction, Span
from clonedna.teachers.forms import call_of, completion_of, completion_start, form_of, language_of, one_line, shown_of

MAX_COMMENT = 300


class OwnWords:
    """Fulfils the ``Teacher`` seam."""

    name = "own-words"

    def __init__(self) -> None:
        self._prompts = Environment(  # noqa: S701 - plain text prompts, never HTML
            loader=PackageLoader("clonedna.teachers", "prompts"), undefined=StrictUndefined, keep_trailing_newline=False
        )

    async def write_instruction(self, span: Span) -> Instruction:
        """The instruction for ``span``; the same span always gives the same text."""
        form, shown, answer = form_of(span), shown_of(span), completion_of(span)
        text = self._prompts.get_template(f"{form}.j2").render(
            language=language_of(span),
            fence=span.language,
            kind=span.kind,
            call=call_of(span),
            path=span.path,
            comment=_outside(one_line(span.comment, MAX_COMMENT), answer),
            subject=_outside(span.subject, answer),
            head=shown,
            before=shown,
        )
        return Instruction(form=form, text=text, completion_start=completion_start(span))

    def estimate(self, spans: Sequence[Span]) -> Teaching:
        return Teaching(teacher=self.name)

    @property
    def teaching(self) -> Teaching:
        return Teaching(teacher=self.name)

    async def close(self) -> None:
        """Nothing is open."""


def _outside(words: str, answer: str) -> str:
    """``words``, unless the answer says them too (in any case and spacing)."""
    return "" if " ".join(words.casefold().split()) in " ".join(answer.casefold().split()) else words
