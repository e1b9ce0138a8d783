"""Chat in processes of its own, with the bundled base: Ctrl-C here and at a server, threads that outlive a killed server."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.chat_values import ChatAsk, Finished, Started
from clonedna.client import Client
from tests.command import Dna

pytestmark = pytest.mark.slow
LONG = ["--max-tokens", "4000", "--temperature", "2.5", "--top-p", "1.0"]


@contextmanager
def server(dna: Dna) -> Generator[tuple[str, subprocess.Popen[str]]]:
    process = dna.start("serve", "--port", "0", "--json")
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str]) -> None:
    """Wait for the first words, press Ctrl-C."""
    assert process.stdout
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def last(client: Client, thread: str) -> Any:
    return client.threads.show(thread).messages[-1]


def test_ctrl_c_and_a_killed_server(tmp_path: Path) -> None:
    dna = Dna(tmp_path / "home")
    interrupted(dna.start("run", "nano", "Write a long story.", *LONG))
    with server(dna) as (url, process):
        there = Dna(tmp_path / "elsewhere")
        interrupted(there.start("--server", url, "run", "nano", "Write a long story.", *LONG))
        with Client(url) as client:
            first = client.chat.send(ChatAsk(text="Write a function that adds.", max_tokens=8, seed=1))
            events = client.chat.stream(
                ChatAsk(text="More.", thread=first.thread, max_tokens=1000, temperature=2.5, top_p=1.0)
            )
            assert isinstance(next(events), Started)
            next(events)
            process.kill()  # in the middle of an answer
            process.communicate()
            with pytest.raises(Exception, match="broke"):
                list(events)
    assert first.thread
    with server(dna) as (url, _), Client(url) as client:
        kept = client.threads.show(first.thread).messages
        assert [one.text for one in kept[:2]] == ["Write a function that adds.", first.text]
        assert [(one.role, one.answer) for one in kept[2:]] == [("user", None)], "a question that was never answered"
        again = list(client.chat.stream(ChatAsk(text="And now?", thread=first.thread, max_tokens=4)))[-1]
        assert isinstance(again, Finished)
        assert again.reply.answer.status == "done"
        assert last(client, first.thread).id == again.reply.id
