"""How long a search among 100,000 and a million vectors takes, exactly and by a graph: milliseconds of one question, on one thread.

The vectors are like an encoder's, not random: a sample of real texts (the first paragraphs of the standard library's docstrings) is encoded
by MiniLM, and more are drawn around it by a smoothed bootstrap. Each made vector is a sample's, moved by ``width`` times the difference
between two of that sample's 30 nearest: so it keeps the directions in which texts near it differ. ``width`` is the one at which as many
made vectors as there are samples have the nearest neighbour's median cosine that the samples have; the line says how well that and the
spectrum (the share of the variance in the first 1, 10, 32, 64, 128 directions) fit. Questions are the vectors of other real texts.

One in thirty is moved by nothing, so it is a copy of its sample, as texts of a block's versions are copies. Of rows that are equally near
a search may tell any: recall is the share of the ten that the graph tells that are as near as the tenth of the exact search.
``recall_by_key`` asks for the very same keys.

Times are of ``VectorFiles.search`` on files that were just read (warm), the encoder not counted.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from bench.common import CACHE, Report, arguments, figure, peak_memory, say
from clonedna.core.vectors import Vectors
from clonedna.engine.encoder import open_minilm
from clonedna.store.vectors import FULL, VectorFiles
from clonedna.store.vectors_graph import faiss_there

Rows = NDArray[np.float32]
SAMPLE, QUESTIONS, NEAR = 3000, 100, 30
MOST_EXACT, MOST_GRAPH = 50, 10
ROUNDING = 1e-6  # of a cosine in float32
SPECTRUM = (1, 10, 32, 64, 128)


def texts(count: int) -> list[str]:
    """First paragraphs of docstrings in the standard library, each once, by their files' names."""
    found: dict[str, None] = {}
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(inside):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (told := ast.get_docstring(node)):
                first = " ".join(told.partition("\n\n")[0].split())
                if len(first) >= 25:
                    found[first[:200]] = None
    every = list(found)
    step = max(1, len(every) // count)
    return every[::step][:count]


def encoded(count: int) -> Rows:
    """Vectors of ``count`` texts; kept beside the other made things, since encoding takes minutes."""
    encoder = open_minilm()
    kept = (
        CACHE / f"index-{encoder.name.replace('@', '-')}-{count}-{sys.version_info.major}{sys.version_info.minor}.npy"
    )
    if not kept.is_file():
        say(f"encoding {count} texts ...")
        rows = encoder.encode(texts(count)).rows
        CACHE.mkdir(exist_ok=True)
        np.save(kept, rows)
    return np.load(kept)


def nearest_cosine(rows: Rows) -> NDArray[np.float32]:
    near = rows @ rows.T
    np.fill_diagonal(near, -1)
    return near.max(axis=1)


def spectrum(rows: Rows) -> list[float]:
    shares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return [figure(float(shares[:n].sum() / shares.sum())) for n in SPECTRUM]


class Maker:
    """Draws vectors around a sample."""

    def __init__(self, sample: Rows) -> None:
        self.sample = sample
        near = sample @ sample.T
        self.near = np.argsort(-near, axis=1)[:, 1 : NEAR + 1]
        self.width = self._width()

    def draw(self, count: int, seed: int, width: float | None = None) -> Rows:
        draw = np.random.default_rng(seed)
        at = draw.integers(len(self.sample), size=count)
        one, other = (self.near[at, draw.integers(NEAR, size=count)] for _ in range(2))
        moved = self.sample[at] + (self.width if width is None else width) * (self.sample[one] - self.sample[other])
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    def _width(self) -> float:
        """By halving: the wider, the farther from each other."""
        wanted, low, high = float(np.median(nearest_cosine(self.sample))), 0.0, 8.0
        for _ in range(12):
            middle = (low + high) / 2
            near = float(np.median(nearest_cosine(self.draw(len(self.sample), 1, middle))))
            low, high = (middle, high) if near > wanted else (low, middle)
        return (low + high) / 2

    def fits(self) -> dict[str, Any]:
        """How like the sample the made ones are, in as many of them."""
        made, quantiles = self.draw(len(self.sample), 2), (0.1, 0.5, 0.9)
        return {
            "width": figure(self.width), "spectrum_sample": spectrum(self.sample), "spectrum_made": spectrum(made),
            "nearest_sample": [figure(float(x)) for x in np.quantile(nearest_cosine(self.sample), quantiles)],
            "nearest_made": [figure(float(x)) for x in np.quantile(nearest_cosine(made), quantiles)],
        }  # fmt: skip


def milliseconds(ask: Callable[[Vectors], object], questions: Rows, encoder: str) -> dict[str, float]:
    """Of one question each: median, 95th percentile and least; and the median of the process's CPU time."""
    wall, cpu = list[float](), list[float]()
    for row in questions:
        asked = Vectors(encoder, row[None])
        began, work = time.perf_counter(), time.process_time()
        ask(asked)
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - work))
    wall.sort()
    return {
        "median": figure(statistics.median(wall)), "p95": figure(wall[int(0.95 * len(wall))]), "least": figure(wall[0]),
        "cpu_median": figure(statistics.median(cpu)),
    }  # fmt: skip


REMOVE = """
import sys
from pathlib import Path
from clonedna.store.vectors import VectorFiles
VectorFiles(Path(sys.argv[1]), "made@1", int(sys.argv[2])).remove([sys.argv[3]])
"""


def revoked(index: VectorFiles, folder: Path, question: Rows) -> dict[str, Any]:
    """The nearest is removed by another process; whether the next question finds it, and how long that question takes."""
    asked = Vectors(index.encoder, question[None])
    gone = index.search(asked, 1)[0].key
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", REMOVE, str(folder), str(index.dimension), gone], check=True)
    took = time.perf_counter() - began
    began = time.perf_counter()
    found = [hit.key for hit in index.search(asked, MOST_EXACT)]
    return {
        "found_again": gone in found, "next_question_ms": figure(1e3 * (time.perf_counter() - began)),
        "other_process_s": figure(took),
    }  # fmt: skip


def measure(report: Report, maker: Maker, count: int, questions: Rows, most_seconds: float) -> None:
    """Fill an index with ``count`` vectors; search it exactly, then by a graph, where building one is not expected to take too long."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder, told = Path(name), dict[str, Any]()
        dimension = maker.sample.shape[1]
        index = VectorFiles(folder, "made@1", dimension, graph_from=count + 1)
        began = time.perf_counter()
        for start in range(0, count, FULL):
            some = min(FULL, count - start)
            index.add([f"{start + n:064x}" for n in range(some)], Vectors("made@1", maker.draw(some, 100 + start)))
        told["add_s"] = figure(time.perf_counter() - began)
        say(f"index: {count} rows in {told['add_s']} s")
        index.search(Vectors("made@1", questions[:1]), 1)
        told["exact_ms"] = milliseconds(lambda asked: index.search(asked, MOST_EXACT), questions[:30], "made@1")
        say(f"index: exact top-{MOST_EXACT} of {count}: {told['exact_ms']} ms")
        told["revoked_exact"] = revoked(index, folder, questions[0])
        report.raw[str(count)] = told
        if not faiss_there():
            report.not_available[f"graph {count}"] = "FAISS is not installed (extra ann)"
            return
        expected = (
            most_seconds if count <= 100_000 else report.raw.get("100000", {}).get("build_s", 0) * count / 1e5 * 1.25
        )
        if expected > most_seconds:
            report.not_available[f"graph {count}"] = (
                f"building would take about {expected:.0f} s, more than {most_seconds:.0f}"
            )
            return
        _graph(index, folder, questions, told)


def _graph(index: VectorFiles, folder: Path, questions: Rows, told: dict[str, Any]) -> None:
    exact = [index.search(Vectors("made@1", row[None]), MOST_GRAPH) for row in questions]
    graph = VectorFiles(folder, "made@1", index.dimension, graph_from=1)
    began, work = time.perf_counter(), time.process_time()
    graph.settle()
    told["build_s"], told["build_cpu_s"] = figure(time.perf_counter() - began), figure(time.process_time() - work)
    told["graph_bytes"] = sum(path.stat().st_size for path in folder.glob("*.graph"))
    graph.search(Vectors("made@1", questions[:1]), 1)
    graph.search(Vectors("made@1", questions[:1]), 1)
    told["graph_ms"] = milliseconds(lambda asked: graph.search(asked, MOST_GRAPH), questions, "made@1")
    near = [graph.search(Vectors("made@1", row[None]), MOST_GRAPH) for row in questions]
    both = list(zip(near, exact, strict=True))
    as_near = [sum(hit.cosine >= true[-1].cosine - ROUNDING for hit in one) / MOST_GRAPH for one, true in both]
    same = [len({hit.key for hit in one} & {hit.key for hit in true}) / MOST_GRAPH for one, true in both]
    told["recall_at_10"], told["recall_by_key"] = figure(statistics.mean(as_near)), figure(statistics.mean(same))
    told["revoked_graph"] = revoked(graph, folder, questions[1])
    say(f"index: by a graph: {told['graph_ms']} ms, recall@10 {told['recall_at_10']}, built in {told['build_s']} s")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--counts", default="100000,1000000", help="how many vectors, the fewest first")
    parser.add_argument("--most-seconds", type=float, default=600, help="that building a graph may be expected to take")
    options = parser.parse_args()
    options.threads = 1
    report = Report("index", options)
    sample = encoded(400 if options.quick else SAMPLE + QUESTIONS)
    questions, sample = sample[:: len(sample) // 20][:20] if options.quick else sample[::30][:QUESTIONS], sample
    rest = np.array([row for row in sample if not (questions @ row > 0.999).any()])
    maker = Maker(rest)
    report.setup = {
        "encoder": open_minilm().name, "dimension": int(sample.shape[1]), "sample": len(rest), "questions": len(questions),
        "exact_most": MOST_EXACT, "graph_most": MOST_GRAPH, **maker.fits(),
    }  # fmt: skip
    say(f"index: {report.setup}")
    for count in [5000] if options.quick else [int(one) for one in options.counts.split(",")]:
        measure(report, maker, count, questions, options.most_seconds)
    report.raw["peak_bytes"] = peak_memory()
    report.print()


if __name__ == "__main__":
    main()
