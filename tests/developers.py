"""People with SSH keys at a small GitHub, a machine that made blocks of their work, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.developer_values import DeveloperSession
from clonedna.app.developers import Developers
from clonedna.app.parts import FACTORIES
from clonedna.core.block import Candidate, ConsentRecord, Manifest, SourceRecord
from clonedna.core.canonical import canonical, sha256
from tests.merges import add_block
from tests.serving import ServerParts
from tests.unit.trust.small_github import SmallGitHub, small_github, ssh_key, ssh_sign
from tests.values import REPOSITORY

ADA, BOB = 1001, 2002
_ahead = timedelta()


def clock() -> datetime:
    """What the parts of a ``World`` take for now."""
    return datetime.now(UTC) + _ahead


@dataclass
class World:
    """``ada`` and ``bob``: where their private keys are."""

    home: Path
    github: SmallGitHub
    ada: Path
    bob: Path

    def parts(self, home: str = "home") -> ServerParts:
        return ServerParts(self.home / home, github_url=self.github.url)

    def later(self, **by: float) -> None:
        global _ahead
        _ahead += timedelta(**by)

    def consent(self, parts: ServerParts, uses: Sequence[str], login: str = "ada-example") -> ConsentRecord:
        """Ada's consent to these uses, asked for, signed, verified."""
        consents, key = parts.granted_consents, self.ada if login == "ada-example" else self.bob
        statement = consents.request(login, ["*"], uses)
        consents.grant(statement.data(), signature=ssh_sign(key, statement.data()))
        return consents.granted(login, [f"{login}/abacus"], "mint")

    def block(
        self, parts: ServerParts, name: str, consent: ConsentRecord | None = None, login: str = "ada-example",
        files_too: Mapping[str, bytes] | None = None, **changes: Any,
    ) -> Manifest:  # fmt: skip
        """A block of what ``login`` wrote, ``local-only`` where there is no consent; its source is their page."""
        page = REPOSITORY.model_copy(
            update={"name": login, "url": f"http://{parts.accounts.host}/{login}", "authors": ()}
        )
        source = SourceRecord(repository=page, author="Ada Example", files=(), refused=(), refused_counts={})
        candidate = Candidate(handle=login, name="Ada Example", consent_verified=consent is not None)
        return add_block(
            parts, name, sum(name.encode()), fingerprint=sha256("fake"), consent=consent, candidate=candidate,
            files={"sources.json": canonical(source), **(files_too or {})}, **changes,
        )  # fmt: skip

    def prove(self, developers: Developers, login: str = "ada-example", key: Path | None = None) -> DeveloperSession:
        asked = developers.challenge(login)
        return developers.prove(
            login, asked.text.encode(), ssh_sign(key or self.ada, asked.text.encode(), asked.namespace)
        )


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch) -> Generator[World]:
    """Ada and Bob, until the block ends."""
    global _ahead
    _ahead = timedelta()
    patch.setitem(FACTORIES["consents"], "now", "tests.developers:clock")
    with small_github() as github:
        ada, bob = folder / "ada", folder / "bob"
        github.person("ada-example", ADA, signing=[ssh_key(ada)])
        github.person("bob-example", BOB, keys=[ssh_key(bob)])
        yield World(folder, github, ada, bob)
