"""The bundled lab and the card that is fitted from it: whole, measured as it says, and the same when anybody fits it again."""

from __future__ import annotations

import json
from functools import cache

import pytest

from clonedna.core.errors import Corrupt
from clonedna.engine.hashed import HashedEncoder
from clonedna.genomes.calibration import bundled, expected_error, predict
from clonedna.genomes.fitting import Fitted
from clonedna.genomes.lab import Asked, bar_in, bundled_lab, lab_queries, measured, outcomes_of, read_lab
from tests.unit.genomes.test_retrieval_set import content, longest_run
from tools import fit_calibration


@cache
def hashed() -> tuple[tuple[Asked, ...], Fitted]:
    """With the features that texts give, and behind them with queries."""
    plain, queried = (outcomes_of(bundled_lab(), HashedEncoder(), queried=one) for one in (False, True))
    return plain + queried, fit_calibration.fitted_to(bundled_lab(), plain + queried)


def test_every_request_was_measured_with_its_own_block_and_others_on_the_same_exemplars() -> None:
    lab = bundled_lab()
    names = {one.name for one in lab.blocks}
    assert len(names) == len(lab.blocks) >= 25
    assert len({one.domain for one in lab.blocks}) >= 8
    for one in lab.requests:
        assert one.block in one.through
        assert names >= one.through.keys()
        assert len(one.through) >= 5
        assert len(one.base) >= 6
        assert {len(nats) for nats in one.through.values()} == {len(one.base)}


def test_similarity_in_the_lab_is_the_formula() -> None:
    lab = bundled_lab()
    bar, found = bar_in(lab), measured(lab)
    assert bar.gain is not None
    for one in lab.requests:
        base, tokens = sum(n for n, _ in one.base), sum(t for _, t in one.base)
        for name, nats in one.through.items():
            wanted = max(base - bar.pass_at(base / tokens) * tokens, 0.1 * bar.gain * base)
            value = found[one.block, name].value
            assert value == pytest.approx(min(1.0, max(0.0, (base - sum(nats)) / wanted)), abs=1e-9)


def test_own_blocks_bring_more_than_blocks_of_other_domains() -> None:
    lab, found = bundled_lab(), measured(bundled_lab())
    domain = {one.name: one.domain for one in lab.blocks}
    own = [found[name, name].value or 0.0 for name in domain]
    far = [one.value or 0.0 for (asked, name), one in found.items() if domain[asked] != domain[name]]
    assert sum(own) / len(own) > 2 * sum(far) / len(far)


def test_where_the_domain_is_absent_none_of_its_blocks_is_an_outcome() -> None:
    lab = bundled_lab()
    domain = {one.name: one.domain for one in lab.blocks}
    asked = hashed()[0]
    assert {one.pool for one in asked} == {"lab", "library"}
    assert {one.wording for one in asked} == {"short", "paraphrase"}
    assert all(not one.right for one in asked if not one.present)
    assert any(one.right for one in asked if one.present)
    assert len({one.outcome.domain for one in asked}) == len(set(domain.values()))


def test_the_bundled_card_is_what_the_lab_gives_and_its_figures_are_of_held_out_domains() -> None:
    asked, fitted = hashed()
    card = bundled()[HashedEncoder().name]
    assert (card.n, card.domains, card.encoder) == (fitted.card.n, fitted.card.domains, fitted.card.encoder)
    for one in asked:
        both = [
            predict(each, one.outcome.encoder, one.outcome.dimension, one.outcome.features)
            for each in (card, fitted.card)
        ]
        assert both[0].value == pytest.approx(both[1].value, abs=1e-3)
        assert both[0].low == pytest.approx(both[1].low, abs=1e-3)
    assert card.ece.value == pytest.approx(
        expected_error(fitted.held_out, [one.outcome.value for one in asked]), abs=1e-3
    )
    aims = {one.name: one for one in card.aims}
    half = len(outcomes_of(bundled_lab(), HashedEncoder()))
    made = fit_calibration.aims_of(bundled_lab(), asked[:half], fitted.held_out[:half])
    made += fit_calibration.aims_of(bundled_lab(), asked[half:], fitted.held_out[half:], "with queries: ")
    for one in made:
        assert aims[one.name].measured.value == pytest.approx(one.measured.value, abs=0.02)
        assert aims[one.name].measured.n == one.measured.n
    assert all(one.measured.value is not None for one in card.aims)


def test_there_is_a_card_for_each_encoder_that_comes_with_the_program() -> None:
    found = bundled()
    assert len(found) == len(fit_calibration.ENCODERS)
    assert all(one.base_fingerprint == bundled_lab().base_fingerprint for one in found.values())
    assert all(one.gain is not None for one in found.values())


def test_queries_of_the_lab_s_blocks_are_in_words_that_its_requests_do_not_copy() -> None:
    lab, queries = bundled_lab(), {one.layer: one.queries for one in lab_queries()}
    assert queries.keys() == {one.name for one in lab.blocks}
    for one in lab.requests:
        for asked, most in ((content(one.short), 2 / 3), (content(one.paraphrase), 0.35)):
            for told in map(content, queries[one.block]):
                assert longest_run(asked, told) < 3, one.block
                assert len(set(asked) & set(told)) <= most * len(set(asked)), one.block


def test_what_is_no_lab_is_refused() -> None:
    told = bundled_lab().model_dump(mode="json")
    for bad in (b"", b"{", b"[]", json.dumps(told | {"format": "dna-lab/9"}).encode(), b" " * 5_000_000):
        with pytest.raises(Corrupt):
            read_lab(bad)


def test_a_lab_without_two_specialists_measures_nothing() -> None:
    lab = bundled_lab()
    with pytest.raises(Corrupt, match="are needed to say what a pass is"):
        measured(lab.model_copy(update={"blocks": lab.blocks[:1]}))
