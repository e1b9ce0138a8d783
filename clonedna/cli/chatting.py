"""`dna run`, `dna chat` and `dna threads`: on this machine, or on the server that was named."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from clonedna.cli.blocks import On, Unsafe
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from pydantic import BaseModel

    from clonedna.app.blocks import Served
    from clonedna.app.chat_here import ChatHere
    from clonedna.app.chat_values import Answer, ChatAsk, ChatEvent, ChatReply, CompareAsk, ThreadMessage
    from clonedna.client.chat import RemoteChat

Reference = Annotated[
    str, typer.Argument(help="A block (name, name@version, the beginning of its id), or the base.", show_default=False)
]
MaxTokens = Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=5.0, help="0 = always the likeliest token.")]
TopP = Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the likeliest tokens to choose among.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same answer.")]
Beside = Annotated[
    bool, typer.Option("--beside-base", "--base", help="Show the bare base's answer to the same, same seed.")
]
Retrieval = Annotated[
    bool | None,
    typer.Option(
        "--retrieval/--no-retrieval", help="Show the block those of its own pairs that fit; default: as the settings say.",
        show_default=False,
    ),
]  # fmt: skip
ThreadId = Annotated[str, typer.Argument(help="A thread's id.", show_default=False)]
V = TypeVar("V", bound="BaseModel")

threads_app = typer.Typer(no_args_is_help=True, help="Conversations that were kept.")


def add_to(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(chat)
    app.add_typer(threads_app, name="threads")


def run(
    context: typer.Context,
    reference: Reference,
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads standard input.", show_default=False)],
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.5,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    beside_base: Beside = False,
    retrieval: Retrieval = None,
    unsafe: Unsafe = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Ask a block once; the answer streams to stdout, and nothing of it is kept. Ctrl-C ends it."""
    from clonedna.app.chat_values import ChatAsk, CompareAsk

    state: State = context.obj
    how: dict[str, Any] = {
        "text": _input() if prompt == "-" else prompt, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p,
        "seed": seed, "retrieval": retrieval,
    }  # fmt: skip
    with _chat(state, on, unsafe) as talk:
        if beside_base:
            _compare(talk, given(CompareAsk, a=reference, **how), as_json=as_json)
        elif as_json:
            print_json(_summary(_quiet(talk, given(ChatAsk, model=reference, store=False, **how))))
        else:
            _shown(talk.stream(given(ChatAsk, model=reference, store=False, **how)))


def chat(
    context: typer.Context,
    reference: Annotated[
        str | None,
        typer.Argument(help="A block, or the base; not needed with --thread or --persona.", show_default=False),
    ] = None,
    thread: Annotated[str | None, typer.Option(help="Go on with this thread.", show_default=False)] = None,
    persona: Annotated[
        str | None,
        typer.Option(
            help="Talk with persona:NAME, or with who talks in this slot (dna team show).", show_default=False
        ),
    ] = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.5,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    beside_base: Beside = False,
    retrieval: Retrieval = None,
    unsafe: Unsafe = False,
    on: On = None,
) -> None:
    """Talk with a block, the base or a persona; the thread is kept. Ctrl-C ends an answer; an empty line or Ctrl-D the talk."""
    from clonedna.app.chat_values import ChatAsk
    from clonedna.core.errors import InputError

    state: State = context.obj
    if reference is None and thread is None and persona is None:
        raise InputError("whom to talk with?", "name a block, or give --thread or --persona", param="reference")
    how: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "retrieval": retrieval
    }  # fmt: skip
    with _chat(state, on, unsafe) as talk:
        if reference is not None:
            _check_model(talk, reference)
        tell("an empty line ends")
        first, said = thread, list(_turns(state, thread)) if thread and beside_base else []
        while question := _question():
            events = talk.stream(given(ChatAsk, text=question, model=reference, persona=persona, thread=thread, **how))
            reply, began = _interruptible(events, title=beside_base)
            thread = began or thread
            if thread and thread != first:
                tell(f"kept: go on with dna chat --thread {thread}")
                first = thread
            if reply is not None and beside_base:
                base = reply.answer.served_by.base
                bare = how | {"seed": reply.answer.settings.seed, "retrieval": False}
                _interruptible(
                    talk.stream(given(ChatAsk, text=question, model=base, store=False, history=said[-200:], **bare)),
                    title=True,
                )
                said += [{"role": "user", "text": question}, {"role": "assistant", "text": reply.text or " "}]


@threads_app.command("ls")
def list_threads(
    context: typer.Context,
    team: Annotated[str | None, typer.Option(help="Those with this team's personas alone.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="The next of the page before.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List conversations, last used first."""
    state: State = context.obj
    page = state.threads.list(limit=limit, after=after, team=team)
    if as_json:
        print_json(page)
        return
    rows = [
        [t.id, t.title, t.model or t.persona or "the base", str(t.messages), t.updated_at[:19]] for t in page.threads
    ]
    table("", ["thread", "title", "with", "messages", "last used"], rows, whole=1)
    if page.next:
        tell(f"more: --after {page.next}")


@threads_app.command("show")
def show_thread(
    context: typer.Context,
    thread: ThreadId,
    after: Annotated[int, typer.Option(min=0, help="Those behind this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many messages.")] = 100,
    as_json: Json = False,
) -> None:
    """Show a conversation, and what served each answer."""
    state: State = context.obj
    found = state.threads.show(thread, limit=limit, after=after)
    if as_json:
        print_json(found)
        return
    tell(f"{found.thread.id}: {printable(found.thread.title)}")
    for one in found.messages:
        typer.echo(f"--- {one.number} {one.role} {one.created_at[:19]}{_marks(one)}")
        typer.echo(printable(one.text))
    if found.next:
        tell(f"more: --after {found.next}")


@threads_app.command("rm")
def remove_thread(
    context: typer.Context,
    thread: ThreadId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a conversation with its messages."""
    state: State = context.obj
    if not yes and not as_json:
        typer.confirm(f"Delete {thread} and its messages?", abort=True, err=True)
    gone = state.threads.delete(thread)
    print_json(gone) if as_json else tell(f"deleted: {gone.id}")


def given(kind: type[V], **fields: Any) -> V:
    """A value from what the command line said. Raises ``InputError`` naming what is wrong."""
    from pydantic import ValidationError

    from clonedna.core.errors import InputError

    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}", "correct this field", param=place) from None


@contextmanager
def _chat(state: State, on: str | None, unsafe: bool) -> Generator[ChatHere | RemoteChat]:
    """Where answers come from. Raises ``InputError`` for flags that only this machine has."""
    from clonedna.core.errors import InputError

    if state.client is not None:
        if unsafe or on:
            raise InputError(
                "--unsafe and --on work on this machine alone", "leave them out", param="unsafe" if unsafe else "on"
            )
        yield state.client.chat
        return
    from clonedna.app.chat_here import ChatHere

    with ChatHere(state.parts, base=on, unsafe=unsafe) as here:
        yield here


def _compare(talk: ChatHere | RemoteChat, ask: CompareAsk, *, as_json: bool) -> None:
    """The first side streams; what the other says meanwhile is shown behind it."""
    from clonedna.app.chat_values import Compared, Piece, Started

    sides: dict[str, str] = {"a": "", "b": ""}
    with closing(talk.compare(ask)) as events:
        for event in events:
            if isinstance(event, Started) and event.side == "a" and not as_json:
                tell(f"--- {_title(event.served_by)}")
            elif isinstance(event, Piece):
                sides[event.side] += event.text
                if event.side == "a" and not as_json:
                    _write(event.text)
            elif isinstance(event, Compared):
                both = (event.reply.a, event.reply.b)
                if as_json:
                    for reply in both:
                        print_json(_summary(reply))
                    return
                _end(both[0].answer)
                tell(f"--- {_title(both[1].answer.served_by)}")
                _write(both[1].text)
                _end(both[1].answer)


def _check_model(talk: ChatHere | RemoteChat, reference: str) -> None:
    """Before the first question: is there such a model? Asked with one token, of which nothing is kept."""
    from clonedna.app.chat_values import ChatAsk, Started

    ask = given(ChatAsk, text=".", model=reference, store=False, max_tokens=1, retrieval=False)
    with closing(talk.stream(ask)) as events:
        for event in events:
            if isinstance(event, Started):
                tell(_served(event.served_by))


def _quiet(talk: ChatHere | RemoteChat, ask: ChatAsk) -> ChatReply:
    from clonedna.app.chat_values import Finished
    from clonedna.core.errors import BadAnswer

    with closing(talk.stream(ask)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.reply
    raise BadAnswer("the answer ended without its last event", "ask again; see the server's log")


def _shown(events: Generator[ChatEvent], *, title: bool = False) -> tuple[ChatReply | None, str | None]:
    """Stream one answer to stdout; gives it, and the thread that it is in."""
    from clonedna.app.chat_values import Piece, Started

    reply: ChatReply | None = None
    thread: str | None = None
    with closing(events):
        for event in events:
            if isinstance(event, Started):
                thread = event.thread
                if title:
                    tell(f"--- {_title(event.served_by)}")
            elif isinstance(event, Piece):
                _write(event.text)
            else:
                reply = event.reply
                _end(reply.answer)
    return reply, thread


def _interruptible(events: Generator[ChatEvent], *, title: bool) -> tuple[ChatReply | None, str | None]:
    """As ``_shown``; Ctrl-C ends this answer alone."""
    thread: list[str | None] = [None]

    def noted() -> Generator[ChatEvent]:
        from clonedna.app.chat_values import Started

        with closing(events):
            for event in events:
                if isinstance(event, Started):
                    thread[0] = event.thread
                yield event

    try:
        return _shown(noted(), title=title)
    except KeyboardInterrupt:
        tell("\n[stopped: what was said until here is kept]")
        return None, thread[0]


def _question() -> str:
    sys.stderr.write("\nyou> ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _input() -> str:
    from clonedna.core.chat import MOST_TEXT

    return sys.stdin.read(MOST_TEXT + 1)  # one too many is refused as too long


def _turns(state: State, thread: str) -> Generator[dict[str, str]]:
    """What was said in a thread, question by question with its answer."""
    messages = state.threads.show(thread, limit=200).messages
    by_id = {one.id: one for one in messages}
    for one in messages:
        question = by_id.get(one.reply_to or "")
        if question is not None and one.text:
            yield {"role": "user", "text": question.text}
            yield {"role": "assistant", "text": one.text}


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def _end(answer: Answer) -> None:
    sys.stdout.write("\n")
    sys.stdout.flush()
    tokens = answer.usage.completion_tokens if answer.usage else 0
    left = f", {answer.left_out} older messages left out" if answer.left_out else ""
    tell(f"[{_served(answer.served_by)}; {tokens} tokens, {answer.finish}{left}]")


def _summary(reply: ChatReply) -> dict[str, Any]:
    """What a script needs of one answer."""
    used = reply.answer.usage
    usage = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens} if used else None
    return {"text": reply.text, "finish": reply.answer.finish, "usage": usage, "served_by": reply.answer.served_by}


def _title(served: Served) -> str:
    blend = "+".join(f"{one.block}:{one.weight:g}" for one in served.layers)
    return served.block or blend or f"base {served.base}"


def _served(served: Served) -> str:
    what = f"{served.block} ({served.block_id[:12]})" if served.block and served.block_id else _title(served)
    shown = f"{len(served.retrieval)} of its pairs shown" if served.retrieval else "no retrieval"
    weights = "loaded" if served.weights_loaded else "of the base alone"
    where = "remote" if served.remote else "local"
    return f"served by: {what} on {served.base}, weights {weights}, {shown}, {where}"


def _marks(message: ThreadMessage) -> str:
    answer = message.answer
    if answer is None:
        return ""
    ended = "" if answer.status == "done" else f", {answer.status}"
    why = f" ({answer.error.code})" if answer.error else ""
    return f" [{_served(answer.served_by)}{ended}{why}]"
