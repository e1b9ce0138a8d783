"""`dna mint --continue` on real histories: numbers promote or reject, what was stopped goes on, what may not be is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.blocks import Blocks
from clonedna.app.jobs import Jobs
from clonedna.app.lineage import Lineages, in_words
from clonedna.app.minting import STAGES, Minting, Ordered
from clonedna.app.papers import pairs_of
from clonedna.app.preflight import preflight
from clonedna.app.revoking import Revoking
from clonedna.app.serving import Serving
from clonedna.app.versions import Versions
from clonedna.app.versions_diff import diff
from clonedna.core.block import BlockRef, MintOrder
from clonedna.core.canonical import canonical
from clonedna.core.errors import (
    BlockNotFound,
    BlockRejected,
    BlockRevoked,
    ConsentMissing,
    DnaError,
    InputError,
    NoSpace,
    NoSuchAuthor,
    Refused,
    TooFewSpans,
)
from clonedna.core.events import silent
from clonedna.core.seams import Source
from clonedna.core.work import Identity
from clonedna.sources.git import GitSource
from tests.parts import FakeParts, order
from tests.repos import ADA, BOB, MIT, RepoBuilder
from tests.unit.mint.test_continuing import first
from tests.values import span

CALM = "abcdefghij"
WILD = "qvxzkwjyup"


class GitParts(FakeParts):
    @cached_property
    def source(self) -> Source:  # type: ignore[override]
        return GitSource(cache=self.settings.home / "clones")


def function(number: int, letters: str) -> str:
    """Code of made-up words over ``letters``: to the fake engine, which counts pairs of letters, that is the whole of a style."""
    draw = random.Random(f"{number}{letters}")

    def word() -> str:
        return "".join(draw.choice(letters) for _ in range(7))

    def line() -> str:
        return draw.choice(
            (
                f"    {word()} = {word()}({word()}, {word()})",
                f"    {word()} = {word()} + {word()}[{word()}]",
                f"    for {word()} in {word()}:\n        {word()}.{word()}()",
                f"    if not {word()}:\n        {word()} = {word()}",
                f"    {word()}.{word()} = [{word()}, {word()}, {word()}]",
                f"    {word()}({word()}).{word()}({word()} * {word()})",
            )
        )

    lines = "".join(f"{line()}\n" for _ in range(9))
    return f"def {word()}_{number}({word()}, {word()}):\n{lines}    return {word()}\n"


def write(repo: RepoBuilder, first: int, *, letters: str = CALM, files: int = 7, author: str = ADA) -> None:
    """``files`` commits of four functions each."""
    for number in range(first, first + files):
        text = "\n\n".join(function(4 * number + i, letters) for i in range(4))
        repo.commit(author, f"add the module of number {number}", {f"abacus/part_{number}.py": text})


@dataclass(frozen=True)
class Made:
    """A repository and a home in which ``blocks`` were made of it, one after another."""

    repo: RepoBuilder
    jobs: Jobs
    blocks: tuple[BlockRef, ...]

    def copied(self, folder: Path) -> Made:
        """The same in ``folder``, as if it had been made there."""
        shutil.copytree(self.repo.path, folder / "abacus")
        shutil.copytree(self.jobs.settings.home, folder / "home")
        repo, jobs = RepoBuilder(folder / "abacus", after=self.repo), jobs_at(folder / "home")
        for workspace in jobs.workspaces():
            ordered = workspace.read("order.json", Ordered)
            moved = ordered.order.model_copy(update={"target": str(repo.path)})
            workspace.write("order.json", ordered.model_copy(update={"order": moved}))
        return Made(repo, jobs, self.blocks)


def jobs_at(home: Path) -> Jobs:
    parts = GitParts(home)
    return Jobs(parts.settings, parts)


@pytest.fixture(scope="module")
def first_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("once")
    repo, jobs = RepoBuilder(folder / "abacus"), jobs_at(folder / "home")
    repo.commit(BOB, "begin with a licence", {"LICENSE": MIT})
    write(repo, 0)
    asked = order(target=str(repo.path), consent="local-only", name="ada", authors=(Identity.parse(ADA),))
    return Made(repo, jobs, (jobs.run(jobs.create(asked)[0], silent),))


@pytest.fixture(scope="module")
def second_made(first_made: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = first_made.copied(tmp_path_factory.mktemp("twice"))
    write(made.repo, 50)
    return Made(made.repo, made.jobs, (*made.blocks, continued(made.jobs)))


@pytest.fixture
def once(first_made: Made, tmp_path: Path) -> Made:
    """A block, and the repository that it was minted from."""
    return first_made.copied(tmp_path)


@pytest.fixture
def twice(second_made: Made, tmp_path: Path) -> Made:
    """Two versions, both promoted, and the repository as it was when the second was made."""
    return second_made.copied(tmp_path)


def versions_of(jobs: Jobs) -> Versions:
    return Versions(jobs.parts, jobs)


def next_order(jobs: Jobs, reference: str = "ada", **changes: Any) -> MintOrder:
    given = {
        "target": None, "authors": (), "base": None, "consent": "local-only", "allow_licence": (), "recipe": {},
    }  # fmt: skip
    return versions_of(jobs).order(reference, **(given | changes))


def continued(jobs: Jobs, reference: str = "ada", **changes: Any) -> BlockRef:
    return jobs.run(jobs.create(next_order(jobs, reference, **changes))[0], silent)


def measures(jobs: Jobs, reference: BlockRef) -> dict[str, Any]:
    return Blocks(jobs.parts).show(reference.id).evaluation.measures


def test_more_work_in_the_same_manner_is_promoted(twice: Made) -> None:
    jobs, (one, two) = twice.jobs, twice.blocks
    assert (str(two), two.status) == ("ada@1.1.0", "registered")
    found = measures(jobs, two)
    assert found["continue.new_gain"].ci95[0] > 0
    assert found["continue.old_change"].ci95[0] >= -0.02
    assert found["continue.backward_transfer"].value == found["continue.old_change"].value
    manifest = jobs.parts.registry.resolve("ada")
    assert (manifest.id, manifest.previous_version) == (two.id, "1.0.0")
    assert manifest.lineage.model_dump() == {"parents": (one.id,), "relation": "continued", "merge": None}
    assert manifest.recipe is not None
    assert manifest.recipe.replay_ratio == 1.0
    lineages = Lineages(jobs.parts)
    assert in_words(lineages.of("ada")) == f"continued from ada@1.0.0 ({one.id[:12]})"
    assert in_words(lineages.of(one.id)) == f"minted; continued by ada@1.1.0 ({two.id[:12]})"


def test_a_hold_out_stays_one_over_three_versions(twice: Made) -> None:
    jobs = twice.jobs
    write(twice.repo, 70)
    made = [*twice.blocks, continued(jobs)]
    assert [one.status for one in made] == ["registered"] * 3
    blocks = Blocks(jobs.parts)
    held = {p.provenance.sha256 for one in made[:1] for p in blocks.pairs(one.id) if p.split == "holdout"}
    for later in made[1:]:
        pairs = blocks.pairs(later.id)
        assert held <= {p.provenance.sha256 for p in pairs if p.split == "holdout"}
        assert not held & {p.provenance.sha256 for p in pairs if p.split != "holdout"}
        held |= {p.provenance.sha256 for p in pairs if p.split == "holdout"}
    found = measures(jobs, made[2])
    assert found["continue.backward_transfer"].n > found["continue.old_change"].n
    assert found["leakage"].value == 0


def test_a_version_that_loses_the_old_is_kept_as_rejected(once: Made) -> None:
    repo, jobs, (one,) = once.repo, once.jobs, once.blocks
    write(repo, 50, letters=WILD, files=12)
    two = continued(jobs, recipe={"replay_ratio": 0.0, "learning_rate": 1.0})
    assert two.status == "rejected"
    manifest = jobs.parts.registry.resolve(two.id, unsafe=True)
    assert any("the old hold-out may have fallen" in reason for reason in manifest.gate.reasons)
    assert jobs.parts.registry.resolve("ada").id == one.id
    lines = versions_of(jobs).list("ada")
    assert [(line.version, line.gate, line.means) for line in lines] == [
        ("1.1.0", "rejected", False),
        ("1.0.0", "accepted", True),
    ]
    with pytest.raises(BlockRejected):
        versions_of(jobs).rollback("ada", "1.1.0")
    again = continued(jobs, recipe={"replay_ratio": 3.0})
    assert jobs.parts.registry.resolve(again.id, unsafe=True).lineage.parents == (one.id,)


def test_nothing_new_is_said(once: Made, tmp_path: Path) -> None:
    repo, jobs = once.repo, once.jobs
    with pytest.raises(TooFewSpans, match=r"nothing new: Ada Example wrote nothing since .* that ada@1\.0\.0"):
        continued(jobs)
    write(repo, 50, author=BOB)
    with pytest.raises(TooFewSpans, match="nothing new"):
        continued(jobs)
    text = (repo.path / "abacus/part_3.py").read_text()
    repo.commit(ADA, "move a module of mine", {"abacus/part_3.py": None, "abacus/moved.py": text})
    with pytest.raises(TooFewSpans, match="nothing new"):
        continued(jobs)
    write(repo, 70, files=3)
    with pytest.raises(TooFewSpans, match=r"12 usable new spans by Ada Example since commit .* 24 are needed"):
        continued(jobs)


def test_a_dry_run_counts_the_new_work_alone(once: Made) -> None:
    write(once.repo, 50)
    report = preflight(once.jobs.parts, next_order(once.jobs), silent)
    assert report.blockers == ()
    assert report.spans == {"python": 28}
    assert report.splits is not None
    assert report.splits.by == "file (the latest in time)"
    assert (report.splits.train, report.splits.holdout) == (20, 8)
    assert not [view for view in once.jobs.views() if view.status != "finished"]


def test_another_person_is_refused(once: Made, tmp_path: Path) -> None:
    repo, jobs = once.repo, once.jobs
    write(repo, 50, author=BOB)
    with pytest.raises(ConsentMissing, match="another person"):
        continued(jobs, authors=(Identity.parse(BOB),))


def test_without_the_job_it_says_how_to_say_where(once: Made, tmp_path: Path) -> None:
    repo, jobs = once.repo, once.jobs
    write(repo, 50)
    (tmp_path / "home/jobs").rename(tmp_path / "jobs")
    with pytest.raises(InputError) as found:
        next_order(jobs)
    assert found.value.hint == "say where: dna mint --continue ada REPOSITORY"
    asked = next_order(jobs, target=str(repo.path))
    assert asked.authors == (Identity.parse(ADA),)
    strangers = RepoBuilder(tmp_path / "other")
    strangers.commit(BOB, "begin", {"LICENSE": MIT})
    with pytest.raises(NoSuchAuthor):
        next_order(jobs, target=str(strangers.path))
    write(strangers, 0)
    with pytest.raises(InputError, match="is not in this repository"):
        continued(jobs, target=str(strangers.path))


def test_another_rank_is_refused(once: Made) -> None:
    jobs = once.jobs
    with pytest.raises(InputError, match="has rank 16"):
        next_order(jobs, recipe={"rank": 8})
    assert next_order(jobs, recipe={"rank": 16, "epochs": 5}).recipe.epochs == 5


def failing(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[[Minting, str], str] = Minting.run

    def run(self: Minting, name: str) -> str:
        if name == stage:
            raise NoSpace("full", "free some")
        return whole(self, name)

    monkeypatch.setattr(Minting, "run", run)


def test_stopped_in_any_stage_it_ends_in_the_same_block(
    once: Made, second_made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected, cut = second_made.jobs, second_made.blocks[1], once.jobs
    write(once.repo, 50)
    for stage in STAGES:
        with monkeypatch.context() as patch:
            failing(stage, patch)
            workspace, goes_on = cut.create(next_order(cut)) if stage == STAGES[0] else (cut.find(None), True)
            assert goes_on == (stage != STAGES[0])
            with pytest.raises(NoSpace):
                cut.run(workspace, silent)
    made = cut.run(cut.find(None), silent)
    assert (made.version, made.status) == (expected.version, expected.status)
    one, other = (jobs.parts.store.path(ref.id) for jobs, ref in ((whole, expected), (cut, made)))
    assert made.id == expected.id, [p.name for p in one.iterdir() if p.read_bytes() != (other / p.name).read_bytes()]


def test_a_parent_that_is_revoked_takes_its_versions_with_it(twice: Made) -> None:
    repo, jobs, (one, two) = twice.repo, twice.jobs, twice.blocks
    write(repo, 70)
    waiting, _ = jobs.create(next_order(jobs))
    effects = Revoking(jobs.parts).block("ada@1.0.0")
    assert (effects.blocks, effects.derived) == ((one.id,), (two.id,))
    assert not waiting.directory.exists()
    for reference in (one.id, two.id):
        with pytest.raises(BlockRevoked):
            jobs.parts.registry.resolve(reference)
    with pytest.raises(DnaError):
        next_order(jobs)


def test_one_that_was_overtaken_is_not_registered(once: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, jobs = once.repo, once.jobs
    write(repo, 50)
    late, _ = jobs.create(next_order(jobs, recipe={"seed": 7}))
    with monkeypatch.context() as patch:
        failing("register", patch)
        with pytest.raises(NoSpace):
            jobs.run(late, silent)
    two = continued(jobs)
    with pytest.raises(Refused, match=r"ada means ada@1\.1\.0 by now"):
        jobs.run(late, silent)
    assert jobs.parts.registry.resolve("ada").id == two.id
    versions_of(jobs).rollback("ada", "1.0.0")
    assert str(jobs.run(late, silent)) == "ada@1.2.0"


def test_going_back_and_forth(twice: Made) -> None:
    repo, jobs, (one, two) = twice.repo, twice.jobs, twice.blocks
    versions = versions_of(jobs)
    done = versions.rollback("ada")
    assert (done.was.version, done.now.version) == ("1.1.0", "1.0.0")
    assert jobs.parts.registry.resolve("ada").id == one.id
    assert [(line.means, line.passed_over) for line in versions.list("ada")] == [(False, True), (True, False)]
    assert jobs.parts.audit.entries()[-1].facts == {"name": "ada", "was": "1.1.0", "now": "1.0.0"}
    with pytest.raises(BlockNotFound, match=r"before ada@1\.0\.0"):
        versions.rollback("ada")
    with pytest.raises(BlockNotFound):
        versions.rollback("ada", "9.0.0")
    for file in jobs.settings.home.glob("registry.sqlite*"):
        file.unlink()
    fresh = jobs_at(jobs.settings.home)
    fresh.parts.reindex()
    assert fresh.parts.registry.resolve("ada").id == one.id
    write(repo, 70)
    three = continued(fresh)
    assert str(three) == "ada@1.2.0"
    assert fresh.parts.registry.resolve("ada").id == three.id
    assert fresh.parts.registry.resolve("ada").lineage.parents == (one.id,)
    versions_of(fresh).rollback("ada", "1.1.0")
    assert fresh.parts.registry.resolve("ada").id == two.id
    versions_of(fresh).rollback("ada", "1.2.0")
    assert not list((fresh.settings.home / "store/rollbacks").iterdir())


@pytest.mark.anyio
async def test_a_server_serves_what_the_name_means(twice: Made) -> None:
    jobs, (one, two) = twice.jobs, twice.blocks
    serving = Serving(jobs.parts, "fake")
    assert (await serving.prepare("ada")).served.block_id == two.id
    versions_of(jobs).rollback("ada")
    assert (await serving.prepare("ada")).served.block_id == one.id
    assert (await serving.prepare("ada@1.1.0")).served.block_id == two.id
    assert {model.id: model.block_id for model in await serving.models()}["ada"] == one.id


def test_a_diff_names_what_changed(twice: Made) -> None:
    jobs, (one, _) = twice.jobs, twice.blocks
    found = diff(jobs.parts, "ada@1.0.0", "ada@1.1.0")
    assert found.pairs.same["holdout"] >= 8
    assert not found.pairs.moved
    assert found.pairs.added["train"] >= 12
    assert {change.path for change in found.files if change.added} == {f"abacus/part_{n}.py" for n in range(50, 57)}
    assert {change.field for change in found.recipe} >= {"replay_ratio"}
    facts = {change.field: (change.before, change.after) for change in found.facts}
    assert facts["relation"] == ('"minted"', '"continued"')
    assert json.loads(facts["parents"][1]) == [one.id]
    gained = next(change for change in found.measures if change.name == "nll.delta")
    assert gained.difference == pytest.approx((gained.after.value or 0) - (gained.before.value or 0))
    assert next(c for c in found.measures if c.name == "continue.new_gain").difference is None
    same = diff(jobs.parts, "ada", "ada@1.1.0")
    assert not same.files
    assert not same.recipe
    assert not same.facts
    assert all(change.difference in (0.0, None) for change in same.measures)


def test_only_a_newline_ends_a_pair(tmp_path: Path) -> None:
    pair = first([span(i) for i in range(30)])[0]
    odd = pair.model_copy(update={"completion": "x = 'a\u2028b\x85c\x0c'\n"})
    (tmp_path / "pairs.jsonl").write_bytes(canonical(odd) + b"\n" + canonical(pair) + b"\n")
    assert pairs_of(tmp_path) == (odd, pair)
