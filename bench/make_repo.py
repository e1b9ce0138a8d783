"""Make a repository of a given size and age from nothing: `python bench/make_repo.py DIRECTORY [--files 5000] [--commits 10000]`.

People, files and code are made up and depend on the seed alone. Written with `git fast-import`, so ten thousand commits take seconds.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LICENCE = (Path(__file__).resolve().parents[1] / "LICENSE").read_bytes
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


def function(draw: random.Random, name: str) -> str:
    lines = "".join(
        f"    {draw.choice(WORDS)}_{i} = {draw.choice(WORDS)}({draw.randrange(999)})\n"
        for i in range(draw.randrange(3, 9))
    )
    return f'def {name}(a, b):\n    """{draw.choice(WORDS)} of {draw.choice(WORDS)}."""\n{lines}    return a\n'


def stream(files: int, commits: int, people: int, seed: int) -> Iterator[bytes]:
    """The fast-import stream: every file is made by somebody, then people change functions in it."""
    draw = random.Random(seed)
    state: dict[int, list[str]] = {}

    def data(text: bytes) -> bytes:
        return b"data %d\n%s\n" % (len(text), text)

    for number in range(commits):
        # Some people commit far more than others.
        person = min(int(draw.expovariate(5.0 / people)), people - 1)
        yield b"commit refs/heads/main\n"
        yield f"committer Person {person} <person{person}@example.org> {1_600_000_000 + 600 * number} +0000\n".encode()
        yield data(f"change {draw.choice(WORDS)} of {draw.choice(WORDS)}".encode())
        if number == 0:
            yield b"M 100644 inline LICENSE\n" + data(LICENCE())
        for _ in range(draw.randrange(1, 4)):
            file = number * files // commits if draw.random() < 0.5 else draw.randrange(files)
            parts = state.setdefault(file, [])
            if len(parts) < 4:
                parts.append(function(draw, f"f_{file}_{number}"))
            else:
                parts[draw.randrange(len(parts))] = function(draw, f"f_{file}_{number}")
            text = "\n\n".join(parts).encode()
            yield f"M 100644 inline package_{file % 60}/module_{file}.py\n".encode() + data(text)
    draw_rest = [file for file in range(files) if file not in state]
    if draw_rest:
        yield b"commit refs/heads/main\ncommitter Person 0 <person0@example.org> 1700000000 +0000\n" + data(
            b"add the rest"
        )
        for file in draw_rest:
            yield f"M 100644 inline package_{file % 60}/module_{file}.py\n".encode() + data(
                function(draw, f"f_{file}").encode()
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a repository for measuring.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.directory.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "-b", "main", str(options.directory)], check=True)
    importer = subprocess.Popen(["git", "-C", str(options.directory), "fast-import", "--quiet"], stdin=subprocess.PIPE)
    assert importer.stdin is not None
    for piece in stream(options.files, options.commits, options.people, options.seed):
        importer.stdin.write(piece)
    importer.stdin.close()
    sys.exit(importer.wait())


if __name__ == "__main__":
    main()
