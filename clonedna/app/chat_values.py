"""What is asked of a chat, what it answers with, and the events of an answer on its way."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from clonedna.app.blocks import Served
from clonedna.core.block import NAME_PATTERN
from clonedna.core.chat import ID_PATTERN, MOST_TEXT, Status, Thread
from clonedna.core.persona import PERSONA
from clonedna.core.value import Value

MOST_MODEL = 300
MOST_TOKENS = 4_096
MOST_HISTORY = 200
MOST_SEED = 2**53

Side = Literal["", "a", "b"]


def _clean(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text holds no NUL")
    return text


Text = Annotated[str, Field(min_length=1, max_length=MOST_TEXT), AfterValidator(_clean)]
Id = Annotated[str, Field(pattern=ID_PATTERN)]
Talker = Annotated[str, Field(pattern=rf"{ID_PATTERN}|^{PERSONA}{NAME_PATTERN[1:]}")]
ModelName = Annotated[str, Field(max_length=MOST_MODEL), AfterValidator(_clean)]


class Turn(Value):
    """Something that was said before."""

    role: Literal["user", "assistant"]
    text: Text


class Sampled(Value):
    """What is said, and how the answer is drawn. ``seed``: the same seed gives the same answer; without one it is drawn and told.

    ``retrieval``: whether the block's own pairs that fit the question are shown to it; ``None``: as the settings say.
    """

    text: Text
    max_tokens: int = Field(default=200, ge=1, le=MOST_TOKENS)
    temperature: float = Field(default=0.5, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(default=0.9, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=MOST_SEED)
    retrieval: bool | None = None


class ChatAsk(Sampled):
    """One message. ``model``: a block, a blend (``a:0.7+b:0.3``), the base's name, or empty for the base; ``persona``: a team's slot,
    or ``persona:NAME``. Neither: who answers in the ``thread``, else the base.

    ``thread``: go on there; without one a thread is begun. ``store``: ``False`` keeps nothing of it, and then ``history`` may say what came
    before. ``detached``: the answer is made to its end and kept, even when nobody listens any more.
    """

    model: ModelName | None = None
    persona: Talker | None = None
    thread: Id | None = None
    history: tuple[Turn, ...] = Field(default=(), max_length=MOST_HISTORY)
    store: bool = True
    detached: bool = False


class CompareAsk(Sampled):
    """One message to two sides, with the same seed. ``b`` empty: the bare base that ``a`` goes over. Nothing of it is kept.

    What came before: a ``thread``'s messages, or ``history``.
    """

    a: ModelName
    b: ModelName = ""
    thread: Id | None = None
    history: tuple[Turn, ...] = Field(default=(), max_length=MOST_HISTORY)


class Drawn(Value):
    """The settings that an answer was drawn with."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


class Usage(Value):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Failure(Value):
    """Why an answer ended early."""

    code: str
    message: str
    hint: str


class Answer(Value):
    """How an answer was made. ``model``: as it was asked for; ``served_by``: what it was, with the ids of the pairs that were shown.

    ``status``: ``stopped``: the client left, or the server ended, and what was said until then is all; ``failed``: ``error`` says why.
    ``left_out``: earlier messages that the context had no room for.
    """

    model: str
    persona: str | None = None
    settings: Drawn
    served_by: Served
    status: Status = "done"
    finish: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    left_out: int = 0
    error: Failure | None = None


class ThreadMessage(Value):
    """One message of a thread; ``answer`` is set on an assistant's."""

    id: str
    number: int
    role: Literal["user", "assistant"]
    text: str
    created_at: str
    reply_to: str | None = None
    answer: Answer | None = None


class ThreadDetail(Value):
    """A thread with a page of its messages. ``next``: give it as ``after`` for those that follow; ``None``: these were the last."""

    thread: Thread
    messages: tuple[ThreadMessage, ...]
    next: int | None = None


class ChatReply(Value):
    """A whole answer. ``thread``, ``question``, ``id``: where it is kept; ``None`` where nothing is."""

    thread: str | None = None
    question: str | None = None
    id: str | None = None
    text: str
    answer: Answer


class Comparison(Value):
    """Two answers to the same, with the same seed."""

    seed: int
    a: ChatReply
    b: ChatReply


class Started(Value):
    """The answer begins: what makes it, and how."""

    name: ClassVar[str] = "start"
    side: Side = ""
    thread: str | None = None
    question: str | None = None
    model: str
    served_by: Served
    settings: Drawn


class Piece(Value):
    """More of the text."""

    name: ClassVar[str] = "text"
    side: Side = ""
    text: str


class SideDone(Value):
    """One side of a comparison has ended."""

    name: ClassVar[str] = "answer"
    side: Side
    reply: ChatReply


class Finished(Value):
    """The last event of an answer."""

    name: ClassVar[str] = "end"
    reply: ChatReply


class Compared(Value):
    """The last event of a comparison."""

    name: ClassVar[str] = "end"
    reply: Comparison


ChatEvent = Started | Piece | Finished
CompareEvent = Started | Piece | SideDone | Compared
