"""Where comparisons of blocks and their control adapters are kept, and how they go: with any block that took part.

    identity/results/<digest>/    see clonedna.app.identity
            /controls/<digest>/   see clonedna.app.controls

In each, ``blocks.json`` lists the ids of the blocks that took part. Nothing here loads a model or a library that takes time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from clonedna.core.canonical import strict_json


def root(home: Path) -> Path:
    return home / "identity"


def forget(home: Path, block_id: str) -> None:
    """Remove every control and every result that this block took part in; also what does not say whose it is."""
    for folder in [*root(home).glob("controls/*"), *root(home).glob("results/*")]:
        try:
            concerned = block_id in strict_json((folder / "blocks.json").read_bytes())
        except (OSError, ValueError, TypeError):
            concerned = True
        if concerned:
            shutil.rmtree(folder, ignore_errors=True)
