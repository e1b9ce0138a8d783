"""What is counted in code, also in code that does not parse; distances; and how near a block is to its person."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest

from clonedna.core.fakes import FakeEngine
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.style import StyleProfile
from clonedna.core.work import Instruction, Language, Pair
from clonedna.evals import style, style_capture
from clonedna.evals.style import Counts, count, distance, features, scales
from clonedna.evals.style_capture import Sides, capture, chosen_pairs, code_of, examine_style, moves
from clonedna.evals.style_consistency import consistency
from clonedna.evals.style_layout import formatted, formatter
from clonedna.evals.style_table import FEATURES, LEAST, features_of
from clonedna.mint.instruct import make_pair
from clonedna.sources.languages import parse
from tests.values import REPOSITORY, span

TERSE = '''def add_{i}(self, x_{i}: int, y: int = 2, *, z=None) -> int:
    """Add."""
    if x_{i} is None:
        return 0
    total_sum = [k for k in range(x_{i})]
    return f"{{total_sum}}" + call(x_{i}, key=y)
'''
LOOSE = """def addNumbers{i}(first, second):
    # Begin with nothing.
    resultList = []
    for number in range(first):
        if number > second:
            for other in range(number):
                resultList.append('%s and %s' % (number, other))   # keep it
        else:
            pass

    someValue = {{
        'first': first,
        'second': second
    }}
    return resultList, someValue
"""
SCRIPT = """async foo_{i}(first, second = 1) {{
\tif (!first) {{
\t\treturn second;
\t}}

\tconst userName = `a${{first}}`;
\treturn second.map(one => one === first ? one : userName)
}}
"""


def texts(form: str, n: int = 20) -> list[str]:
    return [form.format(i=i) for i in range(n)]


def profile(form: str, language: Language = "python") -> StyleProfile:
    found = features(texts(form), language, parse)
    assert found is not None
    return found


def test_python_is_counted_as_a_reader_would() -> None:
    terse, loose = profile(TERSE), profile(LOOSE)
    expected = {
        "type.arguments": (2 / 3, 0.0), "type.returns": (1.0, 0.0), "docstring.rate": (1.0, 0.0), "function.guard": (1.0, 0.0),
        "function.lines": (6.0, 15.0), "function.statements": (5.0, 8.0), "function.arguments": (3.0, 2.0), "function.returns": (2.0, 1.0),
        "function.defaults": (2 / 3, 0.0), "loop.comprehension": (1.0, 0.0), "string.formatted.f": (1.0, 0.0),
        "string.formatted.percent": (0.0, 1.0), "quote.double": (1.0, 0.0), "branch.else": (0.0, 1.0), "comment.density": (0.0, 2 / 14),
        "comment.behind": (None, 0.5), "name.function.snake": (1.0, 0.0), "name.variable.snake": (1.0, 0.0), "call.keywords": (1 / 3, 0.0),
        "bracket.trailing_comma": (None, 0.0), "line.blank": (0.0, 1 / 15), "indent.width": (4.0, 4.0), "lambda": (0.0, 0.0),
    }  # fmt: skip
    for name, (first, second) in expected.items():
        assert terse.value(name) == (first if first is None else pytest.approx(first)), name
        assert loose.value(name) == (second if second is None else pytest.approx(second)), name
    assert (loose.value("nesting.depth") or 0) > (terse.value("nesting.depth") or 0)


def test_a_method_is_read_inside_a_class() -> None:
    found = profile(SCRIPT, "javascript")
    assert found.broken == 0.0
    expected = {
        "function.guard": 1.0, "function.async": 0.5, "semicolon": 2 / 3, "variable.const": 1.0, "string.template": 1.0,
        "loop.method": 1.0, "equality.strict": 1.0, "branch.ternary": 0.5, "name.function.snake": 1.0, "name.variable.snake": 0.0,
        "indent.width": 1.0, "function.arrow": 1.0, "function.lines": 8.0,
    }  # fmt: skip
    assert {name: found.value(name) for name in expected} == pytest.approx(expected)
    typed = features(["function f(a: string, b?: number): void { a }\n"] * 20, "typescript", parse)
    assert typed is not None
    assert (typed.value("type.arguments"), typed.value("type.returns")) == (1.0, 1.0)
    assert features(["const a = <b>{c}</b>;\n"] * 9, "typescript", parse).broken == 0.0  # type: ignore[union-attr]


def test_every_feature_of_the_table_is_counted_somewhere() -> None:
    """A row of the table that no code counts would be a feature that can never be available."""
    python = TERSE + LOOSE + (
        "@d\nclass Ab:\n    def __init__(self):\n        self._x = 1\n\nfrom .a import b, c\nimport d\nassert (e := d)\n"
        "with f as g:\n    h = lambda i: 1 if i else 2\ntry:\n    raise E\nexcept E:\n    pass\n"
    )  # fmt: skip
    script = SCRIPT.format(i=1).replace("async foo", "const q = async function foo") + (
        "import {{a, b}} from './x'; const c = require('y'); class Dd {{ #p = 1 }}\nlet e = 'a' + b; // behind\nvar f = [\n1,\n];\n"
        "for (const g of h) {{ if (g == 1) f.x = 2; else throw g }}\ntry {{ }} catch (z) {{ }}"
    ).format()  # fmt: skip
    found: dict[str, int] = {}
    for language, text in (("python", python.format(i=1)), ("javascript", script), ("typescript", script)):
        seen = features([text], language, parse)  # type: ignore[arg-type]
        assert seen is not None
        for one in seen.features:
            found[one.name] = max(found.get(one.name, 0), one.n)
    assert [row.name for row in FEATURES if not found.get(row.name)] == []


def test_broken_code_counts_where_it_is_sound() -> None:
    sound = TERSE.format(i=1)
    answer = f"Sure! Here is the function you asked for:\n\n{sound}\n\ndef broken(a, = :\n"
    found = features([answer] * 10, "python", parse)
    assert found is not None
    assert 0.05 < found.broken < 0.9
    assert found.value("type.returns") is not None
    nothing = features(["((((", "%%%", ""], "python", parse)
    assert nothing is not None
    assert nothing.broken > 0.5
    assert all(one.value is None for one in nothing.features)


def test_what_fences_hold_is_the_code_and_text_is_no_language() -> None:
    assert code_of("Sure:\n```python\nx = 1\n```\nDone") == "x = 1\n"
    assert code_of("```\nx = 1\n") == "x = 1\n"
    assert code_of("x = '```'\n") == "x = '```'\n"
    assert features(["words"], "text", parse) is None


def test_too_few_are_no_feature() -> None:
    found = features(texts(TERSE, LEAST["share"] - 1), "python", parse)
    assert found is not None
    assert found.value("docstring.rate") is None
    assert next(one.n for one in found.features if one.name == "docstring.rate") == LEAST["share"] - 1


def test_a_distance_is_zero_to_itself_the_same_both_ways_and_of_one_language() -> None:
    terse, loose = profile(TERSE), profile(LOOSE)
    assert distance(terse, terse) == 0.0
    assert distance(terse, loose) == distance(loose, terse)
    assert 0.5 < (distance(terse, loose) or 0) <= style.FARTHEST
    assert distance(terse, profile(SCRIPT, "javascript")) is None


def test_the_scales_are_measured_and_named() -> None:
    for language in ("python", "javascript", "typescript"):
        known = [width for width in scales(language) if width is not None]
        assert len(known) > 0.6 * len(features_of(language)), language
        assert min(known) > 0
        assert "people who wrote" in style.scale_source(language)


def sides(person: list[str], base: list[str], block: list[str]) -> Sides:
    made = [count(each, "python", parse) for each in (person, base, block)]
    assert all(made)
    return Sides(*made)  # type: ignore[arg-type]


def test_the_base_again_is_exactly_zero_and_the_person_exactly_one() -> None:
    person, base = texts(TERSE), texts(LOOSE)
    zeros = capture(sides(person, base, base))
    assert (zeros.value, zeros.ci95) == (0.0, (0.0, 0.0))
    assert capture(sides(person, base, person)).value == 1.0
    half = capture(sides(person, base, [*person[:10], *base[10:]]))
    assert half.ci95 is not None
    assert 0.0 < half.ci95[0] < (half.value or 0) < half.ci95[1] < 1.0
    farther = [text.replace("    ", "            ").replace("number", "aVeryLongNameOfANumber") for text in base]
    assert (capture(sides(person, base, farther)).value or 0) < 0.0


def test_no_distance_no_capture() -> None:
    same = texts(TERSE)
    assert "no distance" in capture(sides(same, same, texts(LOOSE))).how
    assert "features" in capture(sides(["x = 1\n"] * 9, ["y = 1\n"] * 9, ["z = 1\n"] * 9)).how


def test_moves_are_named_with_their_figures_and_noise_is_not() -> None:
    person, base = texts(TERSE), texts(LOOSE)
    found = {one.feature: one for one in moves(sides(person, base, person), 0)}
    typed = found["type.arguments"]
    assert typed.words == "type hints on 67 % of arguments (base 0 %, person 67 %)"
    assert (typed.n, typed.move > 0, typed.ci95[0] > 0) == ((60, 40, 60), True, True)
    assert found["function.lines"].words == "shorter functions: 6.0 lines (base 15.0, person 6.0)"
    away = {one.feature: one for one in moves(sides(person, person, base), 0)}
    assert "away from the person" in away["type.arguments"].words
    assert away["type.arguments"].move < 0
    draw = np.random.default_rng(0)
    mixed = [person[i] if draw.random() < 0.5 else base[i] for i in range(20)]
    other = [person[i] if draw.random() < 0.5 else base[i] for i in range(20)]
    assert len(moves(sides(person, mixed, other), 0)) <= 2


def test_consistency_is_higher_for_code_that_is_alike() -> None:
    alike, mixed = (
        consistency(texts(LOOSE), "python", parse),
        consistency([*texts(LOOSE, 10), *texts(TERSE, 10)], "python", parse),
    )
    assert alike.value is not None
    assert mixed.value is not None
    assert alike.value > mixed.value
    assert alike.value == pytest.approx((1.0 + 3 / (1 + np.exp(-3.0))) / 4, abs=0.01)
    assert consistency(texts(TERSE, 3), "python", parse).status == "not_available"


def test_a_formatter_takes_layout_away() -> None:
    one, other = "def f( a,b ):\n  return { 'x':a,\n   'y':b, }\n", 'def f(a, b):\n\treturn {"x": a, "y": b}\n'
    assert (
        formatted("python", one, parse)
        == formatted("python", other, parse)
        == 'def f(a, b):\n    return {"x": a, "y": b}\n'
    )
    assert formatted("python", "x  =  1\nfor y in (", parse) == "x = 1\n"
    assert formatted("python", "def f(:", parse) is None
    assert formatted("python", "x = " + "[" * 900 + "]" * 900, parse) is None
    assert formatter("javascript") is None


def pair(i: int, text: str) -> Pair:
    made = make_pair(
        span(i), Instruction(form="whole", text=f"Write {i}.", completion_start=span(i).start), "holdout", REPOSITORY, "Ada", "fake"
    )  # fmt: skip
    return made.model_copy(update={"completion": text})


class Answering(FakeEngine):
    """Answers every prompt with a text: one through an adapter, another without."""

    def __init__(self, base: Sequence[str], block: Sequence[str]) -> None:
        super().__init__()
        self.texts = {False: base, True: block}
        self.asked: list[SampleRequest] = []

    async def sample(self, request: SampleRequest):  # type: ignore[no-untyped-def, override]
        self.asked.append(request)
        number = int(request.messages[-1].content.split()[-1].strip("."))
        yield SampleChunk(text=self.texts[bool(request.layers)][number])
        yield SampleChunk(finish="stop")


def test_the_instrument_asks_both_alike_and_says_what_it_found() -> None:
    person, base = texts(TERSE, 24), texts(LOOSE, 24)
    pairs = [pair(i, text) for i, text in enumerate(person)]

    def examined(block: list[str], **changes: int) -> tuple[Answering, dict[str, float | None]]:
        engine = Answering(base, block)
        found = anyio.run(lambda: examine_style(engine, "a", pairs, parse, **changes))
        assert found.style is not None
        assert tuple(sorted(found.measures)) == tuple(sorted(style_capture.MEASURES))
        return engine, {name: one.value for name, one in found.measures.items()}

    engine, zeros = examined(base)
    assert [zeros[name] for name in ("style.capture", "style.capture.formatted")] == [0.0, 0.0]
    assert zeros["style.distance.base"] == zeros["style.distance.block"]
    own = [one.model_copy(update={"layers": ()}) for one in engine.asked if one.layers]
    assert sorted(map(repr, own)) == sorted(repr(one) for one in engine.asked if not one.layers)
    assert examined(person)[1]["style.capture"] == 1.0
    assert examined(person, seed=3)[1] == examined(person, seed=3)[1]


def test_what_cannot_be_counted_says_why() -> None:
    few = [pair(i, text) for i, text in enumerate(texts(TERSE, 5))]
    given = [one.model_copy(update={"language": "text"}) for one in few]
    for pairs, lent, words in (
        (few, parse, "only 5 hold-out pairs"),
        (given, parse, "no code in a language"),
        (few, None, "no parser"),
    ):
        found = anyio.run(lambda p=pairs, t=lent: examine_style(FakeEngine(), "a", p, t))
        assert found.style is None
        assert {one.status for one in found.measures.values()} == {"not_available"}
        assert all(words in one.how for one in found.measures.values())


def test_answers_that_are_not_code_have_no_style() -> None:
    pairs = [pair(i, text) for i, text in enumerate(texts(TERSE, 20))]
    engine = Answering(texts(LOOSE, 20), ["(((( no code at all, sorry! %%"] * 20)
    found = anyio.run(lambda: examine_style(engine, "a", pairs, parse))
    assert found.style is None
    assert "of the block's answers cannot be read as python" in found.measures["style.capture"].how
    assert (found.measures["style.broken.block"].value or 0) > 0.5
    assert found.measures["style.broken.base"].value == 0.0
    assert found.measures["style.consistency"].value is not None


def test_the_pairs_that_are_asked_are_drawn_and_bounded() -> None:
    pairs = [pair(i, text) for i, text in enumerate(texts(TERSE, 90))]
    language, chosen, rest = chosen_pairs(pairs, 1)
    assert (language, len(chosen), len(rest)) == ("python", style_capture.PROMPTS, style_capture.PROMPTS)
    assert not {one.id for one in chosen} & {one.id for one in rest}
    assert [one.id for one in chosen] != [one.id for one in chosen_pairs(pairs, 2)[1]]


def test_counts_of_nothing() -> None:
    empty = count([], "python", parse)
    assert isinstance(empty, Counts)
    assert empty.profile().broken == 0.0


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/style.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w.]+)` \| (share|mean|spread)", page, re.MULTILINE)
    assert listed == [(row.name, row.kind) for row in FEATURES]
    assert all(f"`{name}`" in page for name in style_capture.MEASURES)


@pytest.mark.parametrize("language", ["python", "javascript", "typescript"])
def test_code_as_deep_as_a_text_may_be_is_counted(language: Language) -> None:
    """Once each node asked the tree for its parent, which takes minutes here."""
    for text in ("x = " + "[" * 3900 + "]" * 3900, "f(" * 2600 + ")" * 2600, "(" * 8000, "a" + ".b" * 3900):
        found = features([text] * 3, language, parse)
        assert found is not None
        assert found.bytes > 0
