"""What people may type who look for blocks, as a teacher writes it: asked once, kept with the block, found by, and gone with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.catalogue import Catalogue, Reindexed
from clonedna.app.meanings import unheard
from clonedna.app.queries_kept import FOLDER, MOST_QUERIES, Kept, KeptQueries
from clonedna.app.querying import STOP_AFTER, Querying
from clonedna.cli.main import app
from clonedna.core.block import Capability
from clonedna.core.errors import BadConfig, DnaError, InputError
from clonedna.core.events import Note
from tests.cli import CliRunner
from tests.serving import ServerParts, add_block
from tests.unit.teachers.server import Script, completion, serving

RAIN = "tomorrow brings rain over the hills"
TEXTS = {"abc": "python zorbl", "def": "draws windows", "ghi": "parses binary files"}


def rainy(body: dict[str, Any]) -> dict[str, Any]:
    """Of zorbl it knows that it has to do with rain."""
    told = json.loads(body["messages"][1]["content"])["can"]
    need = RAIN if "zorbl" in told else f"somebody who {told}"
    return completion({"searches": [f"search {told}"], "needs": [need]})


def filled(home: Path, url: str = "http://127.0.0.1:9/v1", **changes: Any) -> tuple[ServerParts, dict[str, str]]:
    parts = ServerParts(home, encoder="hashed", teacher_url=url, teacher_model="m", teacher_retries=0, **changes)
    if parts.lines.meanings():
        return parts, {}
    made = (add_block(parts, name, says=name, capability=Capability(text=text)) for name, text in TEXTS.items())
    return parts, {one.name: one.id for one in made}


def asked(
    parts: ServerParts, most: int | None = None, heard: list[Any] | None = None, teacher: str = "openai"
) -> Reindexed:
    async def work() -> Reindexed:
        told = [] if heard is None else heard
        return await Catalogue(parts).query(teacher, most, told.append, lambda *n: told.append(n), unheard)

    return anyio.run(work)


def place(parts: ServerParts, block_id: str) -> int:
    return [one.id for one in parts.meanings.nearest([[RAIN]], 9)[0]].index(block_id)


def test_who_types_what_a_teacher_foresaw_finds_the_block(tmp_path: Path) -> None:
    script, heard = Script(answer=rainy), list[Any]()
    with serving(script) as url:
        parts, ids = filled(tmp_path, url)
        before = {one.id: one for one in parts.meanings.nearest([[RAIN]], 9)[0]}[ids["abc"]]
        snapshot, share = parts.meanings.snapshot(), parts.rarity.sharing(["hills"])
        done = asked(parts, heard=heard)
        again = asked(parts)
    assert before.meaning_cosine is None
    assert share(ids["abc"]) == 0
    assert done.queried is not None
    assert (done.queried.asked, done.queried.blocks, done.queried.left_out) == (3, 3, {})
    assert (done.queried.prompt_tokens, done.queried.completion_tokens) == (600, 60)
    assert done.encoded == 3
    assert isinstance(heard[0], Note)
    assert "about 3 blocks" in heard[0].text
    assert heard[1:] == [(1, 3), (2, 3), (3, 3)]
    near = {one.id: one for one in parts.meanings.nearest([[RAIN]], 9)[0]}
    assert near[ids["abc"]].meaning_cosine == near[ids["abc"]].best == pytest.approx(1, abs=1e-5)
    assert place(parts, ids["abc"]) == 0
    assert parts.rarity.sharing(["hills"])(ids["abc"]) == 1
    assert parts.meanings.snapshot() != snapshot
    assert again.queried is not None
    assert (again.queried.asked, again.queried.blocks, len(script.bodies)) == (0, 3, 3), "nothing is asked twice"


def test_lines_that_came_meanwhile_are_encoded_by_whoever_asks_next(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    other, _ = filled(tmp_path)
    other.meanings.complete()
    assert parts.meanings.complete() == 0
    parts.queries.keep(ids["def"], Kept(queries=(RAIN,), by="m"))
    for one in (other, parts, filled(tmp_path)[0]):
        assert place(one, ids["def"]) == 0
    keys = parts.index_of(parts.encoder, "exemplars").keys()
    assert f"{ids['def']}/q1" in keys
    assert other.meanings.complete() == 0


def test_what_was_taken_away_is_not_found_by_any_more(tmp_path: Path) -> None:
    parts, ids = filled(tmp_path)
    for name in ("abc", "def"):
        parts.queries.keep(ids[name], Kept(queries=(RAIN, "more rain"), by="m"))
    assert parts.meanings.complete() == 3
    parts.queries.forget(ids["abc"])
    parts.meanings.complete()
    keys = parts.index_of(parts.encoder, "exemplars").keys()
    assert {key for key in keys if "/q" in key} == {f"{ids['def']}/q1", f"{ids['def']}/q2"}
    Blocks(parts).remove("def")
    assert parts.queries.blocks() == frozenset()


def test_nobody_is_asked_about_a_text_that_the_same_model_has_answered(tmp_path: Path) -> None:
    script = Script(answer=rainy)
    with serving(script) as url:
        parts, ids = filled(tmp_path, url)
        asked(parts)
        twin = add_block(parts, "twin", says="another", capability=Capability(text=TEXTS["abc"]))
        done = asked(parts)
        assert (len(script.bodies), parts.queries.of(twin.id)) == (3, parts.queries.of(ids["abc"]))
        parts.queries.forget(twin.id)
        parts.settings = parts.settings.model_copy(update={"teacher_model": "another"})
        asked(parts)
    assert done.queried is not None
    assert (done.queried.asked, done.queried.blocks) == (0, 4)
    assert len(script.bodies) == 4


def test_a_limit_and_an_answer_that_cannot_be_used_leave_blocks_for_next_time(tmp_path: Path) -> None:
    def some(body: dict[str, Any]) -> dict[str, Any]:
        return rainy(body) if "zorbl" in str(body["messages"][1]) else completion({"searches": [], "needs": []})

    with serving(Script(answer=some)) as url:
        parts, ids = filled(tmp_path, url)
        one = asked(parts, 1)
        rest = asked(parts)
    assert one.queried is not None
    assert rest.queried is not None
    assert one.queried.asked + one.queried.left_out.get("empty", 0) == 1
    assert parts.queries.blocks() == {ids["abc"]}
    assert rest.queried.left_out == {"empty": 2}


def test_a_model_that_writes_nothing_usable_is_named_after_a_few_answers(tmp_path: Path) -> None:
    script = Script(answer=lambda _: completion("no JSON"))
    with serving(script) as url:
        parts, _ = filled(tmp_path, url, teacher_at_once=1)
        for i in range(3 * STOP_AFTER):
            add_block(parts, f"more{i}", capability=Capability(text=f"does thing {i}"))
        with pytest.raises(BadConfig, match="can be used"):
            asked(parts)
    assert parts.queries.blocks() == frozenset()
    assert len(script.bodies) < 3 * STOP_AFTER


def test_a_server_that_refuses_ends_it_and_what_was_answered_stays(tmp_path: Path) -> None:
    script = Script(answer=rainy)
    with serving(script) as url:
        parts, _ = filled(tmp_path, url, teacher_at_once=1)
        asked(parts, 1)
        script.refuse = [(401, {}, b"{}")] * 9
        with pytest.raises(DnaError):
            asked(parts)
        assert len(parts.queries.blocks()) == 1
        script.refuse = []
        done = asked(parts)
    assert done.queried is not None
    assert (done.queried.asked, done.queried.blocks) == (2, 3)


def test_local_only_blocks_are_told_to_a_teacher_of_this_machine_alone(tmp_path: Path) -> None:
    made = {*filled(tmp_path)[1].values()}  # all are local-only
    far = ServerParts(tmp_path, encoder="hashed", teacher_url="https://teacher.example/v1", teacher_model="m")
    near = ServerParts(tmp_path, encoder="hashed", teacher_url="http://localhost:9/v1", teacher_model="m")
    assert Querying(far, "openai").lacking() == {}
    assert Querying(near, "openai").lacking().keys() == made
    assert Querying(far, "engine").lacking().keys() == made
    far.teacher = near.teacher  # type: ignore[method-assign]  # nobody is asked
    done = asked(far)
    assert done.queried is not None
    assert (done.queried.asked, done.queried.left_out) == (0, {"local_only": 3})


def test_what_is_kept_is_bounded_and_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    kept = KeptQueries(tmp_path)
    assert (kept.state(), kept.blocks(), kept.of("0" * 64)) == (0, frozenset(), ())
    with pytest.raises(ValueError, match="queries"):
        Kept(queries=("x",) * (MOST_QUERIES + 1), by="m")
    kept.keep("0" * 64, Kept(queries=("x",), by="m"))
    before = kept.state()
    assert kept.of("0" * 64) == ("x",)
    for bad in (b"", b"{", b"[1]", b'{"queries": ["' + b"x" * 300 + b'"], "by": "m"}', b" " * 100_000):
        (tmp_path / FOLDER / f"{'1' * 64}.json").write_bytes(bad)
        assert kept.of("1" * 64) == ()
    assert kept.state() != before
    assert kept.blocks() == {"0" * 64, "1" * 64}


def test_what_is_searched_has_another_name_when_other_lines_are_written(tmp_path: Path) -> None:
    """As of a block that was removed, is here again, and was asked about anew."""
    parts, ids = filled(tmp_path)
    seen = [parts.meanings.snapshot()]
    for line in (RAIN, "snow", RAIN):
        parts.queries.keep(ids["abc"], Kept(queries=(line,), by="m"))
        seen.append(parts.meanings.snapshot())
    parts.queries.keep("0" * 64, Kept(queries=(RAIN,), by="of no block that is here"))
    seen.append(parts.meanings.snapshot())
    parts.queries.forget(ids["abc"])
    seen.append(parts.meanings.snapshot())
    assert [seen.index(one) for one in seen] == [0, 1, 2, 1, 1, 0]


def test_only_teachers_that_are_asked_write_queries(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="own-words"):
        Querying(filled(tmp_path)[0], "own-words")


def test_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Script(answer=rainy)) as url:
        _, ids = filled(tmp_path, url)
        for name, value in {"HOME": tmp_path, "TEACHER_URL": url, "TEACHER_MODEL": "m", "ENCODER": "hashed"}.items():
            monkeypatch.setenv(f"DNA_{name}", str(value))
        done = CliRunner().invoke(app, ["reindex", "--teacher", "openai", "--limit", "2", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["queried"]["asked"] == 2
        done = CliRunner().invoke(app, ["reindex", "--teacher", "openai"])
        assert "1 blocks were asked about, 3 have what they are looked for by (openai (m at 127.0.0.1" in done.output
        both = CliRunner().invoke(app, ["reindex", "--teacher", "openai", "--encoder", "hashed"])
    assert isinstance(both.exception, InputError)
    assert len(KeptQueries(tmp_path).blocks()) == len(ids)
