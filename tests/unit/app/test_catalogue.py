"""Searching by words and by meaning: what is found, what is never found, and that vectors are a cache that is made again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clonedna.app import meanings
from clonedna.app.blocks import Blocks
from clonedna.app.catalogue import Catalogue, asked, fused, pages
from clonedna.app.meanings import Meanings
from clonedna.app.settings import load_settings
from clonedna.core.block import Capability, Manifest
from clonedna.core.catalogue import ListQuery, SearchQuery
from clonedna.core.errors import BadConfig, InputError, Unavailable
from clonedna.core.fakes import FakeEncoder, FakeIndex
from clonedna.core.vectors import Vectors
from tests.serving import ServerParts, add_block
from tests.unit.store.making import rejected

SEEN = {
    "ada": "sends requests over http and retries them",
    "bob": "parses binary files",
    "cyd": "draws windows and buttons",
}


class Counting(FakeEncoder):
    """Knows how many texts it read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return super().encode(texts)


class Home:
    """A store, and a catalogue over it with an encoder that counts letters."""

    def __init__(self, path: Path) -> None:
        self.parts = ServerParts(path)
        self.encoder = Counting()
        self.parts.__dict__["encoder"] = self.encoder
        self.catalogue = Catalogue(self.parts)

    def add(self, name: str, told: str, **changes: Any) -> Manifest:
        capability = Capability(text=told)
        return add_block(self.parts, name, says=name, capability=capability, specialization=told, **changes)

    def find(self, *words: str, mode: str = "semantic", **fields: Any) -> list[str]:
        query = SearchQuery.model_validate({"q": " ".join(words), "mode": mode, **fields})
        return [one.block.name for one in self.catalogue.search(query).found]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    for name, told in SEEN.items():
        made.add(name, told)
    return made


def test_the_nearest_meaning_is_found_first(home: Home) -> None:
    assert home.find("parses files binary")[0] == "bob"
    found = home.catalogue.search(SearchQuery(q="parses binary files", mode="semantic"))
    assert (found.mode, found.encoder) == ("semantic", "letters@1")
    assert [one.score for one in found.found] == sorted((one.score for one in found.found), reverse=True)
    assert all(one.cosine == one.score for one in found.found)


def test_words_alone_ask_no_encoder(home: Home) -> None:
    found = home.catalogue.search(SearchQuery(q="windows or http", mode="text"))
    assert {one.block.name for one in found.found} == {"ada", "cyd"}
    assert (found.encoder, home.encoder.texts) == (None, [])
    assert all(one.cosine is None for one in found.found)


def test_both_orders_are_fused(home: Home) -> None:
    found = home.catalogue.search(SearchQuery(q="draws windows", mode="hybrid"))
    assert found.found[0].block.name == "cyd"
    assert {one.block.name for one in found.found} == set(SEEN)
    assert all(one.cosine is not None for one in found.found)


def test_fusing_counts_places_and_nothing_else() -> None:
    made = fused((("a", 900.0), ("b", 1.0)), (("b", 0.2), ("c", 0.1)))
    assert [block_id for block_id, _ in made] == ["b", "a", "c"]
    assert [score for _, score in made] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_only_what_may_be_used_is_found(home: Home) -> None:
    home.add("rex", "parses binary files too", gate=rejected())
    gone = home.add("zoe", "parses binary files again")
    assert home.find("parses binary files", mode="text").count("zoe") == 1
    home.find("parses binary files")
    home.parts.store.revoke(gone.id)  # type: ignore[attr-defined]
    for mode in ("text", "semantic", "hybrid"):
        for fields in ({}, {"licence": "MIT"}, {"status": "rejected"}):
            assert not {"rex", "zoe"} & set(home.find("parses binary files", mode=mode, **fields)), (mode, fields)


def test_filters_come_before_nearness(home: Home) -> None:
    home.add("far", "zzz", license="Apache-2.0")
    assert home.find("parses binary files", licence="Apache-2.0", limit=1) == ["far"]
    assert home.find("parses binary files", name="nobody") == []


def test_a_rejected_crowd_hides_nothing(home: Home) -> None:
    for number in range(9):
        home.add(f"r{number}", "http http", gate=rejected())
    assert set(home.find("http http", limit=3)) == set(SEEN)


def test_no_words_are_an_error(home: Home) -> None:
    with pytest.raises(InputError) as caught:
        home.catalogue.search(SearchQuery(q="  "))
    assert caught.value.hint
    assert home.find("???", mode="text") == []


def test_meanings_are_encoded_once_and_outlive_the_process(home: Home, tmp_path: Path) -> None:
    home.find("x")
    home.find("y")
    assert len(home.encoder.texts) == len(SEEN) + 2
    again = Home(tmp_path)
    assert again.find("http requests")[0] == "ada"
    assert len(again.encoder.texts) == 1


def test_new_blocks_are_found_and_removed_ones_leave_the_disk(home: Home, tmp_path: Path) -> None:
    home.find("x")
    made = home.add("dan", "sorts lists")
    assert home.find("sorts lists")[0] == "dan"
    Blocks(home.parts).remove("dan")
    assert "dan" not in home.find("sorts lists")
    files = list((tmp_path / "vectors").rglob("*.vec"))
    assert files
    assert not any(made.id.encode() in path.read_bytes() for path in files)


def test_damaged_vectors_are_made_again(home: Home, tmp_path: Path) -> None:
    home.find("x")
    for path in (tmp_path / "vectors").rglob("*.vec"):
        path.write_bytes(path.read_bytes()[:-1])
    again = Home(tmp_path)
    assert again.find("parses binary files")[0] == "bob"
    assert len(again.encoder.texts) == len(SEEN) + 1


def test_the_files_alone_rebuild_all(home: Home, tmp_path: Path) -> None:
    page, found = (
        home.catalogue.page(ListQuery()),
        {mode: home.find("http files", mode=mode) for mode in ("text", "semantic", "hybrid")},
    )
    for path in [*tmp_path.glob("registry.sqlite*"), *(tmp_path / "vectors").rglob("*.vec")]:
        path.unlink()
    again = Home(tmp_path)
    assert again.catalogue.page(ListQuery()).total == 0
    done = again.catalogue.reindex()
    assert (done.blocks, done.left_out, done.encoder, done.encoded) == (3, (), "letters@1", 3)
    assert again.catalogue.page(ListQuery()) == page
    assert {mode: again.find("http files", mode=mode) for mode in found} == found
    assert again.catalogue.reindex(vectors=False).encoder is None
    assert not list((tmp_path / "vectors").rglob("*.vec"))


def test_a_profile_is_searched(home: Home) -> None:
    assert set(home.find("Ada writes", mode="text")) == set(SEEN)  # profile.md of every test's block


def test_more_than_one_question_waits_for_goes_on_next_time(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(meanings, "AT_ONCE", 2)
    with pytest.raises(Unavailable) as caught:
        home.find("x")
    assert (caught.value.facts["retry_after"], bool(caught.value.hint)) == (1, True)
    assert set(home.find("x")) == set(SEEN)


class Lines:
    def __init__(self) -> None:
        self.told = {str(number): f"text {number}" for number in range(300)}

    def state(self) -> tuple[int, int]:
        return len(self.told), 300

    def meanings(self) -> dict[str, str]:
        return self.told

    def gone(self) -> frozenset[str]:
        return frozenset()


def test_threads_encode_each_text_once() -> None:
    encoder, index = Counting(), FakeIndex("letters@1", 27)
    made = Meanings(Lines(), encoder, index)
    threads = [threading.Thread(target=made.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encoder.texts) == len(index.keys()) == 300


def test_a_question_does_not_wait_for_another_ones_texts_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meanings, "WAIT", 0.01)
    made = Meanings(Lines(), FakeEncoder(), FakeIndex("letters@1", 27))
    made.refresh()
    with made._alone(None), pytest.raises(Unavailable) as caught:
        made.near(["x"], 1)
    assert caught.value.facts["retry_after"] == 1
    assert made.near(["x"], 1)


def test_each_text_has_its_own_nearest(home: Home) -> None:
    rows = home.parts.meanings.nearest([["parses binary files"], ["draws windows"]], 2)
    assert [len(row) for row in rows] == [2, 2]
    names = {line.id: line.name for line in home.parts.lines.accepted()}
    assert [names[row[0].id] for row in rows] == ["bob", "cyd"]
    assert all(row[0].best >= row[1].best for row in rows)
    (row,) = home.parts.meanings.nearest([["parses binary files"]], 9, among=[near.id for near in rows[1]])
    assert {near.id for near in row} == {near.id for near in rows[1]}
    assert home.parts.meanings.nearest([], 5) == ()


def test_a_snapshot_is_of_what_is_searched(home: Home) -> None:
    first = home.parts.meanings.snapshot()
    assert home.parts.meanings.snapshot() == first
    made = home.add("dan", "sorts lists")
    second = home.parts.meanings.snapshot()
    Blocks(home.parts).remove("dan")
    assert len({first, second}) == 2
    assert home.parts.meanings.snapshot() == first
    assert made.id not in {near.id for near in home.parts.meanings.nearest([["sorts lists"]], 9)[0]}


def test_pages_are_followed_to_the_end(home: Home) -> None:
    found = list(pages(ListQuery(limit=1, sort="name"), home.catalogue.page))
    assert [line.name for line in found] == sorted(SEEN)


def test_what_was_asked_wrongly_is_named_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        asked(SearchQuery, q="x" * 501)
    assert caught.value.facts["param"] == "q"
    assert "xxx" not in caught.value.message
    for fields in (
        {"q": "a\0b"},
        {"limit": 0},
        {"limit": 101},
        {"skills": ("a",) * 9},
        {"mode": "magic"},
        {"maturity": float("nan")},
        {"other": 1},
    ):
        with pytest.raises(InputError):
            asked(SearchQuery, **fields)


def test_the_encoder_is_chosen_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ServerParts(tmp_path, encoder="hashed")
    add_block(parts, "ada", capability=Capability(text="parse_header"))
    found = Catalogue(parts).search(SearchQuery(q="parsing headers", mode="semantic"))
    assert found.encoder == "hashed-3-5@1"
    assert (found.found[0].cosine or 0) > 0.2
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfig):
        load_settings({"encoder": "other"})
