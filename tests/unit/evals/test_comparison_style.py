"""Style beside style: whoever writes like a person is nearer to them, equal answers are equally near, and little text says nothing."""

from __future__ import annotations

import pytest

from clonedna.core.comparison import Answer, SideBySide
from clonedna.core.work import Instruction, Pair
from clonedna.evals.comparison_style import style_measures
from clonedna.mint.instruct import make_pair
from clonedna.sources.languages import parse
from tests.values import ADA, REPOSITORY, span

TERSE = """def {name}(rowCount, cellWidth):
  if not rowCount: return None
  totalWidth = rowCount*cellWidth; nextRow = 'row %d' % rowCount
  for eachCell in range(rowCount):
    print('cell', eachCell); totalWidth += cellWidth
  return totalWidth, nextRow
"""
CAREFUL = '''def {name}(row_count: int, cell_width: int = 1) -> tuple[int, str]:
    """How wide all rows are together, and what the next one is called."""
    # Rows of no width are not drawn at all.
    if row_count < 1:
        raise ValueError("there is no row to draw")

    total_width = sum(cell_width for _ in range(row_count))
    next_row = f"row {row_count}"
    return total_width, next_row
'''


def held(style: str, first: int, n: int = 10) -> list[Pair]:
    made: list[Pair] = []
    for i in range(first, first + n):
        one = span(i)
        pair = make_pair(
            one,
            Instruction(form="whole", text="Write it.", completion_start=one.start),
            "holdout",
            REPOSITORY,
            ADA.name,
            "fake",
        )
        made.append(pair.model_copy(update={"completion": style.replace("{name}", f"width_{i}")}))
    return made


def asked(a: str, b: str, n: int = 10) -> list[SideBySide]:
    def answer(style: str, i: int) -> Answer:
        return Answer(text="```python\n" + style.replace("{name}", f"made_{i}") + "```\n", tokens=9, finish="stop")

    base = Answer(text="def area(x):\n    return x\n", tokens=9, finish="stop")
    return [
        SideBySide(prompt=f"task {i}", of=("a", "b")[i % 2], language="python", a=answer(a, i), b=answer(b, i), base=base)
        for i in range(n)
    ]  # fmt: skip


def test_each_like_its_own_person_is_nearer_and_surely_so() -> None:
    found = style_measures(asked(TERSE, CAREFUL), held(TERSE, 0), held(CAREFUL, 50), parse)
    for person in ("person_a", "person_b"):
        near = found[f"style.nearer.{person}"]
        assert (near.status, near.n) == ("measured", 10)
        assert (near.ci95 or (0, 0))[0] > 0
    assert (found["style.a.person_a"].value or 0) < (found["style.b.person_a"].value or 0)
    assert (found["style.answers"].value or 0) > 0.5
    turned = style_measures(asked(CAREFUL, TERSE), held(TERSE, 0), held(CAREFUL, 50), parse)
    assert turned["style.nearer.person_a"].value == pytest.approx(-(found["style.nearer.person_a"].value or 0))
    assert (turned["style.nearer.person_a"].ci95 or (0, 0))[1] < 0


def test_equal_answers_are_equally_near() -> None:
    found = style_measures(asked(TERSE, TERSE), held(TERSE, 0), held(CAREFUL, 50), parse)
    assert found["style.answers"].value == 0
    assert (found["style.nearer.person_a"].value, found["style.nearer.person_a"].ci95) == (0, (0, 0))
    assert found["style.a.person_b"].value == found["style.b.person_b"].value


def test_what_cannot_be_told_is_not_available() -> None:
    mine, theirs = held(TERSE, 0), held(CAREFUL, 50)
    cases = [
        (style_measures(asked(TERSE, CAREFUL, 7), mine, theirs, parse), "7 prompts"),
        (style_measures(asked(TERSE, CAREFUL), mine, theirs, None), "no parser"),
        (style_measures([], mine, theirs, parse), "no prompt of held-out work"),
    ]
    for found, why in cases:
        assert all(m.value is None and why in m.how for m in found.values())
        assert "style.base_b.person_b" not in found
    nobody = style_measures(asked(TERSE, CAREFUL), mine, [], parse)
    assert nobody["style.nearer.person_b"].status == "not_available"
    assert nobody["style.nearer.person_a"].status == "measured"
