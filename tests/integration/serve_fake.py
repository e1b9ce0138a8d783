"""The `dna` command with the scripted engine in place of the local one: what a test of the process needs of a model, without loading one.

Environment: SCRIPT_DELAY, seconds between two tokens; SCRIPT_TOKENS, how many an answer has.
"""

from __future__ import annotations

import os

from clonedna.app.parts import FACTORIES
from clonedna.cli.main import main
from tests.serving import ScriptedEngine


def open_engine(base: str, **options: object) -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.delay = float(os.environ.get("SCRIPT_DELAY", "0"))
    engine.pieces = [f"{i} " for i in range(int(os.environ.get("SCRIPT_TOKENS", "3")))]
    return engine


if __name__ == "__main__":
    FACTORIES["engine"]["local"] = "tests.integration.serve_fake:open_engine"
    main()
