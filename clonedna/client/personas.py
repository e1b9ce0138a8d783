"""The personas of a server: what ``app.personas`` does for those of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clonedna.app.persona_archives import PersonaExported, PersonaImported, new_archive, size_of
from clonedna.app.persona_lineage import PersonaGraph
from clonedna.app.personas import PersonaBinding, PersonaList, PersonaOrder, PersonaShown
from clonedna.client.blocks import segment
from clonedna.client.wire import Wire
from clonedna.core.chat import ThreadPage
from clonedna.core.errors import BadAnswer, Unavailable
from clonedna.core.persona import Persona, named

PERSONAS = "/api/v1/personas"
PIECE = 1 << 18


class RemotePersonas:
    """Use cases over a server's personas."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, order: PersonaOrder) -> Persona:
        return self._wire.post(PERSONAS, Persona, order)

    def list(self) -> PersonaList:
        return self._wire.get(PERSONAS, PersonaList)

    def show(self, name: str) -> PersonaShown:
        return self._wire.get(_at(name), PersonaShown)

    def bind(self, name: str, reference: str) -> Persona:
        return self._wire.ask("PUT", f"{_at(name)}/genome", Persona, body=PersonaBinding(genome=reference))

    def rollback(self, name: str, number: int) -> Persona:
        return self._wire.post(f"{_at(name)}/rollback", Persona, {"version": number})

    def threads(self, name: str, *, limit: int = 50, after: str | None = None) -> ThreadPage:
        return self._wire.get(f"{_at(name)}/threads", ThreadPage, query={"limit": limit, "after": after})


class RemotePersonaLineages:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def of(self, name: str) -> PersonaGraph:
        return self._wire.get(f"{_at(name)}/lineage", PersonaGraph)


class RemotePersonaArchives:
    """Archives of personas from a server and to it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def export(self, name: str, out: Path) -> PersonaExported:
        """The server's persona into the new file ``out``. Raises as ``PersonaArchives.export``, ``Unavailable``, ``BadAnswer``."""
        shown = self._wire.get(_at(name), PersonaShown).persona
        with (
            new_archive(out) as archive,
            self._wire.stream("GET", f"{_at(name)}/export", headers={"Accept-Encoding": "identity"}) as answer,
        ):
            said, size = answer.headers.get("content-length", ""), 0
            archive.expect(int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None)
            for piece in answer.iter_bytes(PIECE):
                archive.write(piece)
                size += len(piece)
            if str(size) != said:
                raise Unavailable(f"the connection to {self._wire.url} broke", "export it again")
        speaks = shown.current.called if shown.current else ""
        return PersonaExported(persona=name, speaks=speaks, blocks=(), bytes=size, path=str(out))

    def load(self, archive: Path, *, name: str | None = None) -> PersonaImported:
        """Give the server an archive. Raises as ``PersonaArchives.load``."""
        size = size_of(archive)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._wire.stream(
            "POST", f"{PERSONAS}/import", query={"name": name}, headers=headers, content=_pieces(archive)
        ) as answer:
            data = answer.read()
        try:
            return PersonaImported.model_validate_json(data)
        except ValueError:
            raise BadAnswer(f"{self._wire.url} did not say what it took", "is it a server of this program?") from None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _at(name: str) -> str:
    return f"{PERSONAS}/{segment(named(name))}"
