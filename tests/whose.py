"""People with habits of their own, and blocks trained on them: for tests of whose style a block has. Everybody is made up."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from clonedna.app.parts import Parts
from clonedna.core.block import Candidate, ConsentRecord, Manifest, Recipe, SourceRecord
from clonedna.core.canonical import canonical, sha256
from clonedna.core.events import silent
from clonedna.core.work import Identity, Pair, Provenance, Split
from clonedna.evals.likelihood import example_of
from clonedna.mint.training import train
from tests.unit.store.making import contents, write_block
from tests.values import REPOSITORY

# What they call things, and how they write them: bytes that follow each other differently, as a bigram model can learn.
HABITS = (
    ("snake_{}_{}", "    {} = {}\n"),
    ("camel{}And{}", "\t{}={};\n"),
    ("X.{}.{}", "  ({} -> {}),\n"),
    ("__{}{}__", "        {}:{}\n"),
    ("{}${}", " |{} / {}|\n"),
)
WORDS = ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta", "total", "count", "index", "value")
RECIPE = Recipe(epochs=1, batch_tokens=2048, learning_rate=0.0001, base_instruct_ratio=0.05, tool_use_pairs=0)


def code(habit: int, number: int) -> str:
    """A piece in this person's manner; no two are alike."""
    draw = random.Random(f"{habit}:{number}")
    name, line = HABITS[habit]
    words = [name.format(draw.choice(WORDS), draw.choice(WORDS)) for _ in range(6)]
    return f"{words[0]}\n" + "".join(line.format(w, draw.randrange(999)) for w in words[1:]) + f"{words[-1]}{number}\n"


def pair(habit: int, number: int, split: Split, *, path: str = "", **changes: Any) -> Pair:
    text = code(habit, number)
    where = Provenance(
        repository="abacus", url=f"local:person-{habit}", commit="c" * 40, path=path or f"part_{number % 5}.py", blob="b" * 40,
        start=1 + 20 * number, end=7 + 20 * number, sha256=sha256(text), licence="MIT", author=f"Person {habit}",
    )  # fmt: skip
    made = Pair(
        id=f"{habit}-{number}", form="whole", instruction=f"Write piece {number}.", completion=text, split=split, kind="function",
        name=f"piece_{number}", language="python", teacher="fake", provenance=where,
    )  # fmt: skip
    return made.model_copy(update=changes)


def work(habit: int, *, training: int = 20, held: int = 10) -> list[Pair]:
    """One person's pairs: ``held`` of five files are held out."""
    pairs = [pair(habit, n, "train", path=f"work_{n % 4}.py") for n in range(training)]
    return pairs + [pair(habit, 100 + n, "holdout") for n in range(held)]


def add(
    parts: Parts, name: str, pairs: Sequence[Pair], *, handle: str = "", trained_on: Sequence[Pair] | None = None,
    recipe: Recipe = RECIPE, consent: ConsentRecord | None = None, base: str = "fake", **changes: Any,
) -> Manifest:  # fmt: skip
    """A signed, registered block with these pairs, whose adapter the engine trained on them, or on others behind their back."""
    engine, person = parts.engine(base), Identity(name=name.title(), email=f"{name}@example.org")
    with tempfile.TemporaryDirectory() as folder:
        examples = [example_of(p) for p in trained_on or pairs if p.split == "train"]

        async def made() -> None:
            at = Path(folder)
            await train(engine, recipe, examples, [], at / "adapter", checkpoints=at / "kept", emit=silent)

        anyio.run(made)
        record = consent or parts.consents.local_only((person,), REPOSITORY.url)
        source = SourceRecord(
            repository=REPOSITORY.model_copy(update={"authors": ()}), author=person.name, files=(), refused=(), refused_counts={}
        )  # fmt: skip
        files = contents(note=name) | {one.name: one.read_bytes() for one in (Path(folder) / "adapter").iterdir()}
        files |= {"consent.json": canonical(record), "sources.json": canonical(source)}
        files["pairs.jsonl"] = b"".join(canonical(p) + b"\n" for p in pairs)
        known = engine.base
        fields: dict[str, Any] = {
            "name": name, "base_model": known.id, "base_fingerprint": known.fingerprint, "base_weights_digest": known.weights_digest,
            "rank": recipe.lora.rank, "alpha": recipe.lora.alpha, "target_modules": recipe.lora.target_modules, "recipe": recipe,
            "consent_mode": record.mode, "candidate_pairs": len(examples),
            "candidate": Candidate(handle=handle or name, name=person.name, consent_verified=False),
        }  # fmt: skip
        manifest = write_block(Path(folder) / "block", parts.signer, files, **(fields | changes))
        parts.store.put(Path(folder) / "block")
    parts.registry.publish(manifest)
    return manifest
