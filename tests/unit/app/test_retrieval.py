"""A block's own pairs beside a question: words of code, the best first, never held-out ones, within bounds, only with consent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clonedna.app import retrieval as module
from clonedna.app.blocks import ServedLayer
from clonedna.app.retrieval import MOST_CHARACTERS, Retrieval, Shown
from clonedna.app.revoking import Revoking
from clonedna.core.block import Manifest
from clonedna.core.errors import BlockCorrupt, BlockRevoked, ConsentMissing
from clonedna.core.work import Pair
from tests.serving import ServerParts, add_block
from tests.values import ADA, pair

READ = pair("read_config", "def read_config(path):\n    return json.load(path)\n", task="Read the settings file.")
SUM = pair("sumColumns", "def sumColumns(rows):\n    return sum(rows)\n", task="Add up the columns of a table.")
HELD = pair("held_out_config", "def held_out_config():\n    return config\n", split="holdout")
CHECKED = pair("checked_config", "def checked_config():\n    return config\n", split="validation")


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path)


def layer(manifest: Manifest, weight: float = 1.0) -> ServedLayer:
    return ServedLayer(block=f"{manifest.name}@{manifest.version}", block_id=manifest.id, weight=weight)


def ids(shown: Sequence[Shown]) -> list[str]:
    return [one.id for one in shown]


def test_the_pair_that_fits_comes_first_and_held_out_ones_never(parts: ServerParts) -> None:
    ada = add_block(parts, "ada", pairs=[SUM, HELD, READ, CHECKED])
    found = Retrieval(parts).find([layer(ada)], "How do I read the config?")
    assert ids(found) == ["read_config"]
    assert found[0].code == READ.completion.strip("\n")
    assert ids(Retrieval(parts).find([layer(ada)], "sum columns and held_out checked_config config")) == [
        "sumColumns",
        "read_config",
    ]


def test_a_question_with_no_word_of_theirs_finds_nothing(parts: ServerParts) -> None:
    ada = add_block(parts, "ada", pairs=[SUM, READ])
    for question in ("zebra", "", "?!", "\N{PILE OF POO}"):
        assert Retrieval(parts).find([layer(ada)], question) == ()
    assert Retrieval(parts).find([layer(add_block(parts, "nobody"))], "config") == ()
    assert Retrieval(parts).find([], "config") == ()


def test_three_at_most_and_no_more_characters_than_may_be(parts: ServerParts) -> None:
    lines = "".join(f"    config_{i} = read(config_{i})\n" for i in range(15))
    pairs = [pair(f"config_{n}", f"def config_{n}():\n{lines}", task="Config. " * 60) for n in range(6)]
    ada = add_block(parts, "ada", pairs=pairs)
    found = Retrieval(parts).find([layer(ada)], "config")
    assert 1 <= len(found) <= 3
    assert sum(len(one.task) + len(one.code) for one in found) <= MOST_CHARACTERS
    whole = {one.id: one.completion for one in pairs}
    for one in found:
        assert whole[one.id].startswith(one.code)
        assert whole[one.id][len(one.code)] == "\n", "cut at the end of a line"
    short = [pair(f"short_{n}", f"def short_{n}(): return config\n") for n in range(6)]
    assert len(Retrieval(parts).find([layer(add_block(parts, "bob", pairs=short))], "config")) == 3


def test_a_task_of_several_lines_stays_one_and_is_cut_at_a_line(parts: ServerParts) -> None:
    task = "Write the body:\ndef read_config(path):\n    ..."
    long = task + "\n" + "y" * 500
    pairs = [
        pair("short", "return 1\n", task=task),
        pair("long", "return 2\n", task=long),
        pair("flat", "return 3\n", task="config " * 99),
    ]
    ada = add_block(parts, "ada", pairs=pairs)
    found = {one.id: one.task for one in Retrieval(parts).find([layer(ada)], "config")}
    assert found["short"] == found["long"] == task
    assert len(found["flat"]) == module.MOST_TASK


def test_a_small_context_gets_less(parts: ServerParts) -> None:
    ada = add_block(parts, "ada", pairs=[READ, SUM])
    assert Retrieval(parts).find([layer(ada)], "config", most=30) == ()
    assert sum(len(one.task) + len(one.code) for one in Retrieval(parts).find([layer(ada)], "config", most=80)) <= 80


def test_blocks_of_a_blend_take_turns(parts: ServerParts) -> None:
    ada = add_block(parts, "ada", pairs=[pair(f"a{n}", f"def a{n}(): return config\n") for n in range(3)])
    bob = add_block(parts, "bob", pairs=[pair(f"b{n}", f"def b{n}(): return config\n") for n in range(3)])
    cora = add_block(parts, "cora", pairs=[pair("c0", "def c0(): return config\n")])
    found = Retrieval(parts).find([layer(ada, 0.3), layer(bob, 0.7), layer(cora, -0.5)], "config")
    assert ids(found) == ["b0", "a0", "b1"]


def test_a_pair_whose_licence_is_not_known_is_not_shown(parts: ServerParts) -> None:
    odd = pair("odd_config", "def odd_config(): return config\n", licence="Whatever-1.0")
    ada = add_block(parts, "ada", pairs=[odd, READ])
    assert ids(Retrieval(parts).find([layer(ada)], "odd config")) == ["read_config"]


def test_without_consent_to_serve_nothing_is_shown_though_the_index_is_there(parts: ServerParts) -> None:
    consent = parts.consents.grant_self(ADA, [ADA], "local:abacus")
    ada = add_block(parts, "ada", pairs=[READ], consent=consent)
    searched = Retrieval(parts)
    assert searched.find([layer(ada)], "config")
    Revoking(parts).block("ada")
    with pytest.raises((ConsentMissing, BlockRevoked)):
        searched.find([layer(ada)], "config")
    assert not searched._indexes, "nothing of it stays in memory"
    only_mint = consent.model_copy(update={"mode": "local-only", "uses": ("mint",)})
    bob = add_block(parts, "bob", pairs=[READ], consent=only_mint)
    with pytest.raises(ConsentMissing):
        searched.find([layer(bob)], "config")


def test_pairs_that_were_changed_or_are_none_are_an_error(parts: ServerParts) -> None:
    ada = add_block(parts, "ada", pairs=[READ])
    file = parts.store.path(ada.id) / "pairs.jsonl"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b"json.load", b"eval.load"))
    with pytest.raises(BlockCorrupt) as caught:
        Retrieval(parts).find([layer(ada)], "config")
    assert caught.value.facts["file"] == "pairs.jsonl"


def test_indexes_are_bounded(parts: ServerParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_INDEXES", 2)
    blocks = [add_block(parts, f"p{n}", pairs=[pair(f"config_{n}", f"def config_{n}(): pass\n")]) for n in range(4)]
    searched = Retrieval(parts)
    for block in (*blocks, blocks[0]):
        assert len(searched.find([layer(block)], "config")) == 1
    assert set(searched._indexes) == {blocks[3].id, blocks[0].id}
    monkeypatch.setattr(module, "MOST_PAIRS", 1)
    searched.find([layer(blocks[1])], "config")
    assert set(searched._indexes) == {blocks[1].id}


def test_an_index_is_made_once(parts: ServerParts, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = module._scores

    def counted(pairs: Sequence[Pair]) -> object:
        made.append(len(pairs))
        return real(pairs)

    monkeypatch.setattr(module, "_scores", counted)
    ada = add_block(parts, "ada", pairs=[READ, SUM])
    searched = Retrieval(parts)
    for question in ("config", "columns"):
        searched.find([layer(ada)], question)
    assert made == [2]
