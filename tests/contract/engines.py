"""Engines for the contract tests: each part's name and how to open it in a directory. A part with no gap is listed with none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from clonedna.core.fakes import FakeEngine
from clonedna.core.seams import Engine

# Set by `make test-vllm` (tests/vllm/run.py): the URL of a running server, and the folder of the base that it serves.
VLLM_URL, VLLM_BASE = os.environ.get("TEST_VLLM_URL"), os.environ.get("TEST_VLLM_BASE", "")


def local(directory: Path) -> Engine:
    from clonedna.engine.local import open_engine
    from tests.unit.engine import small

    return open_engine(str(small.make_base(directory / "base")), threads=1)


def fake(directory: Path) -> Engine:
    return FakeEngine()


def vllm(directory: Path) -> Engine:
    """What a cluster has: vLLM serves, and adapters are trained on the same base here. A vLLM alone refuses to train: tests/vllm."""
    from clonedna.engine.local import open_engine
    from clonedna.engine.vllm import open_vllm
    from tests.vllm.beside import Beside

    return Beside(open_vllm(VLLM_BASE, url=VLLM_URL or ""), open_engine(VLLM_BASE, threads=1))


PARTS: dict[str, Callable[[Path], Engine]] = {"local": local, "fake": fake}

if VLLM_URL:
    PARTS["vllm"] = vllm

# What a part is known not to promise, by the name of the test.
GAPS: dict[str, frozenset[str]] = {
    "local": frozenset(),
    "fake": frozenset(),
    "vllm": frozenset({"test_a_mixture_of_one_adapter_is_that_adapter"}),
}
