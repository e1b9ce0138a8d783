"""Chat: what is kept and when, who answers, what is cut, what becomes of answers that are left, and threads of revoked blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app import chat as module
from clonedna.app.chat import Chat
from clonedna.app.chat_here import ChatHere
from clonedna.app.chat_values import (
    ChatAsk,
    ChatEvent,
    CompareAsk,
    Compared,
    Finished,
    Piece,
    SideDone,
    Started,
    ThreadMessage,
    Turn,
)
from clonedna.app.revoking import Revoking
from clonedna.app.serving import Serving
from clonedna.app.speakers import ServerSpeakers
from clonedna.app.teams import Binding, TeamOrder, Teams
from clonedna.app.threads import Threads
from clonedna.core.errors import (
    BlockNotFound,
    BlockRevoked,
    DnaError,
    InputError,
    NoMemory,
    NotFound,
    Overloaded,
    TimedOut,
    Unavailable,
)
from clonedna.core.model import SampleChunk, SampleRequest
from tests.serving import ScriptedEngine, ServerParts, add_block
from tests.values import pair

CONFIG = pair("read_config", "def read_config(path):\n    return json.load(path)\n", task="Read the settings file.")


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path)


@pytest.fixture
def engine(parts: ServerParts) -> ScriptedEngine:
    assert isinstance(parts.fake, ScriptedEngine)
    parts.fake.pieces = ["a", "b", "c"]
    return parts.fake


def chat_of(parts: ServerParts) -> Chat:
    threads = Threads(parts)
    return Chat(parts, ServerSpeakers(Serving(parts, "fake")), threads, Teams(parts, threads))


def said(parts: ServerParts, ask: ChatAsk) -> list[ChatEvent]:
    async def work() -> list[ChatEvent]:
        return [event async for event in chat_of(parts).stream(ask)]

    return anyio.run(work)


def reply(parts: ServerParts, text: str = "hello", **ask: Any) -> Finished:
    last = said(parts, ChatAsk(text=text, **ask))[-1]
    assert isinstance(last, Finished)
    return last


def refused(parts: ServerParts, kind: type[DnaError], **ask: Any) -> DnaError:
    with pytest.raises(kind) as caught:
        said(parts, ChatAsk(**{"text": "hello"} | ask))
    return caught.value


def messages(parts: ServerParts, thread: str | None) -> Sequence[ThreadMessage]:
    assert thread
    return Threads(parts).show(thread).messages


def threads(parts: ServerParts) -> int:
    return len(Threads(parts).list().threads)


def asked(engine: ScriptedEngine) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in engine.asked[-1].messages]


def test_a_message_and_its_answer_are_kept_with_all_that_made_it(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada")
    events = said(parts, ChatAsk(text="hello\nthere", model="ada", seed=7, max_tokens=9))
    start, end = events[0], events[-1]
    assert isinstance(start, Started)
    assert isinstance(end, Finished)
    assert "".join(e.text for e in events if isinstance(e, Piece)) == "abc" == end.reply.text
    question, answer = messages(parts, start.thread)
    assert (question.role, question.text, question.answer) == ("user", "hello\nthere", None)
    assert (answer.text, answer.reply_to, answer.answer) == ("abc", question.id, end.reply.answer)
    assert answer.answer
    assert (answer.answer.settings.seed, answer.answer.settings.max_tokens) == (7, 9)
    assert answer.answer.served_by.block == "ada@1.0.0"
    assert answer.answer.served_by.weights_loaded
    assert (answer.answer.status, answer.answer.finish) == ("done", "stop")
    thread = Threads(parts).get(str(start.thread))
    assert (thread.title, thread.model, thread.messages) == ("hello there", "ada", 2)


def test_a_thread_goes_on_after_a_restart_with_who_answered_before(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada")
    thread = reply(parts, "one", model="ada").reply.thread
    again = reply(parts, "two", thread=thread).reply
    assert again.answer.served_by.block == "ada@1.0.0"
    assert asked(engine) == [("user", "one"), ("assistant", "abc"), ("user", "two")]
    assert [m.number for m in messages(parts, thread)] == [1, 2, 3, 4]
    assert reply(parts, "three", thread=thread, model="fake").reply.answer.served_by.block is None


def test_without_a_name_the_base_answers(parts: ServerParts, engine: ScriptedEngine) -> None:
    answer = reply(parts).reply.answer
    assert (answer.model, answer.served_by.weights_loaded, answer.served_by.retrieval) == ("fake", False, ())


def test_nothing_is_kept_where_nothing_should_be(parts: ServerParts, engine: ScriptedEngine) -> None:
    history = (Turn(role="user", text="one"), Turn(role="assistant", text="two"))
    whole = reply(parts, "three", store=False, history=history).reply
    assert (whole.thread, whole.question, whole.id, whole.text) == (None, None, None, "abc")
    assert asked(engine) == [("user", "one"), ("assistant", "two"), ("user", "three")]
    assert threads(parts) == 0


def test_the_same_seed_is_drawn_the_same_and_a_drawn_one_is_told(parts: ServerParts) -> None:
    first = reply(parts, store=False, temperature=1.0).reply
    again = reply(parts, store=False, temperature=1.0, seed=first.answer.settings.seed).reply
    assert first.text == again.text


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        ({"model": "nobody"}, BlockNotFound), ({"thread": "thread-" + "0" * 24}, NotFound), ({"persona": "slot-" + "0" * 24}, NotFound),
        ({"model": "ada", "persona": "slot-" + "0" * 24}, InputError),
        ({"history": (Turn(role="user", text="x"),)}, InputError),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_leaves_nothing_behind(
    parts: ServerParts, engine: ScriptedEngine, ask: dict[str, Any], kind: type[DnaError]
) -> None:
    assert refused(parts, kind, **ask).hint
    assert threads(parts) == 0
    assert not engine.asked


def test_a_thread_keeps_all_and_has_its_own_history(parts: ServerParts, engine: ScriptedEngine) -> None:
    thread = reply(parts).reply.thread
    refused(parts, InputError, thread=thread, store=False)
    refused(parts, InputError, thread=thread, store=False, history=(Turn(role="user", text="x"),))
    assert len(messages(parts, thread)) == 2


def test_an_error_before_the_first_token_keeps_nothing(parts: ServerParts, engine: ScriptedEngine) -> None:
    engine.error = NoMemory("no memory", "free some")
    refused(parts, NoMemory)
    assert threads(parts) == 0


def test_an_error_in_the_middle_is_raised_and_what_was_said_is_kept_as_failed(
    parts: ServerParts, engine: ScriptedEngine
) -> None:
    thread = reply(parts, "one").reply.thread
    engine.error, engine.fail_after = NoMemory("no memory", "free some"), 2
    refused(parts, NoMemory, text="two", thread=thread)
    _, _, question, answer = messages(parts, thread)
    assert (answer.text, answer.reply_to) == ("ab", question.id)
    assert answer.answer
    assert answer.answer.status == "failed"
    assert answer.answer.error
    assert (answer.answer.error.code, answer.answer.error.hint) == ("no_memory", "free some")
    assert engine.opened == engine.closed


def test_who_leaves_stops_the_answer_and_what_was_said_is_kept(parts: ServerParts, engine: ScriptedEngine) -> None:
    engine.pieces = ["x"] * 1000

    async def work() -> str:
        chat = chat_of(parts)
        async with aclosing(chat.stream(ChatAsk(text="hello"))) as events:
            start = await anext(events)
            assert isinstance(start, Started)
            for _ in range(3):
                await anext(events)
        return str(start.thread)

    _, answer = messages(parts, anyio.run(work))
    assert answer.answer
    assert answer.answer.status == "stopped"
    assert answer.text == "xxx"
    assert engine.opened == engine.closed == 1


def test_a_cancelled_task_keeps_what_was_said(parts: ServerParts, engine: ScriptedEngine) -> None:
    engine.pieces, engine.delay = ["x"] * 1000, 0.005

    async def work() -> None:
        chat = chat_of(parts)
        seen = anyio.Event()

        async def listen() -> None:
            async for event in chat.stream(ChatAsk(text="hello")):
                if isinstance(event, Piece):
                    seen.set()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await seen.wait()
            group.cancel_scope.cancel()

    anyio.run(work)
    (thread,) = Threads(parts).list().threads
    answer = messages(parts, thread.id)[1]
    assert answer.answer
    assert answer.answer.status == "stopped"
    assert answer.text
    assert engine.opened == engine.closed == 1


def test_a_question_that_was_never_answered_is_not_shown_to_the_model(
    parts: ServerParts, engine: ScriptedEngine
) -> None:
    kept = Threads(parts)
    thread = reply(parts, "one").reply.thread
    kept.add_question(str(thread), "the process was killed here")
    reply(parts, "two", thread=thread)
    assert asked(engine) == [("user", "one"), ("assistant", "abc"), ("user", "two")]


def test_a_thread_that_is_deleted_meanwhile_does_not_come_back(parts: ServerParts, engine: ScriptedEngine) -> None:
    async def work() -> Finished:
        chat = chat_of(parts)
        last: ChatEvent | None = None
        async for event in chat.stream(ChatAsk(text="hello")):
            if isinstance(event, Started):
                await anyio.to_thread.run_sync(Threads(parts).delete, str(event.thread))
            last = event
        assert isinstance(last, Finished)
        return last

    last = anyio.run(work)
    assert (last.reply.id, last.reply.text) == (None, "abc")
    assert threads(parts) == 0


def test_an_answer_has_a_time(parts: ServerParts, engine: ScriptedEngine) -> None:
    slow = ServerParts(parts.settings.home, engine, request_timeout=0.05)
    engine.delay = 5.0
    refused(slow, TimedOut)
    assert engine.opened == engine.closed


class Narrow(ScriptedEngine):
    """Takes no more than ``most`` letters."""

    most = 150

    async def sample(self, request: SampleRequest) -> AsyncGenerator[SampleChunk]:
        letters = sum(len(one.content) for one in request.messages)
        if letters > self.most:
            self.asked.append(request)
            raise InputError(f"the prompt has {letters} tokens", "send a shorter prompt", param="messages")
        async for chunk in super().sample(request):
            yield chunk


def test_what_the_engine_finds_too_long_is_cut_oldest_first_and_told(tmp_path: Path) -> None:
    engine = Narrow()
    engine.pieces = ["y" * 40]
    parts = ServerParts(tmp_path, engine)
    ada = add_block(parts, "ada", pairs=[CONFIG])
    thread = None
    for n in range(4):
        thread = reply(parts, f"{n} config".ljust(40, "x"), thread=thread, model=ada.name, retrieval=False).reply.thread
    last = reply(parts, "the config".ljust(40, "x"), thread=thread, retrieval=False).reply.answer
    assert last.left_out == 6
    assert [content[:1] for _, content in asked(engine)] == ["3", "y", "t"]
    engine.most = 50
    shown = reply(parts, "the config", model=ada.name, retrieval=True).reply.answer
    assert shown.served_by.retrieval == (), "what did not fit was not shown"
    engine.most = 5
    refused(parts, InputError, text="far too long")


def test_pairs_that_fit_are_shown_and_told_and_can_be_switched_off(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada", pairs=[CONFIG])
    answer = reply(parts, "read the config", model="ada").reply.answer
    assert answer.served_by.retrieval == ("read_config",)
    assert asked(engine)[:2] == [("user", CONFIG.instruction), ("assistant", CONFIG.completion.strip("\n"))]
    assert reply(parts, "read the config", model="ada", retrieval=False).reply.answer.served_by.retrieval == ()
    assert asked(engine) == [("user", "read the config")]
    quiet = ServerParts(parts.settings.home, engine, retrieval=False)
    assert reply(quiet, "read the config", model="ada").reply.answer.served_by.retrieval == ()
    assert reply(quiet, "read the config", model="ada", retrieval=True).reply.answer.served_by.retrieval == (
        "read_config",
    )
    assert reply(parts, "read the config").reply.answer.served_by.retrieval == ()


def test_a_persona_talks_with_its_block_and_its_instructions(parts: ServerParts, engine: ScriptedEngine) -> None:
    ada = add_block(parts, "ada")
    teams = Teams(parts, Threads(parts))
    team = teams.create(TeamOrder(name="Abacus", roles=("swe",)))
    slot = team.slots[0].id
    assert refused(parts, NotFound, persona=slot).hint.startswith("bind a block")
    teams.bind(team.id, slot, Binding(block="ada", name="Ada", instructions="Answer shortly."))
    first = reply(parts, "one", persona=slot).reply
    assert first.answer.persona == slot
    assert first.answer.served_by.block_id == ada.id
    assert asked(engine)[0] == ("system", "You are Ada, a software engineer in the team Abacus.\nAnswer shortly.")
    thread = Threads(parts).get(str(first.thread))
    assert (thread.persona, thread.team, thread.model) == (slot, team.id, "")
    assert [one.id for one in teams.threads(team.id).threads] == [thread.id]
    assert reply(parts, "two", thread=thread.id).reply.answer.persona == slot
    teams.delete(team.id)
    assert threads(parts) == 0


def test_a_revoked_block_s_thread_can_be_read_and_not_gone_on_with(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada", pairs=[CONFIG])
    teams = Teams(parts, Threads(parts))
    team = teams.create(TeamOrder(name="Abacus", roles=("swe",)))
    slot = team.slots[0].id
    teams.bind(team.id, slot, Binding(block="ada"))
    mine = [
        reply(parts, "read the config", model="ada").reply.thread,
        reply(parts, "config", persona=slot).reply.thread,
    ]
    Revoking(parts).block("ada")
    before = len(engine.asked)
    for thread in mine:
        assert refused(parts, BlockRevoked, thread=thread).code == "block_revoked"
        assert [one.text for one in messages(parts, thread)][1] == "abc"
    refused(parts, BlockRevoked, persona=slot)
    with pytest.raises(BlockRevoked):
        teams.bind(team.id, slot, Binding(block="ada"))
    assert len(engine.asked) == before


def compared(parts: ServerParts, **ask: Any) -> list[Any]:
    async def work() -> list[Any]:
        return [event async for event in chat_of(parts).compare(CompareAsk(text="config", **ask))]

    return anyio.run(work)


def test_two_sides_have_the_same_conversation_and_seed(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada", says="ab", pairs=[CONFIG])
    add_block(parts, "bob", says="xyz")
    thread = reply(parts, "before", model="bob").reply.thread
    kept = len(messages(parts, thread))
    events = compared(parts, a="ada", thread=thread, retrieval=False)
    one, two = engine.asked[-2:]
    assert (one.messages, one.seed, one.temperature) == (two.messages, two.seed, two.temperature)
    assert [m.content for m in one.messages] == ["before", "abc", "config"]
    assert (len(one.layers), len(two.layers)) == (1, 0)
    last = events[-1]
    assert isinstance(last, Compared)
    assert (last.reply.a.answer.served_by.block, last.reply.b.answer.served_by.block) == ("ada@1.0.0", None)
    assert last.reply.a.answer.settings.seed == last.reply.b.answer.settings.seed == last.reply.seed
    for side in ("a", "b"):
        assert "".join(e.text for e in events if isinstance(e, Piece) and e.side == side) == "abc"
    assert [e.side for e in events if isinstance(e, SideDone)] == ["a", "b"]
    assert len(messages(parts, thread)) == kept, "a comparison is not kept"


def test_block_against_block_each_with_its_own_pairs(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada", pairs=[CONFIG])
    add_block(parts, "bob", pairs=[pair("bobs", "def config(): return 1\n")])
    last = compared(parts, a="ada", b="bob", seed=3)[-1].reply
    assert last.a.answer.served_by.retrieval == ("read_config",)
    assert last.b.answer.served_by.retrieval == ("bobs",)


def test_an_error_of_one_side_ends_both(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada")
    with pytest.raises(BlockNotFound):
        compared(parts, a="ada", b="nobody")
    engine.error, engine.fail_after = NoMemory("no memory", "free some"), 2
    with pytest.raises(NoMemory):
        compared(parts, a="ada")
    assert engine.opened == engine.closed


def with_lifespan(parts: ServerParts, work: Callable[[Chat], Awaitable[None]]) -> None:
    async def call() -> None:
        chat = chat_of(parts)
        async with chat.lifespan():
            await work(chat)

    anyio.run(call)


def test_a_detached_answer_goes_on_without_a_listener(parts: ServerParts, engine: ScriptedEngine) -> None:
    engine.pieces, engine.delay = ["x"] * 20, 0.001

    async def work(chat: Chat) -> None:
        async with aclosing(chat.follow(ChatAsk(text="hello", detached=True))) as events:
            start = await anext(events)
        assert isinstance(start, Started)
        with anyio.fail_after(10):
            # The row is all there is to see.
            while len(await anyio.to_thread.run_sync(messages, parts, start.thread)) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    with_lifespan(parts, work)
    (thread,) = Threads(parts).list().threads
    answer = messages(parts, thread.id)[1]
    assert answer.text == "x" * 20
    assert answer.answer
    assert answer.answer.status == "done"


def test_a_detached_answer_is_heard_like_any_other_and_its_errors_too(
    parts: ServerParts, engine: ScriptedEngine
) -> None:
    async def work(chat: Chat) -> None:
        heard = [event async for event in chat.follow(ChatAsk(text="hello", detached=True))]
        assert isinstance(heard[-1], Finished)
        with pytest.raises(BlockNotFound):
            await anext(chat.follow(ChatAsk(text="hello", detached=True, model="nobody")))
        with pytest.raises(InputError):
            await anext(chat.follow(ChatAsk(text="hello", detached=True, store=False)))

    with_lifespan(parts, work)


def test_detached_answers_are_bounded_and_end_with_the_server(
    parts: ServerParts, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_DETACHED", 1)
    engine.pieces, engine.delay = ["x"] * 100_000, 0.001

    async def work(chat: Chat) -> None:
        async with aclosing(chat.follow(ChatAsk(text="hello", detached=True))) as events:
            await anext(events)
        with pytest.raises(Overloaded):
            await anext(chat.follow(ChatAsk(text="hello", detached=True)))

    with_lifespan(parts, work)
    (thread,) = Threads(parts).list().threads
    answer = messages(parts, thread.id)[1]
    assert answer.answer
    assert answer.answer.status == "stopped"
    assert engine.opened == engine.closed


def test_without_a_server_nothing_goes_on_unheard(parts: ServerParts, engine: ScriptedEngine) -> None:
    async def work() -> None:
        with pytest.raises(Unavailable):
            await anext(chat_of(parts).follow(ChatAsk(text="hello", detached=True)))

    anyio.run(work)


def test_here_the_same_without_an_event_loop_and_leaving_stops(parts: ServerParts, engine: ScriptedEngine) -> None:
    add_block(parts, "ada")
    with ChatHere(parts) as here:
        assert isinstance(list(here.stream(ChatAsk(text="hello", model="ada")))[-1], Finished)
        both = list(here.compare(CompareAsk(text="hello", a="ada")))[-1]
        assert isinstance(both, Compared)
        engine.pieces = ["x"] * 1000
        events = here.stream(ChatAsk(text="stopped", model="ada"))
        assert isinstance(next(events), Started)
        next(events)
        events.close()
        with pytest.raises(BlockNotFound):
            next(here.stream(ChatAsk(text="x", model="nobody")))
    found = Threads(parts).list().threads
    assert [one.title for one in found] == ["stopped", "hello"]
    answer = messages(parts, found[0].id)[1].answer
    assert answer
    assert answer.status == "stopped"


def test_titles_are_one_short_line(parts: ServerParts, engine: ScriptedEngine) -> None:
    thread = reply(parts, "  one\n\x1b[31mtwo  " + "y" * 200).reply.thread
    title = Threads(parts).get(str(thread)).title
    assert title.startswith("one [31mtwo yy")
    assert len(title) == 60
    assert Threads(parts).rename(str(thread), " new \n name ").title == "new name"
