"""The ``dna`` command in this process. Its hundred commands are put together once: that takes longer than most of them do."""

from __future__ import annotations

from functools import cache

from typer import testing
from typer.testing import CliRunner

testing._get_command = cache(testing._get_command)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

__all__ = ["CliRunner"]
