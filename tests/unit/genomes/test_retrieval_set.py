"""The bundled retrieval set: it is whole, requests are not copied from what they look for, and a broken file is refused by its line."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from clonedna.core.errors import Corrupt
from clonedna.genomes import retrieval_set as module
from clonedna.genomes.retrieval_set import (
    MOST_SHARED,
    Exemplars,
    LayerText,
    Queries,
    Request,
    checked,
    content,
    copies,
    in_other_words,
    longest_run,
    read,
    retrieval_set,
    values,
)
from clonedna.sources.secrets import secret_in
from clonedna.teachers.answers import phrase


def test_a_run_of_words_is_found_wherever_it_stands() -> None:
    assert longest_run(list("xabcy"), list("zzabc")) == 3
    assert longest_run(list("ab"), list("ba")) == 1
    assert longest_run(list("ab"), []) == 0


def test_counts_and_splits() -> None:
    found = retrieval_set()
    assert len(found.layers) >= 320
    assert len(found.requests) >= 340
    domains = {one.domain: one.split for one in found.layers}
    assert len(domains) == 25
    assert 0.25 <= sum(split == "test" for split in domains.values()) / len(domains) <= 0.4
    forms = Counter(one.form for one in found.layers)
    assert min(forms.values()) >= 0.28 * len(found.layers)
    for kind, least in module.LEAST_REQUESTS.items():
        parts = [len(found.asked(kind, split)) for split in ("dev", "test")]
        assert sum(parts) == len(found.asked(kind)) >= least
        assert min(parts) >= 0.25 * sum(parts)
    assert sum(one.domain == module.ELSEWHERE for one in found.requests) >= 10


def test_each_form_is_what_it_says() -> None:
    for one in retrieval_set().layers:
        terse = one.text.startswith(f"{', '.join(one.languages)}. works on ") and ". from " in one.text
        assert terse == (one.form == "terse"), one.id
        if not terse:
            assert one.text.count(". ") == (one.form == "sentences"), one.id


def test_requests_are_in_words_of_their_own() -> None:
    layers = {one.id: one.text for one in retrieval_set().layers}
    for one in retrieval_set().requests:
        for key in one.wants:
            assert not copies(one.text, layers[key], MOST_SHARED[one.kind]), one.id


def test_exemplars_are_in_the_teacher_s_form_and_in_words_that_requests_do_not_copy() -> None:
    found = retrieval_set()
    for key, prompts in found.exemplars.items():
        assert 2 <= len(prompts) <= 3, key
        for prompt in prompts:
            assert re.fullmatch(
                r"(Write the .+ function `.+` for `.+`\.\n\nAbout|Change this .+ code in `.+`\.\n\nCommit): .+", prompt
            )
    told = {key: [content(one.rpartition(": ")[2]) for one in prompts] for key, prompts in found.exemplars.items()}
    for one in found.asked("paraphrase"):
        asked = content(one.text)
        for key in one.wants:
            assert max(longest_run(asked, words) for words in told[key]) < 3, one.id
            shared = set(asked) & {word for words in told[key] for word in words}
            assert len(shared) <= 0.35 * len(set(asked)), one.id


def test_few_queries_copy_a_request_for_their_layer_and_can_be_left_out() -> None:
    found, apart = retrieval_set(), in_other_words(retrieval_set())
    before, after = (sum(map(len, one.queries.values())) for one in (found, apart))
    assert 0.95 * before <= after < before
    assert all(apart.queries.values())
    for one in apart.requests:
        for query in (query for key in one.wants for query in apart.queries[key]):
            assert not copies(one.text, query, MOST_SHARED[one.kind]), one.id


def test_what_a_copy_is() -> None:
    assert copies("parsing binary log entries", "the entries of a log, binary", 0.6)
    assert not copies("parsing binary log entries", "binary things", 0.6)
    assert copies("render fast moving shadows of trees at night", "a rendering, fast and moving", 0.9)
    assert not copies("render fast moving shadows of trees at night", "a rendering that is moving fast", 0.9)


def test_queries_are_in_the_form_that_a_teacher_is_asked_for() -> None:
    for key, queries in retrieval_set().queries.items():
        assert 3 <= len(queries) <= 8, key
        assert len(set(queries)) == len(queries), key
        for query in queries:
            assert phrase(query, secret_in) == query, key
        assert any(len(query.split()) > 5 for query in queries), key


def test_short_requests_are_short_and_paraphrases_are_sentences() -> None:
    assert {len(one.text.split()) for one in retrieval_set().asked("short")} <= set(range(2, 7))
    assert min(len(one.text.split()) for one in retrieval_set().asked("paraphrase")) >= 8


def test_no_two_texts_are_nearly_the_same() -> None:
    for texts in (retrieval_set().layers, [one for one in retrieval_set().requests if one.kind != "short"]):
        made = [(one.id, set(content(one.text))) for one in texts]
        for at, (name, words) in enumerate(made):
            for other, others in made[:at]:
                assert len(words & others) <= 0.6 * len(words | others), (name, other)


def layer(number: int = 0, **more: Any) -> LayerText:
    given = {"id": f"a-{number}", "text": f"text {number}", "languages": ["C"], "domain": "one", "split": "dev"}
    return LayerText.model_validate(given | {"form": "line"} | more)


def request(**more: Any) -> Request:
    given = {"id": "q", "kind": "short", "text": "some thing", "wants": ["a-0"], "domain": "one", "split": "dev"}
    return Request.model_validate(given | more)


LAYERS = (layer(), layer(1), layer(2, domain="two", split="test"))


@pytest.mark.parametrize(
    ("layers", "requests", "told"),
    [
        ((layer(), layer(text="another")), (), "'a-0' is there twice"),
        ((layer(), layer(1, text="text 0")), (), "'text 0' is there twice"),
        ((layer(), layer(1, split="test")), (), "layer a-1: one is not a domain that is test as a whole"),
        ((layer(domain="elsewhere"),), (), "layer a-0: elsewhere"),
        (LAYERS, (request(), request(text="another")), "'q' is there twice"),
        (LAYERS, (request(wants=["a-7"]),), "request q: no layer is called a-7"),
        (LAYERS, (request(also=["a-8"]),), "request q: no layer is called a-8"),
        (LAYERS, (request(also=["a-0"]),), "request q: a layer is named twice"),
        (LAYERS, (request(wants=[]),), "kind short"),
        (LAYERS, (request(kind="two-skill"),), "kind two-skill"),
        (LAYERS, (request(kind="two-skill", wants=["a-0", "a-1"], also=["a-2"]),), "kind two-skill"),
        (LAYERS, (request(kind="absent"),), "kind absent"),
        (LAYERS, (request(domain="two"),), "what it wants is not in two"),
        (LAYERS, (request(kind="two-skill", wants=["a-0", "a-2"]),), "of the other split"),
        (LAYERS, (request(kind="absent", wants=[], split="test"),), "one is not test"),
        (LAYERS, (request(kind="absent", wants=[], domain="three"),), "three is not dev"),
        (LAYERS, (request(),), "too few: 3 layers, {'short': 1}"),
    ],
)
def test_what_does_not_fit_together_is_refused(layers: Any, requests: Any, told: str) -> None:
    prompts = tuple(Exemplars(layer=one.id, prompts=("a prompt",)) for one in layers)
    queries = tuple(Queries(layer=one.id, queries=("a query",)) for one in layers)
    with pytest.raises(Corrupt) as error:
        checked(layers, requests, prompts, queries)
    assert told in error.value.message


@pytest.mark.parametrize("named", [(), ("a-0", "a-1"), ("a-0", "a-1", "a-2", "a-2"), ("a-0", "a-1", "a-7")])
def test_every_layer_has_its_exemplars_and_queries_once(named: tuple[str, ...]) -> None:
    with pytest.raises(Corrupt, match="exemplars"):
        checked(LAYERS, (), tuple(Exemplars(layer=one, prompts=("a prompt",)) for one in named), ())
    prompts = tuple(Exemplars(layer=one.id, prompts=("a prompt",)) for one in LAYERS)
    with pytest.raises(Corrupt, match="queries"):
        checked(LAYERS, (), prompts, tuple(Queries(layer=one, queries=("a query",)) for one in named))


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", "{}", "[" * 100_000, json.dumps(layer().model_dump() | {"more": 1}),
     json.dumps(layer().model_dump() | {"id": "../up"}), json.dumps(layer().model_dump() | {"text": "x" * 1001})],
)  # fmt: skip
def test_a_line_that_is_no_layer_is_named(line: str) -> None:
    with pytest.raises(Corrupt) as error:
        values([json.dumps(layer().model_dump()), line], LayerText)
    assert "line 2 is no LayerText" in error.value.message


def test_files_are_bounded() -> None:
    with pytest.raises(Corrupt, match="bytes"):
        read(b"x" * (module.MOST_BYTES + 1), "layers")
    with pytest.raises(Corrupt, match="lines"):
        read(b"x\n" * (module.MOST_LINES + 1), "layers")
    with pytest.raises(Corrupt, match="UTF-8"):
        read(b"\xff", "layers")
