"""`dna versions, rollback, diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.context import Json, State, print_json, table, tell

if TYPE_CHECKING:
    from clonedna.app.versions_diff import VersionDiff
    from clonedna.core.block import Measure

Name = Annotated[str, typer.Argument(help="The block's name.", show_default=False)]
Reference = Annotated[str, typer.Argument(help="name, name@version, or the beginning of an id.", show_default=False)]
MOST_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    for command in (versions, rollback, diff):
        app.command()(command)


def versions(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """List all versions of a block, newest first, and which one the name means."""
    state: State = context.obj
    found = state.versions.list(name)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            f"{one.version}{' *' if one.means else ''}", one.id[:8], one.created_at[:10], one.relation,
            "rolled back" if one.passed_over else one.gate, _short(one.gain), _short(one.new_gain), _short(one.old_change),
        ]
        for one in found
    ]  # fmt: skip
    table(name, ["version", "id", "date", "relation", "gate", "gain", "new", "old"], rows, whole=8)
    meant = next((one.version for one in found if one.means), None)
    tell(f"{name} means {name}@{meant} (*)" if meant else f"{name} means no version: none was accepted")


def rollback(
    context: typer.Context,
    name: Name,
    version: Annotated[
        str | None, typer.Argument(help="An accepted version; default: the one before.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Have a name mean an earlier version, until a later one is accepted; the newest version takes that back."""
    state: State = context.obj
    done = state.versions.rollback(name, version)
    if as_json:
        print_json(done)
    elif done.was == done.now:
        tell(f"{name} means {done.now}, as before")
    else:
        tell(f"{name} means {done.now} ({done.now.id[:12]}) from now on; it meant {done.was}")


def diff(context: typer.Context, a: Reference, b: Reference, as_json: Json = False) -> None:
    """Show what changed from one version to another: pairs, recipe, measures, lineage, licence, consent."""
    state: State = context.obj
    found = state.details.diff(a, b) if state.client else state.own_details.diff(a, b, everything=True)
    if as_json:
        print_json(found)
    else:
        _tables(found)


def _tables(found: VersionDiff) -> None:
    pairs = found.pairs
    tell(f"{found.a} ({found.a.id[:12]}) -> {found.b} ({found.b.id[:12]})")
    if found.facts:
        table("", ["block", "before", "after"], [[one.field, one.before, one.after] for one in found.facts])
    splits = [
        split
        for split in ("train", "validation", "holdout")
        if any(split in c for c in (pairs.removed, pairs.added, pairs.same))
    ]
    table(
        "\npairs", ["split", "removed", "added", "in both"],
        [[split, *(str(counts.get(split, 0)) for counts in (pairs.removed, pairs.added, pairs.same))] for split in splits],
    )  # fmt: skip
    if pairs.removed.get("holdout") or pairs.added.get("holdout"):
        tell("their hold-outs differ, so do the measures on them; continue.* compares two versions on the same pairs")
    for how, n in pairs.moved.items():
        tell(f"{n} pairs moved: {how}")
    if found.files:
        shown = [[" ".join(one.path.split()), str(one.removed), str(one.added)] for one in found.files[:MOST_SHOWN]]
        table("\nfiles whose pairs differ", ["file", "removed", "added"], shown)
        left = len(found.files) - len(shown) + found.files_left_out
        if left:
            tell(f"and {left} files more")
    if found.recipe:
        table("\nrecipe", ["field", "before", "after"], [[one.field, one.before, one.after] for one in found.recipe])
    table(
        "\nmeasures", ["measure", "before", "after", "difference"],
        [
            [one.name, _value(one.before), _value(one.after), "" if one.difference is None else f"{one.difference:+.4f}"]
            for one in found.measures
            if one.before.value is not None or one.after.value is not None
        ],
    )  # fmt: skip


def _value(measure: Measure) -> str:
    return "n/a" if measure.value is None else f"{measure.value:.4f}"


def _short(measure: Measure) -> str:
    return "" if measure.value is None else f"{measure.value:+.3f}"
