"""What commands share: settings from flags, the parts, and how values are printed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_current_context  # type: ignore[attr-defined]

from clonedna.cli.recording import Change, change_of

if TYPE_CHECKING:
    from clonedna.app.audit import Audit
    from clonedna.app.blocks import Blocks
    from clonedna.app.catalogue import Catalogue
    from clonedna.app.details import Details
    from clonedna.app.genomes import GenomeShelf
    from clonedna.app.job_desk import JobDesk
    from clonedna.app.jobs import Jobs
    from clonedna.app.lineage import Lineages
    from clonedna.app.parts import Parts
    from clonedna.app.persona_archives import PersonaArchives
    from clonedna.app.persona_lineage import PersonaLineages
    from clonedna.app.personas import Personas
    from clonedna.app.settings import Settings
    from clonedna.app.teams import Teams
    from clonedna.app.threads import Threads
    from clonedna.app.tokens import NewToken, Tokens
    from clonedna.app.versions import Versions
    from clonedna.client import Client
    from clonedna.client.blocks import RemoteBlocks
    from clonedna.client.catalogue import RemoteCatalogue
    from clonedna.client.chat import RemoteThreads
    from clonedna.client.details import RemoteDetails, RemoteLineages
    from clonedna.client.genomes import RemoteGenomes
    from clonedna.client.jobs import RemoteJobs
    from clonedna.client.personas import RemotePersonaArchives, RemotePersonaLineages, RemotePersonas
    from clonedna.client.teams import RemoteTeams
    from clonedna.client.tokens import RemoteAudit, RemoteTokens
    from clonedna.client.versions import RemoteVersions

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass
class State:
    """The global flags; everything else is made when a command asks for it."""

    home: Path | None
    config: Path | None
    server: str | None = None
    change: Change | None = None  # what the command may change, once it has the parts

    @cached_property
    def settings(self) -> Settings:
        from clonedna.app.settings import load_settings

        return load_settings({"home": self.home, "server": self.server}, config=self.config)

    @cached_property
    def client(self) -> Client | None:
        """The server that commands are for; ``None``: they are for this machine."""
        return None if self.settings.server is None else self._at(self.settings.server)

    def _at(self, url: str) -> Client:
        """The server at ``url``, with the token that was given for it, or kept when it was paired."""
        from clonedna.app.paired import Paired
        from clonedna.client import Client

        given = self.settings.token.get_secret_value() if self.settings.token else None
        return Client(url, given or Paired(self.settings.home).token(url) or "")

    def claim(self, code: str) -> NewToken:
        """What the server gives for a pairing code: asked without a token, since the one that is kept may be worth nothing any more."""
        from clonedna.client import Client

        assert self.settings.server is not None
        with Client(self.settings.server) as client:
            return client.tokens.claim(code)

    def client_at(self, url: str | None) -> Client:
        """The server at ``url``, else the one that commands are for. Raises ``InputError`` when neither is named."""
        from clonedna.core.errors import InputError

        if url is not None:
            return self._at(url)
        if self.client is None:
            raise InputError("which server?", "name it: dna --server URL ..., or set DNA_SERVER")
        return self.client

    def close(self) -> None:
        """Close what the command opened."""
        if (client := vars(self).get("client")) is not None:
            client.close()

    @cached_property
    def parts(self) -> Parts:
        """This machine's parts. Raises ``InputError`` when the command is for a server: it is one that works here alone."""
        self.refuse_server()
        return self.here

    def refuse_server(self) -> None:
        """Raises ``InputError`` when the command is for a server: it is one that works here alone."""
        from clonedna.core.errors import InputError

        if self.settings.server is not None:
            raise InputError(
                "this command works on this machine alone",
                f"leave out --server (and DNA_SERVER): {self.settings.server}",
            )

    @cached_property
    def here(self) -> Parts:
        """This machine's parts, whether a server is named or not: for what goes between the two. Raises what the audit log raises when
        the command would change something, and that could not be recorded."""
        from clonedna.app.parts import Parts

        parts = Parts(self.settings)
        if sys.stdin.isatty() and sys.stderr.isatty():
            parts.ask_passphrase = ask_passphrase
        change = change_of(get_current_context(silent=True), parts)
        if change is not None:
            change.check()
        self.change = change
        return parts

    @cached_property
    def blocks(self) -> Blocks | RemoteBlocks:
        """The blocks of this machine, or of the server that was named."""
        from clonedna.app.blocks import Blocks

        return Blocks(self.parts) if self.client is None else self.client.blocks

    @cached_property
    def catalogue(self) -> Catalogue | RemoteCatalogue:
        """Lists and searches of this machine, or of the server that was named."""
        from clonedna.app.catalogue import Catalogue

        return Catalogue(self.parts) if self.client is None else self.client.catalogue

    @cached_property
    def tokens(self) -> Tokens | RemoteTokens:
        """The tokens of this home's server, or of the server that was named."""
        from clonedna.app.tokens import Tokens

        return Tokens(self.parts) if self.client is None else self.client.tokens

    @cached_property
    def audit(self) -> Audit | RemoteAudit:
        """What was changed in this home, or through the server that was named."""
        from clonedna.app.audit import Audit

        return Audit(self.parts) if self.client is None else self.client.audit

    @cached_property
    def threads(self) -> Threads | RemoteThreads:
        """The conversations of this home, or of the server that was named."""
        from clonedna.app.threads import Threads

        return Threads(self.parts) if self.client is None else self.client.threads

    @cached_property
    def teams(self) -> Teams | RemoteTeams:
        """The teams of this home, or of the server that was named."""
        return self.own_teams if self.client is None else self.client.teams

    @cached_property
    def own_teams(self) -> Teams:
        """The teams of this home. Raises as ``parts``."""
        from clonedna.app.teams import Teams
        from clonedna.app.threads import Threads

        return Teams(self.parts, Threads(self.parts))

    @cached_property
    def personas(self) -> Personas | RemotePersonas:
        """The personas of this home, or of the server that was named."""
        from clonedna.app.personas import Personas

        return Personas(self.parts) if self.client is None else self.client.personas

    @cached_property
    def persona_lineages(self) -> PersonaLineages | RemotePersonaLineages:
        from clonedna.app.persona_lineage import PersonaLineages

        return PersonaLineages(self.parts) if self.client is None else self.client.persona_lineages

    @cached_property
    def persona_archives(self) -> PersonaArchives | RemotePersonaArchives:
        from clonedna.app.persona_archives import PersonaArchives

        return PersonaArchives(self.parts) if self.client is None else self.client.persona_archives

    @cached_property
    def own_blocks(self) -> Blocks:
        """The blocks of this machine. Raises as ``parts``."""
        from clonedna.app.blocks import Blocks

        return Blocks(self.parts)

    @cached_property
    def jobs(self) -> Jobs:
        from clonedna.app.jobs import Jobs

        return Jobs(self.settings, self.parts)

    @cached_property
    def desk(self) -> JobDesk | RemoteJobs:
        """The jobs of this home, or of the server that was named."""
        return self.own_desk if self.client is None else self.client.jobs

    @cached_property
    def own_desk(self) -> JobDesk:
        """The jobs of this home. Raises as ``parts``."""
        from clonedna.app.job_desk import JobDesk

        return JobDesk(self.jobs)

    @cached_property
    def details(self) -> Details | RemoteDetails:
        return self.own_details if self.client is None else self.client.details

    @cached_property
    def own_details(self) -> Details:
        """Those of this machine's blocks. Raises as ``parts``."""
        from clonedna.app.details import Details

        return Details(self.parts)

    @cached_property
    def lineages(self) -> Lineages | RemoteLineages:
        from clonedna.app.lineage import Lineages

        return Lineages(self.parts) if self.client is None else self.client.lineages

    @cached_property
    def genomes(self) -> GenomeShelf | RemoteGenomes:
        """The genomes of this machine, or of the server that was named."""
        return self.own_genomes if self.client is None else self.client.genomes

    @cached_property
    def own_genomes(self) -> GenomeShelf:
        """Those of this machine. Raises as ``parts``."""
        from clonedna.app.genomes import GenomeShelf

        return GenomeShelf(self.parts)

    @cached_property
    def versions(self) -> Versions | RemoteVersions:
        """The versions of names here, or on the server that was named."""
        return self.own_versions if self.client is None else self.client.versions

    @cached_property
    def own_versions(self) -> Versions:
        """Those of this machine. Raises as ``parts``."""
        from clonedna.app.versions import Versions

        return Versions(self.parts, self.jobs)


def ask_passphrase(*, twice: bool = False) -> str:
    """Ask the person at the terminal, without showing it."""
    return typer.prompt("Passphrase of this machine's key", hide_input=True, err=True, confirmation_prompt=twice)


def print_json(value: Any) -> None:
    """A value as one line of JSON on stdout."""
    from clonedna.core.canonical import plain

    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """A sentence for the person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(title: str, columns: list[str], rows: list[list[str]], *, whole: int = 0) -> None:
    """A table on stdout; names and cells are data, never markup. The first ``whole`` columns are never broken into lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False)
    made = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold", collapse_padding=console.width < 100
    )  # fmt: skip
    for i, column in enumerate(columns):
        made.add_column(Text(printable(column)), overflow="fold", no_wrap=i < whole)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    console.print(made)


def printable(text: str) -> str:
    """Third-party text without control characters: a name cannot move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
