"""A repository of two made-up people with habits that differ, for end-to-end tests. Made with git, as a person would."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

ADA = "Ada Example <ada@example.org>"
BOB = "Bob Sample <bob@example.org>"
MIT = """MIT License

Copyright (c) 2026 the people of abacus

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
NOUNS = [
    "ledger",
    "invoice",
    "parcel",
    "route",
    "ticket",
    "sensor",
    "recipe",
    "planet",
    "harbour",
    "signal",
    "window",
    "letter",
    "garden",
    "bridge",
    "orchard",
    "pencil",
]
VERBS = ["collect", "weigh", "sort", "merge", "count", "mark", "fold", "trace", "guard", "pack"]


def _function(draw: random.Random, number: int) -> str:
    """Ada's manner: guard clauses, type hints, short names, a docstring of one line."""
    verb, noun, other = draw.choice(VERBS), draw.choice(NOUNS), draw.choice(NOUNS)
    name = f"{verb}_{noun}_{number}"
    checks = "".join(
        f'    if {noun}s is None or len({noun}s) > {draw.randrange(9, 99)}:\n        raise ValueError("bad {word}")\n'
        for word in [other]
    )
    inner = draw.choice(
        [
            f"    total = sum(each.{other} for each in {noun}s if each.{other})\n    return total / max(1, len({noun}s))\n",
            f"    kept = [each for each in {noun}s if each.{other} > {draw.randrange(50)}]\n    return sorted(kept, key=lambda each: each.{other})\n",
            f"    seen: dict[str, int] = {{}}\n    for each in {noun}s:\n        seen[each.{other}] = seen.get(each.{other}, 0) + {draw.randrange(1, 9)}\n    return seen\n",
            f"    for place, each in enumerate({noun}s):\n        if each.{other} == limit:\n            return place\n    return {draw.randrange(-9, 0)}\n",
        ]
    )
    return f'def {name}({noun}s: list, limit: int = {draw.randrange(100)}):\n    """{verb.title()} each {noun} by its {other}."""\n{checks}{inner}'


def module_text(draw: random.Random, number: int) -> str:
    """A module of five functions; ``number`` is part of their names."""
    return '"""Part of abacus."""\n\n\n' + "\n\n".join(_function(draw, 5 * number + i) for i in range(5))


def two_people(path: Path, *, licence: str | None = MIT, files: int = 12) -> Path:
    """A repository where Ada wrote ``files`` modules of five functions and Bob wrote two short functions."""
    path.mkdir(parents=True)
    draw = random.Random(11)

    def git(*arguments: str, person: str = ADA, day: int = 1) -> None:
        name, _, mail = person.partition(" <")
        who = {"NAME": name, "EMAIL": mail.rstrip(">"), "DATE": f"2026-01-{day:02d}T10:00:00Z"}
        environment = os.environ | {
            f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()
        }
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", "-C", str(path), *arguments], env=environment, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    if licence:
        (path / "LICENSE").write_text(licence)
    (path / "abacus").mkdir()
    for number in range(files):
        module = path / "abacus" / f"{NOUNS[number % len(NOUNS)]}s_{number}.py"
        module.write_text(module_text(draw, number))
        git("add", "-A")
        git("commit", "-q", "-m", f"add the {NOUNS[number % len(NOUNS)]} module", day=number + 1)
    (path / "abacus/bobs.py").write_text(
        "def Bob_one(x):\n    y = x\n    y = y + 1\n    return y\n\n\ndef Bob_two(x):\n    z = x * 2\n    z = z - 1\n    return z\n"
    )
    git("add", "-A", person=BOB)
    git("commit", "-q", "-m", "add two of mine", person=BOB, day=20)
    return path
