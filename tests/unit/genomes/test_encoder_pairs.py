"""What the encoder's adapter is trained on: whole, in its form, and not copied from what it is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clonedna.genomes.retrieval_set import content, retrieval_set

FOLDER = Path(__file__).parents[3] / "tools" / "encoder_pairs"
ROWS = [json.loads(line) for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
RUN = 4  # content words in a row


def runs(text: str) -> set[tuple[str, ...]]:
    words = content(text)
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def test_every_line_has_its_form() -> None:
    assert len(ROWS) >= 2000
    assert len({one["text"] for one in ROWS}) == len(ROWS)
    for one in ROWS:
        assert set(one) == {"text", "form", "short", "said"}
        assert one["form"] in ("terse", "line", "sentences")
        assert (len(one["short"]), len(one["said"])) == (2, 4)
        assert all(text.strip() and len(text) <= 400 for text in (one["text"], *one["short"], *one["said"]))


def test_no_topic_is_a_domain_that_is_held_out() -> None:
    held = {one.domain for one in retrieval_set().layers if one.split == "test"}
    assert len(held) == 8
    assert not held & {path.stem for path in FOLDER.glob("*.jsonl")}


@pytest.mark.parametrize("split", ["test", "dev"])
def test_nothing_is_copied_from_the_retrieval_set(split: str) -> None:
    held = retrieval_set()
    known = {
        run: one.text
        for one in held.requests
        if one.split == split and one.kind == "paraphrase"
        for run in runs(one.text)
    }
    assert known
    for one in ROWS:
        for text in one["said"]:
            assert not (same := runs(text) & known.keys()), [(text, known[run]) for run in same]
