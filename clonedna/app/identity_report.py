"""What came out of comparing blocks, as a value, as files and as pictures; and what a reader must know beside the figures."""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.app.controls import Block
from clonedna.core.block import GateVerdict
from clonedna.core.canonical import canonical, digest
from clonedna.core.model import BaseInfo
from clonedna.core.value import Value
from clonedna.evals.identity import Held, Identified


class Compared(Value):
    """A row: the block, whose it is, and what its recipe is (the digest of it without what was drawn for this block alone)."""

    block: str
    block_id: str
    person: str
    handle: str
    gate: GateVerdict
    training_pairs: int
    holdout_pairs: int
    recipe: str


class IdentityReport(Value):
    """What came out. ``identified.people`` are the columns; each one's ``control`` is ``identity.gain``. ``seconds`` of the
    scoring; ``held``: the raw likelihoods that all but the controls is made from."""

    base: BaseInfo
    blocks: tuple[Compared, ...]
    identified: Identified
    controls: bool
    remarks: tuple[str, ...] = ()
    seconds: float
    held: tuple[Held, ...] = ()


def compared(block: Block) -> Compared:
    """A block as a row of the report."""
    m = block.manifest
    return Compared(
        block=str(block), block_id=m.id, person=m.candidate.name, handle=m.candidate.handle, gate=m.gate,
        training_pairs=len(block.split("train")), holdout_pairs=len(block.split("holdout")), recipe=_recipe(block),
    )  # fmt: skip


def _recipe(block: Block) -> str:
    """What two blocks of one recipe share: not what was written for, or drawn for, one of them."""
    recipe = block.manifest.recipe
    own = {"general_pairs": None, "teaching": None, "libraries": {}, "threads": 0, "dtype": ""}
    return "" if recipe is None else digest(recipe.model_copy(update=own))[:12]


def remarks(blocks: Sequence[Block], found: Identified) -> list[str]:
    """What a reader must know beside the figures."""
    said: list[str] = []
    if len(recipes := {_recipe(block) for block in blocks}) > 1:
        said.append(f"the blocks were trained by {len(recipes)} different recipes: gains are not equally strong")
    for block in blocks:
        if block.manifest.gate.status == "rejected":
            said.append(f"{block} was rejected by its gate")
    for one in found.people:
        if len(one.person.own) > 1:
            names = ", ".join(found.blocks[row] for row in one.person.own)
            said.append(f"{names} are of one person: each of them counts as their own")
    if left_out := sum(one.person.left_out for one in found.people):
        said.append(
            f"{left_out} hold-out spans were left out: they stand, exactly or nearly, in what a block was trained on "
            "or in somebody else's hold-out"
        )
    languages = {pair.language for block in blocks for pair in block.split("holdout")}
    if len(languages) > 1:
        said.append("the people write in different languages, which alone tells some of them apart")
    return said


def names_of(found: Identified) -> list[str]:
    """The people's names; handles where two share a name."""
    names = [one.person.name for one in found.people]
    return [n if names.count(n) == 1 else one.person.handle for n, one in zip(names, found.people, strict=True)]


def control_sentence(report: IdentityReport) -> str:
    """How many blocks are ahead of their control, of those with an interval, in words; empty where there is none."""
    intervals = [one.control.ci95 for one in report.identified.people if one.control.ci95 is not None]
    if not intervals:
        return ""
    return (
        f"{sum(low > 0 for low, _ in intervals)} of {len(intervals)} people's blocks that can be told explain them better than a "
        "control, trained by the same recipe on the others' code, with an interval above zero"
    )


def files_of(report: IdentityReport) -> dict[str, bytes]:
    """``result.json`` and the pictures, light and dark, as bytes."""
    from clonedna.evals.pictures import drawable, heat_map

    found = report.identified
    matrix = [[float("nan") if gain is None else gain for gain in row] for row in found.matrix]
    people = zip(names_of(found), found.people, strict=True)
    columns = [name if drawable(name) else one.person.handle for name, one in people]
    own = {(row, j) for j, one in enumerate(found.people) for row in one.person.own}
    made: dict[str, bytes] = {"result.json": canonical(report) + b"\n"}
    for dark in (False, True):
        picture = heat_map(
            matrix, found.blocks, columns, title="Whose style is it?", note=_note(report),
            dark=dark, own=own, row_title="block", column_title="held-out code of", unit="gain over the base, nats a token",
        )  # fmt: skip
        name = "matrix-dark" if dark else "matrix"
        made |= {f"{name}.svg": picture.svg, f"{name}.png": picture.png}
    return made


def _note(report: IdentityReport) -> str:
    found, shares = report.identified, list[str]()
    for what in ("people", "files", "spans"):
        measure = found.measures[f"identification.{what}"]
        if measure.value is not None:
            interval = f" [{measure.ci95[0]:.0%}, {measure.ci95[1]:.0%}]" if measure.ci95 else ""
            shares.append(f"{what} {measure.value:.0%}{interval}")
    chance = found.chance.get("identification.people")
    lucky = "" if chance is None else f"; by chance {chance:.0%}"
    best = f"Explained best by their own block: {', '.join(shares) or 'not available'}{lucky}."
    return f"Outlined: a person's own block. Dot: the block that explains this person best.\n{best}"
