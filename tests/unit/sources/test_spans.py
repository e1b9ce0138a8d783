"""Definitions as runs of whole lines: byte-exact, never overlapping, in every language of the table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.sources.languages import ENTRIES, entry_of
from clonedna.sources.spans import Definition, find_definitions, innermost

PYTHON = '''import x

# A leading
# comment.
@deco(1)
def first(a, b: int = 3, *args, **kw):
    """Doc
    string."""
    return a


class Small(Base):
    """D."""

    def method(self, z):
        return z


try:
    import q
except ImportError:
    def fallback(y):
        y += 1
        return y


def outer():
    def inner():
        pass
    return inner
'''
TYPESCRIPT = """/** Doc of f. */
export const f = async (a: string, d = 1): Promise<void> => {
\tawait x(a);
};
export default class K<T> extends Z {
  m(a?: number) {
    return 1;
  }
}
function g(this: A, q) {
  return 1
}
"""


def definitions(text: str, path: str = "a.py") -> list[Definition]:
    entry = entry_of(path)
    assert entry is not None
    return find_definitions(text.encode(), entry)


def exact(text: str, found: list[Definition]) -> None:
    lines = text.split("\n")
    end = 0
    for one in found:
        assert one.start > end
        end = one.end
        assert one.text.rstrip("\n") == "\n".join(lines[one.start - 1 : one.end]).rstrip("\n")


def test_python() -> None:
    found = {one.name: one for one in definitions(PYTHON)}
    assert list(found) == ["first", "Small", "fallback", "outer"]
    first = found["first"]
    assert first.text.startswith("@deco(1)\n")
    assert (first.comment, first.docstring) == ("A leading comment.", "Doc\nstring.")
    assert first.arguments == ("a", "b", "*args", "**kw")
    assert PYTHON.split("\n")[(first.body_start or 0) - 1] == "    return a"
    assert found["Small"].kind == "class"
    assert found["outer"].text.count("def") == 2
    exact(PYTHON, definitions(PYTHON))


def test_a_class_holds_its_methods_and_says_whether_it_is_one_piece() -> None:
    body = "".join(f"    def m{i}(self, a):\n        b = a\n        return b\n\n" for i in range(40))
    (large,) = definitions("class Large:\n" + body)
    assert not large.one_piece
    assert len(large.inside) == 40
    assert large.inside[0].name == "Large.m0"
    assert {one.kind for one in large.inside} == {"method"}
    assert large.inside[0].arguments == ("a",)
    assert innermost([large], 3) is large.inside[0]
    (small,) = definitions("class Small:\n" + body[:60])
    assert small.one_piece


@pytest.mark.parametrize("path", ["a.ts", "a.tsx", "a.mts"])
def test_typescript(path: str) -> None:
    found = definitions(TYPESCRIPT, path)
    assert [(one.name, one.kind) for one in found] == [("f", "function"), ("K", "class"), ("g", "function")]
    assert found[0].comment == "Doc of f."
    assert found[2].arguments == ("q",)
    exact(TYPESCRIPT, found)


def test_javascript_with_markup() -> None:
    text = "export function Card({ title }) {\n  return <div>{title}</div>;\n}\nmodule.exports = 1;\n"
    assert [one.name for one in definitions(text, "a.jsx")] == ["Card"]


@pytest.mark.parametrize(
    "text",
    [
        "def f(a):\r\n    x = 1\r\n    return x\r\n",
        "def f(a):\n    x = '\u2028\x0c'\n    return x",
        "def f(ä):\n\tx = 'ß'\n\treturn x\n",
    ],
)
def test_line_ends_and_odd_characters_are_kept(text: str) -> None:
    (one,) = definitions(text)
    assert one.text == text


def test_broken_code_is_refused_and_the_rest_is_not() -> None:
    found = definitions("def ok(a):\n    b = a\n    return b\n\n\ndef broken(:\n    x\n    y\n")
    assert [one.name for one in found if one.refusal() is None] == ["ok"]


def test_too_long_and_too_short_are_named_not_cut() -> None:
    long, short = definitions("def f():\n" + "    x = 1\n" * 200 + "\n\ndef g():\n    pass\n")
    assert (long.refusal() or ("",))[0] == "too_long"
    assert (short.refusal() or ("",))[0] == "too_short"


def test_a_definition_that_begins_inside_a_line_is_none() -> None:
    assert not definitions("x = 1; y = 2; f = lambda: 3\n")


def test_languages_by_path() -> None:
    assert [entry.language for path in ("a/B.PY", "a/b.tsx", "a.mjs") if (entry := entry_of(path))] == [
        "python",
        "typescript",
        "javascript",
    ]
    assert entry_of("a/b.d.ts") is None
    assert entry_of("a/py") is None
    assert {entry.language for entry in ENTRIES} == {"python", "javascript", "typescript"}


PIECES = ["def f(a):\n    b = a\n    return b\n", "class A:\n    def m(self):\n        x = 1\n        return x\n", "# note\n", "\n", "x = 1\n",
          "@d\ndef g():\n    '''D.'''\n    y = 2\n    return y\n", "\r\n", "def (:\n", "'''\n", "é = '\u2028'\n"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_file_gives_exact_lines(pieces: list[str]) -> None:
    text = "".join(pieces)
    exact(text, definitions(text))
