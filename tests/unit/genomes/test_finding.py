"""The measure of finding: small cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.fakes import FakeEncoder
from clonedna.genomes.finding import Shelf, auroc, by_skills, measured, one_way, place, share
from clonedna.genomes.needs import Reader
from clonedna.genomes.ranking import Ranked
from clonedna.genomes.retrieval_set import Kind, LayerText, Request, RetrievalSet, Split
from clonedna.genomes.taxonomy import load_taxonomy

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
    held = RetrievalSet(layers, tuple(requests), {one.id: (one.text,) for one in layers}, {})
    found = one_way(held, by_skills(Shelf(held, FakeEncoder()), Reader(load_taxonomy())))
    assert {name for name in found if "auroc" in name} == {"dev auroc", "test auroc"}
    assert found["test short R@1"].value == 1.0
    assert found["test short R@1"].split == "test"
    assert len(found) == 2 * (3 * 3 + 1 + 1)


def test_a_shelf_is_asked_as_an_index_is() -> None:
    texts = ("parses dates", "draws charts")
    layers = tuple(
        LayerText(id=f"l-{n}", text=text, languages=("python",), domain="web", split="dev", form="line")
        for n, text in enumerate(texts)
    )
    encoder, queries = FakeEncoder(), {"l-0": ("when is easter",), "l-1": ()}
    held = RetrievalSet(layers, (), {one.id: (one.text, "something else") for one in layers}, queries)
    shelf = Shelf(held, encoder)
    rows = encoder.encode(["parses dates", "something else"]).rows
    (first, second) = shelf.near(rows)
    mean, other = rows.mean(axis=0), encoder.encode([texts[1]]).rows[0]
    assert first.id == "l-0"
    assert first.text_cosine == pytest.approx(float(rows[0] @ mean), abs=1e-6)
    assert second.text_cosine == pytest.approx(float(other @ mean), abs=1e-6)
    assert first.centroid_cosine is not None
    assert first.centroid_cosine >= first.text_cosine - 1e-6  # its own text is among its exemplars
    assert [one.id for one in shelf.near(rows, only={"l-1"})] == ["l-1"]
    assert shelf.order(["draws charts"])[0].key == "l-1"
    assert shelf.order(["draws charts"], only=()) == ()
    easter = encoder.encode(["when is easter"]).rows
    found = [one.near(easter)[0].meaning_cosine for one in (shelf, Shelf(held, encoder, queried=True))]
    assert found[1] == pytest.approx(1, abs=1e-5)
    assert found[0] is None
    assert Shelf(held, encoder, queried=True).order(["when is easter"])[0].key == "l-0"
