"""`dna mint --dry-run`: what a mint would do, before it does it.

Runs the stages that read (find, collect, filter, split, and the instructions where nobody has to be asked for them) and stops there: no
job, no consent record, no training, no model loaded, no question to a teacher. What it leaves is the view of the repository in the cache,
as any reading does. A number that was not counted says what it was estimated from, or that there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
from pydantic import Field

from clonedna.app.continuing import heritage_of
from clonedna.app.orders import refuse_consent
from clonedna.app.pace import recorded_pace
from clonedna.app.parts import Parts, factory
from clonedna.core.block import Measure, MintOrder, Teaching, not_available
from clonedna.core.errors import DnaError
from clonedna.core.events import Emit
from clonedna.core.model import Example, MemoryNeed
from clonedna.core.value import Value
from clonedna.core.work import Collection, Found, Pair, Refusal, Repository
from clonedna.evals.likelihood import example_of
from clonedna.mint.continuing import divide_new, only_new
from clonedna.mint.divide import divide
from clonedna.mint.instruct import about, instruct
from clonedna.mint.mix import ANSWER_TOKENS, tool_use_pairs
from clonedna.mint.sift import sift
from clonedna.mint.values import Divided, Sifted, Taught

BYTES_PER_TOKEN = 3


class RepositoryLine(Value):
    """One repository: its licence (``None``: unknown) and how that was found, the usable spans in it."""

    name: str
    url: str
    commit: str
    licence: str | None
    how: str
    spans: int


class Blocker(Value):
    """Why the mint would be refused: an error's code, its message and the next step."""

    code: str
    message: str
    hint: str


class SplitSizes(Value):
    """Spans by split; ``by``: what is held out whole."""

    by: str
    train: int
    validation: int
    holdout: int


class Preflight(Value):
    """What was counted, and what is estimated. ``spans`` by language and ``refusals`` by reason are those after the filters.

    ``tokens``: of one epoch over the person's pairs, completions and prompts. ``training_seconds``: of all epochs. ``consent``: the mode
    that would be asked for; nothing was checked or stored.
    """

    target: str
    base: str
    teacher: str
    consent: str
    repositories: tuple[RepositoryLine, ...]
    files_seen: int = 0
    files_used: int = 0
    lines_owned: int = 0
    spans: dict[str, int] = Field(default_factory=dict)
    refusals: dict[str, int] = Field(default_factory=dict)
    splits: SplitSizes | None = None
    pairs: Measure = not_available("no split was made")
    tokens: Measure = not_available("no split was made")
    training_seconds: Measure = not_available("no split was made")
    teaching: Teaching | None = None
    memory: MemoryNeed | None = None
    memory_how: str = ""
    fits: bool | None = None
    blockers: tuple[Blocker, ...] = ()


def preflight(parts: Parts, order: MintOrder, emit: Emit) -> Preflight:
    """The preflight of ``order``. What would refuse the mint later is a ``Blocker`` in it; raises only what stops it from being found."""
    found = parts.source.find(order.target)
    report = Preflight(
        target=found.repository.url, base=order.base, teacher=order.teacher, consent=_consent(order, found),
        repositories=_lines(found.repository, ()),
    )  # fmt: skip
    report = _with_memory(parts, order, report)
    try:
        refuse_consent(order, found)
        heritage = heritage_of(parts, order.continues) if order.continues is not None else None
        collection = parts.source.collect(
            found, order.authors, licences=order.licences, owned_share=order.owned_share, max_files=order.max_files,
            max_changes=order.max_changes, emit=emit, since=heritage.repository if heritage else None,
        )  # fmt: skip
        sifted = sift(collection, max_tokens=order.recipe.max_tokens)
        sifted = sifted if heritage is None else only_new(sifted, heritage)
        report = _with_spans(report, collection, sifted, found.refusals)
        divided = (
            divide(sifted, order.recipe)
            if heritage is None
            else divide_new(sifted, order.recipe, heritage, _named(order))
        )
        report = _with_split(report, divided)
        return _with_pairs(parts, order, report, found, divided, emit)
    except DnaError as error:
        return _blocked(report, error)


def _consent(order: MintOrder, found: Found) -> str:
    """The mode that the mint would go by, as its consent stage chooses it."""
    if order.consent != "auto":
        return order.consent
    you = found.you
    mine = you is not None and any(a.matches(you.name, you.email) for a in order.authors)
    return "self" if mine else "granted" if found.account else "local-only"


def _named(order: MintOrder) -> str:
    return next((a.name for a in order.authors if a.name), "unnamed")


def _blocked(report: Preflight, error: DnaError) -> Preflight:
    blocker = Blocker(code=error.code, message=error.message, hint=error.hint)
    return report.model_copy(update={"blockers": (*report.blockers, blocker)})


def _lines(repository: Repository, urls: Sequence[str]) -> tuple[RepositoryLine, ...]:
    """Each repository with the number of ``urls`` (one for each span) that are its own."""
    counts = Counter(urls)
    return tuple(
        RepositoryLine(
            name=one.name, url=one.url, commit=one.commit, licence=one.licence.spdx, how=one.licence.how, spans=counts[one.url]
        )
        for one in repository.parts or (repository,)
    )  # fmt: skip


def _with_spans(report: Preflight, collection: Collection, sifted: Sifted, before: Sequence[Refusal]) -> Preflight:
    repository = collection.repository
    return report.model_copy(
        update={
            "repositories": _lines(repository, [span.url or repository.url for span in sifted.spans]),
            "files_seen": collection.files_seen, "files_used": collection.files_used, "lines_owned": collection.lines_owned,
            "spans": _counted(Counter(span.language for span in sifted.spans)),
            "refusals": _more({}, (*before, *sifted.refusals)),
        }
    )  # fmt: skip


def _with_split(report: Preflight, divided: Divided) -> Preflight:
    sizes = SplitSizes(
        by=divided.by, train=len(divided.train), validation=len(divided.validation), holdout=len(divided.holdout)
    )
    return report.model_copy(update={"splits": sizes, "refusals": _more(report.refusals, divided.refusals)})


def _with_pairs(
    parts: Parts, order: MintOrder, report: Preflight, found: Found, divided: Divided, emit: Emit
) -> Preflight:
    """Pairs are counted where the person's own words make them; of another teacher's it is only known how many are asked for."""
    own = parts.teacher("own-words")
    name = _named(order)
    secret_in = factory("secrets", "patterns")

    async def write() -> Taught:
        return await instruct(
            divided, found.repository, name, teacher=own, examiner=own, secret_in=secret_in, emit=emit
        )

    taught = anyio.run(write)
    n = len(taught.pairs)
    if order.teacher == "own-words":
        report = report.model_copy(update={"refusals": _more(report.refusals, taught.refusals)})
        pairs = Measure(value=n, status="measured", n=n, how="written by the own-words teacher, and dropped again")
    else:
        report = _with_teaching(parts, order, report, divided)
        pairs = Measure(
            value=n, status="estimated", how="estimated from what the own-words teacher makes of the same spans"
        )
    train = [pair for pair in taught.pairs if pair.split == "train"]
    return report.model_copy(
        update={"pairs": pairs, "tokens": _tokens(train), "training_seconds": _seconds(parts, order, train)}
    )


def _with_teaching(parts: Parts, order: MintOrder, report: Preflight, divided: Divided) -> Preflight:
    """What the teacher's questions will take. The base as a teacher costs nothing, and would have to be loaded to be asked."""
    if order.teacher == "engine":
        return report

    async def estimate() -> Teaching:
        teacher = parts.teacher(order.teacher, base=order.base, about=about(divided.train))
        try:
            return teacher.estimate(divided.train)
        finally:
            await teacher.close()

    try:
        return report.model_copy(update={"teaching": anyio.run(estimate)})
    except DnaError as error:
        return _blocked(report, error)


def _tokens(train: Sequence[Pair]) -> Measure:
    size = sum(_prompt_bytes(example) + len(example.completion.encode()) for example in map(example_of, train))
    return Measure(
        value=round(size / BYTES_PER_TOKEN), status="estimated", n=len(train), split="train",
        how=f"estimated from {size} bytes, at {BYTES_PER_TOKEN} bytes a token",
    )  # fmt: skip


def _prompt_bytes(example: Example) -> int:
    return len((example.text or "".join(message.content for message in example.messages)).encode())


def _seconds(parts: Parts, order: MintOrder, train: Sequence[Pair]) -> Measure:
    """Completion tokens over all epochs, at the pace of the latest training on this base that is recorded here."""
    pace = recorded_pace(parts.settings.jobs_directory, order.base, order.recipe.lora.rank)
    if pace is None:
        return not_available(f"no training of rank {order.recipe.lora.rank} on {order.base} is recorded here yet")
    recipe = order.recipe
    beside = tool_use_pairs()[: recipe.tool_use_pairs]
    size = sum(len(text.encode()) for text in (*(p.completion for p in train), *(e.completion for e in beside)))
    general = round(recipe.base_instruct_ratio * len(train)) * ANSWER_TOKENS
    tokens = recipe.epochs * (size / BYTES_PER_TOKEN + general)
    return Measure(
        value=round(tokens / pace.rate, 1), status="estimated", n=len(train), split="train",
        how=f"estimated from {pace.rate:.0f} completion tokens a second in job {pace.job}; at most, as training may stop early",
    )  # fmt: skip


def _with_memory(parts: Parts, order: MintOrder, report: Preflight) -> Preflight:
    settings = parts.settings
    if settings.engine != "local":
        return report.model_copy(update={"memory_how": f"not available: the base is held by {settings.engine}"})
    try:
        need: MemoryNeed = factory("memory", "local")(
            order.base, order.recipe.lora, dtype=settings.dtype, device=settings.device, quantize=settings.quantize
        )
    except DnaError as error:
        return report.model_copy(update={"memory_how": f"not available: {error.message}"})
    how = f"estimated from the base's shapes in {need.dtype} on {need.device}; what is available was measured"
    return report.model_copy(update={"memory": need, "fits": need.fits, "memory_how": how})


def _counted(counts: Counter[str]) -> dict[str, int]:
    """The same, most first."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _more(counts: dict[str, int], refusals: Sequence[Refusal]) -> dict[str, int]:
    return _counted(Counter(counts) + Counter(refusal.reason for refusal in refusals))
