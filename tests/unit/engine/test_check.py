"""The fresh-process check: true for a good adapter, false for one that computes something else, none when it could not run."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from safetensors.torch import load_file, save_file

from clonedna.core.errors import TimedOut, Unavailable
from clonedna.core.model import Example, Layer, LoraSpec
from clonedna.engine import check
from clonedna.engine.local import LocalEngine
from tests.unit.engine import small

pytestmark = pytest.mark.slow


def test_a_trained_adapter_passes_in_a_fresh_process(
    engine: LocalEngine, base: Path, examples: list[Example], tmp_path: Path
) -> None:
    async def run():
        trainer = await engine.train(LoraSpec(rank=4))
        await trainer.forward_backward(examples)
        await trainer.optim_step(1e-2)
        await trainer.save(tmp_path)
        await trainer.close()
        return await check.check_peft(engine, tmp_path, examples[:3], str(base))

    verdict = anyio.run(run)
    assert verdict.value is True, verdict.how
    assert "peft 0." in verdict.how


def test_what_differs_or_changes_nothing_is_found(
    engine: LocalEngine, base: Path, adapter: Path, examples: list[Example], tmp_path: Path
) -> None:
    """The comparison itself, in this process: against tampered logits, and for an adapter whose B is zero."""
    probe = tmp_path / "probe.safetensors"

    def verdict(directory: Path):
        with small.peft_quiet():
            return check._verdict(check.compare(str(base), directory, probe), 1, 1e-5)

    async def write(directory: Path) -> None:
        info = await engine.load(directory)
        await engine.write_probe(examples[:2], (Layer(adapter=info.id),), probe)

    anyio.run(write, adapter)
    assert verdict(adapter).value is True
    tensors = load_file(probe)
    tensors["logits.1"][3, 7] += 1e-3
    save_file(tensors, probe)
    assert verdict(adapter).value is False

    async def untrained() -> None:
        trainer = await engine.train(LoraSpec(rank=4))
        await trainer.save(tmp_path / "zero")
        await trainer.close()

    anyio.run(untrained)
    anyio.run(write, tmp_path / "zero")
    zero = verdict(tmp_path / "zero")
    assert zero.value is False
    assert "does not change" in zero.how


def test_what_cannot_run_is_none_with_the_reason(
    engine: LocalEngine, adapter: Path, examples: list[Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the fresh process would do, in this one."""
    assert anyio.run(check.check_peft, engine, adapter, [], "anything").value is None
    probe = tmp_path / "probe.safetensors"
    anyio.run(engine.write_probe, examples[:1], (), probe)
    assert check.main(["no/such-base-anywhere", str(adapter), str(probe)]) == 0
    wrong = check._verdict(json.loads(capsys.readouterr().out), 1, 1e-5)
    assert wrong.value is None
    assert "no/such-base-anywhere" in wrong.how


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("exec sleep 60", TimedOut, "longer than 0.2 s"),
        ("kill -9 $$", Unavailable, "signal 9"),
        (None, Unavailable, "could be started"),
    ],
)
def test_a_busy_machine_is_an_error_and_no_finding(
    program: str | None, error: type[Unavailable], said: str,
    engine: LocalEngine, base: Path, adapter: Path, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The fresh process hangs, is killed, or cannot be started: the adapter was not looked at, so nothing is said about it."""
    python = tmp_path / "python"
    if program is not None:
        python.write_text(f"#!/bin/sh\n{program}\n")
        python.chmod(0o755)
        monkeypatch.setattr(check, "TIMEOUT", 0.2 if error is TimedOut else 60.0)
    monkeypatch.setattr(check.sys, "executable", str(python))

    async def run():
        return await check.check_peft(engine, adapter, examples[:1], str(base))

    with pytest.raises(error, match=said):
        anyio.run(run)
