"""The `dna` command in processes of its own, with a home of its own, for end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.forked import popen

# A shell ignores Ctrl-C for what it starts in the background, and so would every process that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Dna:
    """Call it with the command's words; another exit status than the one expected fails the test with what was said."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("DNA_")} | {
            "DNA_HOME": str(home), "DNA_MIN_FREE_BYTES": "0", "DNA_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200",
        }  # fmt: skip

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        return popen(
            "clonedna.cli.main", *arguments, env=self.environment | (environment or {}),
            stdin=options.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def __call__(self, *arguments: str, status: int = 0, **options: Any) -> tuple[str, str]:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, f"{arguments}: {process.returncode}\n{out}\n{err}"
        return out, err

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status)[0].splitlines()[-1])

    def refused(self, *arguments: str, status: int = 4) -> str:
        """The code of the error, which must come with a next step."""
        error = self.json(*arguments, status=status)["error"]
        assert error["hint"]
        return error["code"]
