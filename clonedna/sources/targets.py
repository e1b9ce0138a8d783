"""Which source a target gets: a path or git URL the `git` source, a bare handle (``ada-example``, ``@ada-example``) the `github` one,
``package:NAME`` the `package` one.

A name that is both a folder here and a handle is the folder; ``@`` before it asks for the handle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clonedna.core.events import Emit
from clonedna.core.seams import Source
from clonedna.core.work import Collection, Found, Identity, Repository
from clonedna.sources.github_wire import LOGIN
from clonedna.sources.package import is_package


def is_handle(target: str) -> bool:
    """Whether ``target`` is meant as an account's login: it looks like one, and nothing here is called so."""
    if target.startswith(("@", "github:")):
        return True
    return bool(LOGIN.fullmatch(target)) and not Path(target).exists()


class Targets:
    """Fulfils the ``Source`` seam by handing each target to its source; ``github`` is made when the first handle comes."""

    def __init__(self, git: Source, github: Callable[[], Source], package: Source) -> None:
        self._git, self._github, self._package = git, github, package

    def find(self, target: str) -> Found:
        """Raises what the target's source raises."""
        if is_package(target):
            return self._package.find(target)
        return (self._github() if is_handle(target) else self._git).find(target)

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit, since: Repository | None = None,
    ) -> Collection:  # fmt: skip
        source = self._package if found.local_only else self._github() if found.account else self._git
        return source.collect(
            found,
            authors,
            licences=licences,
            owned_share=owned_share,
            max_files=max_files,
            max_changes=max_changes,
            emit=emit,
            since=since,
        )
