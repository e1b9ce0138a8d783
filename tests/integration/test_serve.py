"""`dna serve` and `dna ps` as processes: the ready line, ports, keys, stopping well and stopping at once; the engine is scripted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from tests.forked import popen
from tests.serving import add_block

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef-key"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "stream": True}
pytestmark = pytest.mark.slow


def start(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DNA_")}
    return popen(
        "tests.integration.serve_fake", *arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=inherited | {"DNA_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"} | environment,
    )  # fmt: skip


def run(home: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = start(home, *arguments, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@contextmanager
def serving(home: Path, *arguments: str, **environment: str) -> Generator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server that is ready, and what it said. It is killed at the end if it still runs."""
    process = start(home, "serve", "--port", "0", "--json", *arguments, **environment)
    assert process.stdout is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_a_stream_that_runs_ends_well_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    with serving(tmp_path, SCRIPT_DELAY="0.05", SCRIPT_TOKENS="30") as (process, said):
        url = said["url"]
        text = ""
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=CHAT, timeout=30) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    if text == "0 ":
                        process.send_signal(signal.SIGTERM)
        assert line == "" or "[DONE]" in line
        assert text.split() == [str(i) for i in range(30)]
        assert process.wait(20) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/healthz", timeout=60)


def read_while_it_stops(url: str, process: subprocess.Popen[str], second: signal.Signals | None) -> None:
    """Read a stream, send TERM after its first event, ``second`` some events later, and read on to its end."""
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=CHAT, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        if second is not None:
            for _ in range(20):
                next(lines)
            assert process.poll() is None
            process.send_signal(second)
        for _ in lines:
            pass


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_told_twice_it_stops_at_once(second: signal.Signals, tmp_path: Path) -> None:
    with serving(tmp_path, SCRIPT_DELAY="0.05", SCRIPT_TOKENS="100000") as (process, said):
        with pytest.raises(httpx2.HTTPError):
            read_while_it_stops(said["url"], process, second)
        assert process.wait(20) == 0


def test_what_takes_longer_than_the_drain_is_ended(tmp_path: Path) -> None:
    with serving(tmp_path, "--drain-seconds", "1", SCRIPT_DELAY="0.05", SCRIPT_TOKENS="100000") as (process, said):
        with pytest.raises(httpx2.HTTPError):
            read_while_it_stops(said["url"], process, None)
        assert process.wait(20) == 0


def test_ps_shows_what_a_server_holds(tmp_path: Path) -> None:
    add_block(Parts(Settings(home=tmp_path)), "ada")
    with serving(tmp_path, "--preload", "ada") as (_, said):
        assert said["models"][:3] == ["fake", "ada", "ada@1.0.0"]
        status, out, _ = run(tmp_path, "ps", "--server", said["url"])
        assert status == 0
        assert "ada@1.0.0" in out
        status, out, _ = run(tmp_path, "ps", "--server", said["url"], "--json")
        found = json.loads(out)
        assert list(found["names"].values()) == ["ada@1.0.0"]
        assert found["engine"]["adapters"][0]["state"] == "slot"


def test_a_key_from_a_file_is_wanted_and_never_printed(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    with serving(tmp_path, "--api-key-file", str(key), "--host", "0.0.0.0") as (process, said):
        url = said["url"].replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{url}/v1/models", timeout=60).status_code == 401
        assert httpx2.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=60).status_code == 200
        assert run(tmp_path, "ps", "--server", url)[0] == 4
        assert run(tmp_path, "ps", "--server", url, DNA_API_KEY=KEY)[0] == 0
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert KEY not in out + err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("serve", "--host", "0.0.0.0"), "refused"), (("serve", "--api-key-file", "nowhere"), "bad_config"),
        (("ps", "--server", "http://127.0.0.1:1"), "unavailable"),
        (("ps", "--server", "nonsense"), "bad_input"), (("serve", "--port", "0", "--preload", "nobody"), "block_not_found"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_code(arguments: tuple[str, ...], code: str, tmp_path: Path) -> None:
    status, out, _ = run(tmp_path, *arguments, "--json")
    assert json.loads(out)["error"]["code"] == code
    assert json.loads(out)["error"]["hint"]
    assert status not in (0, 70)


def test_a_home_has_one_server(tmp_path: Path) -> None:
    with serving(tmp_path):
        status, out, _ = run(tmp_path, "serve", "--port", "0", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (6, "job_busy")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, out, _ = run(tmp_path, "serve", "--port", port, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (6, "unavailable")
    assert port in json.loads(out)["error"]["message"]


def test_ps_knows_another_server_when_it_meets_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        status, out, _ = run(tmp_path, "ps", "--server", f"http://127.0.0.1:{other.getsockname()[1]}", "--json")
        thread.join(10)
    assert (status, json.loads(out)["error"]["code"]) == (6, "unavailable")
