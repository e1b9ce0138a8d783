"""Print the sizes of modules and functions: a place to look, never a verdict."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
LONG_MODULE, LONG_FUNCTION = 500, 60


def main() -> None:
    modules = {path: path.read_text("utf-8") for path in sorted((ROOT / "clonedna").rglob("*.py"))}
    lines = sorted(text.count("\n") for text in modules.values())
    print(f"{len(lines)} modules, {sum(lines)} lines")
    print(f"median {median(lines):.0f}, p90 {lines[int(0.9 * (len(lines) - 1))]}, largest {lines[-1]}")
    for path, text in modules.items():
        name = path.relative_to(ROOT)
        if text.count("\n") > LONG_MODULE:
            print(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > LONG_FUNCTION:
                    print(f"{name}:{node.lineno}: {node.name}: {length} lines")


if __name__ == "__main__":
    main()
