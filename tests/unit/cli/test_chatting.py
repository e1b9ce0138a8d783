"""`dna run, chat, threads, team` at a server: what is shown, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from clonedna.app.threads import Threads
from clonedna.cli.main import app
from clonedna.core.errors import DnaError, InputError, NotFound
from tests.cli import CliRunner
from tests.serving import ScriptedEngine, ServerParts, add_block, running
from tests.values import pair

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ServerParts:
    made = ServerParts(tmp_path_factory.mktemp("home"))
    add_block(made, "ada", pairs=[pair("read_config", "def read_config(): return 1\n")])
    return made


@pytest.fixture(scope="module")
def url(parts: ServerParts) -> Generator[str]:
    with running(parts, whole=True) as url:
        yield url


@pytest.fixture
def engine(parts: ServerParts) -> ScriptedEngine:
    assert isinstance(parts.fake, ScriptedEngine)
    parts.fake.pieces, parts.fake.delay = ["one ", "\x1b[31mtwo"], 0.0
    return parts.fake


@pytest.fixture
def ask(url: str, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, said: str = "") -> str:
        """What was written, to either stream."""
        result = CliRunner().invoke(
            app, ["--home", str(tmp_path / "none"), "--server", url, *arguments], input=said, standalone_mode=False
        )
        if isinstance(result.exception, DnaError):
            raise result.exception
        assert result.exception is None, result.exception
        return result.output

    return run


def test_run_shows_the_answer_and_what_served_it_and_keeps_nothing(ask: Ask, parts: ServerParts) -> None:
    before = len(Threads(parts).list().threads)
    shown = ask("run", "ada", "the config?")
    assert "one \N{REPLACEMENT CHARACTER}[31mtwo" in shown
    assert "served by: ada@1.0.0" in shown
    assert "1 of its pairs shown, local; 2 tokens, stop]" in shown
    assert "no retrieval" in ask("run", "ada", "the config?", "--no-retrieval")
    assert len(Threads(parts).list().threads) == before


def test_run_beside_the_base_shows_one_behind_the_other(ask: Ask) -> None:
    shown = ask("run", "ada", "-", "--beside-base", said="from standard input")
    assert shown.index("--- ada@1.0.0") < shown.index("--- base fake")
    assert shown.count("two") == 2


def test_what_works_here_alone_is_refused_at_a_server(ask: Ask) -> None:
    for flags in (["--unsafe"], ["--on", "somewhere"]):
        with pytest.raises(InputError):
            ask("run", "ada", "x", *flags)
        with pytest.raises(InputError):
            ask("chat", "ada", *flags)


def test_a_chat_is_kept_and_gone_on_with(ask: Ask, parts: ServerParts, engine: ScriptedEngine) -> None:
    shown = ask("chat", "ada", "--no-retrieval", said="first question\nsecond\n\n")
    thread = Threads(parts).list(limit=1).threads[0]
    assert f"dna chat --thread {thread.id}" in shown
    assert (thread.title, thread.messages) == ("first question", 4)
    ask("chat", "--thread", thread.id, "--no-retrieval", said="third\n")
    assert [one.content for one in engine.asked[-1].messages][::2] == ["first question", "second", "third"]
    listed = ask("threads", "ls", "--limit", "1")
    assert thread.id in listed
    seen = ask("threads", "show", thread.id)
    assert "--- 6 assistant" in seen
    assert "served by: ada@1.0.0" in seen
    assert "more: --after 2" in ask("threads", "show", thread.id, "--limit", "2")
    beside = ask("chat", "--thread", thread.id, "--beside-base", said="fourth\n")
    assert "--- base fake" in beside
    assert [one.content for one in engine.asked[-1].messages][::2] == ["first question", "second", "third", "fourth"]
    assert Threads(parts).get(thread.id).messages == 8, "what the base says beside it is not kept"
    assert "deleted" in ask("threads", "rm", thread.id, "--yes")
    with pytest.raises(NotFound):
        ask("threads", "show", thread.id)


def test_a_chat_with_nobody_is_refused_before_a_question_is_asked(ask: Ask) -> None:
    with pytest.raises(InputError):
        ask("chat")
    with pytest.raises(NotFound):
        ask("chat", "nobody", said="never read\n")


def test_a_team_by_its_name_and_its_slots_by_number_or_role(ask: Ask, engine: ScriptedEngine) -> None:
    shown = ask("team", "new", "Abacus", "--role", "pm", "--role", "swe", "--role", "swe")
    assert shown.count("slot-") == 3
    assert "persona: Ada Example: ada@1.0.0" in ask("team", "bind", "Abacus", "2", "ada")
    with pytest.raises(InputError, match="2 slots"):
        ask("team", "bind", "Abacus", "swe", "ada")
    with pytest.raises(NotFound):
        ask("team", "bind", "Abacus", "9", "ada")
    assert "ada@1.0.0" in ask("team", "show", "Abacus")
    slot = shown.split("slot-")[2][:24]
    assert "one" in ask("chat", "--persona", f"slot-{slot}", said="hello\n")
    assert engine.asked[-1].messages[0].content.startswith("You are Ada Example")
    assert "persona: none" in ask("team", "bind", "Abacus", "2", "--none")
    assert "any" in ask("team", "add", "Abacus", "any")
    assert "any" not in ask("team", "drop", "Abacus", "any").partition("role")[2]
    assert "renamed" in ask("team", "rename", "Abacus", "Beads")
    ask("team", "new", "Beads")
    with pytest.raises(InputError, match="2 teams"):
        ask("team", "show", "Beads")
    assert "Beads" in ask("team", "ls")
    with pytest.raises(InputError):
        ask("team", "extract", "Beads", "1")
