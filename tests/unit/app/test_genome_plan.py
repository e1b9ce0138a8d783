"""Plans: what decides them, who may be a layer, what is done for each skill, and what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app.genome_judge import HomeJudge
from clonedna.app.genome_plan import Planning
from clonedna.app.genome_plan_values import claimed, closest, likest, within
from clonedna.app.genome_values import KeptPlan, PlanAsk
from clonedna.core.block import GivenFile, Lineage, Measure, not_available
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import GenomeEmpty, InputError, LicenceNotAllowed, LicenceUnknown, NotFound, Unauthorised
from clonedna.core.events import Event
from clonedna.core.genome import Features, LayerScore, Match, Similarity, Skill, SkillPlan
from clonedna.genomes.planning import plan_id
from tests.genomes import GenomeParts, given_lines, skilled
from tests.judges import ToldJudge
from tests.unit.teachers.server import Script, completion, serving

BRINGS = {"alpha": {"ada": 0.97, "bob": 0.1}, "beta": {"bob": 0.8, "ada": 0.2}}


@pytest.fixture
def parts(tmp_path: Path) -> GenomeParts:
    made = GenomeParts(tmp_path / "home")
    skilled(made, "ada", "alpha", "abc")
    skilled(made, "bob", "beta", "xyz")
    return made


def planned(parts: GenomeParts, request: str, judge: Any = None, pairs: bytes | None = None, **ask: Any) -> KeptPlan:
    given = GivenFile(sha256=sha256(pairs), name="pairs.jsonl", bytes=len(pairs)) if pairs is not None else None
    wanted = PlanAsk(request=request, pairs=given, licence="MIT" if given else "", **ask)
    return anyio.run(lambda: Planning(parts, judge or ToldJudge(parts, BRINGS)).plan(wanted, "nano", pairs=pairs))


def test_the_right_layer_of_each_skill(parts: GenomeParts) -> None:
    plan = planned(parts, "alpha beta").plan
    names = {one.skill.text: next(m.name for m in one.matches if m.id == one.layer) for one in plan.skills}
    assert names == {"alpha": "ada", "beta": "bob"}
    assert [one.route for one in plan.skills] == ["use-as-is", "refine"]
    assert all(one.verified and one.exemplars >= 8 for one in plan.skills)
    assert plan.license == "MIT"
    assert plan.composition.kind == "route"
    assert plan.covered.value == pytest.approx(0.5 * 0.97 + 0.5 * 0.8)


def test_equal_inputs_give_equal_bytes_and_any_other_input_another_id(parts: GenomeParts) -> None:
    first = planned(parts, "alpha beta")
    assert canonical(planned(parts, "alpha beta")) == canonical(first)
    assert plan_id(first.plan.decided_by) == first.plan.id
    others = [
        planned(parts, "beta alpha"),
        planned(parts, "alpha beta", seed=1),
        planned(parts, "alpha beta", target=0.5),
    ]
    skilled(parts, "cora", "gamma", "pqr")
    others.append(planned(parts, "alpha beta"))
    assert len({one.plan.id for one in (first, *others)}) == 5


def test_a_plan_is_found_by_its_digits_and_not_when_it_was_changed(parts: GenomeParts, tmp_path: Path) -> None:
    kept = planned(parts, "alpha")
    planning = Planning(parts, ToldJudge(parts, BRINGS))
    assert planning.find(kept.plan.id[:8]) == kept
    for wrong in ("../..", "zzzzzzzz", "abc"):
        with pytest.raises(InputError):
            planning.find(wrong)
    with pytest.raises(NotFound):
        planning.find("0" * 64)
    path = planning.folder(kept.plan.id) / "plan.json"
    path.write_bytes(path.read_bytes().replace(b"told@", b"x").replace(b'"seed":"0"', b'"seed":"1"'))
    with pytest.raises(Exception, match="changed"):
        planning.find(kept.plan.id)


def test_words_alone_do_not_win_once_there_is_a_probe(parts: GenomeParts) -> None:
    skilled(parts, "mallory", "alpha beta alpha beta", "!?")
    predicts = {"alpha": {"mallory": 0.99, "ada": 0.7}, "beta": {"mallory": 0.99, "bob": 0.7}}
    judge = ToldJudge(parts, BRINGS, predicts=predicts)
    plan = planned(parts, "alpha beta", judge).plan
    chosen = {m.name for one in plan.skills for m in one.matches if m.id == one.layer}
    assert chosen == {"ada", "bob"}
    assert plan.skills[0].matches[0].name == "mallory"  # it was ranked first, and lost by what was measured


@pytest.mark.parametrize(
    ("ada", "bob", "predicts", "used", "route"),
    [
        # Ada is most like what is asked. What a probe leaves open is decided by words, and by them alone.
        (0.8, 0.1, 0.5, "ada", "refine"),
        (0.8, 0.99, 0.5, "ada", "refine"),
        (0.3, 0.99, 0.5, "", "abstain"),
        (0.3, 0.99, 0.95, "ada", "use-as-is"),
        (0.2, 0.99, 0.95, "", "abstain"),
        (0.65, 0.1, 0.5, "ada", "fork"),
        (0.5, 0.1, 0.5, "ada", "use-as-is"),
        (0.45, 0.1, 0.5, "", "abstain"),
    ],
)
def test_a_probe_that_leaves_everything_open_proves_nothing(
    parts: GenomeParts, ada: float, bob: float, predicts: float, used: str, route: str
) -> None:
    told = ToldJudge(
        parts, {"alpha": {"ada": ada, "bob": bob}, "beta": {"bob": 0.9, "ada": 0.0}}, unsure=("ada", "bob"),
        predicts={"alpha": {"ada": predicts, "bob": 0.3}, "beta": {"bob": 0.5}},
    )  # fmt: skip
    skill = next(one for one in planned(parts, "alpha beta", told).plan.skills if one.skill.text == "alpha")
    assert skill.route == route
    assert skill.verified is False or skill.route == "abstain"
    assert (skill.layer is not None) == bool(used)
    assert not used or parts.registry.resolve(skill.layer or "", unsafe=True).name == used


def test_a_sure_measurement_is_used_whatever_words_say(parts: GenomeParts) -> None:
    told = ToldJudge(
        parts, {"alpha": {"ada": 0.4, "bob": 0.92}}, predicts={"alpha": {"ada": 0.99, "bob": 0.3}}, unsure=["ada"]
    )
    (skill,) = planned(parts, "alpha", told).plan.skills
    assert parts.registry.resolve(skill.layer or "", unsafe=True).name == "bob"


@pytest.mark.parametrize("given", [False, True])
def test_what_the_blocks_own_pairs_say_is_of_no_skill_that_words_do_not_name(parts: GenomeParts, given: bool) -> None:
    told = ToldJudge(
        parts, {"alpha": {"ada": 0.0, "bob": 0.97}}, predicts={"alpha": {"ada": 0.4, "bob": 0.29}}
    )  # bob is measured well on his own work, and nothing says that it is what is asked
    pairs = given_lines("alpha", "abc", 10) if given else None
    if not given:
        with pytest.raises(GenomeEmpty) as caught:
            planned(parts, "alpha", told)
        assert "most alike: ada" in str(caught.value.facts["gaps"])
        return
    (skill,) = planned(parts, "alpha", told, pairs=pairs).plan.skills
    assert parts.registry.resolve(skill.layer or "", unsafe=True).name == "bob"


def test_what_a_layer_says_of_itself_does_not_make_it_the_closest() -> None:
    unknown = Similarity(value=None, status="not_available", how="")
    score = LayerScore(score=0.0, similarity=0.0, diversity=0.0, trust=0.0, size=0.0)

    def one(name: str, text: float, prompts: float | None) -> Match:
        return Match(
            id=sha256(name), name=name, version="1.0.0", features=Features(text_cosine=text, centroid_cosine=prompts),
            predicted=unknown, measured=unknown, score=score,
        )  # fmt: skip

    stuffed, right, bare = one("stuffed", 0.9, 0.1), one("right", 0.4, 0.5), one("bare", 0.45, None)
    assert likest((stuffed, right, bare)) == stuffed.id
    assert closest((stuffed, right, bare)) == right.id
    assert closest((stuffed, bare)) == bare.id
    assert closest(()) is None
    assert claimed(Features(text_cosine=0.9, centroid_cosine=0.1, overlap=1.0)) == pytest.approx(0.2)
    assert claimed(Features(text_cosine=0.9, centroid_cosine=0.1, meaning_cosine=1.0, overlap=1.0)) == pytest.approx(
        0.2
    )
    assert claimed(Features(text_cosine=0.4, centroid_cosine=0.5, overlap=0.6)) == pytest.approx((0.4 + 0.5 + 0.36) / 3)


def test_a_text_of_all_words_is_not_tried_without_a_probe(parts: GenomeParts) -> None:
    skilled(parts, "mallory", "alpha beta alpha beta", "!?")
    predicts = {"alpha": {"mallory": 0.99, "ada": 0.5}}
    stuffed = ToldJudge(parts, predicts, prompts={"mallory": 0.1, "ada": 0.4})
    with pytest.raises(GenomeEmpty, match="another was trained on what is nearer"):
        planned(parts, "alpha", stuffed, probe=False)
    honest = ToldJudge(parts, predicts, prompts={"mallory": 0.6, "ada": 0.4})
    (skill,) = planned(parts, "alpha", honest, probe=False).plan.skills
    assert parts.registry.resolve(skill.layer or "", unsafe=True).name == "mallory"
    assert not skill.verified


def test_what_was_not_probed_is_unverified_and_used_as_a_trial_only(parts: GenomeParts) -> None:
    plan = planned(parts, "alpha", probe=False).plan
    assert not plan.skills[0].verified
    assert "unverified: alpha" in plan.warnings
    assert plan.skills[0].similarity.status == "predicted"


def test_copies_add_nothing(parts: GenomeParts) -> None:
    skilled(parts, "twin", "alpha", "abc")
    brings = {"alpha": {"ada": 0.97, "twin": 0.97}, "beta": {"twin": 0.5, "bob": 0.8}}
    judge = ToldJudge(parts, brings, kin={"ada": ["twin"], "twin": ["ada"]})
    plan = planned(parts, "alpha beta", judge).plan
    twins = [m for one in plan.skills for m in one.matches if m.duplicate_of is not None]
    assert twins
    names = {m.name for one in plan.skills for m in one.matches if m.id == one.layer}
    assert names in ({"ada", "bob"}, {"twin", "bob"})


@pytest.mark.parametrize(("brings", "chosen"), [(0.97, "later"), (0.3, "ada")])
def test_what_was_trained_on_from_a_layer_is_measured_beside_it_and_the_better_one_chosen(
    parts: GenomeParts, brings: float, chosen: str
) -> None:
    ada = parts.registry.resolve("ada").id
    for name, at in (("forked", "2026-01-03T00:00:00Z"), ("later", "2026-01-04T00:00:00Z")):
        skilled(parts, name, "alpha", "abd", lineage=Lineage(parents=(ada,), relation="forked"), created_at=at)
    skilled(parts, "copy", "alpha", "abe")
    every = {"ada", "forked", "later", "copy"}
    judge = ToldJudge(
        parts,
        {"alpha": {"ada": 0.7, "later": brings, "forked": 1.0, "copy": 1.0}},
        predicts={"alpha": {"ada": 0.9} | dict.fromkeys(every - {"ada"}, 0.5)},
        kin={name: every - {name} for name in every},
    )
    plan = planned(parts, "alpha", judge).plan
    assert judge.probes == [("alpha", ("ada", "later"))]
    assert [m.name for m in plan.skills[0].matches if m.id == plan.skills[0].layer] == [chosen]


def test_who_may_not_be_a_layer_is_told_with_the_code(parts: GenomeParts) -> None:
    skilled(parts, "elsewhere", "alpha", "abd", base_fingerprint="e" * 64)
    skilled(parts, "odd", "alpha", "abe", license="not a licence")
    brings = {"alpha": {"ada": 0.97, "elsewhere": 1.0, "odd": 1.0}}
    plan = planned(parts, "alpha", ToldJudge(parts, brings)).plan
    assert {one.name.partition("@")[0]: one.code for one in plan.refused} == {
        "elsewhere": "wrong_base",
        "odd": "licence_unknown",
    }
    assert plan.skills[0].matches[0].name == "ada"


def test_a_base_that_does_it_needs_no_layer(parts: GenomeParts) -> None:
    plan = planned(parts, "alpha beta", ToldJudge(parts, BRINGS, base=["beta"])).plan
    assert [(one.route, one.layer is None) for one in plan.skills] == [("use-as-is", False), ("base-suffices", True)]
    with pytest.raises(GenomeEmpty, match="no layer is needed"):
        planned(parts, "beta", ToldJudge(parts, BRINGS, base=["beta"]))


def test_nothing_found_and_nothing_to_train_from_is_an_error(parts: GenomeParts) -> None:
    with pytest.raises(GenomeEmpty) as caught:
        planned(parts, "omega")
    assert caught.value.facts["gaps"]
    assert "--pairs" in caught.value.hint


def test_who_gets_nothing_is_told_who_would_be_most_alike(parts: GenomeParts) -> None:
    judge = ToldJudge(parts, {"alpha": {"ada": 0.1}}, predicts={"alpha": {"ada": 0.4, "bob": 0.3}})
    with pytest.raises(GenomeEmpty, match=r"most alike: ada@1\.0\.0"):
        planned(parts, "alpha", judge)


def test_given_pairs_are_what_is_measured_on_and_trained_from(parts: GenomeParts) -> None:
    plan = planned(parts, "alpha omega", pairs=given_lines("omega", "mno")).plan
    omega = plan.skills[1]
    assert (omega.route, omega.trains, omega.layer) == ("scratch", True, None)
    assert omega.exemplars >= 4
    assert plan.seconds.status == "not_available"  # no training is recorded here yet
    with pytest.raises(LicenceUnknown):
        anyio.run(lambda: Planning(parts, ToldJudge(parts, BRINGS)).plan(
            PlanAsk(request="omega", pairs=GivenFile(sha256="0" * 64, name="x", bytes=1)), "nano", pairs=b"x"))  # fmt: skip


def test_bad_pairs_are_told_before_anything_is_looked_for(parts: GenomeParts) -> None:
    data, judge, told = b"not json\n", ToldJudge(parts, BRINGS), list[Event]()
    given = GivenFile(sha256=sha256(data), name="pairs.jsonl", bytes=len(data))
    ask = PlanAsk(request="alpha", pairs=given, licence="MIT")
    with pytest.raises(InputError, match="line 1"):
        anyio.run(lambda: Planning(parts, judge, told.append).plan(ask, "nano", pairs=data))
    assert told == []


def test_the_budget_bounds_trainings(parts: GenomeParts) -> None:
    pairs = given_lines("omega", "mno")
    with pytest.raises(GenomeEmpty, match="nothing can be trained"):
        planned(parts, "omega", pairs=pairs, trainings=0)
    plan = planned(parts, "alpha omega", pairs=pairs, trainings=0).plan
    assert not plan.skills[1].trains
    assert "over the budget" in plan.skills[1].reason
    assert "uncovered: omega" in plan.warnings


def test_licences_that_exclude_each_other_are_refused(parts: GenomeParts) -> None:
    skilled(parts, "carol", "gamma", "pqr", license="GPL-2.0-only")
    skilled(parts, "dave", "delta", "stu", license="Apache-2.0")
    brings = {"gamma": {"carol": 1.0}, "delta": {"dave": 1.0}}
    with pytest.raises(LicenceNotAllowed):
        planned(parts, "gamma delta", ToldJudge(parts, brings))


@pytest.mark.parametrize(
    ("route", "value", "low", "status", "kept"),
    [
        ("refine", 0.8, 0.1, "measured", True), ("refine", 0.8, 0.0, "measured", False),
        ("refine", 0.8, 0.5, "predicted", False), ("fork", 0.7, 0.1, "measured", True),
        ("fork", 0.7, 0.0, "measured", False), ("fork", 0.7, 0.1, "predicted", False), ("scratch", 0.4, 0.3, "measured", False),
    ],
)  # fmt: skip
def test_what_the_budget_leaves_untrained_is_used_where_that_was_measured(
    route: Any, value: float, low: float, status: Any, kept: bool
) -> None:
    known = Similarity(value=value, low=low, high=1.0, status=status, n=16, how="told")
    one = SkillPlan(
        skill=Skill(text="alpha", weight=1.0), route=route, layer="a" * 64, similarity=known, reason="told",
        verified=status == "measured", trains=True, seconds=Measure(value=10.0, status="estimated", n=1, how="told"),
    )  # fmt: skip
    for ask in (PlanAsk(request="alpha", trainings=0), PlanAsk(request="alpha", seconds=5.0)):
        (found,) = within([one], ask)
        assert (found.layer is not None, found.trains) == (kept, False)
        assert "budget" in found.reason
    assert within([one], PlanAsk(request="alpha", seconds=10.0)) == (one,)
    unknown = one.model_copy(update={"seconds": not_available("no pace is recorded")})
    assert within([unknown], PlanAsk(request="alpha", seconds=10.0)) == (unknown,)
    assert not within([unknown], PlanAsk(request="alpha", seconds=0))[0].trains


def test_where_the_budget_leaves_no_training_words_decide_what_a_probe_left_open(parts: GenomeParts) -> None:
    pairs = given_lines("alpha", "ab")
    brings = {"alpha": {"ada": 0.8, "bob": 0.1}}
    for predicts, used in (({"ada": 0.5, "bob": 0.3}, True), ({"ada": 0.3, "bob": 0.5}, False)):
        told = ToldJudge(parts, brings, predicts={"alpha": predicts}, unsure=("ada", "bob"))
        if used:
            (skill,) = planned(parts, "alpha", told, pairs=pairs, trainings=0).plan.skills
            assert (skill.route, skill.layer is not None, skill.trains) == ("refine", True, False)
        else:
            with pytest.raises(GenomeEmpty, match="budget"):
                planned(parts, "alpha", told, pairs=pairs, trainings=0)


@pytest.mark.parametrize(("compose", "told"), [("route", False), ("mixture", True), ("arrow", True), ("stack", True)])
def test_harm_is_warned_of_where_layers_answer_together(parts: GenomeParts, compose: str, told: bool) -> None:
    brings = {"alpha": {"ada": 0.97}, "beta": {"bob": 0.97}}
    plan = planned(parts, "alpha beta", ToldJudge(parts, brings, light="red"), compose=compose).plan
    red = {one.split(":")[1].strip() for one in plan.warnings if one.startswith("red: ")}
    assert red == ({"ada@1.0.0 beside bob@1.0.0", "bob@1.0.0 beside ada@1.0.0"} if told else set())


def test_without_pairs_a_teacher_writes_what_is_measured_on_and_nothing_is_trained_on_it(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        asked = json.loads(body["messages"][1]["content"])
        start, word = len(asked["had"]), asked["skill"][-1]
        said = [
            {"task": f"{word} of the kind {start + i}", "answer": "abc" * (start + i + 5)}
            for i in range(asked["count"])
        ]
        return completion({"examples": said})

    script = Script(answer=answer)
    with serving(script) as url:
        parts = GenomeParts(tmp_path / "home", teacher_url=url, teacher_model="m")
        skilled(parts, "ada", "alpha", "abc")
        skilled(parts, "bob", "beta", "xyz")
        judge = ToldJudge(parts, BRINGS)
        first = planned(parts, "alpha", judge, teacher="openai")
        questions = len(script.bodies)
        assert canonical(planned(parts, "alpha", judge, teacher="openai")) == canonical(first)
        assert (questions, len(script.bodies)) == (2, 2), "asked once, kept for good"
        without = planned(parts, "alpha", judge)
        predicted = planned(parts, "alpha", judge, teacher="openai", probe=False)
    (one,) = first.plan.skills
    assert (one.evidence, one.exemplars, one.trains) == ("teacher", 16, False)
    measured = {match.name: match.measured for match in one.matches}
    assert measured["ada"].status == "measured"
    assert measured["ada"].value or (measured["bob"].value or 0.0) < 0.0
    assert [without.plan.skills[0].evidence, predicted.plan.skills[0].evidence] == ["library", "none"]
    assert len({first.plan.id, without.plan.id, predicted.plan.id}) == 3


def test_given_pairs_come_before_a_teacher_and_one_that_fails_ends_the_plan(tmp_path: Path) -> None:
    script = Script(answer=lambda body: (401, {}, b"{}"))
    with serving(script) as url:
        parts = GenomeParts(tmp_path / "home", teacher_url=url, teacher_model="m")
        skilled(parts, "ada", "alpha", "abc")
        judge = ToldJudge(parts, BRINGS)
        kept = planned(parts, "alpha", judge, given_lines("alpha", "ab", 80), teacher="openai")
        assert (kept.plan.skills[0].evidence, script.bodies) == ("given", [])
        with pytest.raises(Unauthorised):
            planned(parts, "alpha", judge, teacher="openai")


def test_no_teacher_is_asked_where_nothing_could_be_measured(tmp_path: Path) -> None:
    script = Script(answer=lambda body: (401, {}, b"{}"))
    with serving(script) as url:
        parts = GenomeParts(tmp_path / "home", teacher_url=url, teacher_model="m")
        # Not so like what is asked for that it would be tried unmeasured.
        skilled(parts, "ada", "alpha among other letters of the alphabet", "abc")
        with pytest.raises(GenomeEmpty, match="what a pass is, is not known"):
            planned(parts, "alpha", HomeJudge(parts), teacher="openai")
        with pytest.raises(GenomeEmpty):
            planned(parts, "omega", ToldJudge(parts, BRINGS), teacher="openai")
    assert script.bodies == []
