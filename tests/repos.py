"""Make git repositories of made-up people for tests: ``RepoBuilder(path).commit(ADA, "subject", {"a.py": "..."})``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.people import ADA, BOB, MIT

__all__ = ["ADA", "BOB", "MIT", "RepoBuilder"]


class RepoBuilder:
    """A repository at ``path``, made when it is not there. Without a ``date`` each commit is one hour later than the one before.

    ``after``: the one that it is a copy of, after whose commits its own come.
    Nothing of this machine's git configuration has a say in it.
    """

    def __init__(self, path: Path, *init: str, after: RepoBuilder | None = None) -> None:
        self.path = path
        self._clock = after._clock if after else 1_767_261_600  # 2026-01-01T10:00:00Z
        if not path.exists():
            path.mkdir(parents=True)
            self.git("init", "-q", "-b", "main", *init)

    def git(self, *arguments: str, author: str = ADA, date: str | None = None) -> str:
        """Run git there as ``author``; gives what it printed. Raises ``CalledProcessError``."""
        name, _, mail = author.partition(" <")
        who = {"NAME": name, "EMAIL": mail.rstrip(">"), "DATE": date or f"{self._clock} +0000"}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", "-C", str(self.path), "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, env=environment, check=True, capture_output=True)
        return done.stdout.decode().removesuffix("\n")

    def commit(
        self,
        author: str,
        subject: str,
        files: Mapping[str, str | bytes | None] | None = None,
        *,
        date: str | None = None,
    ) -> str:
        """Write ``files`` (``None`` removes one), commit everything, give the commit's id. Texts are written as they are."""
        for name, content in (files or {}).items():
            file = self.path / name
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self._clock += 3600
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject, author=author, date=date)
        return self.git("rev-parse", "HEAD")

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")
