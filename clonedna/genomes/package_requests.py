"""What some installed packages could be asked for by: a short request for each in our own words, written before anything was measured.

The lab and ``bench/capability.py`` ask by them, for what a package says of itself is in its layer's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType


@cache
def package_requests() -> Mapping[str, str]:
    """By the package's normalised name (PEP 503)."""
    lines = files("clonedna.genomes").joinpath("data/package_requests.txt").read_text("utf-8").splitlines()
    return MappingProxyType(dict(line.split("\t", 1) for line in lines))
