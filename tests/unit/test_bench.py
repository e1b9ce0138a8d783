"""The benchmarks' own arithmetic and their report: turns, ratios, which line counts, and that nothing is shown without a line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import common, run
from tools import bench_report
from tools.bench_report import GOALS, Goal

ROOT = Path(__file__).resolve().parents[2]
DEMANDED = {
    "load_vs_peft", "mixed16_vs_base", "mixed_vs_one_at_a_time", "mixed_vs_peft", "mixed_vs_vllm_cpu", "decode_vs_cb_8x256",
    "decode_vs_cb_32x256", "train_vs_trl_wide", "train_vs_trl_narrow", "jobs8_speed", "jobs8_memory", "idle_lora_tax",
    "merge_vs_peft_svd", "prefix_exact",
}  # fmt: skip
LOAD = GOALS[0]


def line(at: str = "2026-01-02T00:00:00Z", **more: Any) -> dict[str, Any]:
    given = {
        "bench": "engine_load", "at": at, "commit": "0123456789", "changed": False, "command": "python -m bench.engine_load",
        "ratios": {"load_vs_peft": 20.0}, "not_available": {}, "raw": {"peft_load": {"wall": 0.2, "cpu": 0.1}, "n": 3},
        "machine": {"cpu": "a cpu", "cores": 2, "threads": 1, "load": 0.4, "memory_gib": 8}, "versions": {"torch": "2"},
    }  # fmt: skip
    return given | more


def spent(*walls: float) -> list[common.Spent]:
    return [common.Spent(wall, 2 * wall) for wall in walls]


def test_sides_take_turns_in_changing_order_and_warm_rounds_do_not_count() -> None:
    order: list[str] = []
    rounds = common.by_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warm=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(one) for name, one in rounds.items()} == {"a": 2, "b": 2}


def test_a_side_is_timed_by_its_own_clock() -> None:
    clock = iter((1.0, 4.5))
    one = common.Side(lambda: None, cpu=lambda: next(clock)).run()
    assert one.cpu == 3.5
    assert one.wall >= 0


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    rounds = {"slow": spent(2, 30, 8), "fast": spent(1, 10, 2)}
    assert common.ratio(rounds, "slow", "fast") == 3.0  # 2, 3 and 4; that of the medians would be 4
    assert common.ratio(rounds, "slow", "fast", "cpu") == 3.0


def test_a_comparison_keeps_both_sides_beside_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    report = common.Report("some", argparse.Namespace(quick=True, threads=1))
    report.compare("a_vs_b", {"a": spent(4, 6), "b": spent(2, 2)}, "a", "b")
    report.print()
    told = json.loads(capsys.readouterr().out)
    assert told["ratios"] == {"a_vs_b": 2.5}
    assert told["raw"]["a"]["wall_each"] == [4, 6]
    assert told["raw"]["b"]["wall"] == 2
    assert {"at", "commit", "changed", "command", "machine", "versions", "setup", "not_available"} <= told.keys()
    assert told["machine"]["threads"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")
def test_peak_memory_is_the_processes_own_and_not_its_parents() -> None:
    parent = f"""
import subprocess, sys
held = bytearray({300 << 20})
child = [sys.executable, "-c", "from bench.common import peak_memory; print(peak_memory())"]
print(subprocess.run(child, capture_output=True, text=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 200 << 20


def test_a_line_is_completed_and_never_overruled() -> None:
    made = run.completed({"bench": "merge", "machine": {"cpus": 2}, "ratios": {}}, "merge", ["--turns", "1"])
    assert made["command"] == "python -m bench.merge --turns 1"
    assert made["machine"]["cpus"] == 2
    assert made["machine"]["cpu"]
    assert run.completed(line(), "engine_load", [])["at"] == line()["at"]
    assert run.completed(line(), "engine_load", [])["machine"] == line()["machine"]


def test_lines_are_added_at_the_end(tmp_path: Path) -> None:
    for at in ("1", "2"):
        run.keep(line(at), "engine_load", tmp_path)
    assert [one["at"] for one in bench_report.lines(tmp_path)] == ["1", "2"]


def test_a_failing_benchmark_is_told_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HISTORY", tmp_path)
    assert not run.run("no_such_benchmark", [], kept=True)
    assert not list(tmp_path.iterdir())


def test_quick_lines_and_lines_without_ratios_are_left_out(tmp_path: Path) -> None:
    run.keep(line(quick=True), "engine_load", tmp_path)
    run.keep({"bench": "mint", "runs": []}, "mint", tmp_path)
    assert bench_report.lines(tmp_path) == []


def test_the_newest_line_that_has_the_figure_counts() -> None:
    old, new, other = line("1"), line("2", ratios={"load_vs_peft": 5.0}), line("3", ratios={"resident_swap_ms": 1.0})
    assert bench_report.newest([new, old, other], LOAD) is new
    assert bench_report.newest([line(bench="engine_decode")], LOAD) is None


def test_without_a_line_there_is_no_figure() -> None:
    assert "| not measured |  | ≥ 15 |" in bench_report.row([], LOAD)
    assert bench_report.table([]).count("not measured") == len(GOALS)


def test_what_was_not_available_is_shown_with_its_reason() -> None:
    row = bench_report.row([line("1"), line("2", ratios={}, not_available={"load_vs_peft": "no peer"})], LOAD)
    assert "not available: no peer" in row
    assert "20" not in row.replace("2026", "")


@pytest.mark.parametrize(("value", "verdict"), [(15.0, "yes"), (14.9, "**no**")])
def test_a_goal_missed_is_said(value: float, verdict: str) -> None:
    assert f"| {verdict} | 2026-01-02, 0123456 |" in bench_report.row([line(ratios={"load_vs_peft": value})], LOAD)


def test_the_ratio_in_cpu_time_stands_beside_the_figure_and_decides_nothing() -> None:
    row = bench_report.row([line(ratios={"load_vs_peft": 16.0}, ratios_cpu={"load_vs_peft": 12.0})], LOAD)
    assert "| 16 | 12 | ≥ 15 | yes |" in row


def test_a_goal_may_be_a_bound_from_above() -> None:
    goal = Goal("x", "y", "z", at_most=0.02)
    assert goal.met(-0.01)
    assert goal.met(0.02)
    assert not goal.met(0.021)


def test_changed_files_and_a_busy_machine_are_said() -> None:
    busy = line(changed=True, machine={"threads": 2, "load": 4.0})
    assert bench_report.when(busy) == "2026-01-02, 0123456+ (shared)"


def test_details_show_both_sides_and_what_else_was_kept() -> None:
    text = bench_report.details([line()])
    assert "| peft_load | 0.2 | 0.1 |" in text
    assert "Also: n 3." in text
    assert "a cpu, 2 cores, 1 threads" in text


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"before\n{bench_report.BEGIN}\nold\n{bench_report.END}\nafter\n"
    assert bench_report.put(text, "new", "x") == text.replace("old", "new")
    for bad in ("no markers", bench_report.BEGIN, text + text):
        with pytest.raises(SystemExit, match="exactly one"):
            bench_report.put(bad, "new", "x")


def test_every_figure_that_is_demanded_has_a_goal() -> None:
    assert {goal.name for goal in GOALS} >= DEMANDED
    assert all(goal.wanted for goal in GOALS if goal.name in DEMANDED)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_every_goal_is_measured_by_its_benchmark_and_explained(goal: Goal) -> None:
    source = (ROOT / "bench" / f"{goal.bench}.py").read_text("utf-8")
    assert (
        goal.name in source
        or goal.name.removesuffix("_8x256").removesuffix("_32x256").removesuffix("_wide").removesuffix("_narrow")
        in source
    )
    assert f"`{goal.name}`" in (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert goal.bench in run.NAMES


def test_the_documents_say_what_the_history_says() -> None:
    kept = bench_report.lines()
    for path, section in (("README.md", bench_report.table(kept)), ("docs/benchmarks.md", bench_report.details(kept))):
        text = (ROOT / path).read_text("utf-8")
        assert bench_report.put(text, section, path) == text, "run `make bench-report`"


def test_every_kept_line_says_where_it_is_from() -> None:
    for one in bench_report.lines():
        assert {"bench", "at", "commit", "command", "machine", "versions", "ratios"} <= one.keys()
        assert all(isinstance(value, int | float) for value in one["ratios"].values())
