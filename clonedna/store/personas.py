"""Where personas are kept: a folder for each, with one file that is replaced whole.

    personas/<name>/persona.json   canonical JSON: the persona with all its versions, and the DSSE envelope over it
            /.lock                 held by whoever changes one

A version that was there is in every later file: nothing here takes one out. What is read was signed by a key that this machine trusts.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from clonedna.core.block import NAME_PATTERN
from clonedna.core.canonical import canonical, lasting, strict_json
from clonedna.core.errors import BlockCorrupt, Corrupt, DnaError, InputError, NotFound
from clonedna.core.persona import PERSONA_PAYLOAD, Persona, SignedPersona, named
from clonedna.core.seams import Signer
from clonedna.store.files import disk_errors, flock, fsync_directory, read_small, write_atomic

FILE, LOCK = "persona.json", ".lock"
MOST_FILE, MOST_PERSONAS = 4_000_000, 10_000
_NAME = re.compile(NAME_PATTERN)


class PersonaFiles:
    """Several processes may share one root; they change one after the other."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self._root, self._signer = root, signer

    @contextmanager
    def changing(self) -> Generator[None]:
        """Nobody else changes a persona of this home meanwhile."""
        with disk_errors(self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with flock(self._root / LOCK, fcntl.LOCK_EX):
            yield

    def names(self) -> tuple[str, ...]:
        """Of all that lie there, sorted."""
        if not self._root.is_dir():
            return ()
        with disk_errors(self._root):
            return tuple(
                sorted(one.parent.name for one in self._root.glob(f"*/{FILE}") if _NAME.fullmatch(one.parent.name))
            )

    def get(self, name: str) -> Persona:
        """Raises ``NotFound``, ``BadReference``, ``Corrupt``, ``SignatureInvalid``, ``BlockUntrusted``."""
        path = self._path(name)
        if not path.is_file():
            raise NotFound(f"no persona {name}", "see: dna persona ls")
        try:
            signed = SignedPersona.model_validate(strict_json(read_small(path, MOST_FILE)), strict=False)
        except (ValueError, RecursionError, BlockCorrupt) as error:
            raise _damaged(name, "cannot be read") from error
        if self._signer.verify(signed.envelope, PERSONA_PAYLOAD) != canonical(lasting(signed.persona)):
            raise _damaged(name, "is not what was signed")
        if signed.persona.name != name or [one.number for one in signed.persona.versions] != list(
            range(1, len(signed.persona.versions) + 1)
        ):
            raise _damaged(name, "is another's, or its versions are not in order")
        return signed.persona

    def put(self, persona: Persona) -> None:
        """Sign it, and keep it in place of what was there. Inside ``changing``. Raises ``InputError`` where it would take a version out or
        change one, or where there are too many; ``KeyLocked``, ``NoSpace``."""
        path = self._path(persona.name)
        try:
            before = self.get(persona.name).versions
        except NotFound:
            if len(self.names()) >= MOST_PERSONAS:
                raise InputError(f"there are {MOST_PERSONAS} personas", "remove some folders of personas/") from None
            before = ()
        if persona.versions[: len(before)] != before:
            raise InputError(f"{persona.name}: a version that was there cannot be changed", "add one behind it")
        signed = SignedPersona(
            persona=persona, envelope=self._signer.sign(canonical(lasting(persona)), PERSONA_PAYLOAD)
        )
        data = canonical(lasting(signed))
        if len(data) > MOST_FILE:
            raise InputError(f"{persona.name} has too many versions", "make another persona")
        with disk_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, data)
        fsync_directory(self._root)

    def fault(self, name: str) -> DnaError | None:
        """Why one that lies there cannot be read."""
        try:
            self.get(name)
        except DnaError as error:
            return error
        return None

    def _path(self, name: str) -> Path:
        return self._root / named(name) / FILE


def _damaged(name: str, why: str) -> Corrupt:
    return Corrupt(f"the file of persona {name} {why}", "restore it from a backup: dna restore")
