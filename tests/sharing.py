"""Blocks that may be shared, for tests: a small GitHub on loopback, a made-up person with a key there, and what she consented to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clonedna.app.parts import Parts
from clonedna.core.block import Manifest
from clonedna.core.canonical import canonical, sha256
from tests.serving import ServerParts
from tests.unit.store.making import contents, write_block
from tests.unit.trust.small_github import SmallGitHub, small_github, ssh_key, ssh_sign

ACCOUNT, REPOSITORY = 1001, "ada-example/abacus"


@dataclass
class Ada:
    """Ada's account, and her key."""

    github: SmallGitHub
    key: Path

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Generator[Ada]:
        """She has an account, and her key, which lies in ``folder``, is published there."""
        line = ssh_key(folder / "ada")
        with small_github() as github:
            github.person("ada-example", ACCOUNT, signing=[line])
            yield cls(github, folder / "ada")

    def parts(self, home: Path, **settings: Any) -> ServerParts:
        """A machine that asks this GitHub. Two of them may serve in one process: they run no jobs, which one alone could."""
        return ServerParts(
            home, **({"github_url": self.github.url, "min_free_bytes": 0, "parallel_training": 0} | settings)
        )

    def consents(self, parts: Parts, *uses: str) -> bytes:
        """She consents to ``uses`` on this machine; the record as a block carries it."""
        wanted = uses or ("mint", "serve", "share")
        statement = parts.granted_consents.request("ada-example", [REPOSITORY], wanted)
        parts.granted_consents.grant(statement.data(), signature=ssh_sign(self.key, statement.data()))
        return canonical(parts.granted_consents.granted("ada-example", [REPOSITORY], "mint"))


def put(
    parts: Parts, name: str, consent: bytes | None = None, *, size: int = 0, note: str = "", **changes: Any
) -> Manifest:
    """A block in the store, registered; ``local-only`` without ``consent``. ``size``: more bytes of weights."""
    directory = (
        parts.settings.home.parent
        / f"made-{parts.settings.home.name}"
        / f"{name}-{changes.get('version', '1.0.0')}-{note}"
    )
    given = {} if consent is None else {"consent.json": consent}
    mode = "local-only" if consent is None else changes.pop("consent_mode", "granted")
    fields = {"base_model": "fake", "base_fingerprint": sha256("fake"), "name": name, "consent_mode": mode} | changes
    made = write_block(directory, parts.signer, contents(bytes(16 + size), note=f"{name}{note}") | given, **fields)
    parts.store.put(directory)
    parts.registry.publish(made)
    return made
