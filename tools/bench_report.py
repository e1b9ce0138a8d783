"""Write what was measured into README.md and docs/benchmarks.md, between their markers: `python tools/bench_report.py`.

Every figure is from a line of ``bench/history``: for each name the newest line that has it, quick runs left out. A name without a line
is shown as not measured, one that could not be measured with its reason; nothing else ever stands in a cell. ``--check`` writes nothing
and ends with 1 when the documents do not say what the history says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "bench" / "history"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A name in ``ratios``, what it says in few words, and the figure it should be: ``at_least`` or ``at_most``, or neither."""

    name: str
    bench: str
    text: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"


GOALS = (
    Goal("load_vs_peft", "engine_load", "adapter from its files to servable, against PEFT's load, set and delete", at_least=15),
    Goal("mixed16_vs_base", "engine_decode", "16 adapters in one batch, against 16 requests of the base", at_least=0.75),
    Goal("mixed_vs_one_at_a_time", "engine_decode", "16 adapters in one batch, against one after another", at_least=1),
    Goal("mixed_vs_peft", "engine_decode", "16 adapters in one batch, against PEFT's `adapter_names`", at_least=2),
    Goal("mixed_vs_vllm_cpu", "engine_vllm", "8 adapters in one batch, against vLLM on CPU", at_least=1),
    Goal("decode_vs_cb_8x256", "engine_decode", "8 requests of 256 tokens, against transformers' continuous batching", at_least=1),
    Goal("decode_vs_cb_32x256", "engine_decode", "32 requests of 256 tokens, against the same", at_least=1),
    Goal("train_vs_trl_wide", "engine_training", "training, 896 wide, against TRL", at_least=1.5),
    Goal("train_vs_trl_narrow", "engine_training", "training, 256 wide, against TRL", at_least=2.2),
    Goal("loss_difference_wide", "engine_training", "... largest relative difference of a step's loss, 896 wide", at_most=0.001),
    Goal("loss_difference_narrow", "engine_training", "... and 256 wide", at_most=0.001),
    Goal("jobs8_speed", "engine_training", "8 trainings at once, against one after another", at_least=1),
    Goal("jobs8_memory", "engine_training", "peak memory of 8 trainings at once, against one", at_most=1.15),
    Goal("jobs8_loss_difference", "engine_training", "... largest difference of a loss in company, nats a token", at_most=1e-5),
    Goal("idle_lora_tax", "engine_decode", "what 32 idle adapters cost requests of the base (0.01 = 1 %)", at_most=0.02),
    Goal("merge_vs_peft_svd", "merge", "merging by `svd`, against PEFT's", at_least=40),
    Goal("prefix_exact", "engine_prefix", "answers that are right when adapters share a prompt's beginning", at_least=1),
    Goal("prefix_exact_cb", "engine_prefix", "... of transformers' continuous batching under PEFT"),
    Goal("serving_same_tokens", "engine_serving", "answers that are the same beside a training", at_least=1),
    Goal("gap_p95_ms", "engine_serving", "95th percentile between two tokens, 8 streams, ms"),
    Goal("gap_p95_training_ms", "engine_serving", "... beside a training, ms"),
    Goal("gap_longest_ms", "engine_serving", "longest time between two tokens, ms"),
    Goal("gap_longest_training_ms", "engine_serving", "... beside a training: a stream waits for a step of it, ms"),
)  # fmt: skip


def lines(history: Path = HISTORY) -> list[Line]:
    """All kept lines that have ratios, oldest first within each file; quick ones never."""
    found: list[Line] = []
    for path in sorted(history.glob("*.jsonl")):
        for text in path.read_text("utf-8").splitlines():
            line = json.loads(text)
            if not line.get("quick") and ("ratios" in line or "not_available" in line):
                found.append(line)
    return found


def newest(kept: Sequence[Line], goal: Goal) -> Line | None:
    """The newest line that has the goal's figure, or says why there is none."""
    own = [line for line in kept if line["bench"] == goal.bench]
    told = [line for line in own if goal.name in line.get("ratios", {}) or goal.name in line.get("not_available", {})]
    return max(told, key=lambda line: line.get("at", ""), default=None)


def when(line: Line) -> str:
    shared = float(line["machine"].get("load", 0)) > line["machine"].get("threads", 1) + 0.5
    return f"{line['at'][:10]}, {str(line['commit'])[:7]}{'+' if line.get('changed') else ''}{' (shared)' if shared else ''}"


def row(kept: Sequence[Line], goal: Goal) -> str:
    line = newest(kept, goal)
    if line is None:
        cells = ["not measured", "", goal.wanted, "", ""]
    elif goal.name not in line.get("ratios", {}):
        cells = [
            f"not available: {line['not_available'][goal.name]}".replace("|", "/"),
            "",
            goal.wanted,
            "",
            when(line),
        ]
    else:
        value = float(line["ratios"][goal.name])
        verdict = "" if not goal.wanted else "yes" if goal.met(value) else "**no**"
        cells = [f"{value:.3g}", _number(line.get("ratios_cpu", {}).get(goal.name)), goal.wanted, verdict, when(line)]
    return f"| {goal.text} | {' | '.join(cells)} |"


def table(kept: Sequence[Line]) -> str:
    head = ["| What | Figure | In CPU time | Goal | Met | Measured |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row(kept, goal) for goal in GOALS)])


def details(kept: Sequence[Line]) -> str:
    """For each benchmark the newest line of each name as it was kept: command, machine, versions, both sides' seconds."""
    parts: list[str] = []
    for bench in dict.fromkeys(goal.bench for goal in GOALS):
        used = [line for goal in GOALS if goal.bench == bench and (line := newest(kept, goal)) is not None]
        for line in {json.dumps(one, sort_keys=True): one for one in used}.values():
            parts.append(_section(line))
    return "\n\n".join(parts) or "Nothing is kept yet: `make bench`, then `make bench-report`."


def _section(line: Line) -> str:
    machine, seconds = line["machine"], line.get("raw", {})
    said = [
        f"### {line['bench']}, {when(line)}", "", f"`{line['command']}`; {machine.get('cpu', machine.get('processor', ''))}, "
        f"{machine.get('cores', machine.get('cpus'))} cores, {machine.get('threads', '?')} threads, {machine.get('memory_gib', '?')} GiB, "
        f"load {machine.get('load', '?')}; " + ", ".join(f"{k} {v}" for k, v in line.get("versions", {}).items()), "",
        "| Ratio | Wall | CPU time |", "|---|---|---|",
        *(f"| `{k}` | {v:.4g} | {_number(line.get('ratios_cpu', {}).get(k))} |" for k, v in line.get("ratios", {}).items()),
    ]  # fmt: skip
    sides = {name: one for name, one in seconds.items() if isinstance(one, dict) and "wall" in one}
    if sides:
        said += ["", "| Side | Wall, s | CPU, s |", "|---|---|---|"]
        said += [f"| {name} | {one['wall']:.4g} | {one['cpu']:.4g} |" for name, one in sides.items()]
    rest = {name: one for name, one in seconds.items() if name not in sides}
    if rest:
        said += ["", "Also: " + ", ".join(f"{name} {json.dumps(one)}" for name, one in rest.items()) + "."]
    return "\n".join(said)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def put(text: str, section: str, name: str) -> str:
    """``text`` with ``section`` between its markers. Raises ``SystemExit`` unless there is exactly one pair of them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise SystemExit(f"{name} needs exactly one {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the kept measurements into README.md and docs/benchmarks.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when the documents are out of date")
    given = parser.parse_args()
    kept, stale = lines(), False
    for path, section in ((ROOT / "README.md", table(kept)), (ROOT / "docs" / "benchmarks.md", details(kept))):
        old = path.read_text("utf-8")
        new = put(old, section, path.name)
        stale = stale or new != old
        if not given.check:
            path.write_text(new, "utf-8")
    return int(stale and given.check)


if __name__ == "__main__":
    sys.exit(main())
