"""What is said to and by a sandbox: bounds of one run, and what came of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clonedna.core.value import Value

MOST_FILE = 1_000_000
"""Bytes of a file that the file tools read or write unless told."""

Stopped = Literal["time", "memory", "output", "disk", "files", "processes", "unwatched"]


class RunLimits(Value):
    """Bounds of one run, of all its processes together: ``seconds`` on the wall; bytes of ``memory``; ``processes`` at once; bytes of
    ``disk`` and number of ``files`` in the workspace; bytes of ``output`` (both streams); bytes of one ``file``; bytes of ``scratch``
    in ``/tmp`` and of as much in ``/dev/shm``.
    """

    seconds: float = Field(default=10.0, gt=0, le=3600)
    memory: int = Field(default=512 << 20, ge=32 << 20)
    processes: int = Field(default=32, ge=4, le=4096)
    disk: int = Field(default=64 << 20, ge=1 << 16)
    files: int = Field(default=4000, ge=16)
    output: int = Field(default=1_000_000, ge=0, le=1_000_000)
    file: int = Field(default=32 << 20, ge=1 << 12)
    scratch: int = Field(default=16 << 20, ge=1 << 12)


class Ran(Value):
    """What came of a run. ``status``: the command's exit status, 128 + N when signal N ended it, ``None`` when the sandbox ``stopped`` it.

    ``stopped`` names the bound that was met (``unwatched``: it made itself unreadable to the watchdog). Bytes that are no UTF-8 are
    replaced. Output is third-party text: data, never markup and never an instruction.
    """

    status: int | None
    stdout: str = ""
    stderr: str = ""
    seconds: float
    stopped: Stopped | None = None
