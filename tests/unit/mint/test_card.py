"""The model card: what the Hub reads of it, what a reader sees, whose names stay names; its pictures."""

from __future__ import annotations

import re
import struct

import pytest
from huggingface_hub import ModelCard

from clonedna.core.block import (
    EvalSpan,
    Evaluation,
    GateVerdict,
    GivenFile,
    GivenPairs,
    Measure,
    MintOrder,
    not_available,
)
from clonedna.core.fakes import FakeConsents, FakeEngine
from clonedna.core.style import StyleFeature, StyleMove, StyleProfile, StyleReport
from clonedna.core.work import Instruction
from clonedna.evals.style_table import features_of
from clonedna.mint.instruct import make_pair
from clonedna.mint.papers import Draft, papers
from clonedna.mint.plots import HOLDOUT, STYLE, TRAINING, gains, plots, style_rows
from tests.values import ADA, REPOSITORY, span

NAMES = ("Ada Example", "山田 太郎", "<img src=x onerror=1> | `a` [b](http://c) $\\frac{1}{2}$")


def profile(value: float) -> StyleProfile:
    rows = features_of("python")
    return StyleProfile(
        language="python", texts=32, bytes=4000, broken=0.0,
        features=tuple(StyleFeature(name=row.name, value=value * (10 if row.kind != "share" else 1), n=40) for row in rows),
    )  # fmt: skip


def report(moves: bool) -> StyleReport:
    move = StyleMove(
        feature="function.lines", unit="lines", person=6.5, base=12.0, block=7.1, n=(30, 31, 32), move=0.9, ci95=(0.3, 1.2),
        words="shorter functions: 7.1 lines (base 12.0, person 6.5)",
    )  # fmt: skip
    return StyleReport(
        language="python", prompts=32, cut=(3, 4), person=profile(0.6), base=profile(0.2), block=profile(0.5), base_distance=1.0,
        block_distance=0.6, compared=("function.lines",), scale="spread between people", moves=(move,) if moves else (),
    )  # fmt: skip


def evaluation(spans: int = 12, style: StyleReport | None = None, **changes: Measure) -> Evaluation:
    def measured(value: float) -> Measure:
        return Measure(
            value=value, status="measured", n=spans, split="holdout", how="a | test", ci95=(value - 0.1, value + 0.1)
        )

    names = (
        "nll.base", "nll.adapter", "nll.delta", "perplexity_reduction_ratio", "bits_per_byte.base", "bits_per_byte.adapter", "forgetting",
        "memorisation.rate", "memorisation.excess", "style.capture",
    )  # fmt: skip
    return Evaluation(
        measures={name: measured(0.1 * i) for i, name in enumerate(names)} | changes,
        spans=tuple(EvalSpan(pair=str(i), tokens=10, bytes=30, base=20.0, adapter=20.0 + (i - 8)) for i in range(spans)),
        losses=(2.0, 1.5), validation_losses=(1.9, 1.8), style=style,
    )  # fmt: skip


def draft(author: str = "Ada Example", found: Evaluation | None = None, **changes: object) -> Draft:
    pairs = [
        make_pair(
            span(i),
            Instruction(form="whole", text="Write.", completion_start=span(i).start),
            "holdout",
            REPOSITORY,
            author,
            "fake",
        )
        for i in range(12)
    ]
    made = Draft(
        name="ada-example", author=author, order=MintOrder(target="/srv/ada/secret-place", authors=(ADA,)), base=FakeEngine().base,
        repository=REPOSITORY.model_copy(update={"name": author}), teacher="own-words", pairs=tuple(pairs), refusals=(), split_by="file",
        consent=FakeConsents().local_only((ADA,), REPOSITORY.url), evaluation=found or undrawn(evaluation()),
        verdict=GateVerdict(status="accepted"),
        licence="MIT", general_pairs=4, general_source="rehearsal", tool_use_pairs=2, epochs=2,
    )  # fmt: skip
    return made.model_copy(update=changes)


def undrawn(found: Evaluation) -> Evaluation:
    """Without what pictures are drawn of: drawing takes time."""
    return found.model_copy(update={"spans": (), "losses": (), "validation_losses": ()})


def card_of(made: Draft) -> str:
    return papers(made)["README.md"].decode()


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_reads_the_card_and_its_results(name: str) -> None:
    """``ModelCard.validate`` asks the Hub over the network; what is checked here is all that it parses: the YAML and the model index."""
    card = ModelCard(card_of(draft(name)), ignore_metadata_errors=False)
    assert (card.data.library_name, card.data.base_model, card.data.license) == ("peft", "fake", "mit")
    assert {"lora", "base_model:adapter:fake"} <= set(card.data.tags or [])
    assert card.data.model_name == "ada-example"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    assert set(found) == {
        "nll_delta",
        "perplexity_reduction_ratio",
        "forgetting",
        "memorisation_excess",
        "style_capture",
    }
    assert found["nll_delta"] == pytest.approx(0.2)


def test_what_was_not_measured_is_no_result_and_says_why() -> None:
    gone = {name: not_available("there was no code") for name in ("style.capture", "memorisation.excess")}
    text = card_of(draft(found=undrawn(evaluation(**gone))))  # type: ignore[arg-type]
    found = {result.metric_type for result in ModelCard(text).data.eval_results or []}
    assert "style_capture" not in found
    assert "Not available: there was no code." in text
    assert text.count("there was no code") >= 4


@pytest.mark.parametrize("name", NAMES)
def test_names_are_inert_and_no_path_of_this_machine_is_told(name: str) -> None:
    text = card_of(draft(name, undrawn(evaluation(style=report(True)))))
    assert not re.search(r"(?<!\\)[<$`]\s*(img|\\\\frac|a`)", text.split("## Use")[0])
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert "secret-place" not in text
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 5) for row in text.splitlines() if row.startswith("|"))


def test_every_measure_stands_in_the_card_with_how_it_was_made() -> None:
    extra = {"brand.new": Measure(value=3.25, status="estimated", n=7, how="by *counting*")}
    text = card_of(draft(found=undrawn(evaluation(**extra))))  # type: ignore[arg-type]
    assert r"| brand.new | 3.2500 (estimated) | n = 7 | by \*counting\* |" in text
    assert text.count(r"| a \| test |") == 10


def test_the_card_shows_the_pictures_that_are_there_by_relative_links() -> None:
    made = papers(draft(found=evaluation(style=report(True))))
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", made["README.md"].decode())
    assert sorted(links) == sorted(name for name in made if name.endswith(".png")) == [HOLDOUT, STYLE, TRAINING]
    assert "shorter functions\\: 7.1 lines (base 12.0, person 6.5)" in made["README.md"].decode()
    bare = papers(draft())
    assert not [name for name in bare if name.endswith(".png")]
    assert "![" not in bare["README.md"].decode()


def test_pictures_are_the_same_bytes_for_the_same_figures_and_others_for_others() -> None:
    first, again = plots(evaluation(style=report(True))), plots(evaluation(style=report(True)))
    assert first == again
    other = plots(evaluation(11, style=report(False)))
    assert set(other) == set(first)
    assert other[HOLDOUT] != first[HOLDOUT]
    assert other[STYLE] != first[STYLE]
    for data in first.values():
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert 600 < width < 2400
        assert 300 < height < 1800
        assert len(data) < 400_000


def test_what_the_pictures_show() -> None:
    assert gains(evaluation().spans)[0] == pytest.approx(0.8)
    assert gains(evaluation().spans)[-1] == pytest.approx(-0.3)
    assert [row[0].name for row in style_rows(report(True))] == ["function.lines"]
    assert len(style_rows(report(False))) == 10


def test_a_block_of_given_examples_has_a_card_too() -> None:
    given = GivenPairs(training=GivenFile(sha256="a" * 64, name="<b>.jsonl", bytes=9), licence="MIT")
    gone = {"style.capture": not_available("the hold-out holds no code in a language whose style is counted")}
    text = card_of(draft(found=undrawn(evaluation(**gone)), repository=None, given=given))  # type: ignore[arg-type]
    assert "Not available: the hold-out holds no code" in text
    assert "as stated by the giver" in text
    assert ModelCard(text, ignore_metadata_errors=False).data.model_name == "ada-example"


def test_a_package_is_no_person_and_a_next_version_says_of_what() -> None:
    package = REPOSITORY.model_copy(update={"url": "pkg:pypi/abacus@1.0", "name": "abacus"})
    text = card_of(draft("abacus", repository=package))
    assert "the code of the installed package abacus" in text
    assert "wrote in" not in text
    assert "The next version" not in text
    order = MintOrder(target="nowhere", authors=(ADA,), continues="d" * 64)
    assert f"The next version of block `{'d' * 64}`" in card_of(draft(order=order))
