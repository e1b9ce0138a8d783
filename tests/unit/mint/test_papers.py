"""Names of strangers stay names in the card."""

from __future__ import annotations

import pytest

from clonedna.mint.papers import escape, slug


@pytest.mark.parametrize(
    ("text", "inert"),
    [
        ("Ada Example", "Ada Example"),
        ("a\n# b", r"a \# b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("[x](http://y)", r"\[x\](http\://y)"),
        ("a|b`c`*d*_e_", r"a\|b\`c\`\*d\*\_e\_"),
        ("www.example.org", r"www\.example.org"),
        ("$\\x$", r"\$\\x\$"),
    ],
)
def test_third_party_text_is_inert_markdown(text: str, inert: str) -> None:
    assert escape(text) == inert


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("Ada Example", "ada-example"),
        ("Bjørn Ólafur", "bjrn-olafur"),
        ("山田", "person-5f34cd83"),
        ("x" * 99, "x" * 64),
        ("A--b", "a-b"),
    ],
)
def test_slugs_are_block_names(name: str, made: str) -> None:
    assert slug(name) == made
