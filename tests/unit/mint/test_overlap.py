"""What stands on both sides is found, in whatever form; what does not, is not."""

from __future__ import annotations

import pytest

from clonedna.core.model import Message
from clonedna.core.work import Instruction, Pair, Split
from clonedna.evals.leakage import leakage
from clonedna.mint.instruct import make_pair
from clonedna.mint.overlap import apart, overlaps
from clonedna.mint.values import Taught
from tests.values import REPOSITORY, span


def pair(number: int, split: Split = "train", **changes: object) -> Pair:
    one = span(number)
    made = make_pair(
        one, Instruction(form="whole", text="t", completion_start=one.start), split, REPOSITORY, "Ada", "test"
    )
    return made.model_copy(update=changes)


TRAINED = [pair(i) for i in range(12)]
BODY = "".join(TRAINED[3].completion.splitlines(keepends=True)[2:-1])
RENAMED = TRAINED[5].completion.replace("alpha", "first").replace("return a", "return b").replace("(a, b)", "(b, a)")


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        (TRAINED[3].completion, "exact"),
        ("\n" + TRAINED[3].completion.replace("\n", "  \n") + "\n", "exact"),
        (TRAINED[3].completion.replace("return a", "return c"), "near"),
        (BODY, "contained"),
        (BODY[: len(BODY) // 2], "contained"),
        (TRAINED[3].completion + pair(40).completion + pair(41).completion, "contained"),
        (pair(40).completion, ""),
        ("return a\n", ""),
    ],
)
def test_how_an_answer_stands_among_others(completion: str, kind: str) -> None:
    assert overlaps([pair(99, completion=completion)], TRAINED) == (kind,)


def test_an_answer_that_a_training_prompt_shows_is_contained() -> None:
    shows = pair(20, form="change", instruction=f"Change this code.\n\n```python\n{pair(40).completion}```")
    assert overlaps([pair(40, "holdout")], [*TRAINED, shows]) == ("contained",)


def test_given_pairs_are_the_same_only_with_the_same_prompt() -> None:
    asked = {"form": "given", "messages": (Message(role="user", content="How many?"),)}
    given = pair(1, completion="Seven.", **asked)
    other = given.model_copy(update={"messages": (Message(role="user", content="How much?"),)})
    assert overlaps([given], [given]) == ("exact",)
    assert overlaps([other], [given]) == ("",)
    dressed = given.model_copy(update={"completion": TRAINED[3].completion})
    assert overlaps([dressed], TRAINED) == ("exact",), "another prompt does not hide a person's code"
    assert overlaps([dressed.model_copy(update={"completion": BODY})], TRAINED) == ("contained",)


def test_leakage_is_counted_and_named() -> None:
    held = [pair(40, "holdout"), pair(41, "holdout"), pair(3, "holdout"), pair(99, "holdout", completion=BODY)]
    found = leakage(held, TRAINED, overlaps)["leakage"]
    assert (found.value, found.n) == (0.5, 4)
    assert "1 exact" in found.how
    assert "1 contained" in found.how
    assert leakage(held, TRAINED, None)["leakage"].status == "not_available"


def test_a_mint_trains_on_nothing_that_gives_its_hold_out_away() -> None:
    shows = pair(20, form="change", instruction=f"Change this code.\n\n```python\n{pair(40).completion}```")
    held = [pair(40, "holdout"), pair(99, "holdout", completion=BODY), pair(50, "validation")]
    taught = Taught(by="file", pairs=(*TRAINED, shows, *held), refusals=(), teacher="test")
    clean = apart(taught)
    train = [one for one in clean.pairs if one.split == "train"]
    assert leakage(held, train, overlaps)["leakage"].value == 0.0
    assert len(train) == len(TRAINED) - 1
    assert {one.reason for one in clean.refusals} == {"held_out_duplicate"}
    assert [one for one in clean.pairs if one.split != "train"] == held
    untouched = Taught(by="file", pairs=(*TRAINED, pair(50, "holdout")), refusals=(), teacher="test")
    assert apart(untouched) is untouched
