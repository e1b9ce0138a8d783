"""The instruct stage: a teacher writes the instruction, the span stays what it is.

Every completion is re-checked here against the span it was cut from: whole lines, byte-identical, digest in the provenance.
"""

from __future__ import annotations

import re

from clonedna.core.canonical import digest, sha256
from clonedna.core.errors import DnaError
from clonedna.core.events import Emit, StageProgress
from clonedna.core.seams import Teacher
from clonedna.core.work import Instruction, Pair, Provenance, Refusal, Repository, Span, Split
from clonedna.mint.sift import refuse
from clonedna.mint.values import Divided, Taught

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
MIN_COMPLETION_LINES = 2


async def instruct(
    divided: Divided, repository: Repository, author: str, *, teacher: Teacher, examiner: Teacher, emit: Emit
) -> Taught:
    """Pairs for all three splits. The hold-out and validation parts never reach ``teacher``: ``examiner`` (own words) writes theirs.

    A span that the teacher fails on is dropped with its reason; the others are not affected.
    """
    pairs: list[Pair] = []
    refusals: list[Refusal] = []
    parts: tuple[tuple[Split, tuple[Span, ...], Teacher], ...] = (
        ("train", divided.train, teacher), ("validation", divided.validation, examiner), ("holdout", divided.holdout, examiner),
    )  # fmt: skip
    total = sum(len(spans) for _, spans, _ in parts)
    for split, spans, writer in parts:
        for span in spans:
            try:
                instruction = await writer.write_instruction(span)
            except DnaError as error:
                refusals.append(refuse(span, "teacher_failed", error.code))
                continue
            pair = make_pair(span, instruction, split, repository, author, writer.name)
            problem = _problem(pair)
            if problem:
                refusals.append(refuse(span, *problem))
            else:
                pairs.append(pair)
            if len(pairs) % 50 == 0:
                emit(StageProgress(stage="instruct", done=len(pairs), total=total, unit="pairs"))
    return Taught(by=divided.by, pairs=tuple(pairs), refusals=tuple(refusals), teacher=teacher.name)


def make_pair(
    span: Span, instruction: Instruction, split: Split, repository: Repository, author: str, teacher: str
) -> Pair:
    """Cut the completion out of the span at ``instruction.completion_start``; whole lines, nothing changed."""
    skipped = instruction.completion_start - span.start
    completion = "\n".join(span.text.split("\n")[skipped:])
    origin = Provenance(
        repository=repository.name, url=repository.url, commit=span.commit, path=span.path, blob=span.blob,
        start=span.start + skipped, end=span.end, sha256=sha256(completion), licence=span.licence, author=author,
    )  # fmt: skip
    key = digest([origin, instruction.form, instruction.text])[:16]
    return Pair(
        id=key, form=instruction.form, instruction=instruction.text, completion=completion, split=split, kind=span.kind,
        name=span.name, language=span.language, teacher=teacher, provenance=origin,
    )  # fmt: skip


def _problem(pair: Pair) -> tuple[str, str] | None:
    """Why a pair may not be used, if so."""
    if len([line for line in pair.completion.splitlines() if line.strip()]) < MIN_COMPLETION_LINES:
        return "too_short", "fewer than two lines are left to answer"
    if _EMAIL.search(pair.instruction):
        return "email", "an e-mail address in the words around the code"
    return None
