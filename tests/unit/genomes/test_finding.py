"""The measure of finding: small cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.fakes import FakeEncoder
from clonedna.genomes.finding import auroc, by_ranking, known, measured, one_way, place, share
from clonedna.genomes.ranking import Ranked, Ranking
from clonedna.genomes.retrieval_set import Kind, LayerText, Request, RetrievalSet, Split

ORDER = tuple(
    Ranked(name, 1 - number / 10) for number, name in enumerate(("one", "two", "three", "four", "five", "six"))
)


def request(
    name: str, kind: Kind, wants: tuple[str, ...], split: Split = "test", text: str = "", domain: str = "web"
) -> Request:
    return Request(id=name, kind=kind, text=text or f"asks for {name}", wants=wants, domain=domain, split=split)


def test_places_and_shares() -> None:
    assert place(("three",), ORDER) == 3
    assert place(("nowhere",), ORDER) == float("inf")
    assert share(request("a", "short", ("five",)), ORDER) == 1
    assert share(request("a", "short", ("six",)), ORDER) == 0
    assert share(request("a", "two-skill", ("one", "six")), ORDER) == 0.5


def test_figures_of_one_kind() -> None:
    wanted = [request("a", "short", ("one",)), request("b", "short", ("two",)), request("c", "short", ("nowhere",))]
    found = measured(wanted, [ORDER] * 3)
    assert found["R@1"].value == pytest.approx(1 / 3)
    assert found["R@5"].value == pytest.approx(2 / 3)
    assert found["MRR"].value == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["R@1"].n == 3
    assert found["R@1"].ci95 is not None
    both = measured([request("a", "two-skill", ("one", "two")), request("b", "two-skill", ("one", "six"))], [ORDER] * 2)
    assert both["both@5"].value == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_auroc_is_the_share_of_pairs_in_order(present: list[float], absent: list[float]) -> None:
    told = auroc(present, absent).value
    assert told is not None
    pairs = [(p > a) + 0.5 * (p == a) for p in present for a in absent]
    assert told == pytest.approx(np.mean(pairs))
    turned = auroc(absent, present).value
    assert turned is not None
    assert told + turned == pytest.approx(1)


def test_every_figure_has_its_split() -> None:
    texts = ("parses dates", "draws charts", "sends mail", "reads music")
    layers = tuple(
        LayerText(
            id=f"l-{n}", text=text, languages=("python",), domain="web", split="dev" if n < 2 else "test", form="line"
        )
        for n, text in enumerate(texts)
    )
    requests: list[Request] = []
    for split, first in (("dev", 0), ("test", 2)):
        names = (f"l-{first}", f"l-{first + 1}")
        for kind, wants in (("short", names[:1]), ("paraphrase", names[1:]), ("two-skill", names), ("absent", ())):
            text = " and ".join(texts[int(one[-1])] for one in wants) or "bakes bread"
            requests.append(request(f"{split}-{kind}", kind, wants, split, text))  # type: ignore[arg-type]
    held = RetrievalSet(layers, tuple(requests), {one.id: (one.text,) for one in layers})
    encoder = FakeEncoder()
    ranking = Ranking(known(held, encoder))
    rows = encoder.encode([one.text for one in requests]).rows
    found = one_way(held, by_ranking(ranking, encoder), {one.id: row for one, row in zip(requests, rows, strict=True)})
    assert {name for name in found if "auroc" in name} == {"dev auroc", "test auroc"}
    assert found["test short R@1"].value == 1.0
    assert found["test short R@1"].split == "test"
    assert len(found) == 2 * (3 * 3 + 1 + 1)
