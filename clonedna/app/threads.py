"""Threads: conversations that are kept, listed, read on, renamed and deleted. Reading one needs none of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.app.chat_values import MOST_HISTORY, Answer, ThreadDetail, ThreadMessage, Turn
from clonedna.app.parts import Parts, factory
from clonedna.core.canonical import canonical
from clonedna.core.chat import MOST_NAME, MOST_TEXT, Gone, KeptMessage, Thread, ThreadPage
from clonedna.core.errors import Corrupt, InputError
from clonedna.core.persona import PERSONA

TITLE = 60


class Threads:
    """The threads of one home. Its methods block. ``owner``: whose; ``None``: everybody's, as this machine and its admins see them."""

    def __init__(self, parts: Parts, owner: str | None = None) -> None:
        self._parts = parts
        self._rows = factory("threads", "sql")(parts.database, owner)

    def of(self, owner: str | None) -> Threads:
        """Only the threads that this owner began; somebody else's are ``NotFound``."""
        return Threads(self._parts, owner)

    def create(self, *, model: str = "", persona: str | None = None, title: str = "") -> Thread:
        """A thread with a model (empty: the base) or a persona. Raises ``NotFound`` for no such persona, ``InputError``."""
        if model and persona:
            raise InputError("a persona has its own model", "leave model or persona out", param="persona")
        team: str | None = None
        if persona is not None and persona.startswith(PERSONA):
            self._parts.personas.get(persona.removeprefix(PERSONA))
        elif persona:
            team = factory("teams", "sql")(self._parts.database).team_of(persona).id
        return self._rows.create(title_of(title), model=model, persona=persona, team=team)

    def list(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        team: str | None = None,
        personas: Sequence[str] | None = None,
    ) -> ThreadPage:
        """Last used first; ``personas``: with one of these. Raises ``InputError`` for an ``after`` that no page gave."""
        return self._rows.page(limit=limit, after=after, team=team, personas=personas)

    def get(self, thread: str) -> Thread:
        """Raises ``NotFound``."""
        return self._rows.get(thread)

    def show(self, thread: str, *, limit: int = 100, after: int = 0) -> ThreadDetail:
        """A thread and its messages behind number ``after``. Raises ``NotFound``, ``Corrupt``."""
        found = self._rows.get(thread)
        rows = self._rows.messages(thread, limit=limit + 1, after=after)
        messages = tuple(_message(row) for row in rows[:limit])
        return ThreadDetail(thread=found, messages=messages, next=messages[-1].number if len(rows) > limit else None)

    def rename(self, thread: str, title: str) -> Thread:
        """Raises ``NotFound``."""
        return self._rows.rename(thread, title_of(title, most=MOST_NAME))

    def delete(self, thread: str) -> Gone:
        """A thread with all its messages. Raises ``NotFound``."""
        self._rows.delete(thread)
        return Gone(id=thread)

    def delete_of(self, team: str) -> None:
        """All threads of a team, whoever began them."""
        self._rows.delete_of(team)

    def turns(self, thread: str) -> tuple[Turn, ...]:
        """The newest questions with their answers, as the next answer goes on from them; what was never answered is left out."""
        rows: tuple[KeptMessage, ...] = self._rows.last(thread, MOST_HISTORY)
        questions = {row.id: row for row in rows if row.role == "user"}
        found: list[Turn] = []
        for row in rows:
            question = questions.get(row.reply_to or "")
            if row.role == "assistant" and question is not None and row.text:
                found += [Turn(role="user", text=question.text), Turn(role="assistant", text=row.text[:MOST_TEXT])]
        return tuple(found)

    def add_question(self, thread: str, text: str) -> str:
        """Its id. Raises ``NotFound``, ``InputError`` for a full thread."""
        return self._rows.add(thread, "user", text).id

    def add_answer(self, thread: str, question: str | None, text: str, answer: Answer) -> str:
        """Its id. Raises ``NotFound``."""
        kept = self._rows.add(thread, "assistant", text, reply_to=question, answer=canonical(answer).decode())
        return kept.id


def title_of(text: str, *, most: int = TITLE) -> str:
    """One line of at most ``most`` characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _message(row: KeptMessage) -> ThreadMessage:
    try:
        answer = None if row.answer is None else Answer.model_validate_json(row.answer)
    except ValueError as error:
        raise Corrupt(f"message {row.id} is damaged", "delete its thread: dna threads rm") from error
    return ThreadMessage(**row.model_dump(exclude={"answer"}), answer=answer)
