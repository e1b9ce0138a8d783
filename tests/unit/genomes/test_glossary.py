"""What names mean: the bundled file holds together, names are found as they stand in texts, a broken extension is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import BadConfig
from clonedna.genomes import glossary as module
from clonedna.genomes.glossary import MOST_MEANINGS, Entry, Glossary, bundled, load_glossary
from clonedna.genomes.package_requests import package_requests
from clonedna.genomes.retrieval_set import content, longest_run, retrieval_set

RAFT = Entry(names=("raft",), means="copies that agree on one order of events")
TREE = Entry(names=("b tree", "btree"), means="sorted keys on disk")
SEARCH = Entry(names=("b tree search",), means="finding a key on disk")
RICH = Entry(names=("rich", "richtext"), everyday=("rich",), means="tables and colours in a terminal")
SMALL = Glossary((RAFT, TREE, SEARCH, RICH))


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_the_bundled_file_holds_together() -> None:
    names: dict[str, list[str]] = {}
    for one in bundled():
        assert set(one.everyday) <= set(one.names), one
        assert len(set(one.names)) == len(one.names), one
        assert one.means.isascii(), one
        assert 8 <= len(one.means.split()) <= 30, one
        for name in one.names:
            names.setdefault(name, []).append(one.means)
            assert len(name) < 4 or " " in name or name not in one.means.lower().split(), one
    assert len(names) > 4000
    assert max(map(len, names.values())) == 2
    assert all(len(set(told)) == len(told) for told in names.values())
    assert all(len(name) > 2 for one in bundled() for name in one.names if name not in one.everyday)


def test_meanings_do_not_copy_the_requests_that_ask_for_their_layers() -> None:
    glossary, texts = load_glossary(), {one.id: one.text for one in retrieval_set().layers}
    for one in retrieval_set().requests:
        for key in one.wants:
            for told in glossary.meanings(texts[key]):
                assert longest_run(content(one.text), content(told)) < 3, (one.id, told)


def test_names_are_found_as_they_stand() -> None:
    assert SMALL.meanings("C. works on BTree, raft. from nowhere") == (TREE.means, RAFT.means)
    assert SMALL.meanings("a B-tree, twice: a b-tree") == (TREE.means,)
    assert SMALL.meanings("B-Tree search") == (SEARCH.means,)
    assert SMALL.meanings("rafts, craft, raft2") == ()
    assert SMALL.meanings("") == ()


def test_an_everyday_word_counts_where_it_is_written_as_a_name() -> None:
    assert SMALL.meanings("python. works on rich, text") == ()
    assert SMALL.meanings("Rich in features. Rich: text") == ()
    assert SMALL.meanings("python. works on raft. uses rich, numpy") == (RICH.means, RAFT.means)
    assert SMALL.meanings("python. works on text. from rich. Render text") == (RICH.means,)
    assert SMALL.meanings("Tables by Rich for terminals") == (RICH.means,)


def test_the_sentence_that_names_what_is_used_ends_at_its_full_stop() -> None:
    assert SMALL.meanings("uses socket.io, rich. Text") == (RICH.means,)
    assert SMALL.meanings("uses numpy. makes rich text") == ()


def test_a_name_in_two_entries_means_both_and_a_text_has_at_most_eight() -> None:
    many = [Entry(names=(f"name{n}",), means=f"meaning {n}") for n in range(20)]
    both = Glossary((*many, Entry(names=("name3", "other"), means="another")))
    assert both.meanings("name3") == ("meaning 3", "another")
    stuffed = both.meanings(" ".join(f"name{n}" for n in range(20)) + " uses name19")
    assert len(stuffed) == MOST_MEANINGS
    assert stuffed[0] == "meaning 19"


def test_a_text_is_explained_by_its_names() -> None:
    assert SMALL.explained("a raft") == f"a raft {RAFT.means}"
    assert SMALL.explained("nothing known") == "nothing known"


@given(st.text(st.sampled_from("Rraftich -_.,uses from b tree\nİß9")))
def test_any_text_has_a_bounded_answer_of_known_meanings(text: str) -> None:
    found = SMALL.meanings(text)
    assert len(found) <= MOST_MEANINGS
    assert set(found) <= {RAFT.means, TREE.means, SEARCH.means, RICH.means}
    assert found == SMALL.meanings(text)


def test_the_revision_is_of_all_entries() -> None:
    assert SMALL.revision == Glossary((RAFT, TREE, SEARCH, RICH)).revision
    assert SMALL.revision != Glossary((RAFT, TREE, SEARCH)).revision


def test_an_extension_adds_names_and_has_the_last_word(tmp_path: Path) -> None:
    path = written(
        tmp_path / "ours.jsonl",
        {"names": ["forge"], "means": "our build system"}, "\n", {"names": ["raft"], "means": "our ferry"},
    )  # fmt: skip
    found = load_glossary(path)
    assert found.meanings("forge, raft") == ("our build system", "our ferry")
    assert found.meanings("numpy") == load_glossary().meanings("numpy") != ()
    assert found.revision != load_glossary().revision


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no JSON\n", "line 2 is not JSON"),
        ("[" * 100_000 + "\n", "line 2 is not JSON"),
        ({"names": ["Upper"], "means": "x"}, "line 2: names.0"),
        ({"names": ["four words are many"], "means": "x"}, "line 2: names.0"),
        ({"names": [], "means": "x"}, "line 2: names"),
        ({"names": ["x"], "means": ""}, "line 2: means"),
        ({"names": ["x"], "means": "x" * 301}, "line 2: means"),
        ({"names": ["x"], "means": "x", "more": 1}, "line 2: more"),
        ({"names": ["x"], "everyday": ["y"], "means": "x"}, "line 2: the line: Value error, everyday"),
        (["x"], "line 2: the line"),
        ("\udcff\n", "line 2 is not JSON"),
    ],
)  # fmt: skip
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: Any, told: str) -> None:
    path = tmp_path / "ours.jsonl"
    data = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(b'{"names": ["forge"], "means": "our build system"}\n' + data.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadConfig, match=told) as caught:
        load_glossary(path)
    assert caught.value.hint


def test_an_extension_is_bounded_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match="cannot read"):
        load_glossary(tmp_path / "nowhere")
    with pytest.raises(BadConfig, match="cannot read"):
        load_glossary(tmp_path)
    path = written(tmp_path / "ours", {"names": ["a1"], "means": "x"}, {"names": ["a2"], "means": "x"})
    monkeypatch.setattr(module, "MOST_ENTRIES", 1)
    with pytest.raises(BadConfig, match="more than 1 entries"):
        load_glossary(path)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(BadConfig, match="more than 10 bytes"):
        load_glossary(path)


def test_packages_that_are_asked_for_are_known() -> None:
    """Not a measure: that names are looked up as the mint writes them."""
    known = [name for name in package_requests() if load_glossary().meanings(f"python. works on x. from {name}. y")]
    assert len(known) > len(package_requests()) / 2
