"""The client's wire: what is asked again and what is not, streams that go on where they broke, versions, and clear errors."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import pytest

from clonedna.client.wire import AGAIN, LONGEST_PAUSE, Wire
from clonedna.core.errors import BadAnswer, BlockNotFound, InputError, NoSpace, TimedOut, Unavailable
from clonedna.core.value import Value


class Thing(Value):
    n: int


def answer(status: int, body: str = "", *headers: str, kind: str = "application/json") -> bytes:
    head = [
        f"HTTP/1.1 {status} x",
        f"content-type: {kind}",
        f"content-length: {len(body.encode())}",
        "connection: close",
    ]
    return "\r\n".join([*head, *headers, "", body]).encode()


def stream(*events: str, whole: bool) -> bytes:
    """A chunked stream of events; without ``whole`` the connection breaks behind the last one."""
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    chunks = "".join(f"{len(event.encode()):x}\r\n{event}\r\n" for event in events)
    return (head + chunks + ("0\r\n\r\n" if whole else "")).encode()


class Told:
    """What a scripted server was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.paused: list[float] = []


@contextmanager
def scripted(*answers: bytes, before: float = 0.0) -> Generator[tuple[Wire, Told]]:
    """A server on loopback that gives these answers, one a connection, ``before`` seconds after it was asked; afterwards it takes none."""
    told = Told()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        with listener, contextlib.suppress(OSError):  # shut down at the end of the test
            for one in answers:
                connection, _ = listener.accept()
                with connection:
                    told.asked.append(connection.recv(65536).decode("latin-1"))
                    time.sleep(before)
                    connection.sendall(one)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    wire = Wire(f"http://127.0.0.1:{port}", "a-token", timeout=5)
    wire.pause = told.paused.append
    try:
        yield wire, told
    finally:
        wire.close()
        # Waking the thread and waiting for it: a descriptor closed under `accept` may be another test's server a moment later.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


BUSY = '{"error": {"code": "overloaded", "message": "much", "hint": "wait"}}'
GONE = '{"error": {"code": "block_not_found", "message": "no", "hint": "dna ls"}}'


def test_what_reads_is_asked_again_after_the_time_that_the_server_names() -> None:
    with scripted(answer(429, BUSY, "retry-after: 7"), answer(503, BUSY), answer(200, '{"n": 1}')) as (wire, told):
        assert wire.get("/x", Thing).n == 1
    assert told.paused[0] == 7
    assert len(told.paused) == 2


def test_it_is_asked_a_bounded_number_of_times_with_bounded_pauses() -> None:
    busy = [answer(503, BUSY, "retry-after: 999999999999")] * (AGAIN + 1)
    with scripted(*busy) as (wire, told), pytest.raises(Unavailable, match="much"):
        wire.get("/x", Thing)
    assert told.paused == [LONGEST_PAUSE] * AGAIN
    assert len(told.asked) == AGAIN + 1


@pytest.mark.parametrize("reply", [answer(503, BUSY), b""], ids=["busy", "dropped"])
def test_what_changes_something_is_sent_once(reply: bytes) -> None:
    with scripted(reply, answer(200, '{"n": 1}')) as (wire, told), pytest.raises(Unavailable):
        wire.post("/x", Thing, {"a": 1})
    assert len(told.asked) == 1
    assert told.paused == []


def test_a_dropped_connection_is_asked_again() -> None:
    with scripted(b"", answer(200, '{"n": 2}')) as (wire, _):
        assert wire.get("/x", Thing).n == 2


def test_an_error_comes_out_as_what_it_was() -> None:
    with scripted(answer(404, GONE)) as (wire, told), pytest.raises(BlockNotFound):
        wire.get("/x", Thing)
    assert told.paused == []


def test_another_major_version_is_refused_and_another_minor_one_is_not() -> None:
    with scripted(answer(200, '{"n": 1}', "x-dna-api: 1.9"), answer(200, '{"n": 1}', "x-dna-api: 2.0")) as (wire, _):
        assert wire.get("/x", Thing).n == 1
        with pytest.raises(BadAnswer, match=r"version '2\.0'") as caught:
            wire.get("/x", Thing)
    assert caught.value.facts["why"] == "api_version"


def test_nobody_there_is_said_with_the_next_step() -> None:
    with scripted() as (wire, _), pytest.raises(Unavailable, match="no server answers") as caught:
        wire.get("/x", Thing)
    assert "dna serve" in caught.value.hint
    assert "a-token" not in str(caught.value)


def test_silence_is_timed_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}", "", timeout=0.1)
        with pytest.raises(TimedOut):
            wire.get("/x", Thing)
        wire.close()


def test_what_is_known_to_take_long_is_waited_for() -> None:
    with scripted(answer(200, '{"n": 1}', "x-dna-api: 1"), before=0.3) as (wire, _):
        hurried = Wire(wire.url, "", timeout=0.1)
        assert hurried.post("/x", Thing, silence=30.0) == Thing(n=1)
        hurried.close()


def test_a_stream_that_breaks_goes_on_behind_its_last_event() -> None:
    first = stream("id: 0\ndata: a\n\n", ": still there\n\n", "id: 1\ndata: b\n\n", "id: 2\ndata: cut", whole=False)
    with scripted(first, answer(503, BUSY), stream("id: 2\ndata: c\n\n", whole=True)) as (wire, told):
        seen = [(event.id, event.data) for event in wire.events("/e")]
    assert seen == [("0", "a"), ("1", "b"), ("2", "c")]
    assert "last-event-id" not in told.asked[0].casefold()
    assert "last-event-id: 1" in told.asked[2].casefold()


def test_a_stream_that_keeps_breaking_is_given_up() -> None:
    with scripted(*[stream(whole=False)] * (AGAIN + 1)) as (wire, told), pytest.raises(Unavailable, match="broke"):
        list(wire.events("/e", "5"))
    assert all("last-event-id: 5" in asked.casefold() for asked in told.asked)
    assert len(told.asked) == AGAIN + 1


@pytest.mark.parametrize("ask", [lambda w: w.events("/e"), lambda w: w.said("/e", {"a": 1})], ids=["get", "post"])
def test_an_error_inside_a_stream_is_raised(ask: Callable[[Wire], Sequence[object]]) -> None:
    error = '{"error": {"code": "no_space", "message": "full", "hint": "free some"}}'
    with scripted(stream("data: a\n\n", f"event: error\ndata: {error}\n\n", whole=True)) as (wire, _):
        events = iter(ask(wire))
        next(events)
        with pytest.raises(NoSpace):
            next(events)


def test_what_is_no_stream_is_said() -> None:
    with scripted(answer(200, "{}")) as (wire, _), pytest.raises(BadAnswer, match="no stream"):
        list(wire.events("/e"))


def test_a_body_is_sent_and_read_piece_by_piece() -> None:
    reply = answer(200, "abcdef", kind="application/octet-stream")
    with scripted(reply) as (wire, told), wire.stream("PUT", "/x", content=b"12345", headers={"X-A": "b"}) as got:
        assert b"".join(got.iter_bytes(2)) == b"abcdef"
    assert "x-a: b" in told.asked[0].casefold()


def test_a_body_that_is_cut_is_an_error() -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"
    with scripted(cut) as (wire, _), pytest.raises(Unavailable), wire.stream("GET", "/x") as reply:
        list(reply.iter_bytes())


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:80", "http://", "http://a:b@c", "http://a/?q", "http://a/#f"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(InputError):
        Wire(url, "", timeout=1)
