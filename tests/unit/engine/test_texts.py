"""Prompts, completions and text that grows: exact at every boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import InputError
from clonedna.core.model import Example, Message, SampleRequest
from clonedna.engine.bases import load_base
from clonedna.engine.texts import Detokenizer, StopStrings, Texts
from tests.unit.engine import small


@pytest.fixture(scope="module")
def texts(base: Path) -> Texts:
    return Texts(load_base(str(base)).tokenizer, 64, begin=0, stops=[2])


TURN = (Message(role="user", content="hello"),)


def test_a_row_is_prompt_completion_and_end_of_turn(texts: Texts) -> None:
    row = texts.row(Example(messages=TURN, completion="return width"))
    assert texts.decode(row.ids[: row.start]) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert texts.decode(row.ids[row.start :]) == "return width<|im_end|>"
    assert row.bytes == len("return width")


def test_plain_text_gets_no_end_token_and_an_empty_prompt_a_beginning(texts: Texts) -> None:
    row = texts.row(Example(text="def ", completion="area"))
    assert texts.decode(row.ids) == "def area"
    empty = texts.row(Example(text="", completion="area"))
    assert empty.ids[: empty.start] == (0,)
    assert texts.row(Example(text="def ", completion="")).scored == 0


def test_a_long_prompt_loses_its_beginning_and_a_long_completion_its_end(texts: Texts) -> None:
    row = texts.row(Example(text="a b c d " * 40, completion="the end"))
    assert len(row.ids) == 64
    assert texts.decode(row.ids).endswith("c d the end")
    long = texts.row(Example(text="x y", completion="käse 🧀 " * 40))
    assert (len(long.ids), long.start) == (64, 1)
    assert ("käse 🧀 " * 40).startswith(texts.decode(long.ids[1:]).rstrip("\ufffd"))
    assert long.bytes == len(texts.decode(long.ids[1:]).encode())


def test_a_prompt_leaves_room_for_the_answer(texts: Texts) -> None:
    long = "a b c d " * 40
    assert len(texts.prompt(SampleRequest(prompt=long, max_tokens=10))) == 54
    assert len(texts.prompt(SampleRequest(prompt=long, max_tokens=1000))) == 32
    assert texts.prompt(SampleRequest(prompt=long, prompt_limit=3)) == texts.prompt(SampleRequest(prompt=long[:40]))[:3]


def test_what_cannot_be_rendered_is_an_input_error(texts: Texts, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="messages or a prompt"):
        texts.prompt(SampleRequest())
    with pytest.raises(InputError, match="messages or text"):
        texts.row(Example(completion="x"))
    bare = Texts(load_base(str(small.make_base(tmp_path / "bare", template=None))).tokenizer, 64, begin=0, stops=[])
    with pytest.raises(InputError, match="no chat template"):
        bare.row(Example(messages=TURN, completion="x"))
    refusing = small.make_base(tmp_path / "refusing", template="{{ raise_exception('no system turn') }}")
    with pytest.raises(InputError, match="no system turn"):
        Texts(load_base(str(refusing)).tokenizer, 64, begin=0, stops=[]).row(Example(messages=TURN, completion="x"))


@given(st.text(max_size=60))
def test_growing_text_is_the_whole_text_and_never_cuts_a_character(texts: Texts, text: str) -> None:
    ids = texts._encode(text)
    grown = Detokenizer(texts)
    pieces = [grown.add(i) for i in ids]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + grown.rest() == texts.decode(ids) == text


@given(st.lists(st.integers(3, 399), max_size=40))
def test_growing_text_of_any_tokens_is_their_whole_text(texts: Texts, ids: list[int]) -> None:
    """Random tokens are mostly no valid UTF-8."""
    grown = Detokenizer(texts)
    assert "".join(map(grown.add, ids)) + grown.rest() == texts.decode(ids)


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_at_the_first_however_the_text_is_cut_up(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    watch, out, found = StopStrings(stops), "", False
    for piece in pieces:
        text, found = watch.add(piece)
        out += text
        if found:
            break
    out += "" if found else watch.rest()
    hits = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    assert found == bool(hits)
    if not hits:
        assert out == whole
    else:
        assert whole.startswith(out)
        assert not any(stop in out for stop in stops)
        assert any(whole[len(out) :].startswith(stop) for stop in stops)
