"""The vectors of blocks: texts and exemplars, made again when lost, gone at once with what was revoked, by one encoder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from clonedna.app import meanings as module
from clonedna.app.catalogue import Catalogue
from clonedna.app.meanings import Meanings
from clonedna.core.block import Capability, ConsentRecord
from clonedna.core.canonical import sha256
from clonedna.core.catalogue import SearchQuery
from clonedna.core.errors import InputError, Unavailable
from clonedna.core.work import Pair, Split
from clonedna.genomes.exemplars import digests
from tests.serving import ServerParts, add_block
from tests.values import pair

HTTP = [
    f"send request {n} over http and retry it {word}"
    for n, word in enumerate(("twice", "slowly", "never", "again", "once"))
]


def pair_of(told: str, split: Split = "train") -> Pair:
    return pair(sha256(told)[:8], "pass\n", task=told, split=split)


def home(path: Path, encoder: str = "hashed") -> ServerParts:
    return ServerParts(path, encoder=encoder)


def filled(path: Path, encoder: str = "hashed") -> tuple[ServerParts, dict[str, str]]:
    """Three blocks: one that says what it does, one whose prompts alone do, one without prompts."""
    parts, ids = home(path, encoder), dict[str, str]()
    for name, told, prompts in (
        ("loud", "sends http requests", [f"draw window {n}" for n in range(6)]),
        ("quiet", "various things", HTTP),
        ("plain", "parses binary files", []),
    ):
        pairs = [pair_of(prompt) for prompt in prompts]
        ids[name] = add_block(
            parts, name, says=name[:4], pairs=pairs, capability=Capability(text=told), specialization=told
        ).id
    return parts, ids


def test_a_block_is_near_by_its_text_or_by_what_it_was_trained_on(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    ((first, *others),) = parts.meanings.nearest([["send request 3 over http and retry it again"]], 3)
    assert first.id == ids["quiet"]
    assert first.centroid_cosine is not None
    assert first.best == first.centroid_cosine > 0.6 > first.text_cosine
    by_id = {near.id: near for near in others}
    assert by_id[ids["plain"]].centroid_cosine is None
    assert by_id[ids["plain"]].best == by_id[ids["plain"]].text_cosine
    row = parts.meanings.nearest([["sends http requests"]], 3)[0]
    loud = next(near for near in row if near.id == ids["loud"])
    assert loud.best == loud.text_cosine == pytest.approx(1, abs=1e-5)


def glossed(path: Path, *names: str) -> ServerParts:
    """A home whose glossary says of ``names`` that they have to do with weather."""
    ours = path / "names.jsonl"
    path.mkdir(exist_ok=True)
    ours.write_text("".join(f'{{"names": ["{name}"], "means": "tomorrow brings rain"}}\n' for name in names), "utf-8")
    return ServerParts(path, encoder="hashed", glossary_extension=ours)


def test_a_block_is_near_by_what_a_name_in_its_text_means(tmp_path: Path) -> None:
    parts = glossed(tmp_path, "zorbl")
    made = {
        name: add_block(
            parts, name, says=name, pairs=[pair_of(one) for one in prompts], capability=Capability(text=text)
        ).id
        for name, text, prompts in (
            ("abc", "python. uses zorbl", HTTP),
            ("def", "does zorbl", []),
            ("ghi", "various", HTTP),
        )
    }
    row = {near.id: near for near in parts.meanings.nearest([["tomorrow brings rain"]], 9)[0]}
    for name in ("abc", "def"):
        assert row[made[name]].meaning_cosine == row[made[name]].best == pytest.approx(1, abs=1e-5)
    assert row[made["ghi"]].meaning_cosine is None
    centroid = row[made["abc"]].centroid_cosine  # what a text's names mean is none of its examples
    assert centroid == row[made["ghi"]].centroid_cosine
    assert centroid is not None
    assert centroid < 0.5
    assert row[made["def"]].centroid_cosine is None
    assert parts.rarity.sharing(["rain"])(made["def"]) == 1 > parts.rarity.sharing(["rain"])(made["ghi"])


def test_with_another_glossary_meanings_are_made_again_and_what_was_revoked_is_in_neither(tmp_path: Path) -> None:
    parts, ids = glossed(tmp_path), dict[str, str]()
    for name in ("abc", "def"):
        ids[name] = add_block(parts, name, says=name, capability=Capability(text=f"zorbl {name}")).id
    parts.meanings.complete()
    other = glossed(tmp_path, "zorbl")
    assert other.meanings.complete() == 2
    assert other.meanings.snapshot() != parts.meanings.snapshot()
    assert other.meanings.nearest([["rain"]], 1)[0][0].meaning_cosine is not None
    assert parts.meanings.nearest([["rain"]], 1)[0][0].meaning_cosine is None  # a process that began before
    parts.forget_vectors([ids["abc"]])
    for one in (parts, other):
        kept = one.index_of(one.encoder, "exemplars").keys()
        assert {key.partition("/")[0] for key in kept} == {ids["def"]}


def test_what_is_asked_among_some_is_as_it_is_among_all(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    texts = ["http", "window", "binary files", ""]
    whole = parts.meanings.nearest([[one] for one in texts], 9)
    for among in ([ids["quiet"]], list(ids.values()), []):
        rows = parts.meanings.nearest([[one] for one in texts], 9, among=among)
        assert rows == tuple(tuple(near for near in row if near.id in among) for row in whole)
    assert parts.meanings.nearest([[one] for one in texts], 1) == tuple(row[:1] for row in whole)
    assert parts.meanings.nearest([[one] for one in texts], 0) == ((),) * 4


def test_a_search_by_meaning_knows_texts_alone(tmp_path: Path) -> None:
    parts, _ = filled(tmp_path)
    parts.meanings.complete()
    found = Catalogue(parts).search(SearchQuery(q="send request over http", mode="semantic")).found
    assert found[0].block.name == "loud"


def test_what_is_held_out_is_not_in_the_vectors(tmp_path: Path) -> None:
    parts = home(tmp_path)
    pairs = [pair_of("draw a window"), *(pair_of(told, split="holdout") for told in HTTP)]
    made = add_block(parts, "ada", pairs=pairs, capability=Capability(text="various"), specialization="various")
    ((near,),) = parts.meanings.nearest([["draw a window"]], 1)
    assert (near.id, near.centroid_cosine) == (made.id, pytest.approx(1, abs=1e-5))
    ((near,),) = parts.meanings.nearest([[HTTP[0]]], 1)
    assert near.centroid_cosine is not None
    assert near.centroid_cosine < 0.5
    # A manifest that lists a held-out prompt as its exemplar is not believed.
    told = Capability(text="other", exemplars=digests([HTTP[0], "draw a window"]))
    add_block(parts, "bob", says="bo", pairs=pairs, capability=told, specialization="other")
    assert all((near.centroid_cosine or 0) < 0.5 for near in parts.meanings.nearest([[HTTP[0]]], 9)[0])


def test_without_consent_to_serve_there_is_the_text_alone(tmp_path: Path) -> None:
    parts = home(tmp_path)
    record = ConsentRecord(
        mode="local-only", status="none", uses=("mint",), repositories=("r",), subject="Ada", identity_digest="0" * 64,
        evidence="none", verified=False, how="a test",
    )  # fmt: skip
    pairs = [pair_of(told) for told in HTTP]
    add_block(parts, "ada", pairs=pairs, consent=record, capability=Capability(text="various"))
    ((near,),) = parts.meanings.nearest([[HTTP[0]]], 1)
    assert near.centroid_cosine is None


def test_a_block_whose_pairs_cannot_be_read_has_its_text(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    path = parts.store.path(ids["quiet"]) / "pairs.jsonl"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"http", b"ftp!"))  # no longer what was signed
    rows = parts.meanings.nearest([["http"]], 9)[0]
    assert {near.id: near.centroid_cosine is None for near in rows}[ids["quiet"]]


def test_vectors_that_are_lost_are_made_again_and_say_the_same(tmp_path: Path) -> None:
    parts, _ = filled(tmp_path)
    texts = ["http", "draw", "files"]
    before, snapshot = parts.meanings.nearest([[one] for one in texts], 9), parts.meanings.snapshot()
    for number, path in enumerate(sorted((tmp_path / "vectors").rglob("*.vec"))):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
    assert home(tmp_path).meanings.nearest([[one] for one in texts], 9) == before
    assert home(tmp_path).meanings.snapshot() == snapshot
    assert parts.meanings.nearest([[one] for one in texts], 9) == before  # a process that had them before, too


def test_more_than_one_question_waits_for_goes_on_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = filled(tmp_path)
    monkeypatch.setattr(module, "EXEMPLARS_AT_ONCE", 3)
    monkeypatch.setattr(module, "BATCH", 1)
    with pytest.raises(Unavailable) as caught:
        parts.meanings.nearest([["http"]], 1)
    assert caught.value.facts["retry_after"] == 1
    assert parts.meanings.nearest([["http"]], 1)


def test_one_block_can_be_learnt_by_itself(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    parts.meanings.learn(ids["quiet"])
    parts.meanings.learn("f" * 64)
    assert parts.vectors.keys() == {ids["quiet"]}
    kept = parts.index_of(parts.encoder, "exemplars").keys()
    assert {key.partition("/")[0] for key in kept} == {ids["quiet"]}
    assert len(parts.meanings.nearest([["http"]], 9)[0]) == 3


ASK = """
import sys
import threading
from pathlib import Path
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
parts = Parts(Settings(home=Path(sys.argv[1]), encoder="hashed"))
for line in sys.stdin:
    rows = parts.meanings.nearest([["http requests"]], 9)
    print(" ".join(near.id for near in rows[0]), parts.meanings.snapshot(), flush=True)
"""


def test_what_one_process_revokes_the_next_question_of_another_does_not_find(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", ASK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.getcwd(),
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask() -> list[str]:
            other.stdin.write("\n")  # type: ignore[union-attr]
            other.stdin.flush()  # type: ignore[union-attr]
            return other.stdout.readline().split()  # type: ignore[union-attr]

        *found, before = ask()
        assert set(found) == set(ids.values())
        parts.store.revoke(ids["loud"])  # type: ignore[attr-defined]  # a tombstone alone: nobody tells the database or the index
        *found, after = ask()
        assert set(found) == set(ids.values()) - {ids["loud"]}
        assert after != before
        parts.store.delete(ids["quiet"])
        parts.registry.forget(ids["quiet"])
        assert ask()[:-1] == [ids["plain"]]
        other.stdin.close()
    assert not any(ids["loud"].encode() in path.read_bytes() for path in (tmp_path / "vectors").rglob("*.vec"))


def test_encoders_are_kept_apart(tmp_path: Path) -> None:
    parts, _ = filled(tmp_path)
    parts.meanings.complete()
    other = home(tmp_path, "hashed:768")
    assert other.meanings.nearest([["http"]], 3)
    assert other.meanings.snapshot() != parts.meanings.snapshot()
    assert len(list((tmp_path / "vectors" / "blocks").iterdir())) == 2
    mixed = Meanings(parts.lines, other.encoder, parts.vectors)
    with pytest.raises(InputError):
        mixed.near(["http"], 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from clonedna.app import meanings
from clonedna.app.catalogue import Catalogue
from tests.serving import ServerParts
meanings.BATCH = 1
parts = ServerParts(Path(sys.argv[1]), encoder="hashed")
def told(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
Catalogue(parts).encode("hashed:64", told)
"""


@pytest.mark.parametrize("at", [1, 3])
def test_another_encoder_can_be_killed_in_the_middle(tmp_path: Path, at: int) -> None:
    parts, ids = filled(tmp_path)
    before = parts.meanings.nearest([["http"]], 9)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(at)], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert home(tmp_path).meanings.nearest([["http"]], 9) == before  # the old vectors are as they were
    left = Catalogue(parts).encode("hashed:64")
    assert (left.blocks, left.encoded, left.encoder) == (3, 3 - at, "hashed-3-5-64@1")
    assert Catalogue(parts).encode("hashed:64").encoded == 0
    again = home(tmp_path, "hashed:64").meanings
    assert {near.id for near in again.nearest([["http"]], 9)[0]} == set(ids.values())
    assert again.nearest([["http"]], 9) == home_of_its_own(tmp_path, ids)


def home_of_its_own(path: Path, ids: dict[str, str]) -> tuple[object, ...]:
    """What a home says that had this encoder from the beginning."""
    parts, other = filled(path / "fresh", "hashed:64")
    assert other == ids
    return parts.meanings.nearest([["http"]], 9)


def test_a_process_that_stays_builds_the_graph_beside_its_questions(tmp_path: Path) -> None:
    parts = ServerParts(tmp_path, encoder="hashed", graph_from=2)
    parts.stays = True
    filled(tmp_path)
    before = parts.meanings.nearest([["http"]], 9)
    (thread,) = [one for one in threading.enumerate() if one.name == "vectors"] or [threading.Thread()]
    if thread.ident is not None:
        thread.join(60)
    assert parts.vectors.searched == "graph"  # type: ignore[attr-defined]
    assert parts.meanings.nearest([["http"]], 9) == before
    filled(tmp_path / "other")
    other = ServerParts(tmp_path / "other", encoder="hashed", graph_from=2)
    assert other.meanings.nearest([["http"]], 9) == before
    assert other.vectors.searched.startswith("exact: there is no graph")  # type: ignore[attr-defined]


def test_vectors_are_rows_of_length_one(tmp_path: Path) -> None:
    parts, _ = filled(tmp_path)
    parts.meanings.complete()
    for path in (tmp_path / "vectors").rglob("*.vec"):
        size = parts.encoder.dimension
        rows = np.frombuffer(path.read_bytes()[-4 * size :], dtype="<f4")
        assert np.linalg.norm(rows) == pytest.approx(1, abs=1e-5)


def test_texts_of_a_group_count_alike(tmp_path: Path) -> None:
    parts, _ = filled(tmp_path)
    texts = ["sends http requests", "draw a window"]
    ones, (both,) = parts.meanings.nearest([[one] for one in texts], 9), parts.meanings.nearest([texts], 9)
    cosines = [{near.id: near.text_cosine for near in row} for row in ones]
    assert both
    for near in both:
        assert near.text_cosine == pytest.approx(sum(one[near.id] for one in cosines) / 2, abs=1e-6)
    assert parts.meanings.nearest([[texts[0], texts[0]], []], 9) == (ones[0], ())
