"""The table of docs/teachers.md says what the lines say."""

from __future__ import annotations

from bench.forgetting import MEASURES, table


def line(repository: str, ratio: float, forgetting: float) -> dict[str, object]:
    measures = {
        name: {"value": forgetting, "ci95": [forgetting - 0.01, forgetting + 0.01], "n": 48} for name in MEASURES
    }
    return {
        "repository": repository, "seed": 0, "ratio": ratio, "pairs": 90, "general": {"n": round(90 * ratio)},
        "gate": {"status": "accepted"}, "measures": measures,
    }  # fmt: skip


def test_lines_are_rows_in_order_with_their_intervals() -> None:
    rows = table([line("b", 0.5, 0.02), line("b", 0.0, 0.0345), line("a", 0.0, -0.01)]).splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [["| a", "90", "0"], ["| b", "90", "0"], ["| b", "90", "45"]]
    assert "| 3.5 % [2.5, 4.5] |" in rows[1]
    assert "| -1.0 % [-2.0, 0.0] |" in rows[0]
    assert rows[2].endswith("| 0.020 [0.010, 0.030] | accepted |")
