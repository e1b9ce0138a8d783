"""What an answer is made from: persona and pairs in one system message, as much of what came before as fits, the question always."""

from __future__ import annotations

from clonedna.app.chat_prompt import Prompt, Speaker, system_text
from clonedna.app.chat_values import Turn
from clonedna.app.retrieval import Shown
from clonedna.core.chat import Bound

PERSONA = Bound(
    name="Ada", block="ada@1.0.0", block_id="a" * 64, instructions="Answer shortly.", bound_at="2026-01-01T00:00:00Z"
)
SPEAKER = Speaker(persona=PERSONA, role="swe", team="Abacus", slot="slot-" + "0" * 24)
SHOWN = Shown(id="p", task="Read <it> {{ now }}.", code="def read(): return '<b>'", language="python")


def turns(count: int, letters: int = 30) -> tuple[Turn, ...]:
    return tuple(Turn(role="assistant" if n % 2 else "user", text=f"{n} ".ljust(letters, "x")) for n in range(count))


def said(prompt: Prompt) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in prompt.messages]


def test_nothing_to_say_is_no_system_message() -> None:
    assert said(Prompt(question="hi")) == [("user", "hi")]


def test_a_persona_is_a_system_message() -> None:
    first, *_ = said(Prompt(question="hi", speaker=SPEAKER))
    assert first == ("system", "You are Ada, a software engineer in the team Abacus.\nAnswer shortly.")


def test_pairs_are_turns_that_were_answered_the_best_one_last_and_markup_is_left_as_it_is() -> None:
    best = SHOWN.model_copy(update={"task": "Best.", "code": "best()"})
    told = said(Prompt(question="now?", speaker=SPEAKER, shown=(best, SHOWN), history=turns(2)))
    assert told[1:] == [
        ("user", "Read <it> {{ now }}."), ("assistant", "def read(): return '<b>'"), ("user", "Best."), ("assistant", "best()"),
        *((one.role, one.text) for one in turns(2)), ("user", "now?"),
    ]  # fmt: skip


def test_a_role_that_is_any_is_not_named() -> None:
    nobody = Speaker(persona=PERSONA.model_copy(update={"instructions": ""}), role="any", team="T", slot=SPEAKER.slot)
    assert system_text(nobody) == "You are Ada in the team T."


def test_the_newest_turns_that_fit_are_kept_and_begin_with_a_question() -> None:
    fitted = Prompt(question="and now?", history=turns(40)).fitted(context=200, max_tokens=100)
    assert fitted.history == turns(40)[-len(fitted.history) :]
    assert fitted.history[0].role == "user"
    assert fitted.left_out == 40 - len(fitted.history) > 0
    assert 0 < len(fitted.history) * 30 <= 300
    assert Prompt(question="x", history=turns(4)).fitted(4096, 100).left_out == 0


def test_a_question_longer_than_the_context_leaves_no_turns_but_stays() -> None:
    fitted = Prompt(question="x" * 9_000, history=turns(6)).fitted(1024, 200)
    assert fitted.history == ()
    assert fitted.left_out == 6
    assert fitted.messages[-1].content == "x" * 9_000


def test_what_is_refused_gets_shorter_until_nothing_can_be_left_out() -> None:
    prompt: Prompt | None = Prompt(question="q", speaker=SPEAKER, shown=(SHOWN,), history=turns(10))
    lengths: list[tuple[int, int]] = []
    while prompt is not None:
        lengths.append((len(prompt.history), len(prompt.shown)))
        assert prompt.left_out == 10 - len(prompt.history)
        last, prompt = prompt, prompt.shorter()
    assert lengths[0] == (10, 1)
    assert lengths[-2:] == [(0, 1), (0, 0)]
    assert lengths == sorted(lengths, reverse=True)
    assert last.messages[0].content.startswith("You are Ada")
