"""What is read off a plan's values: what a choice goes by, who is a member, the budget, the composition, warnings. No file, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clonedna.app.composing import TOP_K
from clonedna.app.genome_judge import Probed
from clonedna.app.genome_pairs import Evidence
from clonedna.app.genome_values import PlanAsk
from clonedna.app.merge_papers import Parent
from clonedna.core.block import Measure
from clonedna.core.errors import GenomeEmpty, InputError
from clonedna.core.genome import (
    Composition,
    Conflict,
    DesiredGenome,
    Features,
    Match,
    Refused,
    Similarity,
    SkillPlan,
)
from clonedna.genomes.planning import Chosen
from clonedna.genomes.probing import LEAST
from clonedna.genomes.ranking import DIGITS, alike

TIE, STEP = 0.1, 0.002
"""How far measured values may be apart that some eight exemplars cannot tell apart; by how much one counts less than the one before."""
HALF, LIKELY, SAID = 0.5, 0.3, 0.1
"""The measured s* from which the layer that is most like what is asked is tried. The predicted s* below which words say that a layer is of
something else (chosen on 92 requests over 38 blocks, docs/genomes.md). How much more like a block may be by what it says of itself than by
its prompts."""


def values(row: Sequence[Match]) -> dict[str, float]:
    """s* by id: as measured; where any of the row was, what was not counts nothing, and where none was, as predicted."""
    if any(one.measured.status == "measured" for one in row):
        return {one.id: one.measured.value or 0.0 for one in row if one.measured.status == "measured"}
    return {one.id: one.predicted.value or 0.0 for one in row if one.duplicate_of is None}


def trained_on(names: Sequence[str], row: Sequence[Match], parents: Mapping[str, Parent]) -> tuple[str, ...]:
    """For each of ``names`` the newest block of the row that a training made of it, where there is one.

    Beside what it was made of it adds nothing, but it may do the skill better, and then it is the one to choose.
    """
    found: list[str] = []
    for name in names:
        mine = [
            (manifest.created_at, one.id)
            for one in row
            if one.id not in names and name in (manifest := parents[one.id].manifest).lineage.parents
            and manifest.lineage.relation in ("continued", "forked")
        ]  # fmt: skip
        found += [max(mine)[1]] if mine else []
    return tuple(dict.fromkeys(found))


def best_known(one: Match) -> Similarity:
    """What was measured of a layer, or else what is predicted."""
    return one.measured if one.measured.status == "measured" else one.predicted


def likest(row: Sequence[Match]) -> str | None:
    """The block that is most like what is asked; of equals the one that was ranked first."""
    best = max(row, key=lambda one: round(alike(one.features), DIGITS), default=None)
    return None if best is None else best.id


def stranger(one: Match) -> str:
    """Why words say that a layer is of something else than what is asked; empty: they do not. Where nothing is predicted they cannot."""
    predicted = one.predicted.value
    if predicted is not None and predicted < LIKELY:
        return f"its words are of something else: predicted s* {predicted:.2f}, {LIKELY:.2f} are needed"
    return ""


def closest(row: Sequence[Match]) -> str | None:
    """The block whose own training prompts are nearest to what is asked, of equals the one that was ranked first.

    What a block says of itself does not count, but where it has no prompts that may be seen.
    """

    best = max(row, key=lambda one: by_prompts(one.features), default=None)
    return None if best is None else best.id


def by_prompts(found: Features) -> float:
    """How near a block's training prompts are; its text, where it has none that may be seen."""
    return round(found.text_cosine if found.centroid_cosine is None else found.centroid_cosine, DIGITS)


def claimed(found: Features) -> float:
    """How like a block is to what is asked, as far as its training prompts bear that out: what it says of itself adds ``SAID`` at most."""
    return min(alike(found), by_prompts(found) + SAID)


def expected(row: Sequence[Match]) -> dict[str, float]:
    """What a choice goes by: s*, but of measured ones that a probe cannot tell from the best the one that was ranked first counts most.

    Not told apart: within ``TIE`` of the best value, and with an interval that reaches that of the best. What is ranked first by its words
    and measured surely less than another never gains by this.
    """
    found = values(row)
    known = [one for one in row if one.id in found and one.measured.status == "measured"]
    if not known:
        return found
    best = max(known, key=lambda one: (one.measured.value or 0.0, one.measured.low or 0.0))
    top, least = best.measured.value or 0.0, best.measured.low or 0.0
    place = 0
    for one in row:
        if one in known and found[one.id] >= top - TIE and (one.measured.high or 0.0) >= least:
            found[one.id] = max(0.0, top - STEP * place)
            place += 1
    return found


def members_of(skills: Sequence[SkillPlan]) -> tuple[str, ...]:
    """Blocks that are layers as they are: those to use, and those that would be trained on from, where nothing can be trained."""
    return tuple(
        dict.fromkeys(
            one.layer
            for one in skills
            if one.layer is not None
            and (one.route == "use-as-is" or (one.route in ("refine", "fork") and not one.trains))
        )
    )


def within(skills: Sequence[SkillPlan], ask: PlanAsk) -> tuple[SkillPlan, ...]:
    """At most as many trainings, and as many estimated seconds, as the budget has: the weightiest skills first.

    What would have been trained on is used as it is only where that was measured: with an interval above 0, or to be refined, if nothing is
    nearer to what is asked by what it was trained on.
    """
    spent, count, kept = 0.0, 0, list[SkillPlan]()
    for one in skills:
        takes = one.seconds.value or 0.0
        if one.trains and (count >= ask.trainings or spent + takes > ask.seconds or not ask.seconds):
            sure = (one.similarity.low or 0.0) > 0
            brings = one.route in ("refine", "fork") and (
                sure or (one.route, one.layer) == ("refine", closest(one.matches))
            )
            layer = one.layer if brings and one.verified else None
            over = f"{one.reason}; not trained: over the budget of {ask.trainings} trainings and {ask.seconds:g} s"
            one = one.model_copy(update={"trains": False, "reason": over, "layer": layer})
        elif one.trains:
            spent, count = spent + takes, count + 1
        kept.append(one)
    return tuple(kept)


def composition_of(count: int, ask: PlanAsk, gated: bool) -> Composition:
    """How that many layers become one model. One is used as it is; of several one answers each request, where a gate can tell which;
    two or three are averaged exactly else, or where that is asked. Raises ``InputError`` where a mixture of one is asked for."""
    if count <= 1:
        if ask.compose in ("mixture", "arrow"):
            raise InputError(
                f"{ask.compose} needs several layers, and for this request there is {'one' if count else 'none'}",
                "leave --compose out: one layer is used as it is", param="compose",
            )  # fmt: skip
        return Composition(kind="stack", method="single")
    if ask.compose == "merge":
        return Composition(kind="merge", method="regmean")
    if ask.compose == "stack" or (ask.compose == "auto" and not gated):
        return Composition(kind="stack", method="cat")
    if ask.compose == "mixture":
        return Composition(kind="route", method="mixture")
    if ask.compose == "arrow":
        return Composition(kind="route", method="arrow", top_k=min(ask.top_k or TOP_K, count))
    return Composition(kind="route", method="gate")


def nothing(skills: Sequence[SkillPlan], refused: Sequence[Refused]) -> GenomeEmpty:
    """The error for a plan without a layer, naming the gaps."""
    if skills and all(one.route == "base-suffices" for one in skills):
        return GenomeEmpty(
            "the base does all of this by itself: no layer is needed",
            "use the base",
            gaps=[one.skill.text for one in skills],
        )
    gaps = [f"{one.skill.text}: {one.reason}" for one in skills]
    left = (
        f"; {len(refused)} near blocks may not be used ({', '.join(sorted({one.code for one in refused}))})"
        if refused
        else ""
    )
    return GenomeEmpty(
        f"no block here brings what is wanted, and nothing can be trained for it{left}: {'; '.join(gaps[:3])}",
        "give examples: --pairs FILE --licence ID; or let a model write some to measure on: --teacher openai; "
        "or name repositories in the setting genome_sources; or mint or pull a block",
        gaps=gaps,
    )


def with_measured(row: Sequence[Match], probed: Probed) -> tuple[Match, ...]:
    found: list[Match] = []
    for one in row:
        measured = probed.similarity.get(one.id)
        if measured is None and probed.why:
            measured = one.measured.model_copy(update={"how": probed.why})
        found.append(one if measured is None else one.model_copy(update={"measured": measured}))
    return tuple(found)


def best_evidence(given: Evidence, source: Evidence, asked: Evidence, library: Evidence) -> Evidence:
    """To measure on: given, else of a source, else written by a teacher, else of the blocks. To train on: given, else of a source."""
    every = (given, source, asked, library)
    held = next((one for one in every if len(one.held) >= LEAST), None) or next(
        (one for one in every if one.held), None
    )
    trained = next((one for one in (given, source) if one.order is not None), None)
    if trained is None:
        why = given.why if given.origin == "given" else source.why
        tried = f"; {asked.why}" if asked.why and held is not asked else ""
        return (
            Evidence(held.origin, held.held, why=why + tried)
            if held
            else Evidence("none", why=(library.why or why) + tried)
        )
    if held is None:
        return trained
    return Evidence(held.origin, held.held, trained.training, trained.order, trained.files, trained.size)


def covered_by(desired: DesiredGenome, skills: Sequence[SkillPlan]) -> Measure:
    """The weighted s* of the layers that are there, before anything is trained; what the base does by itself counts as covered."""
    total, verified, n = 0.0, True, 0
    ids = set(members_of(skills))
    for one in skills:
        if one.route == "base-suffices":
            total += one.skill.weight
        elif one.layer in ids:
            total += one.skill.weight * (one.similarity.value or 0.0)
            verified, n = verified and one.verified, n + (one.similarity.n or 0)
    status = "measured" if verified else "estimated"
    return Measure(
        value=round(total, 6),
        status=status,
        n=n,
        how=f"weighted s* over {len(desired.skills)} skills, before any training",
    )


def warnings_of(skills: Sequence[SkillPlan], conflicts: Sequence[Conflict], found: Chosen) -> tuple[str, ...]:
    told_of = [f"unverified: {one.skill.text}" for one in skills if not one.verified and one.layer is not None]
    told_of += [
        f"uncovered: {one.skill.text}"
        for one in skills
        if one.layer is None and not one.trains and one.route != "base-suffices"
    ]
    names = {match.id: f"{match.name}@{match.version}" for one in skills for match in one.matches}
    told_of += [
        f"red: {names.get(one.source, one.source[:12])} beside {names.get(one.target, one.target[:12])}: {one.why}"
        for one in conflicts
        if one.light == "red"
    ]
    return (*told_of, f"chosen: {found.stopped}") if found.ids else tuple(told_of)


def adapter_bytes(one: Parent) -> int:
    entry = one.manifest.files.get("adapter_model.safetensors")
    return entry.size if entry is not None else 0
