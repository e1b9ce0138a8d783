"""What an answer is made from: the persona, pairs that fit, as much of what came before as there is room for, the question.

Pairs are shown as turns that were answered before, the best one last: the form in which a block learnt them. As examples in a system
message they made the bundled base's likelihood of held-out code worse, as turns they do not (``bench/shown_pairs.py``, docs/chat.md).

The engine alone can count tokens. So there is an estimate first (``BYTES_A_TOKEN``), and what the engine refuses as too long is cut
further by ``shorter``: the oldest messages first, then the pairs. Persona and question are never cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from clonedna.app.chat_values import Turn
from clonedna.app.retrieval import Shown
from clonedna.core.chat import Bound, SlotRole
from clonedna.core.model import Message

BYTES_A_TOKEN = 3
ROLES: dict[SlotRole, str] = {
    "pm": "its product manager", "swe": "a software engineer", "designer": "a designer", "any": ""
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who talks. ``slot``: the slot of ``team``, or ``persona:name`` where there is no team."""

    persona: Bound
    role: SlotRole
    team: str
    slot: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """``history`` is what is sent of what came before; ``left_out``: how many older messages are not."""

    question: str
    speaker: Speaker | None = None
    shown: tuple[Shown, ...] = ()
    history: tuple[Turn, ...] = ()
    left_out: int = 0

    @property
    def messages(self) -> tuple[Message, ...]:
        system = system_text(self.speaker) if self.speaker else ""
        first = (Message(role="system", content=system),) if system else ()
        examples = tuple(
            message
            for one in reversed(self.shown)
            for message in (Message(role="user", content=one.task), Message(role="assistant", content=one.code))
        )
        said = tuple(Message(role=turn.role, content=turn.text) for turn in self.history)
        return (*first, *examples, *said, Message(role="user", content=self.question))

    def fitted(self, context: int, max_tokens: int) -> Prompt:
        """With the newest messages that are estimated to fit beside the answer, which has at most half of the context."""
        room = BYTES_A_TOKEN * (context - min(max_tokens, context // 2))
        room -= sum(len(one.content.encode()) for one in replace(self, history=()).messages)
        kept = len(self.history)
        while kept and (room := room - len(self.history[kept - 1].text.encode())) >= 0:
            kept -= 1
        return self._without(kept)

    def shorter(self) -> Prompt | None:
        """With about half of the messages, then without the pairs; ``None`` when there is nothing to leave out."""
        if self.history:
            return self._without(max(2, len(self.history) // 2))
        return replace(self, shown=()) if self.shown else None

    def _without(self, oldest: int) -> Prompt:
        """Never beginning with an answer: many templates refuse that."""
        rest = self.history[oldest:]
        while rest and rest[0].role == "assistant":
            rest = rest[1:]
        return replace(self, history=rest, left_out=self.left_out + len(self.history) - len(rest))


def system_text(speaker: Speaker) -> str:
    """What a persona is told of itself."""
    role = ROLES[speaker.role] if speaker.team else ROLES[speaker.role].replace("its ", "a ")
    return _template().render(persona=speaker.persona, role=role, team=speaker.team).strip()


@cache
def _template() -> Template:
    loader = PackageLoader("clonedna.app", "templates")
    # Prompts are no HTML: a model must see the code as it is.
    made = Environment(loader=loader, undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701
    return made.get_template("chat_system.j2")
