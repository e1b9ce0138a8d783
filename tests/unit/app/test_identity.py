"""Whose style is it: blocks of made-up people on the fake engine, from references to report, controls and pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.controls import Block, control_gain, draw, open_block
from clonedna.app.evaluating import Evaluating
from clonedna.app.identity import Identifying, held_out
from clonedna.app.identity_kept import forget
from clonedna.app.identity_report import IdentityReport, control_sentence, names_of
from clonedna.app.revoking import Revoking
from clonedna.app.workspace import Workspace
from clonedna.core.block import Candidate
from clonedna.core.errors import (
    BlockRejected,
    BlockRevoked,
    ConsentRevoked,
    DnaError,
    InputError,
    Interrupted,
    JobBusy,
    WrongBase,
)
from clonedna.core.events import Note, StageFinished, StageProgress, silent
from clonedna.core.work import Identity
from clonedna.evals import pictures
from clonedna.evals.identity import identify
from tests.parts import FakeParts
from tests.unit.store.making import rejected
from tests.whose import HABITS, add, pair, work

NAMES = ("ada", "bob", "cyd", "dee")


@pytest.fixture
def parts(tmp_path: Path) -> FakeParts:
    return FakeParts(tmp_path / "home")


@pytest.fixture
def four(parts: FakeParts) -> FakeParts:
    for habit, name in enumerate(NAMES):
        add(parts, name, work(habit))
    return parts


@pytest.fixture(autouse=True)
def quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have tests of their own, and one here draws them."""
    if "each_block_explains" not in request.node.name:
        monkeypatch.setattr(pictures, "heat_map", lambda *_, **__: pictures.Picture(svg=b"<svg/>", png=b"\x89PNG"))


def ask(parts: FakeParts, *references: str, listen: Any = silent, **options: Any) -> tuple[IdentityReport, Path]:
    return anyio.run(lambda: Identifying(parts, listen).identify(references or NAMES, **options))


def failure(parts: FakeParts, *references: str, **options: Any) -> DnaError:
    with pytest.raises(DnaError) as caught:
        ask(parts, *references, **({"controls": False} | options))
    assert caught.value.hint
    return caught.value


def test_each_block_explains_its_own_person_and_better_than_its_control_does(four: FakeParts) -> None:
    report, folder = ask(four)
    found = report.identified
    assert found.verdict.kind == "identity"
    assert found.blocks == tuple(f"{name}@1.0.0" for name in NAMES)
    assert [one.best for one in found.people] == [0, 1, 2, 3]
    for j, one in enumerate(found.people):
        assert one.n_spans == 10
        assert one.n_files == 5
        assert (found.matrix[j][j] or 0) == pytest.approx(one.gain.value)
        assert one.control.value is not None
        assert one.control.ci95 is not None
        assert one.control.ci95[0] > 0
        assert "3 other blocks" in one.control.how
    kept = IdentityReport.model_validate_json((folder / "result.json").read_bytes())
    assert kept == report
    again = identify(kept.identified.blocks, [one.person for one in found.people], kept.held)
    assert again.measures == found.measures
    assert again.matrix == found.matrix
    assert (folder / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / "matrix-dark.svg").read_bytes()
    assert len(list(folder.iterdir())) == 6
    assert control_sentence(report).startswith("4 of 4 people's blocks that can be told explain them better")


def test_a_block_that_was_trained_on_shuffled_authors_is_nobodys(parts: FakeParts) -> None:
    everything = [one for habit in range(4) for one in work(habit)]
    for habit, name in enumerate(NAMES):
        mixed = [one for one in everything if one.split == "train"][habit::4]
        add(parts, name, work(habit), trained_on=mixed)
    report, _ = ask(parts, controls=False)
    assert report.identified.verdict.kind != "identity"
    assert report.identified.verdict.text.startswith(("no identity", "looks like"))


def test_one_block_of_other_peoples_code_among_real_ones_is_told(parts: FakeParts) -> None:
    for habit, name in enumerate(NAMES):
        others = [one for other in (0, 2, 3) for one in work(other) if one.split == "train"][::3]
        add(parts, name, work(habit), trained_on=others if name == "bob" else None)
    report, _ = ask(parts)
    ada, bob, *_ = report.identified.people
    assert ada.control.value is not None
    assert bob.control.value is not None
    assert abs(bob.control.value) < 0.1 * ada.control.value  # it is a control itself
    assert bob.gain.value is not None
    assert ada.gain.value is not None
    assert bob.gain.value < ada.gain.value / 2


def test_what_any_block_has_seen_is_left_out_and_counted(four: FakeParts) -> None:
    leaked = pair(0, 101, "train")  # held out for ada
    shared = pair(3, 103, "holdout")  # held out for dee too
    add(four, "eve", [*work(4), leaked.model_copy(update={"id": "x"}), shared.model_copy(update={"id": "y"})])
    report, _ = ask(four, *NAMES, "eve", controls=False)
    left = {one.person.handle: (one.person.left_out, one.n_spans) for one in report.identified.people}
    assert left == {"ada": (1, 9), "bob": (0, 10), "cyd": (0, 10), "dee": (1, 9), "eve": (1, 10)}
    assert any("3 hold-out spans were left out" in remark for remark in report.remarks)


def test_the_base_and_every_adapter_are_asked_about_the_same_spans_once(four: FakeParts) -> None:
    asked: list[tuple[int, str]] = []
    engine = four.engine("fake")
    nll = engine.nll

    async def counting(examples: Any, layers: Any = (), **named: Any) -> Any:
        asked.append((len(examples), layers[0].adapter if layers else ""))
        return await nll(examples, layers, **named)

    engine.nll = counting  # type: ignore[method-assign]
    ask(four, controls=False)
    assert [n for n, _ in asked] == [40] * 5
    assert len({adapter for _, adapter in asked}) == 5


def test_two_versions_of_one_person_count_as_theirs(four: FakeParts) -> None:
    add(four, "ada-again", work(0, training=12), handle="ADA")
    report, _ = ask(four, *NAMES, "ada-again", controls=False)
    assert [one.person.handle for one in report.identified.people] == list(NAMES)
    assert report.identified.people[0].person.own == (0, 4)
    assert report.identified.people[0].n_spans == 10  # the same spans, once
    assert any("of one person" in remark for remark in report.remarks)
    assert failure(four, "ada", "ada-again").code == "bad_input"


def test_what_cannot_be_compared_is_an_error_with_a_next_step(four: FakeParts) -> None:
    assert isinstance(failure(four, "ada"), InputError)
    assert isinstance(failure(four, "ada", "bob", "ada@1.0.0"), InputError)
    other = add(four, "far", work(4), base_fingerprint="0" * 64)
    error = failure(four, "ada", "far")
    assert isinstance(error, WrongBase)
    assert "far@1.0.0" in error.message
    assert other.base_fingerprint[:12] in error.message
    add(four, "empty", [one for one in work(4) if one.split == "train"])
    assert "no held-out pairs" in failure(four, "ada", "empty").message


def test_a_rejected_block_takes_part_only_by_its_id_and_when_asked(four: FakeParts) -> None:
    manifest = add(four, "eve", work(4), gate=rejected("no gain"))
    assert isinstance(failure(four, "ada", manifest.id[:12]), BlockRejected)
    assert isinstance(failure(four, "ada", "eve", unsafe=True), DnaError)
    report, _ = ask(four, "ada", "bob", manifest.id[:12], controls=False, unsafe=True)
    assert report.blocks[2].gate.status == "rejected"
    assert "eve@1.0.0 was rejected by its gate" in report.remarks


def test_revoked_blocks_and_people_do_not_take_part(four: FakeParts) -> None:
    four.registry.revoke(four.registry.resolve("bob").id)
    assert isinstance(failure(four, "ada", "bob"), BlockRevoked)
    record = four.consents.local_only((Identity(name="Cyd", email="cyd@example.org"),), "local:abacus")
    four.granted_consents.revoke_identities([record.identity_digest])
    assert isinstance(failure(four, "ada", "cyd"), ConsentRevoked)


def controls_of(parts: FakeParts) -> list[Path]:
    return sorted((parts.settings.home / "identity" / "controls").iterdir())


def test_a_control_is_trained_once_and_goes_on_after_a_kill(four: FakeParts) -> None:
    first, _ = ask(four, "ada", "bob")
    made = {
        path.name: (path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns for path in controls_of(four)
    }
    assert len(made) == 2
    again, _ = ask(four, "bob", "ada")
    assert {
        path.name: (path / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns for path in controls_of(four)
    } == made
    assert {one.person.handle: one.control for one in again.identified.people} == {
        one.person.handle: one.control for one in first.identified.people
    }
    whole = (controls_of(four)[0] / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(controls_of(four)[0])

    def kill(event: object) -> None:
        if isinstance(event, StageProgress) and "train" in event.unit:
            raise Interrupted("killed", "again")

    with pytest.raises(Interrupted):
        ask(four, "ada", "bob", listen=kill)
    assert not (controls_of(four)[0] / "control.json").exists()
    said: list[object] = []
    ask(four, "ada", "bob", listen=said.append)
    assert any(isinstance(event, Note) and event.text.startswith("resumed at step") for event in said)
    assert (controls_of(four)[0] / "adapter" / "adapter_model.safetensors").read_bytes() == whole
    assert not (controls_of(four)[0] / "checkpoints").exists()


def test_a_control_that_another_process_trains_is_waited_for_by_the_person(four: FakeParts) -> None:
    ask(four, "ada", "bob")
    folder = controls_of(four)[0]
    (folder / "control.json").unlink()
    with Workspace(folder).lock():
        error = failure(four, "ada", "bob", controls=True)
    assert isinstance(error, JobBusy)
    assert "another process trains the control of" in error.message


def test_progress_of_all_controls_is_one_row_with_what_is_left(four: FakeParts) -> None:
    said: list[Any] = []
    ask(four, listen=said.append)
    rows = [event for event in said if isinstance(event, StageProgress) and event.stage == "controls"]
    assert all(0 <= event.done <= event.total for event in rows)
    trained = [event for event in rows if event.unit.endswith("train)")]
    assert trained[-1].eta_seconds is not None
    assert "control 4 of 4, dee@1.0.0" in trained[-1].unit
    assert {event.stage for event in said if isinstance(event, StageFinished)} == {"score", "controls"}


def opened(parts: FakeParts, *names: str) -> list[Block]:
    return [open_block(parts, parts.registry.resolve(name)) for name in names]


def test_a_control_is_drawn_from_the_others_as_the_block_was_made(four: FakeParts) -> None:
    ada, *others = opened(four, *NAMES)
    drawn = draw(ada, others)
    assert len(drawn.train) == drawn.wanted == 20
    assert all(one.provenance.url != "local:person-0" for one in drawn.train)
    assert len({one.provenance.sha256 for one in drawn.train}) == 20
    assert draw(ada, list(reversed(others))) == drawn
    assert drawn.blocks == tuple(sorted(other.manifest.id for other in others))


def test_a_control_speaks_the_languages_of_the_block_and_no_other(four: FakeParts) -> None:
    rust = [one.model_copy(update={"language": "typescript"}) for one in work(4)]
    add(four, "eve", rust)
    eve, *others = opened(four, "eve", *NAMES)
    assert draw(eve, others).train == ()
    report, _ = ask(four, "ada", "bob", "eve")
    *_, last = report.identified.people
    assert last.control.status == "not_available"
    assert "in this block's languages" in last.control.how
    assert any("different languages" in remark for remark in report.remarks)


def gain(parts: FakeParts, name: str) -> Any:
    manifest = parts.registry.resolve(name)

    async def work() -> Any:
        engine = parts.engine("fake")
        adapter = await engine.load(parts.store.path(manifest.id))
        return await control_gain(parts, manifest, engine, adapter=adapter.id, emit=silent)

    return anyio.run(work)


def test_one_block_alone_has_a_gain_over_the_others_in_the_store(four: FakeParts) -> None:
    measure = gain(four, "ada")
    assert measure.status == "measured"
    assert (measure.value, measure.ci95[0]) > (0.0, 0.0)
    assert "control: the same recipe on other people's code" in measure.how


def test_where_no_other_person_is_there_the_gain_is_not_available(parts: FakeParts) -> None:
    add(parts, "ada", work(0))
    add(parts, "ada-again", work(0, training=12), handle="ada")
    add(parts, "bad", work(1), gate=rejected("no gain"))
    add(parts, "far", work(2), base_fingerprint="0" * 64)
    measure = gain(parts, "ada")
    assert (measure.value, measure.status) == (None, "not_available")
    assert "no block of another person" in measure.how


def test_controls_and_results_go_with_a_block_that_took_part(four: FakeParts) -> None:
    home = four.settings.home
    ask(four, "ada", "bob")
    ask(four, "cyd", "dee")
    assert len(list((home / "identity" / "results").iterdir())) == 2
    bob = four.registry.resolve("bob").id
    unnamed = home / "identity" / "controls" / ("0" * 64)
    unnamed.mkdir()
    forget(home, bob)
    left = [json.loads((path / "blocks.json").read_bytes()) for path in (home / "identity").glob("*/*")]
    assert len(left) == 3
    assert all(bob not in one for one in left)
    assert not unnamed.exists()
    forget(home.parent / "no-such-home", bob)


def test_people_of_one_name_are_told_apart_by_handle_and_other_scripts_are_drawn(
    parts: FakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    def heat_map(matrix: object, rows: object, columns: list[str], **_: object) -> pictures.Picture:
        drawn.append(columns)
        return pictures.Picture(svg=b"", png=b"")

    monkeypatch.setattr(pictures, "heat_map", heat_map)
    for habit, (handle, name) in enumerate(
        (("jo", "Jo Example"), ("jo-2", "Jo Example"), ("yamada", "山田"), ("dee", "Dee"))
    ):
        who = Candidate(handle=handle, name=name, consent_verified=False)
        add(parts, handle, work(habit), candidate=who)
    report, _ = ask(parts, "jo", "jo-2", "yamada", "dee", controls=False)
    assert names_of(report.identified) == ["jo", "jo-2", "山田", "Dee"]
    assert drawn == [["jo", "jo-2", "yamada", "Dee"]] * 2
    assert control_sentence(report) == ""


@pytest.mark.parametrize("how", ["removed", "revoked"])
def test_nothing_is_kept_of_a_block_that_is_gone(four: FakeParts, how: str) -> None:
    ask(four, "ada", "bob")
    if how == "removed":
        Blocks(four).remove("bob")
    else:
        Revoking(four).block("bob")
    assert list((four.settings.home / "identity").glob("*/*")) == []


def test_a_full_evaluation_of_one_block_measures_its_gain_over_a_control(four: FakeParts) -> None:
    done = anyio.run(lambda: Evaluating(four, silent).examine("ada", full=True))
    assert done.evaluation.measures["identity.gain"] == gain(four, "ada")


def test_the_columns_are_what_is_left_of_each_persons_hold_out(four: FakeParts) -> None:
    people, held = held_out(opened(four, *NAMES))
    assert [one.own for one in people] == [(0,), (1,), (2,), (3,)]
    assert [len(one) for one in held] == [10] * 4
    assert len(HABITS) == 5
