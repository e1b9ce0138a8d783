"""Which recipe: train one adapter for each family of packages under each configuration, and ask whose hold-out it explains.

    python -m bench.sweep CONFIGURATION... [--split file --split package] [--families choosing|all] [--seed 0]

Everything is done by the mint's own functions (collect, sift, divide, instruct by own words, mix, train) and the examinations' own
(forgetting, memorisation); nothing here is a second training loop. For each configuration, split and seed one JSON line is appended to
``.bench/sweep/results.jsonl`` with every figure of it, and the likelihood of every hold-out span under the base and all adapters goes to
``.bench/sweep/raw``. What is there already is not done again, so a run that was cut off loses one training at most.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anyio

from bench.common import CACHE, machine, quiet, say, stamp, versions
from bench.families import FAMILIES, collected
from clonedna.core.block import Recipe
from clonedna.core.canonical import digest, plain
from clonedna.core.events import silent
from clonedna.core.seams import Engine
from clonedna.core.work import Pair, Repository, Span
from clonedna.engine.local import open_engine
from clonedna.evals.bootstrap import paired_gain
from clonedna.evals.forgetting import forgetting
from clonedna.evals.identity import Held, Person, identify, score_all
from clonedna.evals.likelihood import example_of
from clonedna.evals.memorisation import memorisation
from clonedna.mint.divide import divide
from clonedna.mint.instruct import instruct
from clonedna.mint.mix import mix
from clonedna.mint.sift import sift
from clonedna.mint.training import train
from clonedna.mint.values import Mixed, Sifted, Trained
from clonedna.sources.secrets import secret_in
from clonedna.teachers.own_words import OwnWords

FOLDER = CACHE / "sweep"
MOST_MIXED = 512
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# Name -> what differs from the centre, which is written out so that a later change of the defaults changes no result that is kept.
CENTRE: dict[str, Any] = {
    "learning_rate": 1e-3, "epochs": 3, "patience": 1, "max_train_pairs": 192, "max_holdout_pairs": 96, "base_instruct_ratio": 0.5,
    "tool_use_pairs": 24, "batch_tokens": 2048, "max_tokens": 512, "warmup": 0.05,
    "lora": {"rank": 16, "alpha": 32.0},
}  # fmt: skip
SHORT: dict[str, Any] = {"max_train_pairs": 96, "epochs": 2, "max_holdout_pairs": 48}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "centre": {},
    "lr-2e-3": {"learning_rate": 2e-3},
    "lr-3e-4": {"learning_rate": 3e-4},
    "pairs-384": {"max_train_pairs": 384, "epochs": 2, "learning_rate": 5e-4},
    "pairs-all": {"max_train_pairs": 1024, "epochs": 2, "learning_rate": 5e-4},
    "pairs-all-rank-32": {
        "max_train_pairs": 1024,
        "epochs": 2,
        "learning_rate": 3e-4,
        "lora": {"rank": 32, "alpha": 64.0},
    },
    # One factor at a time around a short centre, so that all of them fit into an hour of one core.
    "short": SHORT,
    "short-lr-1e-4": SHORT | {"learning_rate": 1e-4},
    "short-lr-3e-4": SHORT | {"learning_rate": 3e-4},
    "short-lr-2e-3": SHORT | {"learning_rate": 2e-3},
    "short-rank-8": SHORT | {"lora": {"rank": 8, "alpha": 16.0}},
    "short-rank-32": SHORT | {"lora": {"rank": 32, "alpha": 64.0}},
    "short-attention": SHORT | {"lora": {"rank": 16, "alpha": 32.0, "target_modules": ATTENTION}},
    "short-general-0": SHORT | {"base_instruct_ratio": 0.0},
    "short-general-0.25": SHORT | {"base_instruct_ratio": 0.25},
    "short-general-1": SHORT | {"base_instruct_ratio": 1.0},
}


def recipe_of(configuration: str, seed: int) -> Recipe:
    """The centre with this configuration's changes."""
    fields: dict[str, Any] = CENTRE | CONFIGURATIONS[configuration] | {"seed": seed}
    fields["lora"] = {**CENTRE["lora"], **fields["lora"], "seed": seed}
    return Recipe.model_validate(fields)


@cache
def sifted(family: str, max_tokens: int) -> Sifted:
    return sift(collected(family), max_tokens=max_tokens)


async def pairs_of(family: str, split: str, recipe: Recipe) -> tuple[Pair, ...]:
    """The pairs of all three parts. By ``file`` all packages count as one repository, by ``package`` whole ones are held out."""
    usable = sifted(family, recipe.max_tokens)
    if split == "file":
        usable = usable.model_copy(update={"spans": tuple(map(_of_one, usable.spans))})
    divided = divide(usable, recipe)
    if divided.by != {"file": "file", "package": "repository"}[split]:
        raise SystemExit(f"{family}: {divided.by} was held out, not {split}")
    repository: Repository = usable.repository
    teacher = OwnWords()
    taught = await instruct(
        divided, repository, family, teacher=teacher, examiner=teacher, secret_in=secret_in, emit=silent
    )
    return taught.pairs


def _of_one(span: Span) -> Span:
    return span.model_copy(update={"repository": "", "url": ""})


async def mixed(engine: Engine, recipe: Recipe, pairs: int) -> Mixed:
    """The mint's mix, made once for ``MOST_MIXED`` pairs and kept: request i is answered with its own seed, so fewer are its beginning."""
    path = (
        FOLDER
        / "mixed"
        / f"{digest([recipe.seed, MOST_MIXED, recipe.tool_use_pairs, engine.base.fingerprint])[:16]}.json"
    )
    if not path.is_file():
        whole = recipe.model_copy(update={"base_instruct_ratio": 1.0})
        made = await mix(engine, whole, MOST_MIXED, dataset="", file=None, secret_in=secret_in, emit=silent)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.model_dump_json())
    found = Mixed.model_validate_json(path.read_bytes())
    return found.model_copy(update={"general": found.general[: round(recipe.base_instruct_ratio * pairs)]})


async def adapter(
    engine: Engine, family: str, split: str, recipe: Recipe
) -> tuple[Path, dict[str, Any], tuple[Pair, ...]]:
    """The family's adapter under this recipe, trained unless it is there; with its figures and its pairs."""
    pairs = await pairs_of(family, split, recipe)
    folder = FOLDER / "adapters" / digest([family, split, recipe, [pair.id for pair in pairs]])[:16]
    record = folder / "trained.json"
    if not record.is_file():
        own = [pair for pair in pairs if pair.split == "train"]
        began = time.monotonic()
        beside = await mixed(engine, recipe, len(own))
        mixing = time.monotonic() - began
        scratch = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(scratch, ignore_errors=True)
        began, cpu = time.monotonic(), time.process_time()
        trained: Trained = await train(
            engine, recipe, [*map(example_of, own), *beside.general, *beside.tool_use],
            [example_of(pair) for pair in pairs if pair.split == "validation"], scratch / "adapter",
            checkpoints=scratch / "checkpoints", every=math.inf, emit=silent,
        )  # fmt: skip
        shutil.rmtree(scratch / "checkpoints")
        figures = {
            "seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
            "mix_seconds": round(mixing, 2), **trained.model_dump(mode="json"),
            "pairs": {part: sum(pair.split == part for pair in pairs) for part in ("train", "validation", "holdout")},
            "general": len(beside.general), "tool_use": len(beside.tool_use),
        }  # fmt: skip
        (scratch / "trained.json").write_text(json.dumps(figures))
        scratch.rename(folder)
    return folder / "adapter", json.loads(record.read_bytes()), pairs


async def one(
    engine: Engine, configuration: str, split: str, families: Sequence[str], seed: int, *, repeats: bool
) -> dict[str, Any]:
    """Train all families' adapters, score every hold-out under every adapter; the figures and the raw likelihoods.

    ``repeats``: also look for memorised training code, which takes as long as a training does.
    """
    recipe = recipe_of(configuration, seed)
    made: dict[str, tuple[Path, dict[str, Any], tuple[Pair, ...]]] = {}
    for family in families:
        made[family] = await adapter(engine, family, split, recipe)
    began = time.monotonic()
    ids = [(await engine.load(made[family][0])).id for family in families]
    held = await likelihoods(engine, [[p for p in made[family][2] if p.split == "holdout"] for family in families], ids)
    kept: dict[str, Any] = {}
    for family, adapter_id in zip(families, ids, strict=True):
        own = [pair for pair in made[family][2] if pair.split == "train"]
        measures = await forgetting(engine, adapter_id, seed=seed)
        if repeats:
            measures |= await memorisation(engine, adapter_id, own, secret_in=secret_in, seed=seed)
        names = ("forgetting", "memorisation.rate", "memorisation.excess")
        kept[family] = {**made[family][1], **{name: measures[name].value for name in names if name in measures}}
        await engine.unload(adapter_id)
    people = [Person(name=family, handle=family, own=(i,)) for i, family in enumerate(families)]
    result = identify(families, people, held, seed=seed)
    own = {
        one.person.name: {**own_gain(held, i, seed), "files": one.n_files, "files_right": one.files.value}
        for i, one in enumerate(result.people)
    }
    return {
        "configuration": configuration, "changes": CONFIGURATIONS[configuration], "split": split, "seed": seed, "families": list(families),
        "repeats": repeats, "identification": plain(result.measures), "matrix": result.matrix, "own": own, "kept": kept,
        "scoring_seconds": round(time.monotonic() - began, 1), "raw": plain(held),
    }  # fmt: skip


async def likelihoods(engine: Engine, holdouts: Sequence[Sequence[Pair]], adapters: Sequence[str]) -> list[Held]:
    """Every hold-out pair under the base and under every adapter."""
    pairs = [pair for part in holdouts for pair in part]
    owners = [i for i, part in enumerate(holdouts) for _ in part]
    base, *under = await score_all(engine, pairs, adapters, emit=silent)
    return [
        Held(
            pair=pair.id, person=owners[i], file=f"{pair.provenance.url}:{pair.provenance.path}", tokens=base[i].tokens, base=base[i].nll,
            blocks=tuple(row[i].nll for row in under),
        )
        for i, pair in enumerate(pairs)
    ]  # fmt: skip


def own_gain(held: Sequence[Held], family: int, seed: int) -> dict[str, Any]:
    """The own adapter against the base: nats a token and the ratio of perplexities, with paired bootstrap intervals over spans."""
    own = [one for one in held if one.person == family]
    gain, (low, high) = paired_gain(
        [one.base for one in own], [one.blocks[family] for one in own], [one.tokens for one in own], seed=seed
    )
    return {
        "spans": len(own), "gain": round(gain, 5), "low": round(low, 5), "high": round(high, 5), "ratio": round(math.exp(gain), 4),
        "ratio_low": round(math.exp(low), 4), "ratio_high": round(math.exp(high), 4),
    }  # fmt: skip


def _done(configuration: str, split: str, families: Sequence[str], seed: int, repeats: bool) -> bool:
    wanted = {
        "configuration": configuration,
        "split": split,
        "seed": seed,
        "families": list(families),
        "repeats": repeats,
    }
    path = FOLDER / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return any(all(line[key] == value for key, value in wanted.items()) for line in lines)


async def sweep(options: argparse.Namespace) -> None:
    """All that was asked for and is not there yet."""
    engine = open_engine("nano", threads=options.threads)
    families = [name for name, family in FAMILIES.items() if options.families == "all" or family.choosing]
    try:
        for configuration in options.configurations:
            for split in options.split or ["file", "package"]:
                if _done(configuration, split, families, options.seed, options.repeats):
                    say(f"{configuration} by {split}: done before")
                    continue
                result = await one(engine, configuration, split, families, options.seed, repeats=options.repeats)
                _keep(result, options.threads)
    finally:
        await engine.close()


def _keep(result: dict[str, Any], threads: int) -> None:
    raw = result.pop("raw")
    name = f"{result['configuration']}-{result['split']}-{result['seed']}-{len(result['families'])}.json"
    (FOLDER / "raw").mkdir(parents=True, exist_ok=True)
    (FOLDER / "raw" / name).write_text(json.dumps(raw))
    line = {**result, **stamp("sweep"), "versions": versions(), "machine": machine(threads)}
    with (FOLDER / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    own, kept, found = list(result["own"].values()), list(result["kept"].values()), result["identification"]
    shares = [f"{what} {found[f'identification.{what}']['value']:.3f}" for what in ("people", "files", "spans")]
    say(
        f"{result['configuration']} by {result['split']}, seed {result['seed']}: {', '.join(shares)}; own gain "
        f"{sum(one['gain'] for one in own) / len(own):.4f} (lowest end {min(one['low'] for one in own):.4f}), most forgetting "
        f"{max(one['forgetting'] for one in kept):+.4f}, memorised {[one.get('memorisation.excess') for one in kept]}, "
        f"best epochs {[one['best_epoch'] for one in kept]}, seconds {[round(one['seconds']) for one in kept]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("configurations", nargs="+", choices=CONFIGURATIONS)
    parser.add_argument("--split", action="append", choices=["file", "package"])
    parser.add_argument("--families", choices=["choosing", "all"], default="choosing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", action="store_true", help="also look for memorised training code")
    parser.add_argument("--threads", type=int, default=1)
    quiet()
    anyio.run(sweep, parser.parse_args())


if __name__ == "__main__":
    main()
