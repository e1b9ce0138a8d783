"""Measures the outcomes that a calibration of similarity is fitted from: real adapters on the bundled base, real exemplars, real gains.

    python tools/calibration_lab.py [--out .bench/calibration] [--names rich-python,...] [--threads 1]

Each entry of `calibration_requests.json` is a part of what is installed here anyway (headers, stubs, scripts, manuals, modules), with two
requests for its subject in words that were written before anything was measured. Its files are divided whole: an adapter is trained on
pieces of most of them; of the others one half says what the adapter's owner gains, the other half are the exemplars that the request
brings. On them are measured the adapter itself, those of its domain, those that an index would give for the request, and one other.
Research on this machine: nothing of it is for sharing.

It goes on where it was stopped: what was trained or measured is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio

from clonedna.app.parts import Parts, factory
from clonedna.app.settings import Settings
from clonedna.core.block import Recipe
from clonedna.core.canonical import sha256
from clonedna.core.model import Example, Layer, Message, Score
from clonedna.core.seams import Engine
from clonedna.core.words import words
from clonedna.mint.capability import EVERYWHERE
from clonedna.mint.training import train

HERE = Path(__file__).resolve().parent
REQUESTS = HERE / "calibration_requests.json"
RECIPE = Recipe(preset="custom", learning_rate=1e-3, epochs=3, max_tokens=512, base_instruct_ratio=0, tool_use_pairs=0)
SHOWN, ASKED = 5, 14  # lines of a file that a prompt shows, and that the answer is
MOST_LINE, MOST_FILE, MOST_FILES, MOST_OF_FILE = 160, 400_000, 160, 4
OURS = frozenset(("continue", "typeshed", "stubs", "fallback", "dist"))  # of our own prompts, and of where files are
TRAINING, HELD, PROBED = 96, 20, 12
NEAREST, RANDOM = (
    3,
    1,
)  # adapters that each wording is answered with under each encoder, and some that nobody would take


def silent(_: object) -> None:
    """Nobody listens."""


def files_of(patterns: Sequence[str]) -> list[Path]:
    """At most ``MOST_FILES`` files, in an order that only their paths decide."""
    root = Path(sysconfig.get_paths()["purelib"])
    found = {
        path
        for pattern in patterns
        for path in root.glob(pattern)
        if path.is_file() and path.stat().st_size <= MOST_FILE
    }
    return sorted(found, key=lambda path: sha256(path.relative_to(root).as_posix()))[:MOST_FILES]


def pieces(path: Path) -> Iterator[Example]:
    """Pieces of one file: the prompt names the file and shows a few lines, the answer are the lines that follow."""
    root = Path(sysconfig.get_paths()["purelib"])
    lines = path.read_text("utf-8", errors="replace").splitlines()
    lines = [line.rstrip() for line in lines]
    size, name = SHOWN + ASKED, path.relative_to(root).as_posix()
    starts = list(range(0, max(1, len(lines) - size + 1), size))
    for start in starts[:: max(1, len(starts) // MOST_OF_FILE)][:MOST_OF_FILE]:
        cut = lines[start : start + size]
        if len(cut) < size or max(map(len, cut)) > MOST_LINE or sum(not line for line in cut) > size // 2:
            continue
        shown, asked = "\n".join(cut[:SHOWN]), "\n".join(cut[SHOWN:])
        yield Example(messages=(Message(role="user", content=f"Continue `{name}`:\n{shown}"),), completion=asked)


def capability(examples: Sequence[Example], name: str) -> str:
    """As a mint's: the words that are frequent in what the training prompts name, and where it is from."""
    seen: dict[str, int] = {}
    for example in examples:
        for word in set(words(example.messages[0].content, wholes=False)):
            if len(word) > 2 and word not in EVERYWHERE | OURS and not word.isdigit():
                seen[word] = seen.get(word, 0) + 1
    often = sorted((word for word, n in seen.items() if n > 1), key=lambda word: (-seen[word], word))[:24]
    return f"works on {', '.join(often)}. from {name}"


async def build(engine: Engine, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one adapter into ``folder`` and measure what its owner's half of the held-out files gains."""
    parts: dict[int, list[Example]] = {0: [], 1: [], 2: []}
    for number, path in enumerate(files_of(entry["files"])):
        parts[{0: 1, 1: 2}.get(number % 5, 0)].extend(pieces(path))
    own, ours, theirs = parts[0][:TRAINING], parts[1][:HELD], parts[2][:HELD]
    if len(own) < 32 or min(len(ours), len(theirs)) < 6:
        say(f"{entry['name']}: {len(own)} training, {len(ours)} + {len(theirs)} held-out pieces are too few: left out")
        return {"name": entry["name"], "few": True}
    trained = await train(
        engine, RECIPE, own, [], folder / "adapter", checkpoints=folder / "checkpoints", every=float("inf"), emit=silent
    )
    adapter = await engine.load(folder / "adapter")
    return {
        "name": entry["name"], "pairs": len(own), "steps": trained.steps, "capability": capability(own, entry["name"].replace("-", " ")),
        "prompts": [example.messages[0].content for example in own], "owner_base": rows(await engine.nll(ours)),
        "owner_adapter": rows(await engine.nll(ours, [Layer(adapter=adapter.id)])),
        "exemplars": [example.model_dump(mode="json") for example in theirs],
    }  # fmt: skip


def rows(scores: Sequence[Score]) -> list[list[float]]:
    """Nats and tokens of each exemplar."""
    return [[round(score.nll, 4), score.tokens] for score in scores]


async def measure(
    engine: Engine, asked: dict[str, list[Example]], adapter: Path | None
) -> dict[str, list[list[float]]]:
    """Nats and tokens of the exemplars of each of these requests, through the adapter or of the base."""
    layers: list[Layer] = []
    if adapter is not None:
        layers = [Layer(adapter=(await engine.load(adapter)).id)]
    found = rows(await engine.nll([example for some in asked.values() for example in some], layers))
    for layer in layers:
        await engine.unload(layer.adapter)
    told: dict[str, list[list[float]]] = {}
    for name, some in asked.items():
        told[name], found = found[: len(some)], found[len(some) :]
    return told


async def run(out: Path, entries: Sequence[dict[str, Any]], threads: int, part: int, of: int) -> None:
    parts = Parts(Settings(home=out / "home", threads=threads))
    engine = parts.engine("nano")
    mine = [entry for number, entry in enumerate(entries) if number % of == part]
    for entry in mine:
        folder, began = out / "blocks" / entry["name"], time.monotonic()
        if not (folder / "block.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "block.json", await build(engine, entry, folder))
        block = read(folder / "block.json")
        if not block.get("few"):
            say(
                f"{entry['name']:26s} {time.monotonic() - began:6.1f} s  own gain {gain(block['owner_base'], block['owner_adapter']):.3f}"
            )
    adapters = {entry["name"]: out / "blocks" / entry["name"] for entry in entries}
    while missing := [name for name, folder in adapters.items() if not (folder / "block.json").is_file()]:
        say(f"waiting for {missing[0]}")
        await anyio.sleep(10)
    adapters = {name: folder for name, folder in adapters.items() if not read(folder / "block.json").get("few")}
    entries = [entry for entry in entries if entry["name"] in adapters]
    mine = [entry for entry in mine if entry["name"] in adapters]
    asked = candidates(
        parts, entries, {name: read(folder / "block.json")["capability"] for name, folder in adapters.items()}
    )
    exemplars: dict[str, list[Example]] = {}
    for name, folder in adapters.items():
        exemplars[name] = [Example.model_validate(one) for one in read(folder / "block.json")["exemplars"][:PROBED]]
    for name in [*(["base"] if part == 0 else []), *(entry["name"] for entry in mine)]:
        path, began = out / "measured" / f"{name}.json", time.monotonic()
        wanted = [other for other in adapters if name == "base" or name in asked[other]]
        if not path.is_file():
            some = {other: exemplars[other] for other in wanted}
            write(path, await measure(engine, some, None if name == "base" else adapters[name] / "adapter"))
        say(f"{name:26s} measured on {len(wanted)} requests in {time.monotonic() - began:6.1f} s")
    base = engine.base
    write(out / "lab.json", {"base": base.id, "fingerprint": base.fingerprint, "names": list(adapters)})
    await parts.close()


def candidates(parts: Parts, entries: Sequence[dict[str, Any]], texts: dict[str, str]) -> dict[str, set[str]]:
    """For each request, the adapters that are measured on its exemplars."""
    names = list(texts)
    found: dict[str, set[str]] = {}
    encoders = [factory("encoder", kind)() for kind in ("minilm", "hashed")]
    for entry in entries:
        near = {entry["name"], *(other["name"] for other in entries if other["domain"] == entry["domain"])}
        for encoder in encoders:
            blocks = encoder.encode([texts[name] for name in names]).rows
            for vector in encoder.encode([entry["short"], entry["paraphrase"]]).rows:
                cosines = blocks @ vector
                near |= {names[i] for i in sorted(range(len(names)), key=lambda i: -float(cosines[i]))[:NEAREST]}
        near |= set(random.Random(entry["name"]).sample(names, RANDOM))
        found[entry["name"]] = near
    return found


def gain(base: Sequence[Sequence[float]], tuned: Sequence[Sequence[float]]) -> float:
    """Share of the base's loss that is gone."""
    return 1 - sum(n for n, _ in tuned) / sum(n for n, _ in base)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value), "utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / ".bench" / "calibration")
    parser.add_argument("--names", help="entries of calibration_requests.json, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", type=int, default=0, help="this process' part of the work, from 0")
    parser.add_argument("--of", type=int, default=1, help="how many processes share it")
    options = parser.parse_args()
    entries = read(REQUESTS)
    wanted = options.names.split(",") if options.names else [entry["name"] for entry in entries]
    if unknown := sorted(set(wanted) - {entry["name"] for entry in entries}):
        parser.error(f"no request for {unknown[0]}")
    chosen = [entry for entry in entries if entry["name"] in wanted]
    anyio.run(run, options.out, chosen, options.threads, options.part, options.of)


if __name__ == "__main__":
    main()
