"""Fits the calibration cards that the program brings, from the bundled lab, for the encoders that come with it. Takes seconds.

    python tools/fit_calibration.py                             # from clonedna/genomes/data/lab.json; says what the cards reach
    python tools/fit_calibration.py --raw .bench/calibration    # first makes lab.json from what tools/calibration_lab.py measured

The same lab gives the same cards, but for what processors round in their own way (a test fits them again). Every figure in a card is of
domains that its fit had not seen; nothing was chosen by them: features, ridge and curve are those of docs/genomes.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clonedna
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.core.block import Measure
from clonedna.core.canonical import canonical
from clonedna.core.errors import InputError
from clonedna.core.genome import MOST_REQUEST, Similarity
from clonedna.genomes.calibration import Aim, Card, expected_error
from clonedna.genomes.fitting import Fitted, fit
from clonedna.genomes.lab import Asked, Lab, bar_in, measured, outcomes_of, read_lab
from clonedna.genomes.needs import Reader
from clonedna.genomes.routes import Thresholds, route_of
from clonedna.genomes.taxonomy import load_taxonomy

DATA = Path(clonedna.__file__).parent / "genomes" / "data"
ENCODERS = ("minilm", "hashed")
RIGHT, ABSENT = 0.90, 0.60
ROUNDING = 2e-3
"""Where two residuals change places by the last digit, the ends of an interval move by as much."""
Question = tuple[str, str, str, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--raw", type=Path, help="what tools/calibration_lab.py wrote")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a card is another")
    parser.add_argument(
        "--hubs", action="store_true", help="write nothing; say what the cards would reach with hubness"
    )
    parser.add_argument("--distance", action="store_true", help="... and with links in the taxonomy")
    parser.add_argument("--encoder", help="... or say what the card of another encoder would reach, beside minilm's")
    options = parser.parse_args()
    if options.hubs or options.distance or options.encoder:
        cards(
            read_lab((DATA / "lab.json").read_bytes()),
            ("minilm", options.encoder) if options.encoder else ENCODERS,
            hubs=options.hubs,
            distance=Links() if options.distance else None,
        )
        return
    if options.raw:
        (DATA / "lab.json").write_bytes(canonical(distilled(options.raw)) + b"\n")
    lab = read_lab((DATA / "lab.json").read_bytes())
    differ = False
    for name, card in cards(lab).items():
        path = DATA / "calibration" / f"{name}.json"
        if options.check:
            differ |= not alike(json.loads(path.read_bytes()), json.loads(canonical(card)))
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(canonical(card) + b"\n")
    if differ:
        sys.exit("a bundled card is not what the lab gives: run tools/fit_calibration.py")


def alike(one: Any, other: Any) -> bool:
    """Equal, but for what another processor rounds in another way."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and float in (type(one), type(other)):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(one == other)


def cards(
    lab: Lab, encoders: Sequence[str] = ENCODERS, *, hubs: bool = False, distance: Links | None = None
) -> dict[str, Card]:
    """The card of each encoder; all but the first are compared with the first's routes."""
    made: dict[str, Card] = {}
    first: dict[Question, str] = {}
    for name in encoders:
        encoder = Parts(Settings()).open_encoder(name)
        asked = outcomes_of(lab, encoder, hubs=hubs, distance=distance)
        queried = outcomes_of(lab, encoder, hubs=hubs, distance=distance, queried=True)
        fitted = fitted_to(lab, asked + queried)
        held, beside = fitted.held_out[: len(asked)], fitted.held_out[len(asked) :]
        routes = best_routes(lab, asked, held)
        aims = aims_of(lab, asked, held) + aims_of(lab, queried, beside, "with queries: ")
        if first:
            same = [routes[one] == first[one] for one in first]
            aims += (aim("the same route as under minilm", ">= 75 %", same, 0.75),)
        first = first or routes
        made[name] = fitted.card.model_copy(update={"aims": aims})
        report(name, made[name])
    return made


class Links:
    """Links in the taxonomy between what two texts name, the fewest; ``None`` where either names nothing that is in it."""

    def __init__(self) -> None:
        self._reader, self._nodes = Reader(load_taxonomy()), dict[str, list[str]]()

    def __call__(self, asked: str, text: str) -> float | None:
        links = [self._reader.taxonomy.distance(a, b) for a in self._named(asked) for b in self._named(text)]
        return min((float(one) for one in links if one is not None), default=None)

    def _named(self, text: str) -> list[str]:
        if text not in self._nodes:
            try:
                self._nodes[text] = [
                    skill.node for skill in self._reader.read(text[:MOST_REQUEST]).skills if skill.node
                ]
            except InputError:
                self._nodes[text] = []
        return self._nodes[text]


def fitted_to(lab: Lab, asked: Sequence[Asked]) -> Fitted:
    bar = bar_in(lab)
    how = (
        f"the bundled lab: {len(lab.blocks)} adapters, {len(lab.requests)} requests in two wordings, in two pools, with and without the "
        f"domain that is wanted, with and without what may be typed by who looks for a layer; s* by {bar.how}; tools/fit_calibration.py"
    )
    return fit([one.outcome for one in asked], base=lab.base, how=how, gain=bar.gain, level=bar.level)


def questions(lab: Lab) -> list[Question]:
    """Every request in each wording and pool, with and without what it wants; of some, no measured layer is among the nearest fifty."""
    pools = ("lab", "library")
    return [
        (one.block, wording, pool, present)
        for one in lab.requests for wording in ("short", "paraphrase") for pool in pools for present in (True, False)
    ]  # fmt: skip


def best_routes(lab: Lab, asked: Sequence[Asked], predicted: Sequence[float]) -> dict[Question, str]:
    """For each question the route that the best prediction gives, taken as if it were known for sure and there were pairs to train from."""
    best: dict[Question, float] = dict.fromkeys(questions(lab), 0.0)
    for one, value in zip(asked, predicted, strict=True):
        best[one.question] = max(best.get(one.question, 0.0), value)
    found: dict[tuple[str, str, str, bool], str] = {}
    for question, value in best.items():
        known = Similarity(value=value, low=value, high=value, status="measured", how="")
        found[question] = route_of(known, Thresholds(), base_passes=False, trainable=True).route
    return found


def aims_of(lab: Lab, asked: Sequence[Asked], held_out: Sequence[float], where: str = "") -> tuple[Aim, ...]:
    """What was aimed at, as it was measured on held-out domains. ``where``: put before the names; what is only measured is told once."""
    pairs = list(zip(asked, held_out, strict=True))
    present, absent = ([q for q in questions(lab) if q[3] is there] for there in (True, False))
    right = {one.question: p for one, p in pairs if one.right}
    top = {q: max((p for one, p in pairs if one.question == q), default=0.0) for q in absent}
    found = measured(lab)
    truly = [(found[one.block, one.block].value or 0.0) >= RIGHT for one in lab.requests]
    wrongly = {q: max((one.outcome.value for one in asked if one.question == q), default=0.0) for q in absent}
    error = expected_error(held_out, [one.outcome.value for one in asked])
    ece = Measure(
        value=round(error, 9), status="measured", n=len(asked), split="held-out domains", how="expected calibration error, ten bins"
    )  # fmt: skip
    predicted = (
        Aim(name=f"{where}calibration error", aim="<= 5 %", measured=ece, reached=error <= 0.05),
        aim(
            f"{where}present: the right layer is predicted at least .90", ">= 75 %",
            [right.get(q, 0.0) >= RIGHT for q in present], 0.75,
        ),
        aim(f"{where}absent: some layer is predicted at least .60", "<= 5 %", [v >= ABSENT for v in top.values()], 0.05, most=True),
    )  # fmt: skip
    if where:
        return predicted
    return (
        *predicted,
        aim("present: the right layer measures at least .90", ">= 75 %", truly, 0.75),
        aim("absent: some probed layer measures at least .60", "<= 5 %", [v >= ABSENT for v in wrongly.values()], 0.05, most=True),
    )  # fmt: skip


def aim(name: str, text: str, hits: Sequence[bool], limit: float, *, most: bool = False) -> Aim:
    value = sum(hits) / len(hits)
    measure = Measure(
        value=round(value, 9), status="measured", n=len(hits), split="held-out domains", how="share of questions"
    )
    return Aim(name=name, aim=text, measured=measure, reached=value <= limit if most else value >= limit)


def report(name: str, card: Card) -> None:
    held = f"ece {card.ece.value:.4f}, coverage {card.coverage.value:.3f}"
    print(f"{name}: {card.n} outcomes, {held}, gain {card.gain:.3f}, level {card.level:.3f}")
    print("  " + ", ".join(f"{column} {weight:.3f}" for column, weight in zip(card.columns, card.weights, strict=True)))
    for one in card.aims:
        print(
            f"  {'reached' if one.reached else 'MISSED '} {one.name}: {one.measured.value:.3f} of n={one.measured.n} (aim {one.aim})"
        )


def distilled(raw: Path) -> dict[str, Any]:
    """``lab.json`` from the lab's folder: words and numbers, no code."""
    lab, requests = read(raw / "lab.json"), read(Path(__file__).with_name("calibration_requests.json"))
    blocks, asked = [], []
    base = read(raw / "measured" / "base.json")
    rows = {path.stem: read(path) for path in sorted((raw / "measured").glob("*.json")) if path.stem != "base"}
    for entry in requests:
        block = read(raw / "blocks" / entry["name"] / "block.json")
        if block.get("few"):
            continue
        through = {name: of[entry["name"]] for name, of in rows.items() if entry["name"] in of}
        tokens = sum(t for _, t in block["owner_base"])
        blocks.append(
            {
                "name": entry["name"], "domain": entry["domain"], "text": block["capability"],
                "base": round(sum(n for n, _ in block["owner_base"]) / tokens, 6),
                "adapter": round(sum(n for n, _ in block["owner_adapter"]) / tokens, 6),
            }
        )  # fmt: skip
        asked.append(
            {
                "block": entry["name"], "domain": entry["domain"], "short": entry["short"], "paraphrase": entry["paraphrase"],
                "base": base[entry["name"]], "through": {name: [n for n, _ in of] for name, of in through.items()},
            }
        )  # fmt: skip
    return {
        "format": "dna-lab/1", "base": lab["base"], "base_fingerprint": lab["fingerprint"], "blocks": blocks, "requests": asked,
        "made": "tools/calibration_lab.py on the bundled base, one thread; files of what is installed for development",
    }  # fmt: skip


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
