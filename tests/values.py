"""Made-up values for tests: spans, pairs and collections of people who do not exist."""

from __future__ import annotations

import random

from clonedna.core.canonical import sha256
from clonedna.core.work import (
    AuthorShare,
    Collection,
    Found,
    Identity,
    Licence,
    Pair,
    Provenance,
    Repository,
    Span,
    Split,
)

ADA = Identity(name="Ada Example", email="ada@example.org")
REPOSITORY = Repository(
    name="abacus", url="local:abacus", commit="c" * 40, committed_at="2026-01-02T03:04:05Z",
    licence=Licence(spdx="MIT", how="file:LICENSE", score=1.0), commits=40,
    authors=(AuthorShare(identity=ADA, commits=40, share=1.0),),
)  # fmt: skip
FOUND = Found(repository=REPOSITORY, location="nowhere", you=ADA)
WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "omega",
    "sigma",
    "kappa",
    "theta",
    "zeta",
    "total",
    "count",
    "index",
    "value",
    "item",
    "row",
    "cell",
    "node",
    "edge",
    "path",
]


def span(number: int, *, path: str | None = None, **changes: object) -> Span:
    """A span whose words depend on ``number``, so that no two are alike."""
    draw = random.Random(number)
    name = f"{draw.choice(WORDS)}_{draw.choice(WORDS)}_{number}"
    body = "".join(
        f"    {draw.choice(WORDS)}_{i} = {draw.choice(WORDS)}({draw.randrange(999)}, {draw.choice(WORDS)})\n"
        for i in range(6)
    )
    text = f'def {name}(a, b):\n    """{draw.choice(WORDS)} of {draw.choice(WORDS)}."""\n{body}    return a\n'
    start = 1 + 20 * (number % 5)
    made = Span(
        path=path or f"abacus/part_{number // 4}.py", language="python", kind="function", name=name, signature=f"def {name}(a, b):",
        arguments=("a", "b"), start=start, end=start + text.count("\n") - 1, text=text, sha256=sha256(text), blob="b" * 40,
        commit="c" * 40, subject=f"add {name}", docstring="words", body_start=start + 2, owned=1.0, licence="MIT",
    )  # fmt: skip
    return made.model_copy(update=changes)


def collection(count: int, **changes: object) -> Collection:
    return Collection(
        repository=REPOSITORY, spans=tuple(sorted((span(i, **changes) for i in range(count)), key=lambda s: (s.path, s.start))),
        refusals=(), files_seen=count, files_used=count, lines_owned=10 * count,
    )  # fmt: skip


def pair(name: str, code: str, *, task: str = "", split: Split = "train", licence: str = "MIT") -> Pair:
    """A pair of Ada's, called ``name``, with this code."""
    where = Provenance(
        repository="abacus", url="local:abacus", commit="c" * 40, path=f"{name}.py", blob="b" * 40, start=1,
        end=1 + code.count("\n"), sha256=sha256(code), licence=licence, author="Ada Example",
    )  # fmt: skip
    return Pair(
        id=name, form="whole", instruction=task or f"Write {name}.", completion=code, split=split, kind="function", name=name,
        language="python", teacher="fake", provenance=where,
    )  # fmt: skip
