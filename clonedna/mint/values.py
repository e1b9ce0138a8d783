"""What one stage of a mint hands to the next: values that a job keeps, so that a finished stage is never done twice."""

from __future__ import annotations

from typing import Any

from clonedna.core.block import Check, Evaluation, GateVerdict, GeneralPairs, Teaching
from clonedna.core.model import Example, Message
from clonedna.core.value import Value
from clonedna.core.work import Pair, Refusal, Repository, Span


class Sifted(Value):
    """Spans that may be used, in order of path and line, and all refusals so far."""

    repository: Repository
    spans: tuple[Span, ...]
    refusals: tuple[Refusal, ...]


class Divided(Value):
    """Spans by split. ``by`` says what was held out whole: ``file``, or ``definition`` when the person's code stands in too few files."""

    by: str
    train: tuple[Span, ...]
    validation: tuple[Span, ...]
    holdout: tuple[Span, ...]
    refusals: tuple[Refusal, ...]


class Taught(Value):
    """Pairs of all splits; ``dropped`` spans got no instruction, with the reason."""

    by: str
    pairs: tuple[Pair, ...]
    refusals: tuple[Refusal, ...]
    teacher: str
    teaching: Teaching | None = None


class GivenExample(Value):
    """One line of a file of pairs: the turns before the answer, what could be called, and the answer."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    completion: str


class Read(Value):
    """What was in the given files; ``holdout`` is empty when there was no file for it."""

    training: tuple[GivenExample, ...]
    holdout: tuple[GivenExample, ...]
    refusals: tuple[Refusal, ...]


class Mixed(Value):
    """What is trained beside the person's pairs, and where it came from."""

    general: tuple[Example, ...]
    general_source: str
    tool_use: tuple[Example, ...]
    general_pairs: GeneralPairs | None = None


class Trained(Value):
    """Losses are one mean an epoch, nats a completion token. ``best_epoch`` (1-based) is what was saved of ``epochs`` run."""

    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    epochs: int
    best_epoch: int
    steps: int
    tokens: int


class Examined(Value):
    evaluation: Evaluation
    peft: Check


class Judged(Value):
    verdict: GateVerdict
