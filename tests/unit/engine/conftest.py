"""One small base and one engine on it for all tests of this room; both are only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import torch

from clonedna.core.model import Example, Message
from clonedna.engine.local import LocalEngine, open_engine
from tests.unit.engine import small


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_base(tmp_path_factory.mktemp("bases") / "small-qwen2")


@pytest.fixture(scope="session")
def engine(base: Path) -> Iterator[LocalEngine]:
    engine = open_engine(str(base), threads=1)
    yield engine
    anyio.run(engine.close)


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_adapter(base, tmp_path_factory.mktemp("adapters") / "one", seed=1)


@pytest.fixture(scope="session")
def other_adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another rank and other modules."""
    directory = tmp_path_factory.mktemp("adapters") / "two"
    return small.make_adapter(
        base, directory, seed=2, r=8, lora_alpha=4, target_modules=["q_proj", "gate_proj", "o_proj"]
    )


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [
        Example(messages=(Message(role="user", content=f"write number {i}"),), completion=text)
        for i, text in enumerate(small.SENTENCES)
    ]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
