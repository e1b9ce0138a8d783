"""What has a name in JavaScript and TypeScript, wherever it stands, and what a definition says of itself."""

from __future__ import annotations

import pytest

from clonedna.sources.languages import entry_of
from clonedna.sources.spans import MAX_HEAD, Definition, find_definitions, innermost


def definitions(text: str, path: str = "a.js") -> dict[str, Definition]:
    entry = entry_of(path)
    assert entry is not None
    found = find_definitions(text.encode(), entry)
    return {one.name: one for top in found for one in (top, *top.inside)}


BODY = "{\n  const one = 1;\n  return one;\n}"


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        (f"function f(a) {BODY}\n", "f", "function"),
        (f"async function* f(a) {BODY}\n", "f", "function"),
        (f"export const f = async (a) => {BODY};\n", "f", "function"),
        (f"var f = function (a) {BODY}\n", "f", "function"),
        (f"export default function (a) {BODY}\n", "default", "function"),
        (f"export default (a) => {BODY};\n", "default", "function"),
        (f"module.exports = function (a) {BODY};\n", "module.exports", "function"),
        (f"exports.f = (a) => {BODY};\n", "exports.f", "function"),
        (f"Thing.prototype.f = function (a) {BODY};\n", "Thing.prototype.f", "function"),
        (f"const api = {{\n  f(a) {BODY},\n}};\n", "api.f", "method"),
        (f"const api = {{\n  deep: {{\n  f: (a) => {BODY},\n}},\n}};\n", "api.deep.f", "method"),
        (f"export default {{\n  f(a) {BODY},\n}};\n", "f", "method"),
        (f"(function () {{\n  function f(a) {BODY}\n}})();\n", "f", "function"),
        (f"define(['x'], (x) => {{\n  function f(a) {BODY}\n}});\n", "f", "function"),
        (f"class A extends B {{\n  static async f(a) {BODY}\n}}\n", "A.f", "method"),
        (f"class A {{\n  f = (a) => {BODY};\n}}\n", "A.f", "method"),
        (f"const A = class {{\n  get f() {BODY}\n}};\n", "A.f", "method"),
        (f"const [f] = [(a) => {BODY}];\n", None, None),
        (f"call((a) => {BODY});\n", None, None),
        (f"x = 1; function f(a) {BODY}\n", None, None),
        (f"function f(a) {BODY} x = 1\n", None, None),
    ],
)
def test_what_has_a_name(text: str, name: str | None, kind: str | None) -> None:
    found = definitions(text)
    if name is None:
        assert not found
    else:
        assert (found[name].name, found[name].kind) == (name, kind)


TYPED = """// Copyright of somebody.
@sealed
export class Box<T> extends Base implements Thing {
  // eslint-disable-next-line
  // How many
  // there are.
  @memo()
  count(this: Box<T>, {a, b: c = 1}: P, [d]: number[], e?: string, ...rest: T[]): number {
    return 1;
  }

  constructor(private readonly size: number) {
    super();
  }
}

/**
 * Doubles it.
 * @param n what to double
 */

export abstract class Abstract {
  f(n = 1) { return 2 * n }
}
namespace Inner {
  export function g(x: number): void {
    x;
  }
}
"""


@pytest.mark.parametrize("path", ["a.ts", "a.tsx", "a.cts"])
def test_typescript_says_it_all(path: str) -> None:
    found = definitions(TYPED, path)
    assert list(found) == ["Box", "Box.count", "Box.constructor", "Abstract", "Abstract.f", "g"]
    box, count = found["Box"], found["Box.count"]
    assert (box.start, box.text.split("\n")[0], box.comment) == (2, "@sealed", "")
    assert box.signature == "export class Box<T> extends Base implements Thing {"
    assert (count.start, count.end, count.comment) == (7, 10, "How many there are.")
    assert count.arguments == ("{a, c}", "[d]", "e", "...rest")
    assert count.signature.startswith("count(this: Box<T>, ")
    assert count.signature.endswith("): number {")
    assert found["Box.constructor"].arguments == ("size",)
    assert found["Abstract"].comment == "Doubles it. @param n what to double"
    assert found["g"].signature == "export function g(x: number): void {"


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("export const f = async (\n  a,\n  b,\n) =>\n  a + b;\n", "export const f = async ( a, b, ) =>"),
        ("const f = a => {\n  a;\n};\n", "const f = a => {"),
        (f"function f({', '.join('abc' * 9 + str(i) for i in range(99))}) {{\n}}\n", None),
    ],
)
def test_signatures_end_where_the_body_begins(text: str, signature: str | None) -> None:
    found = definitions(text)["f"].signature
    assert found == signature if signature else len(found) == MAX_HEAD


def test_nested_functions_belong_to_their_parent() -> None:
    text = "function outer() {\n  const inner = () => {\n    return 1;\n  };\n  return inner;\n}\n"
    assert list(definitions(text)) == ["outer"]


def test_the_innermost_definition_names_a_line() -> None:
    entry = entry_of("a.ts")
    assert entry
    found = find_definitions(TYPED.encode(), entry)
    around = [innermost(found, line) for line in (1, 3, 9, 23)]
    assert [one.name if one else None for one in around] == [None, "Box", "Box.count", "Abstract.f"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.js", "(" * 20_000 + ")" * 20_000),
        ("a.js", "a(function(){\n" * 3000 + "})" * 3000),
        ("a.ts", "function f(){" * 3000 + "}" * 3000),
        ("a.js", "function f(" + "{a:" * 3000 + "b" + "}" * 3000 + "){\n x\n}\n"),
        ("a.py", "".join(" " * i + "if x:\n" for i in range(1500)) + " " * 1500 + "y\n"),
        ("a.py", "x=" + "[" * 50_000),
    ],
)
def test_no_nesting_is_too_deep(path: str, text: str) -> None:
    assert len(definitions(text, path)) <= 1
