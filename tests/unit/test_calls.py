"""Tool calls are read the same however the text is cut, and what is no call is said as it was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.calls import CallArguments, CallReader, CallStarted, Piece, Words


def read(*texts: str) -> tuple[str, list[tuple[str, str]]]:
    """The words, and each call's name and arguments."""
    reader = CallReader()
    pieces: list[Piece] = [piece for text in texts for piece in reader.feed(text)] + reader.end()
    words, calls = "", list[tuple[str, str]]()
    for piece in pieces:
        match piece:
            case Words(text):
                words += text
            case CallStarted(index, _, name):
                assert index == len(calls)
                calls.append((name, ""))
            case CallArguments(index, text):
                calls[index] = (calls[index][0], calls[index][1] + text)
    return words, calls


def call(name: str, arguments: object) -> str:
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def test_words_alone_are_words() -> None:
    assert read("  a < b", " and <tool", "_cal> ") == ("  a < b and <tool_cal> ", [])


def test_a_call_after_words_and_another_after_it() -> None:
    text = "Let me look.\n" + call("find", {"q": 'a</tool_call>}b"{'}) + "\n" + call("stop", {})
    words, calls = read(text)
    assert words.strip() == "Let me look."
    assert [name for name, _ in calls] == ["find", "stop"]
    assert json.loads(calls[0][1]) == {"q": 'a</tool_call>}b"{'}
    assert calls[1][1] == "{}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.data(), st.dictionaries(st.text(), json_values), st.text(alphabet="ab <tool_call>/\n"))
def test_where_the_text_is_cut_does_not_matter(data: st.DataObject, arguments: dict[str, object], before: str) -> None:
    if "<tool_call>" in before:
        return
    text = before + call("find", arguments) + "\n" + call("stop", {})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    words, calls = read(*parts)
    assert words.strip() == before.strip()
    assert [(name, json.loads(given)) for name, given in calls] == [("find", arguments), ("stop", {})]


def test_the_name_is_told_before_the_arguments_are_complete() -> None:
    reader = CallReader()
    assert reader.feed('<tool_call>\n{"name": "fi') == []
    pieces = reader.feed('nd", "arguments": {"q"')
    assert [type(piece) for piece in pieces] == [CallStarted, CallArguments]
    assert pieces[1] == CallArguments(0, '{"q"')


@pytest.mark.parametrize(
    "order", ['{"arguments": {"a": 1}, "name": "find"}', '{"name": "find", "arguments": "{\\"a\\": 1}"}']
)
def test_other_spellings_of_a_call_are_calls(order: str) -> None:
    words, calls = read(f"<tool_call>{order}</tool_call>")
    assert (words, [(name, json.loads(given)) for name, given in calls]) == ("", [("find", {"a": 1})])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>no json</tool_call>",
        '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
    ],
)
def test_what_is_no_call_is_said_as_it_was_written(text: str) -> None:
    assert read(text) == (text, [])


def test_a_call_cut_short_keeps_what_there_was() -> None:
    assert read('<tool_call>\n{"name": "find", "arguments": {"q": "a') == ("", [("find", '{"q": "a')])
    assert read('<tool_call>\n{"name": "fi') == ('<tool_call>\n{"name": "fi', [])
