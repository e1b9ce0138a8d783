"""The lines of a log: their fields, ids that follow threads, no words of exceptions, one line each whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Generator
from contextvars import copy_context
from typing import Any, Literal

import pytest

from clonedna.app import logs
from clonedna.app.logs import REQUEST, Asked, about_job, configure, heard, tell
from clonedna.core.events import JobFailed, Note, StageStarted

log = logging.getLogger("clonedna.tests")
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _as_before() -> Generator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.OURS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)


def written(form: Literal["json", "text"], level: logs.Level = "info") -> tuple[io.StringIO, Lines]:
    stream = io.StringIO()
    configure(form=form, level=level, stream=stream)
    return stream, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_fields_and_the_ids_it_belongs_to() -> None:
    _, lines = written("json")
    token = REQUEST.set(Asked("abcdefgh"))
    with about_job("mint-1"):
        tell(log, "warning", "thing", n=1, nothing=None)
    REQUEST.reset(token)
    tell(log, "info", "other")
    first, second = lines()
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning", "event": "thing", "logger": "clonedna.tests", "request_id": "abcdefgh", "job": "mint-1", "n": 1,
    }  # fmt: skip
    assert not {"request_id", "job"} & set(second)


def test_a_thread_that_is_given_the_context_writes_its_ids() -> None:
    _, lines = written("json")
    with about_job("mint-1"):
        thread = threading.Thread(target=copy_context().run, args=(tell, log, "info", "there"))
        thread.start()
        thread.join()
    assert lines()[0]["job"] == "mint-1"


def test_an_exception_is_told_without_its_words() -> None:
    stream, lines = written("json")
    try:
        raise ValueError("the canary")
    except ValueError:
        log.exception("failed", extra={"event": "failed", "fields": {}})
    assert "canary" not in stream.getvalue()
    (line,) = lines()
    assert line["exception"] == "ValueError"
    assert line["at"][-1].endswith("test_an_exception_is_told_without_its_words")


def test_a_line_of_text_is_one_line() -> None:
    stream, _ = written("text")
    tell(log, "info", "thing", name="two words\nlevel=error", n=2, empty="")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('info thing name="two words\\nlevel=error" n=2 empty=""')


def test_libraries_are_heard_from_warning_on_and_cut() -> None:
    _, lines = written("json", "debug")
    other = logging.getLogger("somebody.else")
    other.info("GET http://x/?secret")
    other.warning("x" * 5000)
    (line,) = lines()
    assert (line["event"], len(line["message"])) == ("message", logs.MOST_CHARACTERS)


def test_the_level_is_heeded() -> None:
    _, lines = written("json", "warning")
    tell(log, "info", "thing")
    tell(log, "error", "worse")
    assert [line["event"] for line in lines()] == ["worse"]


def test_a_job_s_events_are_lines_without_anybody_s_words() -> None:
    stream, lines = written("json")
    for event in (
        StageStarted(stage="train"),
        Note(text="the canary"),
        JobFailed(code="no_space", message="the canary"),
    ):
        heard(event)
    assert "canary" not in stream.getvalue()
    assert [line["event"] for line in lines()] == ["stage_started", "job_failed"]
    assert (lines()[0]["stage"], lines()[1]["code"]) == ("train", "no_space")
