"""Lines: pages that neither repeat nor leave out, filters, words found whatever is asked, nothing that was revoked. On both databases."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from clonedna.core.block import Candidate, Capability, Manifest, Measure
from clonedna.core.canonical import canonical, sha256
from clonedna.core.catalogue import BlockLine, Filters, ListQuery
from clonedna.core.errors import Corrupt, InputError
from clonedna.store import lines as module
from clonedna.store.database import Database
from clonedna.store.lines import SqlLines, version_key
from tests.databases import KINDS, new_url
from tests.unit.store.making import manifest, rejected


class Tombstones:
    def __init__(self) -> None:
        self.ids: set[str] = set()

    def is_revoked(self, block_id: str) -> bool:
        return block_id in self.ids

    def revoked(self) -> frozenset[str]:
        return frozenset(self.ids)

    def rolled_back(self) -> frozenset[str]:
        return frozenset()

    def rollback(self, name: str) -> None:
        return None


class Shelf:
    """Lines without blocks behind them."""

    def __init__(self, url: str) -> None:
        self.database, self.tombstones = Database(url), Tombstones()
        self.lines = SqlLines(self.database, self.tombstones)
        self.count = 0

    def put(self, profile: str = "", **changes: Any) -> Manifest:
        self.count += 1
        summary = manifest({}, "k").eval_summary
        for short, name in (("gain", "nll_delta"), ("maturity", "maturity")):
            if short in changes:
                measure = Measure(value=changes.pop(short), status="measured", how="a test")
                summary = summary.model_copy(update={name: measure})
        if "domains" in changes or "handle" in changes:
            changes["candidate"] = Candidate(
                handle=changes.pop("handle", "ada"), name="Ada Example", expertise_domains=changes.pop("domains", ()),
                consent_verified=False,
            )  # fmt: skip
        if "told" in changes:
            changes["capability"] = Capability(text=changes.pop("told"))
        fields = {
            "id": sha256(str(self.count)),
            "created_at": f"2026-01-02T03:{self.count:02d}:00Z",
            "eval_summary": summary,
        }
        made = manifest({}, "k").model_copy(update=fields | changes)
        with self.database.session() as session:
            module.enter(session, made, profile)
        return made

    def names(self, **fields: Any) -> list[str]:
        return [line.name for line in self.lines.page(ListQuery(**fields)).blocks]

    def all(self, **fields: Any) -> list[str]:
        """Ids of all pages."""
        query, found = ListQuery(**fields), list[str]()
        while True:
            page = self.lines.page(query)
            found += [line.id for line in page.blocks]
            if page.next is None:
                return found
            query = query.model_copy(update={"cursor": page.next})

    def match(self, question: str, *skills: str, **filters: Any) -> list[str]:
        found = [block_id for block_id, _ in self.lines.match(question, skills, Filters(**filters), 20)]
        told = self.lines.chosen(found)
        return [told[block_id].name for block_id in found]


@pytest.fixture(params=KINDS)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return Shelf(new_url(request.param, tmp_path))


# Pages.


def test_an_empty_catalogue_is_one_empty_page(shelf: Shelf) -> None:
    page = shelf.lines.page(ListQuery())
    assert (page.blocks, page.next, page.total) == ((), None, 0)


@pytest.mark.parametrize("sort", ["newest", "name", "maturity", "gain"])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_give_each_block_once_in_order(shelf: Shelf, sort: str, limit: int) -> None:
    draw = random.Random(3)
    for number in range(11):
        shelf.put(
            name=draw.choice(["a", "b.c", "b-c", "b"]), version=f"1.{number}.0", created_at=draw.choice(["2026-01-01", "2026-01-02"]),
            gain=draw.choice([None, 0.1, -0.1, 0.1]), maturity=draw.choice([None, 0.5, 0.7]),
        )  # fmt: skip
    found = shelf.all(sort=sort, limit=limit)
    assert len(found) == len(set(found)) == 11
    assert found == shelf.all(sort=sort, limit=100)


def test_orders_say_what_they_are(shelf: Shelf) -> None:
    shelf.put(name="b", gain=0.1, maturity=0.9)
    shelf.put(name="a", version="1.9.0", gain=0.3, maturity=None)
    shelf.put(name="a", version="1.10.0", gain=None, maturity=0.2)
    assert [shelf.names(sort=sort) for sort in ("newest", "gain", "maturity")] == [
        ["a", "a", "b"],
        ["a", "b", "a"],
        ["b", "a", "a"],
    ]
    assert [line.version for line in shelf.lines.page(ListQuery(sort="name")).blocks] == ["1.10.0", "1.9.0", "1.0.0"]


def test_what_comes_and_goes_between_two_pages_repeats_and_loses_nothing(shelf: Shelf) -> None:
    made = [shelf.put(name=f"n{number}") for number in range(6)]
    first = shelf.lines.page(ListQuery(limit=3))
    shelf.put(name="later")
    with shelf.database.session() as session:
        module.leave(session, [made[4].id])  # on the first page
    second = shelf.lines.page(ListQuery(limit=3, cursor=first.next))
    assert [line.name for line in first.blocks] == ["n5", "n4", "n3"]
    assert [line.name for line in second.blocks] == ["n2", "n1", "n0"]
    assert second.next is None


@pytest.mark.parametrize(
    "cursor",
    ["x", "bm9uZQ", "W10", "WyJuZXdlc3QiLDEsMiwzXQ", "[]", "=" * 9, "é", "WyJuYW1lIiwiYSIsImIiLCJjIl0", "A" * 1000],
)
def test_a_cursor_that_is_none_of_this_list_is_refused(shelf: Shelf, cursor: str) -> None:
    with pytest.raises(InputError) as caught:
        shelf.lines.page(ListQuery(cursor=cursor))
    assert caught.value.hint


@pytest.mark.parametrize("sort", ["newest", "name", "maturity", "gain"])
def test_a_made_up_cursor_ends_no_list_with_an_error_of_the_database(shelf: Shelf, sort: Any) -> None:
    shelf.put()
    measured = sort in ("maturity", "gain")
    for value in (1e308, float("inf"), float("nan"), None, "\0", "\ud800", "x" * 300, True, [], 10**400):
        place = [value, "id"] if measured else [value, "id", "id"]
        made = module._write_cursor(sort, place)
        try:
            shelf.lines.page(ListQuery(sort=sort).model_copy(update={"cursor": made}))
        except InputError:
            continue


def test_versions_order_as_numbers() -> None:
    versions = ["0.0.9", "0.9.0", "0.10.0", "1.0.0", "9.0.0", "10.0.0", "123456789012.0.0"]
    assert sorted(random.Random(1).sample(versions, 7), key=version_key) == versions


# Filters.


def test_filters_pass_what_they_say(shelf: Shelf) -> None:
    shelf.put(
        name="a",
        base_model="b1",
        license="MIT",
        consent_mode="self",
        handle="ada-h",
        domains=("Python", "HTTP"),
        gain=0.2,
        maturity=0.6,
    )
    shelf.put(
        name="b",
        base_model="b2",
        license="Apache-2.0",
        domains=("rust",),
        tags=("lora", "parsers"),
        gain=-0.2,
        maturity=0.1,
    )
    shelf.put(name="c", gate=rejected())
    for fields, names in {
        ("base", "b1"): ["a"], ("licence", "Apache-2.0"): ["b"], ("consent", "self"): ["a"], ("domain", "http"): ["a"],
        ("domain", "PARSERS"): ["b"], ("language", "Python"): ["a"], ("language", "http"): [], ("domain", "lora"): [],
        ("maturity", 0.6): ["a"], ("maturity", 0.0): ["b", "a"], ("score", 0.0): ["a"], ("status", "rejected"): ["c"],
        ("status", "registered"): ["b", "a"], ("name", "b"): ["b"], ("handle", "ada-h"): ["a"], ("name", "%"): [],
    }.items():  # fmt: skip
        page = shelf.lines.page(ListQuery(**dict([fields])))
        assert ([line.name for line in page.blocks], page.total) == (names, len(names)), fields
    assert shelf.names(language="rust", score=-1.0, licence="Apache-2.0") == ["b"]


def test_what_was_revoked_is_not_shown_though_the_database_does_not_know(shelf: Shelf) -> None:
    made = [shelf.put(name=f"n{number}", told="bread") for number in range(5)]
    shelf.tombstones.ids |= {made[4].id, made[3].id, made[1].id}
    page = shelf.lines.page(ListQuery(limit=2))
    assert [line.name for line in page.blocks] == ["n2", "n0"]
    assert shelf.match("bread") == ["n2", "n0"]
    assert shelf.lines.chosen([one.id for one in made]).keys() == {made[2].id, made[0].id}


# Words.


def test_words_are_found_in_every_field_and_the_name_tells_most(shelf: Shelf) -> None:
    shelf.put(name="numbers", told="adds bread")
    shelf.put(name="bread", told="adds numbers")
    shelf.put(name="x", specialization="Bread code", profile="bakes")
    shelf.put(name="y", domains=("bread",))
    shelf.put(name="z", profile="Ada bakes bread.")
    assert shelf.match("bread")[0] == "bread"
    assert set(shelf.match("BREAD")) == {"numbers", "bread", "x", "y", "z"}
    assert set(shelf.match("bakes")) == {"x", "z"}
    assert shelf.match("cake") == []


def test_identifiers_are_found_by_their_parts(shelf: Shelf) -> None:
    shelf.put(name="a", told="parseHTTPHeader and make_socket in Zürich, C++ and utf8")
    for question in (
        "header",
        "http",
        "parse_http_header",
        "ParseHttpHeader",
        "socket",
        "zurich",
        "ZÜRICH",
        "c++",
        "utf8",
        "parsehttpheader",
    ):
        assert shelf.match(question) == ["a"], question
    assert shelf.match("arse") == []


def test_one_word_of_a_question_is_enough_and_every_skill_is_needed(shelf: Shelf) -> None:
    shelf.put(name="both", told="http sockets")
    shelf.put(name="one", told="http pages")
    assert set(shelf.match("http sockets")) == {"both", "one"}
    assert shelf.match("", "http", "sockets") == ["both"]
    assert shelf.match("", "http sockets") == ["both"]
    assert shelf.match("pages", "sockets") == []
    assert shelf.match("", "http_sockets") == ["both"]


def test_filters_hold_for_words_too(shelf: Shelf) -> None:
    shelf.put(name="a", told="bread", license="MIT")
    shelf.put(name="b", told="bread", license="Apache-2.0")
    shelf.put(name="c", told="bread", gate=rejected())
    assert shelf.match("bread", licence="Apache-2.0") == ["b"]
    assert set(shelf.match("bread", status="registered")) == {"a", "b"}


SYNTAX = [
    '"',
    "'",
    '" OR "',
    "NEAR(a b)",
    "title:ada",
    "a*",
    "^a",
    "-a",
    "a AND NOT",
    "(",
    ")",
    "a | b & !c",
    "<->",
    "\\",
    ";--",
    "{",
    "%",
    "_",
    ":*",
    "a:A",
]


@pytest.mark.parametrize(
    "question", [*SYNTAX, "'; DROP TABLE lines; --", "😀", "\u202e", "١٢٣", "ﷺ", "İ", "ß" * 200, "a " * 5000]
)
def test_a_question_is_never_read_as_syntax(shelf: Shelf, question: str) -> None:
    shelf.put(name="ada", told="bread")
    assert set(shelf.match(question, question)) <= {"ada"}
    assert shelf.match("bread") == ["ada"]


WORDY = st.text(
    st.one_of(
        st.sampled_from("abcXYZ_ \"'()*:^-|&!<>\\%{}+#"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=40,
)


@given(question=WORDY, told=WORDY)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_can_be_kept_and_asked(shelf: Shelf, question: str, told: str) -> None:
    made = shelf.put(name="ada", told=told, id=sha256("one"), created_at="2026-01-01")
    shelf.match(question, question[:20])
    if any(word.isascii() for word in module.asked_words(told)[:1]):
        assert shelf.match(told) == ["ada"]
    assert shelf.lines.chosen([made.id])


# What is kept.


def test_hostile_texts_are_kept_short_and_without_control_characters(shelf: Shelf) -> None:
    shelf.put(
        name="a", version=f"{'9' * 500}.0.0", created_at="\0" * 500, specialization="x\0\x1b[31m" * 400, license="M\0IT",
        base_model="b" * 9000, domains=tuple(f"d{number}" * 30 for number in range(500)), told="w " * 100_000,
    )  # fmt: skip
    shelf.put(name="b")
    (line,) = [line for line in shelf.lines.page(ListQuery()).blocks if line.name == "a"]
    assert len(canonical(line)) < 8000
    assert not any(ord(c) < 32 for c in json.dumps(line.model_dump(), ensure_ascii=False))
    assert len(shelf.all(limit=1)) == 2
    assert shelf.match("d7" * 30) in ([], ["a"])


def test_an_entry_is_replaced_and_taken_out_with_all_that_belongs_to_it(shelf: Shelf) -> None:
    first = shelf.put(name="a", told="bread", domains=("baking",))
    count, last = shelf.lines.state()
    shelf.put(name="a", id=first.id, told="cake", domains=("cakes",))
    assert shelf.lines.state() == (count, last + 1)
    assert (shelf.match("bread"), shelf.match("cake")) == ([], ["a"])
    assert (shelf.names(domain="baking"), shelf.names(domain="cakes")) == ([], ["a"])
    with shelf.database.session() as session:
        module.leave(session, [first.id, "unknown"])
        for table in ("lines", "facets", "summaries", "texts"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    assert shelf.lines.meanings() == {}


def test_a_damaged_line_says_how_to_rebuild_it(shelf: Shelf) -> None:
    shelf.put()
    with shelf.database.session() as session:
        session.execute(text("UPDATE summaries SET line = '{}'"))
    with pytest.raises(Corrupt) as caught:
        shelf.lines.page(ListQuery())
    assert "reindex" in caught.value.hint


def test_rows_from_before_lines_get_them(shelf: Shelf) -> None:
    shelf.database.upgrade(to="0001")
    made = manifest({}, "k").model_copy(
        update={"id": sha256("old"), "name": "old", "capability": Capability(text="bread")}
    )
    with shelf.database.open().begin() as connection:
        for block_id, status, data in (
            (made.id, "registered", canonical(made).decode()),
            ("2", "registered", "{}"),
            ("3", "revoked", "{}"),
        ):
            connection.execute(
                text("INSERT INTO blocks VALUES (:id, :id, '1.0.0', :status, 't', 'b', 'MIT', 'self', 'a', :data)"),
                {"id": block_id, "status": status, "data": data},
            )

    again = SqlLines(Database(shelf.database.url), shelf.tombstones)
    (line,) = again.page(ListQuery()).blocks
    assert isinstance(line, BlockLine)
    assert line.name == "old"
    assert [block_id for block_id, _ in again.match("bread", (), Filters(), 5)] == [made.id]
