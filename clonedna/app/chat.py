"""Chat: a message to a block, the base or a persona, its answer as events, and the thread that both are kept in.

An answer's first token is waited for before anything is kept or told: what goes wrong until then (a revoked block, no room, a full queue)
leaves nothing behind. Whoever stops listening ends the answer, unless it was asked to go on; what was said until then is kept, marked
``stopped``. A process that is killed in the middle leaves the question without an answer, and the next one does not show it to the model.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from clonedna.app.blocks import Served
from clonedna.app.chat_prompt import Prompt, Speaker
from clonedna.app.chat_values import (
    MOST_SEED,
    MOST_TOKENS,
    Answer,
    ChatAsk,
    ChatEvent,
    ChatReply,
    CompareAsk,
    Compared,
    CompareEvent,
    Comparison,
    Drawn,
    Failure,
    Finished,
    Piece,
    Sampled,
    Side,
    SideDone,
    Started,
    Turn,
    Usage,
)
from clonedna.app.parts import Parts
from clonedna.app.retrieval import MOST_CHARACTERS, Retrieval, Shown
from clonedna.app.serving import Prepared
from clonedna.app.speakers import Speakers
from clonedna.app.threads import Threads
from clonedna.core.chat import Status
from clonedna.core.errors import DnaError, InputError, Internal, NotFound, Overloaded, TimedOut, Unavailable
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.persona import PERSONA
from clonedna.core.seams import Engine

if TYPE_CHECKING:
    from clonedna.app.teams import Teams

log = logging.getLogger(__name__)
MOST_DETACHED = 64
BUFFER = MOST_TOKENS + 16


class Watch(Protocol):
    """Who measures an answer."""

    def chunk(self, index: int, chunk: SampleChunk) -> None: ...
    def end(self) -> None: ...


@dataclass
class _Voice:
    """One answer on its way: who makes it, of what, and what was said so far."""

    engine: Engine
    prepared: Prepared
    served: Served
    prompt: Prompt
    drawn: Drawn
    model: str
    deadline: float
    text: str = ""
    finish: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    chunks: AsyncGenerator[SampleChunk] | None = field(default=None, repr=False)

    def answer(self, status: Status, error: DnaError | None = None) -> Answer:
        persona = self.prompt.speaker.slot if self.prompt.speaker else None
        return Answer(
            model=self.model, persona=persona, settings=self.drawn, served_by=self.served, status=status, finish=self.finish,
            usage=self.usage, left_out=self.prompt.left_out,
            error=Failure(code=error.code, message=error.message, hint=error.hint) if error else None,
        )  # fmt: skip

    def started(self, side: Side = "", thread: str | None = None, question: str | None = None) -> Started:
        return Started(
            side=side, thread=thread, question=question, model=self.model, served_by=self.served, settings=self.drawn
        )


@dataclass(frozen=True)
class _Before:
    """What an answer goes on from. ``thread``: where in ``threads`` it is kept, ``None``: a new one."""

    model: str
    speaker: Speaker | None
    history: tuple[Turn, ...]
    thread: str | None
    threads: Threads

    def said(self, question: str) -> tuple[str, ...]:
        """The person's turns, oldest first, this one among them."""
        return (*(turn.text for turn in self.history if turn.role == "user"), question)


class Chat:
    """Conversations over ``speakers``. Use its answers from one event loop. ``watch``: who measures the answers of a label."""

    def __init__(self, parts: Parts, speakers: Speakers, threads: Threads, teams: Teams) -> None:
        self._parts, self._speakers = parts, speakers
        self.threads, self._teams = threads, teams
        self._retrieval = Retrieval(parts)
        self._group: TaskGroup | None = None
        self._detached = 0
        self.watch: Callable[[str], Watch] | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """While this is entered, answers may go on without a listener; at its end those that run are stopped, and kept as they are."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()

    async def follow(self, ask: ChatAsk, owner: str | None = None) -> AsyncGenerator[ChatEvent]:
        """``stream``, which for a ``detached`` answer goes on when it is left. Raises ``Overloaded`` when too many do."""
        if not ask.detached:
            async with aclosing(self.stream(ask, owner)) as events:
                async for event in events:
                    yield event
            return
        if self._group is None:
            raise Unavailable("nothing here goes on without a listener", "ask a server: dna serve")
        if not ask.store:
            raise InputError(
                "an answer that is not kept cannot go on without a listener", "leave store or detached out"
            )
        if self._detached >= MOST_DETACHED:
            raise Overloaded(
                f"{self._detached} answers go on without a listener", "ask again in a moment", retry_after=5
            )
        send, receive = anyio.create_memory_object_stream[ChatEvent | DnaError](BUFFER)
        self._detached += 1
        self._group.start_soon(self._go_on, ask, owner, send)
        async with receive:
            async for told in receive:
                if isinstance(told, DnaError):
                    raise told
                yield told

    async def _go_on(self, ask: ChatAsk, owner: str | None, send: MemoryObjectSendStream[ChatEvent | DnaError]) -> None:
        def tell(told: ChatEvent | DnaError) -> None:
            with suppress(anyio.BrokenResourceError):  # nobody listens any more
                send.send_nowait(told)

        try:
            async with send, aclosing(self.stream(ask, owner)) as events:
                try:
                    async for event in events:
                        tell(event)
                except DnaError as error:
                    tell(error)
                except Exception as error:
                    log.error("an answer failed", exc_info=error)
                    tell(Internal("the server failed at this answer", "its log says why; please report it"))
        finally:
            self._detached -= 1

    async def stream(self, ask: ChatAsk, owner: str | None = None) -> AsyncGenerator[ChatEvent]:
        """``Started``, a ``Piece`` for each piece of text, ``Finished``. Closing it ends the answer. ``owner``: whose threads there are.

        Raises what opening the model raises, ``NotFound`` (thread, persona), ``InputError``, ``Overloaded``, ``TimedOut``.
        """
        before = await anyio.to_thread.run_sync(self._before, ask, self.threads.of(owner))
        engine, prepared = await self._speakers.open(before.model, said=before.said(ask.text))
        voice = await self._voice(ask, before, engine, prepared, _drawn(ask))
        async with aclosing(self._said(voice)) as chunks:
            first = await anext(chunks)
            thread, question = await anyio.to_thread.run_sync(self._keep_question, ask, before)
            status: Status = "stopped"
            problem: DnaError | None = None
            kept: str | None = None
            try:
                yield voice.started(thread=thread, question=question)
                if first:
                    yield Piece(text=first)
                async for text in chunks:
                    if text:
                        yield Piece(text=text)
                status = "done"
            except DnaError as error:
                status, problem = "failed", error
                raise
            finally:
                if thread is not None:
                    with anyio.CancelScope(shield=True):
                        kept = await anyio.to_thread.run_sync(
                            self._keep_answer, thread, question, voice.text, voice.answer(status, problem)
                        )
        yield Finished(
            reply=ChatReply(thread=thread, question=question, id=kept, text=voice.text, answer=voice.answer("done"))
        )

    async def compare(self, ask: CompareAsk, owner: str | None = None) -> AsyncGenerator[CompareEvent]:
        """Two answers to the same conversation with one seed, piece by piece in turns; ``Compared`` is the last event.

        Raises as ``stream``; an error of one side ends both.
        """
        before = await anyio.to_thread.run_sync(self._before, ask, self.threads.of(owner))
        drawn = _drawn(ask)
        voices: dict[Side, _Voice] = {}
        for side, model in (("a", ask.a), ("b", ask.b)):
            beside = voices["a"].engine if voices else None
            engine, prepared = await self._speakers.open(model, beside=beside, said=before.said(ask.text))
            of_side = _Before(model=model, speaker=None, history=before.history, thread=None, threads=before.threads)
            voices[cast("Side", side)] = await self._voice(ask, of_side, engine, prepared, drawn)
        async with aclosing(self._said(voices["a"])) as a, aclosing(self._said(voices["b"])) as b:
            running: dict[Side, AsyncGenerator[str]] = {"a": a, "b": b}
            firsts: dict[Side, str] = {side: await anext(chunks) for side, chunks in running.items()}
            for side in firsts:
                yield voices[side].started(side)
            for side, text in firsts.items():
                if text:
                    yield Piece(side=side, text=text)
            while running:
                for side in tuple(running):
                    try:
                        text = await anext(running[side])
                    except StopAsyncIteration:
                        del running[side]
                        yield SideDone(side=side, reply=_reply(voices[side]))
                        continue
                    if text:
                        yield Piece(side=side, text=text)
        yield Compared(reply=Comparison(seed=drawn.seed, a=_reply(voices["a"]), b=_reply(voices["b"])))

    async def _voice(self, ask: Sampled, before: _Before, engine: Engine, prepared: Prepared, drawn: Drawn) -> _Voice:
        settings = self._parts.settings
        wanted = settings.retrieval if ask.retrieval is None else ask.retrieval
        shown: tuple[Shown, ...] = ()
        if wanted and prepared.served.layers:
            most = min(MOST_CHARACTERS, engine.base.context)
            shown = await anyio.to_thread.run_sync(
                lambda: self._retrieval.find(prepared.served.layers, ask.text, most=most)
            )
        prompt = Prompt(question=ask.text, speaker=before.speaker, shown=shown, history=before.history)
        return _Voice(
            engine=engine, prepared=prepared, served=prepared.served, drawn=drawn, model=before.model or engine.base.id,
            prompt=prompt.fitted(engine.base.context, drawn.max_tokens), deadline=time.monotonic() + settings.request_timeout,
        )  # fmt: skip

    async def _said(self, voice: _Voice) -> AsyncGenerator[str]:
        """The answer's text in pieces, the first one as soon as there is a token; ``voice`` tells how it went."""
        with self._watched(voice.prepared.label) as watch:
            async with aclosing(self._chunks(voice)) as chunks:
                async for chunk in chunks:
                    watch(chunk)
                    text = chunk.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
                    voice.text += text
                    if chunk.finish == "stop" or chunk.finish == "length":
                        voice.finish, voice.usage = chunk.finish, _usage(chunk)
                    yield text

    @contextmanager
    def _watched(self, label: str) -> Generator[Callable[[SampleChunk], None]]:
        if self.watch is None:
            yield lambda chunk: None
            return
        made = self.watch(label)
        try:
            yield lambda chunk: made.chunk(0, chunk)
        finally:
            made.end()

    async def _chunks(self, voice: _Voice) -> AsyncGenerator[SampleChunk]:
        """What the engine gives, to its end and in time."""
        chunk = await self._begin(voice)
        assert voice.chunks is not None
        async with aclosing(voice.chunks) as chunks:
            while True:
                if chunk.finish == "cancelled":
                    raise Unavailable("the engine stopped before the answer was complete", "ask again")
                yield chunk
                if chunk.finish is not None:
                    return
                chunk = await _next(chunks, voice.deadline)

    async def _begin(self, voice: _Voice) -> SampleChunk:
        """The first chunk, of the longest prompt that the engine takes."""
        while True:
            drawn = voice.drawn
            request = SampleRequest(
                messages=voice.prompt.messages, layers=voice.prepared.layers, mixture=voice.prepared.mixture,
                max_tokens=drawn.max_tokens, temperature=drawn.temperature, top_p=drawn.top_p, seed=drawn.seed, whole_prompt=True,
            )  # fmt: skip
            # Engines' samples are async generators, which the seam's type does not say.
            chunks = cast("AsyncGenerator[SampleChunk]", voice.engine.sample(request))
            try:
                first = await _next(chunks, voice.deadline)
            except InputError as error:
                shorter = voice.prompt.shorter() if error.facts.get("param") == "messages" else None
                if shorter is None:
                    raise
                voice.prompt = shorter
                continue
            voice.chunks = chunks
            voice.served = voice.served.model_copy(
                update={
                    "retrieval": tuple(one.id for one in voice.prompt.shown),
                    "remote": self._parts.settings.engine == "vllm",
                }
            )
            return first

    # Worker threads run what follows.

    def _before(self, ask: ChatAsk | CompareAsk, threads: Threads) -> _Before:
        """Raises ``NotFound``, ``InputError`` for what cannot go together."""
        if ask.thread is not None and ask.history:
            raise InputError("a thread has its own history", "leave history or thread out", param="history")
        thread = threads.get(ask.thread) if ask.thread is not None else None
        history = threads.turns(thread.id) if thread else ask.history
        if isinstance(ask, CompareAsk):
            return _Before(model="", speaker=None, history=history, thread=None, threads=threads)
        if ask.store and ask.history:
            raise InputError(
                "a kept message goes into a thread", "leave history out, or give store: false", param="history"
            )
        if thread and not ask.store:
            raise InputError("a thread keeps what is said in it", "leave store or thread out", param="store")
        if ask.model and ask.persona:
            raise InputError("a persona has its own model", "leave model or persona out", param="persona")
        where = thread.id if thread else None
        named = ask.model is not None
        persona = ask.persona or (thread.persona if thread and not named else None)
        if persona is None:
            model = ask.model if ask.model is not None else thread.model if thread else ""
            return _Before(model=model, speaker=None, history=history, thread=where, threads=threads)
        speaker = self._speaker(persona)
        bound = speaker.persona
        model = bound.block if bound.kind == "genome" else bound.block_id
        return _Before(model=model, speaker=speaker, history=history, thread=where, threads=threads)

    def _speaker(self, slot: str) -> Speaker:
        """Who talks in a slot, or for ``persona:NAME``. Raises ``NotFound``, ``InputError``, and why they may not."""
        if slot.startswith(PERSONA):
            bound, role = self._teams.personas.speaker(slot.removeprefix(PERSONA))
            return Speaker(persona=bound, role=role, team="", slot=slot)
        team, found = self._teams.speaker(slot)
        if found.persona is None:
            raise NotFound(f"nobody talks in slot {slot}", f"bind a block: dna team bind {team.id} {slot} BLOCK")
        return Speaker(persona=self._teams.talking(found.persona), role=found.role, team=team.name, slot=found.id)

    def _keep_question(self, ask: ChatAsk, before: _Before) -> tuple[str | None, str | None]:
        if not ask.store:
            return None, None
        thread = before.thread
        if thread is None:
            speaker = before.speaker
            thread = before.threads.create(
                model="" if speaker else before.model, persona=speaker.slot if speaker else None, title=ask.text
            ).id
        return thread, before.threads.add_question(thread, ask.text)

    def _keep_answer(self, thread: str, question: str | None, text: str, answer: Answer) -> str | None:
        try:
            return self.threads.add_answer(thread, question, text, answer)
        except NotFound:
            log.info("thread %s was deleted while its answer was made", thread)
            return None


async def _next(chunks: AsyncGenerator[SampleChunk], deadline: float) -> SampleChunk:
    try:
        with anyio.fail_after(max(0.0, deadline - time.monotonic())):
            return await anext(chunks)
    except TimeoutError:
        raise TimedOut("the answer took too long", "ask for fewer tokens, or raise request_timeout") from None
    except StopAsyncIteration:
        raise Unavailable("the engine stopped before the answer was complete", "ask again") from None


def _drawn(ask: Sampled) -> Drawn:
    seed = secrets.randbelow(MOST_SEED) if ask.seed is None else ask.seed
    return Drawn(max_tokens=ask.max_tokens, temperature=ask.temperature, top_p=ask.top_p, seed=seed)


def _usage(chunk: SampleChunk) -> Usage:
    return Usage(
        prompt_tokens=chunk.prompt_tokens or 0, completion_tokens=chunk.completion_tokens or 0, cached_tokens=chunk.cached_tokens or 0
    )  # fmt: skip


def _reply(voice: _Voice) -> ChatReply:
    return ChatReply(text=voice.text, answer=voice.answer("done"))
