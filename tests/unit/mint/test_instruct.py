"""The teacher writes the instruction, and only that; completions stay the person's bytes."""

from __future__ import annotations

import anyio
import pytest

from clonedna.core.block import Recipe
from clonedna.core.canonical import sha256
from clonedna.core.errors import BadAnswer, BadConfig, DnaError, Unauthorised, Unavailable
from clonedna.core.events import silent
from clonedna.core.fakes import FakeTeacher
from clonedna.core.work import About, Instruction, Span
from clonedna.mint.divide import divide
from clonedna.mint.instruct import MOST_DOWN, about, instruct, make_pair
from clonedna.mint.sift import sift
from clonedna.mint.values import Taught
from clonedna.sources.secrets import secret_in
from clonedna.teachers.own_words import OwnWords
from tests.values import REPOSITORY, collection, span


def taught(teacher: object, count: int = 60, **changes: object) -> Taught:
    divided = divide(sift(collection(count, **changes), max_tokens=1000), Recipe())

    async def work() -> Taught:
        return await instruct(
            divided, REPOSITORY, "Ada Example", teacher=teacher, examiner=OwnWords(), secret_in=secret_in, emit=silent
        )  # type: ignore[arg-type]

    return anyio.run(work)


def test_every_completion_is_a_verbatim_range_of_its_span() -> None:
    spans = {(s.path, s.end, s.commit, s.sha256): s for s in collection(60).spans}
    by_end = {(s.path, s.name): s for s in spans.values()}
    result = taught(OwnWords())
    assert result.pairs
    for pair in result.pairs:
        whole = by_end[pair.provenance.path, pair.name]
        lines = whole.text.split("\n")[pair.provenance.start - whole.start :]
        assert pair.completion == "\n".join(lines)
        assert pair.provenance.sha256 == sha256(pair.completion)


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_ends_and_odd_separators_survive(ending: str) -> None:
    text = "def f(a):\r\n    '''One\x0c\u2028line.'''\r\n    x = 1\r\n    return x" + ending
    one = span(1, text=text, start=5, end=8, body_start=7, sha256=sha256(text))
    pair = make_pair(one, Instruction(form="body", text="t", completion_start=7), "train", REPOSITORY, "Ada", "t")
    assert pair.completion == "    x = 1\r\n    return x" + ending
    assert (pair.provenance.start, pair.provenance.end) == (7, 8)


def test_the_hold_out_never_reaches_the_teacher() -> None:
    class Watching(FakeTeacher):
        def __init__(self) -> None:
            self.seen: list[Span] = []

        async def write_instruction(self, span: Span) -> Instruction:
            self.seen.append(span)
            return await super().write_instruction(span)

    teacher = Watching()
    result = taught(teacher)
    held = {pair.provenance.path for pair in result.pairs if pair.split != "train"}
    assert held
    assert not held & {s.path for s in teacher.seen}
    assert {pair.teacher for pair in result.pairs if pair.split != "train"} == {"own-words"}


def test_a_failing_teacher_drops_that_pair_only() -> None:
    class Moody(FakeTeacher):
        async def write_instruction(self, span: Span) -> Instruction:
            if span.name.endswith("7"):
                raise Unavailable("no answer", "try again")
            return await super().write_instruction(span)

    result = taught(Moody())
    failed = [r for r in result.refusals if r.reason == "teacher_failed"]
    assert failed
    assert len(result.pairs) + len(result.refusals) == 60


def failing(error: DnaError, *, after: int = 0) -> FakeTeacher:
    class Failing(FakeTeacher):
        asked = 0

        async def write_instruction(self, span: Span) -> Instruction:
            self.asked += 1
            if self.asked > after:
                raise error
            return await super().write_instruction(span)

    return Failing()


@pytest.mark.parametrize("error", [BadConfig("no such model", "x"), Unauthorised("no key", "x")])
def test_what_no_span_would_get_past_ends_the_stage(error: DnaError) -> None:
    teacher = failing(error, after=5)
    with pytest.raises(type(error)):
        taught(teacher)
    assert teacher.asked == 6  # type: ignore[attr-defined]


def test_a_teacher_that_is_gone_ends_the_stage() -> None:
    teacher = failing(Unavailable("gone", "x"), after=5)
    with pytest.raises(Unavailable, match="gone"):
        taught(teacher)
    assert teacher.asked == 5 + MOST_DOWN  # type: ignore[attr-defined]


def test_a_teacher_without_one_usable_answer_is_an_error() -> None:
    with pytest.raises(Unavailable, match="no usable instruction"):
        taught(failing(BadAnswer("bad", "x", why="leak")))


def test_a_bad_answer_is_refused_with_its_reason() -> None:
    result = taught(failing(BadAnswer("bad", "x", why="leak"), after=5))
    assert {(r.reason, r.detail) for r in result.refusals} == {("bad_answer", "leak")}
    assert sum(pair.split == "train" for pair in result.pairs) == 5


def test_a_secret_in_the_words_refuses_the_pair() -> None:
    key = f"xai-{'d4' * 20}"
    divided = divide(sift(collection(60), max_tokens=1000), Recipe())
    first = divided.train[0].model_copy(update={"name": key})
    divided = divided.model_copy(update={"train": (first, *divided.train[1:])})

    async def work() -> Taught:
        return await instruct(
            divided, REPOSITORY, "Ada", teacher=FakeTeacher(), examiner=OwnWords(), secret_in=secret_in, emit=silent
        )

    result = anyio.run(work)
    assert [(r.path, r.start, r.reason) for r in result.refusals] == [(first.path, first.start, "secret")]
    assert key not in f"{result}"


def test_languages_are_told_by_their_share() -> None:
    spans = [span(1, text="a" * 300, language="python"), span(2, text="b" * 100, language="typescript")]
    assert about(spans).languages == (("python", 0.75), ("typescript", 0.25))
    assert about([]).languages == ()
    assert about(spans, About(bio="I write.")) == About(languages=about(spans).languages, bio="I write.")
    known = About(languages=(("go", 1.0),), topics=("tides",))
    assert about(spans, known) == known


def test_what_the_instruction_shows_is_not_in_the_answer() -> None:
    for pair in taught(OwnWords()).pairs:
        shown = {
            line.strip()
            for line in pair.instruction.splitlines()
            if len(line.strip()) > 12 and line.strip() != "```python"
        }
        answered = {line.strip() for line in pair.completion.splitlines()}
        assert not shown & answered, pair.instruction


def test_both_forms_appear_and_do_not_change() -> None:
    first, second = taught(OwnWords()), taught(OwnWords())
    assert {pair.form for pair in first.pairs} == {"whole", "body"}
    assert first == second


def test_an_email_in_the_words_around_refuses_the_pair() -> None:
    result = taught(FakeTeacher(), name="write_to_someone@example.net")
    assert "email" in {r.reason for r in result.refusals}
