"""Words that are shared: rare ones count more, endings do not matter, and what has no words shares none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.genomes.rarity import Rarity, stem

TEXTS = {"a": "python http client", "b": "rust parsers", "c": "python tables in a terminal"}
some = st.lists(
    st.sampled_from(["tree", "parser", "queue", "kernel", "audio", "mesh", "python", "tables"]), max_size=5
).map(" ".join)


def overlap(asked: str, key: str, texts: dict[str, str] | None = None) -> float:
    return Rarity(TEXTS if texts is None else texts).sharing([asked])(key)


def test_rare_words_count_more_and_only_words_that_are_asked() -> None:
    rarity = Rarity(TEXTS)
    assert rarity.of("http") > rarity.of("python")
    assert rarity.of("python") == pytest.approx(math.log(4 / 3) + 1)
    assert overlap("rust parser", "b") == 1
    rare, common = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    assert overlap("python parser", "b") == pytest.approx(rare / (rare + common))
    assert overlap("kernel driver", "b") == 0


def test_what_has_no_words_or_is_not_there_shares_none() -> None:
    assert [overlap(asked, "b") for asked in ("", "!?")] == [0, 0]
    assert overlap("rust parser", "nobody") == 0
    assert Rarity(TEXTS).sharing([])("a") == 0
    assert overlap("anything", "a", {}) == 0


def test_words_that_say_nothing_count_nothing_where_there_are_others() -> None:
    assert overlap("who can write me a parser in rust?", "b") == 1


def test_of_several_texts_it_is_the_mean() -> None:
    both = Rarity(TEXTS).sharing(["rust parser", "kernel driver"])
    assert both("b") == 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [("parsers", "parsing"), ("queries", "query"), ("optimise", "optimisation"), ("sensors", "sensor")],
)
def test_endings_are_taken_off(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_short_words_stay_whole() -> None:
    assert [stem(word) for word in ("go", "css", "dns", "bed", "c", "aes")] == ["go", "css", "dns", "bed", "c", "aes"]


@given(some, some, some)
def test_a_share_is_one_and_more_of_the_asked_words_is_never_less(asked: str, text: str, more: str) -> None:
    without, having = overlap(asked, "z", TEXTS | {"z": text}), overlap(asked, "z", TEXTS | {"z": f"{text} {asked}"})
    assert 0 <= without <= having <= 1.000001
    assert having == (pytest.approx(1) if asked else 0)
