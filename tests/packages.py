"""Make installed distributions for tests: ``install(folder, "abacus", files={"abacus/a.py": "..."})`` writes dist-info and RECORD."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

from tests.people import MIT, module_text

__all__ = ["functions", "install"]


def install(
    folder: Path,
    name: str,
    *,
    version: str = "1.0",
    files: Mapping[str, str | bytes] | None = None,
    metadata: str = "License-Expression: MIT\n",
    licence: str | None = MIT,
    extra: Mapping[str, str] | None = None,
    record: bool = True,
) -> Path:
    """Write the package's ``files`` and a dist-info with a RECORD below ``folder``; gives the latter. ``extra``: further files of it."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    texts: dict[str, str | bytes] = dict(files if files is not None else functions(name, 8))
    texts[f"{info}/METADATA"] = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}"
    if licence is not None:
        texts[f"{info}/licenses/LICENSE"] = licence
    texts |= {f"{info}/{path}": text for path, text in (extra or {}).items()}
    rows: list[str] = []
    for path, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}")
    if record:
        (folder / info / "RECORD").write_text(
            "\n".join([*rows, f"{info}/RECORD,,", "../../bin/run,sha256=abc,1"]) + "\n"
        )
    return folder / info


def functions(name: str, count: int) -> dict[str, str]:
    """``count`` modules of five functions each; which ones depends on the package's name."""
    draw = random.Random(name)
    return {f"{name}/part_{i}.py": module_text(draw, i) for i in range(count)}
