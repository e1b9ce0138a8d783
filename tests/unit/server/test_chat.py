"""Chat and teams over HTTP: events with ids, errors before and after the head, clients that leave, bad input, files that are too large."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from clonedna.app.chat_values import ChatAsk, CompareAsk, Finished, Started
from clonedna.app.revoking import Revoking
from clonedna.app.teams import Binding, Choice, HuntDone, HuntFound, TeamOrder
from clonedna.app.threads import Threads
from clonedna.app.tokens import TokenOrder, Tokens
from clonedna.client import Client
from clonedna.core.access import Scope
from clonedna.core.errors import NoMemory, NotFound
from clonedna.server import following
from clonedna.server.following import Following
from tests.github_fake import serving
from tests.serving import ScriptedEngine, ServerParts, add_block, running
from tests.unit.sources.github_people import world

CHAT, TEAMS = "/api/v1/chat", "/api/v1/teams"
NOBODY = "0" * 24


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerParts]:
    folder = tmp_path_factory.mktemp("server")
    with serving(world(folder / "work"), folder / "served") as github:
        made = ServerParts(folder / "home", github_url=github.url, min_free_bytes=0)
        add_block(made, "ada")
        add_block(made, "gone")
        yield made


@pytest.fixture(scope="module")
def url(parts: ServerParts) -> Generator[str]:
    with running(parts, whole=True) as url:
        yield url


@pytest.fixture
def engine(parts: ServerParts) -> ScriptedEngine:
    made = parts.fake
    assert isinstance(made, ScriptedEngine)
    made.pieces, made.delay, made.error, made.fail_after = ["a", "\n", "c"], 0.0, None, 0
    return made


@pytest.fixture
def http(url: str, engine: ScriptedEngine) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20, trust_env=False) as made:
        yield made


@pytest.fixture
def client(url: str, engine: ScriptedEngine) -> Generator[Client]:
    with Client(url) as made:
        yield made


def events(answer: httpx2.Response) -> list[tuple[str, str, Any]]:
    """Id, name and data of each event."""
    return [(one.id, one.event, json.loads(one.data)) for one in httpx2.EventSource(answer)]


def code(answer: httpx2.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["message"]
    assert error["hint"]
    return answer.status_code, error["code"]


def test_an_answer_as_json_and_as_events_is_the_same(http: httpx2.Client) -> None:
    whole = http.post(CHAT, json={"text": "hello", "model": "ada", "seed": 3}).json()
    assert (whole["text"], whole["answer"]["served_by"]["block"]) == ("a\nc", "ada@1.0.0")
    with http.stream("POST", CHAT, json={"text": "hello", "model": "ada", "seed": 3, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = events(answer)
    assert [one[0] for one in found] == [str(n) for n in range(1, 6)]
    assert [one[1] for one in found] == ["start", "text", "text", "text", "end"]
    reply = found[-1][2]["reply"]
    assert (reply["text"], reply["answer"]) == (whole["text"], whole["answer"])
    assert found[0][2]["thread"] == reply["thread"] != whole["thread"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"text": ""}, {"text": "x" * 32_001}, {"text": "a\0b"}, {"text": 3}, {"text": "x", "max_tokens": 0}, {"text": "x", "top_p": 2},
        {"text": "x", "temperature": -1}, {"text": "x", "seed": 2**60}, {"text": "x", "thread": "../../x"}, {"text": "x", "more": 1},
        {"text": "x", "persona": "ada"}, {"text": "x", "history": [{"role": "system", "text": "x"}]}, {"text": "x", "model": "x" * 301},
        {"text": "x", "stream": "maybe"}, {"text": "x", "store": False, "detached": True},
        {"text": "\ud800"}, {"text": "x", "model": "a\0b"},
    ],
)  # fmt: skip
def test_bad_input_is_400_and_says_what(http: httpx2.Client, body: dict[str, Any]) -> None:
    sent = json.dumps(body).encode()
    assert code(http.post(CHAT, content=sent, headers={"content-type": "application/json"})) == (400, "bad_input")


def test_an_error_before_the_answer_has_its_own_status_streamed_or_not(
    http: httpx2.Client, engine: ScriptedEngine
) -> None:
    for stream in (False, True):
        assert code(http.post(CHAT, json={"text": "x", "model": "nobody", "stream": stream})) == (
            404,
            "block_not_found",
        )
    engine.error = NoMemory("no memory", "free some")
    for stream in (False, True):
        assert code(http.post(CHAT, json={"text": "x", "stream": stream})) == (503, "no_memory")


def test_an_error_in_the_middle_is_the_last_event_and_a_status_without_a_stream(
    http: httpx2.Client, engine: ScriptedEngine
) -> None:
    engine.error, engine.fail_after = NoMemory("no memory", "free some"), 2
    with http.stream("POST", CHAT, json={"text": "x", "stream": True}) as answer:
        assert answer.status_code == 200
        found = events(answer)
    assert [one[1] for one in found] == ["start", "text", "text", "error"]
    assert found[-1][2]["error"]["code"] == "no_memory"
    assert code(http.post(CHAT, json={"text": "x"})) == (503, "no_memory")


def test_a_client_that_leaves_stops_its_answer_and_finds_what_was_said(
    http: httpx2.Client, engine: ScriptedEngine
) -> None:
    engine.pieces, engine.delay = ["x"] * 100_000, 0.002
    closed = engine.closed
    with http.stream("POST", CHAT, json={"text": "x", "stream": True}) as answer:
        source = iter(httpx2.EventSource(answer))
        thread = json.loads(next(source).data)["thread"]
        next(source)
    answer_of = _last(http, thread)
    assert answer_of["answer"]["status"] == "stopped"
    assert answer_of["text"]
    assert engine.closed == closed + 1


def test_a_client_that_leaves_before_a_whole_answer_stops_it_too(
    http: httpx2.Client, parts: ServerParts, engine: ScriptedEngine
) -> None:
    engine.pieces, engine.delay = ["x"] * 100_000, 0.002
    opened, closed = engine.opened, engine.closed
    body = b'{"text": "left alone"}'
    address = (http.base_url.host, http.base_url.port or 80)
    with socket.create_connection(address) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        thread = _once(lambda: [one.id for one in Threads(parts).list().threads if one.title == "left alone"])[0]
        _once(lambda: [None] * (engine.opened - opened))  # who leaves before that stops what has not begun
    assert _last(http, thread)["answer"]["status"] == "stopped"
    assert engine.closed == closed + 1


def test_a_detached_answer_is_finished_without_its_client(http: httpx2.Client, engine: ScriptedEngine) -> None:
    engine.pieces, engine.delay = ["x"] * 50, 0.002
    with http.stream("POST", CHAT, json={"text": "x", "stream": True, "detached": True}) as answer:
        thread = json.loads(next(iter(httpx2.EventSource(answer))).data)["thread"]
    found = _last(http, thread)
    assert (found["text"], found["answer"]["status"]) == ("x" * 50, "done")


def _last(http: httpx2.Client, thread: str) -> Any:
    """A thread's second message, once it is there."""
    return _once(lambda: http.get(f"{CHAT}/threads/{thread}").json()["messages"][1:])[0]


def _once(look: Callable[[], list[Any]]) -> list[Any]:
    """What there is, once there is something."""
    for _ in range(1000):
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


def test_a_quiet_stream_begins_and_beats_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HEAD_SECONDS", 0.01)
    monkeypatch.setattr(following, "HEARTBEAT_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    async def work() -> None:
        enough = anyio.Event()

        async def quiet() -> Any:
            await enough.wait()
            raise NotFound("gone", "look elsewhere")
            yield

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 4:
                enough.set()

        await Following(quiet(), stream=True)({"type": "http", "path": "/api/v1/x"}, receive, send)

    anyio.run(work)
    assert sent[0]["type"] == "http.response.start"
    assert [message["body"] for message in sent[1:4]] == [b": still here\n\n"] * 3
    assert b"event: error" in sent[-2]["body"]
    assert b'"not_found"' in sent[-2]["body"]
    assert sent[-1]["more_body"] is False


def test_what_nobody_foresaw_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Any:
        raise RuntimeError("the secret thing")
        yield

    async def work(stream: bool) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(message: Any) -> None:
            sent.append(message)

        await Following(broken(), stream=stream)({"type": "http", "path": "/api/v1/x"}, receive, send)
        return sent

    for stream in (False, True):
        with pytest.raises(Exception, match="failed at this request") as caught:
            anyio.run(work, stream)
        assert "secret" not in str(caught.value)


def test_answers_are_counted_like_all_others(http: httpx2.Client) -> None:
    def counted() -> float:
        lines = http.get("/metrics").text.splitlines()
        found = [one for one in lines if one.startswith('vllm:generation_tokens_total{model_name="ada@1.0.0"}')]
        return float(found[0].split()[-1]) if found else 0.0

    before = counted()
    http.post(CHAT, json={"text": "x", "model": "ada"})
    assert counted() == before + 3


def test_two_sides_in_one_stream(http: httpx2.Client) -> None:
    ask = {"text": "x", "a": "ada", "seed": 5}
    whole = http.post(f"{CHAT}/compare", json=ask).json()
    assert (whole["a"]["answer"]["model"], whole["b"]["answer"]["model"], whole["seed"]) == ("ada", "fake", 5)
    with http.stream("POST", f"{CHAT}/compare", json=ask | {"stream": True}) as answer:
        found = events(answer)
    assert {one[2]["side"] for one in found if one[1] == "text"} == {"a", "b"}
    assert [one[1] for one in found if one[1] not in ("text",)] == ["start", "start", "answer", "answer", "end"]
    assert found[-1][2]["reply"] == whole
    assert code(http.post(f"{CHAT}/compare", json={"text": "x", "a": "ada", "b": "nobody"})) == (404, "block_not_found")


def test_threads_over_http(http: httpx2.Client) -> None:
    made = http.post(f"{CHAT}/threads", json={"title": "sums", "model": "ada"})
    assert made.status_code == 201
    where = f"{CHAT}/threads/{made.json()['id']}"
    assert (
        http.post(CHAT, json={"text": "x", "thread": made.json()["id"]}).json()["answer"]["served_by"]["block"]
        == "ada@1.0.0"
    )
    assert http.patch(where, json={"title": "more sums"}).json()["title"] == "more sums"
    assert http.get(where, params={"limit": 1}).json()["next"] == 1
    assert [m["number"] for m in http.get(where, params={"after": 1}).json()["messages"]] == [2]
    assert http.get(f"{CHAT}/threads", params={"limit": 1}).json()["threads"][0]["id"] == made.json()["id"]
    assert http.delete(where).json() == {"id": made.json()["id"], "deleted": True}
    assert code(http.get(where)) == (404, "not_found")
    assert code(http.get(f"{CHAT}/threads/..%2f..%2fetc"))[0] in (400, 404)
    assert code(http.get(f"{CHAT}/threads", params={"after": "x~y"})) == (400, "bad_input")
    for order in (
        {"model": "a\0b"},
        {"title": "x" * 121},
        {"persona": "ada"},
        {"model": "ada", "persona": f"slot-{NOBODY}"},
    ):
        assert code(http.post(f"{CHAT}/threads", json=order)) == (400, "bad_input")
    assert code(http.post(f"{CHAT}/threads", json={"persona": f"slot-{NOBODY}"})) == (404, "not_found")
    assert code(http.get(f"{CHAT}/threads", params={"limit": 0})) == (400, "bad_input")


def test_a_revoked_block_s_thread_is_read_and_refused(http: httpx2.Client, parts: ServerParts) -> None:
    thread = http.post(CHAT, json={"text": "x", "model": "gone"}).json()["thread"]
    Revoking(parts).block("gone")
    assert code(http.post(CHAT, json={"text": "again", "thread": thread})) == (403, "block_revoked")
    messages = http.get(f"{CHAT}/threads/{thread}").json()["messages"]
    assert [one["text"] for one in messages] == ["x", "a\nc"]


def test_a_team_from_its_slots_to_a_talk(client: Client) -> None:
    team = client.teams.create(TeamOrder(name="Abacus", roles=("any", "pm")))
    slot = team.slots[0].id
    hunted = list(client.teams.hunt(team.id, slot, "example"))
    assert [e.candidate.handle for e in hunted if isinstance(e, HuntFound)] == ["ada-example"]
    assert isinstance(hunted[-1], HuntDone)
    selected = client.teams.select(team.id, slot, Choice(candidate=hunted[-1].reply.candidates[0].id)).selected
    assert selected
    assert selected.account
    client.teams.bind(team.id, slot, Binding(block="ada", name="Ada"))
    reply = client.chat.send(ChatAsk(text="hello", persona=slot))
    assert (reply.answer.persona, reply.answer.served_by.block) == (slot, "ada@1.0.0")
    streamed = list(client.chat.stream(ChatAsk(text="again", thread=reply.thread)))
    assert isinstance(streamed[0], Started)
    assert isinstance(streamed[-1], Finished)
    assert [one.id for one in client.teams.threads(team.id).threads] == [reply.thread]
    assert client.threads.list(team=team.id).threads[0].messages == 4
    assert (
        client.teams.extract_resume(team.id, slot, "cv.txt", b"Ada Example\nSKILLS\nRust\n").candidate.name
        == "Ada Example"
    )
    assert client.teams.clear(team.id, slot).candidates == ()
    assert client.teams.unbind(team.id, slot).persona is None
    assert client.teams.rename(team.id, "Beads").name == "Beads"
    assert len(client.teams.drop_slot(team.id, slot).slots) == 1
    assert client.teams.delete(team.id).id == team.id
    with pytest.raises(NotFound):
        client.teams.get(team.id)
    assert client.chat.comparison(CompareAsk(text="x", a="ada", seed=1)).seed == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"name": ""}), ("POST", "", {"name": "x", "roles": ["boss"]}), ("POST", "", {"name": "x" * 121}),
        ("POST", "", {"name": "x", "roles": ["swe"] * 33}), ("GET", "/team-x", None), ("DELETE", "/..%2fx", None),
        ("POST", f"/team-{NOBODY}/roles/slot-x/clear", None), ("POST", f"/team-{NOBODY}/roles/slot-{NOBODY}/headhunt", {"limit": 99}),
        ("PUT", f"/team-{NOBODY}/roles/slot-{NOBODY}/persona", {"block": "x", "instructions": "x" * 2001}),
        ("POST", f"/team-{NOBODY}/roles/slot-{NOBODY}/extract-website", {"url": "x" * 2001}),
        ("POST", f"/team-{NOBODY}/roles/slot-{NOBODY}/clear", None), ("POST", f"/team-{NOBODY}/roles/slot-{NOBODY}/headhunt", {"q": "x"}),
        ("POST", f"/team-{NOBODY}/roles/slot-{NOBODY}/extract-website", {"url": "https://example.org"}),
    ],
)  # fmt: skip
def test_bad_input_to_teams_is_never_a_500(http: httpx2.Client, method: str, path: str, body: Any) -> None:
    status, name = code(http.request(method, TEAMS + path, json=body))
    assert (status, name) in ((400, "bad_input"), (404, "not_found"))


def test_a_resume_that_is_too_large_is_not_read(http: httpx2.Client, client: Client) -> None:
    team = client.teams.create(TeamOrder(name="Abacus", roles=("swe",)))
    where = f"{TEAMS}/{team.id}/roles/{team.slots[0].id}/extract-resume"
    kind = {"content-type": "application/octet-stream"}
    assert code(http.post(where, content=b"x" * 5_000_000, headers=kind)) == (413, "too_large")
    assert code(http.post(where, content=b"", headers=kind))[0] == 400
    assert code(http.post(where, content=b"%PDF-1.7 broken", headers=kind)) == (422, "document_broken")
    assert code(http.post(f"{where}?name={'x' * 256}", content=b"x", headers=kind))[0] == 400


def test_each_token_has_threads_of_its_own(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, parallel_training=0)  # the other server of this process runs jobs

    def token(name: str, *scopes: Scope) -> dict[str, str]:
        return {"Authorization": f"Bearer {Tokens(parts).new(TokenOrder(name=name, scopes=scopes)).token}"}

    ada, bob, boss = token("ada", "chat"), token("bob", "chat"), token("boss", "admin")
    with running(parts, whole=True) as url, httpx2.Client(base_url=url, timeout=60) as http:

        def listed(who: dict[str, str]) -> list[str]:
            return [one["id"] for one in http.get(f"{CHAT}/threads", headers=who).json()["threads"]]

        hers = http.post(CHAT, json={"text": "hello", "max_tokens": 2}, headers=ada).json()["thread"]
        his = http.post(f"{CHAT}/threads", json={}, headers=bob).json()["id"]
        assert (listed(ada), listed(bob), set(listed(boss))) == ([hers], [his], {hers, his})
        for method, path, body in (
            ("GET", f"/threads/{hers}", None), ("PATCH", f"/threads/{hers}", {"title": "mine"}),
            ("DELETE", f"/threads/{hers}", None), ("POST", "", {"text": "and then?", "thread": hers}),
            ("POST", "/compare", {"text": "and then?", "thread": hers, "a": "fake", "b": "fake"}),
        ):  # fmt: skip
            assert http.request(method, f"{CHAT}{path}", json=body, headers=bob).status_code == 404, (method, path)
        goes_on = http.post(CHAT, json={"text": "and then?", "thread": hers, "max_tokens": 2}, headers=ada)
        assert goes_on.json()["thread"] == hers
        assert len(http.get(f"{CHAT}/threads/{hers}", headers=boss).json()["messages"]) == 4
        assert http.delete(f"{CHAT}/threads/{hers}", headers=boss).status_code == 200
        assert listed(ada) == []
