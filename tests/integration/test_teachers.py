"""Whole mints (fake engine and source) with the `openai` teacher: asked once, told in recipe and events, the key nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from clonedna.app.jobs import Jobs
from clonedna.core.block import Recipe
from clonedna.core.errors import BadConfig, Unauthorised
from clonedna.core.events import Note, StageFinished
from tests.parts import FakeParts, order
from tests.unit.teachers.server import KEY, Script, completion, serving

FEW = Recipe(
    epochs=2,
    batch_tokens=512,
    learning_rate=0.0001,
    base_instruct_ratio=0.5,
    min_spans=12,
    min_holdout=2,
    tool_use_pairs=2,
)


def honest(body: dict[str, Any]) -> dict[str, Any]:
    """Instructions, and what people may type."""
    if "can" in json.loads(body["messages"][1]["content"]):
        return completion({"searches": ["adding up quickly"], "needs": ["I want totals without a spreadsheet"]})
    return completion({"instruction": "Write the function that is needed here."})


def jobs_at(home: Path, url: str, **settings: Any) -> Jobs:
    parts = FakeParts(home, spans=20)
    changes = {"teacher_url": url, "teacher_key": SecretStr(KEY), "teacher_retries": 0, **settings}
    parts.settings = parts.settings.model_copy(update=changes)
    return Jobs(parts.settings, parts)


def minted(jobs: Jobs, name: str, **changes: Any) -> tuple[Any, dict[str, Any], list[Any]]:
    heard: list[Any] = []
    workspace, _ = jobs.create(order(teacher="openai", recipe=FEW, name=name, **changes))
    reference = jobs.run(workspace, heard.append)
    done = next(e for e in heard if isinstance(e, StageFinished) and e.stage == "instruct")
    manifest = jobs.parts.registry.resolve(reference.id, unsafe=True)
    pairs = (jobs.parts.store.path(reference.id) / "pairs.jsonl").read_text("utf-8").splitlines()
    return manifest, done.counts, [*map(json.loads, pairs), *(e for e in heard if isinstance(e, Note))]


def test_a_second_mint_makes_no_call_and_has_the_same_recipe(tmp_path: Path) -> None:
    script = Script(answer=honest)
    with serving(script) as url:
        first, counts, told = minted(
            jobs_at(tmp_path, url, teacher_prompt_price=1.0, teacher_completion_price=2.0), "one"
        )
        calls = len(script.bodies) - 1  # and one for what people may type
        second, again, _ = minted(jobs_at(tmp_path, url, teacher_prompt_price=1.0, teacher_completion_price=2.0), "two")
    assert (counts["calls"], counts["cached"], counts["teacher"]) == (calls, 0, "openai")
    assert (again["calls"], again["cached"], len(script.bodies)) == (0, calls, calls + 1)
    assert first.recipe == second.recipe
    took = first.recipe.teaching
    assert (took.teacher, took.calls, took.prompt_tokens) == ("openai", calls, 200 * calls)
    assert took.cost.value == pytest.approx((200 + 2 * 20) * calls / 1e6)
    assert counts["cost"] == f"${took.cost.value:.4f}"
    assert took.model.startswith("grok-4 at 127.0.0.1")
    assert "about $" in next(note.text for note in told if isinstance(note, Note) and "questions" in note.text)
    trained = [pair for pair in told if isinstance(pair, dict) and pair["split"] == "train"]
    assert len(trained) == calls
    assert {pair["instruction"].splitlines()[0] for pair in trained} == {"Write the function that is needed here."}
    assert first.recipe.general_pairs.source == "rehearsal"
    assert first.recipe.general_pairs.n == first.base_instruct_pairs > 0


def test_it_also_writes_what_people_may_type_who_look_for_the_block(tmp_path: Path) -> None:
    with serving(Script(answer=honest)) as url:
        jobs = jobs_at(tmp_path, url)
        manifest, _, told = minted(jobs, "one")
    assert jobs.parts.queries.of(manifest.id) == ("adding up quickly", "I want totals without a spreadsheet")
    near = jobs.parts.meanings.nearest([["I want totals without a spreadsheet"]], 9)[0]
    assert [(one.id, round(one.meaning_cosine or 0, 3)) for one in near] == [(manifest.id, 1.0)]
    assert "about 1 blocks" in "".join(note.text for note in told if isinstance(note, Note))


@pytest.mark.parametrize("nonsense", [(500, {}, b"{}"), completion("no JSON"), (401, {}, b"{}")])
def test_a_mint_is_done_also_where_nobody_can_say_what_people_may_type(tmp_path: Path, nonsense: Any) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return nonsense if "can" in json.loads(body["messages"][1]["content"]) else honest(body)

    with serving(Script(answer=answer)) as url:
        jobs = jobs_at(tmp_path, url)
        manifest, _, told = minted(jobs, "one")
    assert jobs.parts.queries.blocks() == frozenset()
    assert [one.id for one in jobs.parts.meanings.nearest([["adding up"]], 9)[0]] == [manifest.id]
    assert "dna reindex --teacher openai" in next(
        note.text for note in told if isinstance(note, Note) and "may type" in note.text and note.level == "warning"
    )


def test_the_key_is_in_no_file(tmp_path: Path) -> None:
    with serving(Script(answer=lambda body: completion({"instruction": f"The key was {KEY}, use it."}))) as url:
        jobs = jobs_at(tmp_path, url)
        workspace, _ = jobs.create(order(teacher="openai", recipe=FEW))
        with pytest.raises(Exception, match="no usable instruction"):
            jobs.run(workspace, lambda event: None)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_refused_key_ends_the_mint_at_once(tmp_path: Path) -> None:
    script = Script(answer=lambda body: (401, {}, f'{{"error": "{KEY} is wrong"}}'.encode()))
    with serving(script) as url:
        jobs = jobs_at(tmp_path, url, teacher_at_once=1)
        workspace, _ = jobs.create(order(teacher="openai", recipe=FEW))
        with pytest.raises(Unauthorised) as found:
            jobs.run(workspace, lambda event: None)
    assert "DNA_TEACHER_KEY" in found.value.hint
    assert len(script.bodies) == 1


def test_no_key_for_xai_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    jobs = jobs_at(tmp_path, "https://api.x.ai/v1", teacher_key=None)
    with pytest.raises(BadConfig) as found:
        jobs.parts.teacher("openai")
    assert "XAI_API_KEY" in found.value.hint
