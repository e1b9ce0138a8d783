"""Every command that can be given to a server does there what it does here: the same words, the same JSON, the same errors.

A command is one line of ``COMMANDS``. It is run twice on one home: on this machine, and through a server that holds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.jobs import Jobs
from clonedna.app.parts import Parts
from clonedna.app.personas import PersonaOrder, Personas
from clonedna.app.teams import TeamOrder, Teams
from clonedna.app.threads import Threads
from clonedna.cli.main import app
from clonedna.core.canonical import sha256
from clonedna.core.errors import DnaError
from clonedna.core.fakes import FakeEngine
from tests.cli import CliRunner
from tests.genomes import layer, signed
from tests.merges import add_block as add_adapter
from tests.parts import order
from tests.serving import ServerParts, add_block, running

# Where the files are, on the server's machine alone; an id of what was asked over HTTP; how long it took.
NOT_THERE = {"path", "request_id", "bound_at", "seconds"}
COMMANDS = [
    ["ls"],
    ["ls", "--limit", "1", "--sort", "name"],
    ["ls", "--language", "rust"],
    ["ls", "--sort", "size"],
    ["ls", "--maturity", "2"],
    ["ls", "--cursor", "nonsense"],
    ["search", "python", "--mode", "text"],
    ["search", "somebody who writes python", "--mode", "semantic"],
    ["search", "--skill", "python", "--limit", "1"],
    ["search", "python", "--mode", "magic"],
    ["search"],
    ["show", "ada"],
    ["show", "ada@1.0.0"],
    ["show", "nobody"],
    ["show", "../../etc/passwd"],
    ["verify", "ada"],
    ["verify", "nobody"],
    ["versions", "ada"],
    ["versions", "nobody"],
    ["files", "ada"],
    ["files", "not-a-block/"],
    ["lineage", "ada"],
    ["lineage", "nobody@1.0.0"],
    ["diff", "cora", "dora"],
    ["diff", "ada", "cora"],
    ["diff", "cora", "nobody"],
    ["compare", "cora", "dora", "--weights-only"],
    ["compare", "cora", "nobody", "--weights-only"],
    ["rollback", "ada"],
    ["revoke", "nobody"],
    ["revoke", "../../etc/passwd"],
    ["prune", "--dry-run"],
    ["consent", "show"],
    ["tokens", "ls"],
    ["tokens", "new", "Ada", "--scope", "read"],
    ["tokens", "new", "ada", "--scope", "root"],
    ["tokens", "rotate", "nobody"],
    ["tokens", "revoke", "no name"],
    ["tokens", "pair", "../ada", "--scope", "chat"],
    ["audit"],
    ["audit", "--limit", "1"],
    ["audit", "--verify"],
    ["genome", "calibration"],
    ["genome", "conflicts", "cora", "dora"],
    ["genome", "conflicts", "cora"],
    ["genome", "conflicts", "cora", "nobody"],
    ["genome", "conflicts", "cora", "cora"],
    ["genome", "bench", "cora"],
    ["genome", "bench", "cora", "nobody"],
    ["genome", "bench", "cora", "dora", "--methods", "svd,nonsense"],
    ["genome", "recalibrate"],
    ["genome", "recalibrate", "--reset"],
    ["developer", "show", "ada-example"],
    ["developer", "prove", "ada-example", "nothing.json"],
    ["genome", "ls"],
    ["genome", "show", "stack"],
    ["genome", "show", "nobody"],
    ["genome", "show", "../../etc/passwd"],
    ["genome", "verify", "stack"],
    ["genome", "verify", "broken"],
    ["genome", "verify"],
    ["genome", "analyze", "parse HTML in Python, with pytest"],
    ["genome", "analyze", ""],
    ["genome", "analyze", "!?"],
    ["genome", "search", "parse HTML in Python", "--limit", "2"],
    ["genome", "plan", "a quantum solver in Fortran"],
    ["genome", "plan", "python", "--pairs", "nothing.jsonl", "--licence", "MIT"],
    ["genome", "plan", "python", "--top-k", "2"],
    ["genome", "apply", "00000000"],
    ["genome", "apply", "nonsense"],
    ["genome", "rollback", "stack", "9.0.0"],
    ["genome", "rm", "nobody"],
    ["genome", "sign", "--file", "nothing.json"],
    ["assemble", "a quantum solver in Fortran", "--name", "No Name"],
    ["jobs", "ls"],
    ["jobs", "ls", "--kind", "merge", "--limit", "1"],
    ["jobs", "ls", "--after", "mint-20260101-000000000-abcdef"],
    ["jobs", "show", "nothing"],
    ["jobs", "show", "mint-"],
    ["jobs", "cancel", "nothing"],
    ["jobs", "follow", "nothing"],
    ["jobs", "logs", "nothing"],
    ["jobs", "resume", "nothing"],
    ["mint", "@ada", "--licence", "MIT"],
    ["mint", "@ada", "--replay", "1"],
    ["mint"],
    ["eval", "nobody"],
    ["eval", "../../etc/passwd"],
    ["eval", "--identity", "ada", "nobody"],
    ["merge", "cora:x", "--name", "both"],
    ["merge", "cora", "nobody", "--name", "both"],
    ["merge", "cora:0.7", "dora:0.3", "--name", "both", "--no-check"],
    ["compare", "nobody", "cora"],
    ["run", "ada", "hello", "--max-tokens", "5"],
    ["run", "ada:0.7+bob:0.3", "hello", "--max-tokens", "5", "--no-retrieval"],
    ["run", "ada", "hello", "--max-tokens", "5", "--beside-base"],
    ["run", "nobody", "hello"],
    ["run", "../../etc/passwd", "hello"],
    ["run", "ada", ""],
    ["threads", "ls"],
    ["threads", "ls", "--after", "yesterday"],
    ["threads", "show", "thread-000000000000000000000000"],
    ["threads", "rm", "thread-000000000000000000000000"],
    ["team", "ls"],
    ["team", "show", "Abacus"],
    ["team", "show", "nobody"],
    ["team", "show", "team-000000000000000000000000"],
    ["team", "new", "Beads", "--role", "boss"],
    ["team", "clear", "Abacus", "swe"],
    ["team", "bind", "Abacus", "1", "nobody"],
    ["team", "bind", "Abacus", "1", "genome:ada"],
    ["team", "bind", "Abacus", "1", "ada"],
    ["team", "bind", "Abacus", "1", "persona:helper"],
    ["team", "bind", "Abacus", "1", "persona:nobody"],
    ["persona", "ls"],
    ["persona", "show", "helper"],
    ["persona", "show", "nobody"],
    ["persona", "show", "../helper"],
    ["persona", "create", "helper"],
    ["persona", "create", "other", "--about", "\x1b[2J"],
    ["persona", "bind", "helper", "ada"],
    ["persona", "bind", "helper", "genome:nobody"],
    ["persona", "rollback", "helper", "1"],
    ["persona", "rollback", "helper", "9"],
    ["persona", "threads", "helper"],
    ["persona", "threads", "nobody"],
    ["persona", "lineage", "helper"],
    ["persona", "lineage", "nobody"],
    ["persona", "export", "nobody", "x.dna"],
    ["persona", "import", "nothing.dna"],
    ["lineage", "persona:helper"],
    ["lineage", "helper"],
    ["team", "select", "Abacus", "2", "candidate-000000000000000000000000"],
    ["team", "drop", "Abacus", "designer"],
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    parts = ServerParts(home)
    add_block(parts, "ada")
    add_block(parts, "bob", says="xyz")
    for seed, name in enumerate(("cora", "dora")):
        add_adapter(parts, name, seed, fingerprint=sha256("fake"))
    Jobs(parts.settings, parts).create(order())  # one that nobody carries out
    ada = parts.registry.resolve("ada")
    fields = {
        "id": ada.id, "license": ada.license, "consent_mode": ada.consent_mode, "rank": ada.rank, "alpha": ada.alpha,
        "target_modules": ada.target_modules,
    }  # fmt: skip
    parts.genomes.put(signed(parts.signer, layers=(layer("ada", **fields),)))
    parts.genomes.put(signed(parts.signer, "broken"))  # whose member is not here
    Teams(parts, Threads(parts)).create(TeamOrder(name="Abacus", roles=("swe", "pm")))
    Personas(parts).create(PersonaOrder(name="helper", binds="ada"))
    Threads(parts).create(title="sums", model="ada")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Generator[str]:
    with running(ServerParts(home), whole=True) as url:
        yield url


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)  # no settings file of anybody's
    engine = FakeEngine()
    monkeypatch.setattr(Parts, "engine", lambda parts, base: engine)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--json"], standalone_mode=False)
        if isinstance(result.exception, DnaError):
            return _without(result.exception.as_json()), result.exception.exit_code
        assert result.exception is None, result.exception
        return _without(json.loads(result.stdout.splitlines()[-1])), result.return_value or 0

    return run


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(one) for key, one in value.items() if key not in NOT_THERE}
    return [_without(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_says_the_same_here_and_there(
    command: list[str], home: Path, server: str, ask: Callable[..., Any]
) -> None:
    here = ask("--home", str(home), *command)
    assert ask("--home", str(home / "nothing"), "--server", server, *command) == here
