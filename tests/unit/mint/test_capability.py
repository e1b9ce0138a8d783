"""The text that stands for a block in an index: words of its own code, no counts, nothing from what was held out."""

from __future__ import annotations

from clonedna.core.block import DomainGain, Evaluation
from clonedna.mint.capability import capability_text
from tests.values import pair

MEASURED = {"n": 3, "gain": 0.1, "ci95": (0, 1), "passes": True}
EVALUATION = Evaluation(
    measures={},
    domains=(
        DomainGain(kind="library", name="requests", **MEASURED),
        DomainGain(kind="folder", name="src", **MEASURED),
    ),
)


def test_it_names_what_the_code_is_about() -> None:
    pairs = [
        pair(name, "x = 1\n") for name in ("parse_header", "HeaderWriter", "test_header", "socketPool", "open_socket")
    ]
    assert (
        capability_text(pairs, ("python",), EVALUATION, "abacus")
        == "python. works on header, socket. uses requests. from abacus"
    )


def test_what_was_held_out_or_given_tells_nothing() -> None:
    held = [pair(f"secret_{n}", "x = 1\n", split="holdout") for n in range(3)]
    given = [pair(f"given_{n}", "x = 1\n").model_copy(update={"form": "given"}) for n in range(3)]
    assert capability_text([*held, *given], ("python",), Evaluation(measures={}), "") == "python"
    assert capability_text((), (), Evaluation(measures={}), "") == ""


def test_it_depends_on_no_order_and_has_no_counts() -> None:
    pairs = [pair(f"{word}_{n}", "x = 1\n") for word in ("alpha", "beta", "gamma") for n in range(40)]
    made = capability_text(pairs, (), EVALUATION, "")
    assert made == capability_text(pairs[::-1], (), EVALUATION, "")
    assert not any(c.isdigit() for c in made)
    many = [pair(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}_x{m}", "x = 1\n") for n in range(100) for m in range(2)]
    assert len(capability_text(many, (), Evaluation(measures={}), "").split(", ")) == 24
