"""The text that stands for a block in an index: words of its own code, no counts, nothing from what was held out."""

from __future__ import annotations

from clonedna.core.work import Licence, Repository
from clonedna.mint.capability import capability_text
from tests.values import pair


def part(name: str, said: str = "") -> Repository:
    return Repository(
        name=name, url=f"local:{name}", commit="c", committed_at="", licence=Licence(spdx=None, how="none"), commits=1, description=said
    )  # fmt: skip


def test_it_names_what_the_code_is_about() -> None:
    pairs = [
        pair(name, "x = 1\n") for name in ("parse_header", "HeaderWriter", "test_header", "socketPool", "open_socket")
    ]
    assert capability_text(pairs, ("python",), part("abacus")) == "python. works on header, socket. from abacus"


def test_words_of_every_sentence_say_nothing_also_where_names_are_sentences() -> None:
    pairs = [pair(f"test_what_{n}_beads_are_and_which_the_others_will_not_be", "x = 1\n") for n in "ab"]
    assert capability_text(pairs, ()) == "works on beads, others"


def test_what_the_projects_say_of_themselves_ends_it() -> None:
    pairs = [pair(name, "x = 1\n") for name in ("parse_header", "HeaderWriter")]
    assert capability_text(pairs, (), part("abacus", "Counts beads.")).endswith("from abacus. Counts beads")
    assert capability_text(pairs, (), part("abacus", "")).endswith("from abacus")
    # Of an account: the repositories that most training pairs are from, and none that has none.
    names = ("a", "b", "b", "c", "c", "c", "d", "d", "d", "d")
    own = [
        one.model_copy(update={"provenance": one.provenance.model_copy(update={"url": f"local:{name}"})})
        for number, name in enumerate(names)
        for one in [pair(f"parse_{number}", "x = 1\n")]
    ]
    account = part("ada", "").model_copy(update={"parts": tuple(part(name, f"Is {name}.") for name in "abcde")})
    assert capability_text(own, (), account).endswith("from ada. Is d. Is c. Is b")


def test_the_libraries_are_those_that_training_code_imports() -> None:
    code = "def run():\n    import numpy\n    import os\n    from abacus.core import x\n    from tool.a import y\n"
    pairs = [
        one.model_copy(update={"provenance": one.provenance.model_copy(update={"path": "tool/run.py"})})
        for one in (pair(f"run_{n}", code) for n in "ab")
    ]
    once = pair("once", "import pandas\n")
    held = [pair(f"held_{n}", "import torch\n", split="holdout") for n in "ab"]
    checked = [pair(f"seen_{n}", "import scipy\n", split="validation") for n in "ab"]
    told = capability_text([*pairs, once, *held, *checked], (), part("abacus"))
    assert told == "works on tool. uses numpy. from abacus"
    many = [pair(f"x{m}", f"import {'m' * 65}\n" + "".join(f"import lib{n}\n" for n in range(20))) for m in "ab"]
    assert capability_text(many, ()).count("lib") == 12
    assert "mmm" not in capability_text(many, ())


def test_what_was_held_out_or_given_tells_nothing() -> None:
    held = [pair(f"secret_{n}", "x = 1\n", split="holdout") for n in range(3)]
    given = [pair(f"given_{n}", "x = 1\n").model_copy(update={"form": "given"}) for n in range(3)]
    assert capability_text([*held, *given], ("python",)) == "python"
    assert capability_text((), ()) == ""


def test_it_depends_on_no_order_and_has_no_counts() -> None:
    pairs = [pair(f"{word}_{n}", "x = 1\n") for word in ("alpha", "beta", "gamma") for n in range(40)]
    made = capability_text(pairs, ())
    assert made == capability_text(pairs[::-1], ())
    assert not any(c.isdigit() for c in made)
    many = [pair(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}_x{m}", "x = 1\n") for n in range(100) for m in range(2)]
    assert len(capability_text(many, ()).split(", ")) == 24
