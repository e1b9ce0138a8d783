"""The lab end to end on the bundled base, with three small layers of packages that the program itself needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clonedna.app.lab_values import EXPERIMENTS, LabReport
from clonedna.core.canonical import strict_json

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1300)]


def test_the_lab_goes_from_packages_to_a_report(tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    command = [
        sys.executable, "-m", "clonedna.cli.main", "lab", "--out", str(out), "--layers", "3", "--packages",
        "typer,fastapi,rich,openai,black,anyio", "--json",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DNA_")}
    environment |= {"DNA_HOME": str(mine), "DNA_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not mine.exists()
    report = LabReport.model_validate(json.loads(done.stdout))
    assert report == LabReport.model_validate(strict_json((out / "lab.json").read_bytes()))
    assert [one.experiment for one in report.results] == list(EXPERIMENTS)
    assert report.failed == ()
    assert sum(not one.why for one in report.layers) == 3
    figures = {one.name: one.measure for result in report.results for one in result.figures}
    for name in (
        "set short R@1",
        "lab R@1",
        "right layer at .90 or more",
        "calibration error (ECE)",
        "average mean",
        "damage, mean",
    ):
        assert figures[name].value is not None, (name, figures[name].how)
    assert {one.name for one in (out / "plots").iterdir()} == {
        f"{name}{mode}.{form}" for name in EXPERIMENTS for mode in ("", "-dark") for form in ("svg", "png")
    }
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert all(one["kept"] for one in json.loads(again.stdout)["results"])
