"""Words to find by: the same for what is kept and what is asked, of letters and digits alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.words import MOST_LETTERS, asked_words, telling_words, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("parseHTTPHeader", ["parse", "http", "header", "parsehttpheader"]),
        ("parse_http_header", ["parse", "http", "header", "parsehttpheader"]),
        ("__init__.py", ["init", "py"]),
        ("utf8 HTTP2 x86_64", ["utf8", "http2", "x86", "64", "x8664"]),
        ("C++, c# and F#", ["cpp", "csharp", "and", "fsharp"]),
        ("Zürich Größe ﬁle", ["zurich", "große".casefold().replace("ö", "o"), "file"]),
        ("", []),
        ("?!- _", []),
    ],
)
def test_words_of(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_a_question_loses_what_every_sentence_has_unless_there_is_nothing_else() -> None:
    assert asked_words("who is the author of a parser for the parser") == ["author", "parser"]
    assert asked_words("to be or not to be") == ["to", "be", "or", "not"]
    assert asked_words("readFile", wholes=False) == ["read", "file"]


def test_what_a_question_about_code_says() -> None:
    assert telling_words("How do I read the config file if x is None?") == ["read", "config", "file", "none"]
    assert telling_words("the of to") == []
    assert len(telling_words("ab cd " * 5000)) == 4000


@given(st.text(max_size=200))
def test_any_text_gives_words_that_no_database_could_read_as_anything_else(text: str) -> None:
    found = words(text, 20)
    assert len(found) <= 20
    assert all(word.isalnum() or all(c.isalnum() for c in word) for word in found), found
    assert all(0 < len(word) <= MOST_LETTERS for word in found)
    assert words(" ".join(found), 40)[: len(found)] == found or any(not word.isascii() for word in found)
