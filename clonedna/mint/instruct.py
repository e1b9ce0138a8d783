"""The instruct stage: a teacher writes the instruction, the span stays what it is.

Every completion is re-checked here against the span it was cut from: whole lines, byte-identical, digest in the provenance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import anyio

from clonedna.core.block import Teaching
from clonedna.core.canonical import digest, sha256
from clonedna.core.errors import BadAnswer, BadConfig, DnaError, Unauthorised, Unavailable
from clonedna.core.events import Emit, Note, StageProgress
from clonedna.core.seams import Teacher
from clonedna.core.work import About, Instruction, Pair, Provenance, Refusal, Repository, Span, Split
from clonedna.mint.sift import refuse
from clonedna.mint.values import Divided, Taught

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
MIN_COMPLETION_LINES = 2
AT_ONCE = 64  # questions that wait for an answer; a teacher bounds its own calls
MOST_DOWN = 8


async def instruct(
    divided: Divided, repository: Repository, author: str, *, teacher: Teacher, examiner: Teacher,
    secret_in: Callable[[str], str | None], emit: Emit,
) -> Taught:  # fmt: skip
    """Pairs for all three splits. The hold-out and validation parts never reach ``teacher``: ``examiner`` (own words) writes theirs.

    A span that the teacher fails on is dropped with its reason; the others are not affected. Raises what no span would get past
    (``BadConfig``, ``Unauthorised``), and ``Unavailable`` when eight in a row got no answer, or none of a part's answers can be used.
    """
    pairs: list[Pair] = []
    refusals: list[Refusal] = []
    parts: tuple[tuple[Split, tuple[Span, ...], Teacher], ...] = (
        ("train", divided.train, teacher), ("validation", divided.validation, examiner), ("holdout", divided.holdout, examiner),
    )  # fmt: skip
    if said := in_words(teacher.estimate(divided.train)):
        emit(Note(text=said))
    progress = _Progress(sum(len(spans) for _, spans, _ in parts), emit)
    for split, spans, writer in parts:
        answers = await _ask(spans, writer, progress)
        if answers and all(isinstance(answer, DnaError) for answer in answers):
            raise Unavailable(
                f"the teacher {writer.name} gave no usable instruction for any of {len(spans)} spans",
                "choose another: --teacher own-words needs no model",
            )
        for span, answer in zip(spans, answers, strict=True):
            if isinstance(answer, DnaError):
                reason = "bad_answer" if isinstance(answer, BadAnswer) else "teacher_failed"
                refusals.append(refuse(span, reason, str(answer.facts.get("why", answer.code))))
                continue
            pair = make_pair(span, answer, split, repository, author, writer.name)
            problem = _problem(pair, secret_in)
            if problem:
                refusals.append(refuse(span, *problem))
            else:
                pairs.append(pair)
    return Taught(
        by=divided.by, pairs=tuple(pairs), refusals=tuple(refusals), teacher=teacher.name, teaching=teacher.teaching.settled()
    )  # fmt: skip


def about(spans: Sequence[Span], known: About | None = None) -> About:
    """What is ``known`` of the person who wrote these spans; without languages there, those of the spans, by share of bytes."""
    if known is not None and known.languages:
        return known
    size: Counter[str] = Counter()
    for span in spans:
        size[span.language] += len(span.text.encode())
    whole = sum(size.values())
    shares = tuple((name, n / whole) for name, n in sorted(size.items(), key=lambda one: (-one[1], one[0])))
    return (known or About()).model_copy(update={"languages": shares})


def in_words(estimate: Teaching) -> str:
    """What a teacher's questions will take, as a sentence for the person watching; empty where no model is asked."""
    if not estimate.model:
        return ""
    cost = estimate.cost
    money = f"about ${cost.value:.4f}" if cost.value is not None else f"cost not available ({cost.how})"
    return (
        f"{estimate.teacher} teacher: {estimate.calls} questions to {estimate.model}, {estimate.cached} answered before; "
        f"about {estimate.prompt_tokens} prompt and {estimate.completion_tokens} answer tokens (estimated), {money}"
    )


class _Progress:
    """Counts what was asked, and tells it every 50."""

    def __init__(self, total: int, emit: Emit) -> None:
        self.total, self.emit, self.done = total, emit, 0

    def one_more(self) -> None:
        self.done += 1
        if self.done % 50 == 0:
            self.emit(StageProgress(stage="instruct", done=self.done, total=self.total, unit="spans"))


async def _ask(spans: Sequence[Span], teacher: Teacher, progress: _Progress) -> list[Instruction | DnaError]:
    """An instruction or an error for each span, in their order, whatever order the answers come in."""
    answers: dict[int, Instruction | DnaError] = {}
    room = anyio.Semaphore(AT_ONCE)
    down = 0
    over: DnaError | None = None

    async def one(i: int) -> None:
        nonlocal down, over
        async with room:
            if over is not None:
                return
            try:
                answers[i] = await teacher.write_instruction(spans[i])
                down = 0
            except (BadConfig, Unauthorised) as error:
                over = error
            except Unavailable as error:
                answers[i] = error
                down += 1
                over = error if down >= MOST_DOWN else over
            except DnaError as error:
                answers[i] = error
                down = 0
            progress.one_more()
            if over is not None:
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for i in range(len(spans)):
            group.start_soon(one, i)
    if over is not None:
        raise over
    return [answers[i] for i in range(len(spans))]


def make_pair(
    span: Span, instruction: Instruction, split: Split, repository: Repository, author: str, teacher: str
) -> Pair:
    """Cut the completion out of the span at ``instruction.completion_start``; whole lines, nothing changed."""
    skipped = instruction.completion_start - span.start
    completion = "\n".join(span.text.split("\n")[skipped:])
    origin = Provenance(
        repository=span.repository or repository.name, url=span.url or repository.url, commit=span.commit, path=span.path, blob=span.blob,
        start=span.start + skipped, end=span.end, sha256=sha256(completion), licence=span.licence, author=author,
    )  # fmt: skip
    key = digest([origin, instruction.form, instruction.text])[:16]
    return Pair(
        id=key, form=instruction.form, instruction=instruction.text, completion=completion, split=split, kind=span.kind,
        name=span.name, language=span.language, teacher=teacher, provenance=origin,
    )  # fmt: skip


def _problem(pair: Pair, secret_in: Callable[[str], str | None]) -> tuple[str, str] | None:
    """Why a pair may not be used, if so."""
    if kind := secret_in(pair.instruction):
        return "secret", f"{kind} in the words around the code"
    if len([line for line in pair.completion.splitlines() if line.strip()]) < MIN_COMPLETION_LINES:
        return "too_short", "fewer than two lines are left to answer"
    if _EMAIL.search(pair.instruction):
        return "email", "an e-mail address in the words around the code"
    return None
