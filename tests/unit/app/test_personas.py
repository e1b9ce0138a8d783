"""Personas of a home: what speaks for them, what keeps them from it, going back, their lineage, and their archives."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from clonedna.app import genome_checks
from clonedna.app.chat import Chat
from clonedna.app.chat_values import ChatAsk
from clonedna.app.lineage import Lineages
from clonedna.app.persona_archives import PersonaArchives
from clonedna.app.persona_drawing import svg
from clonedna.app.persona_lineage import PersonaLineages, mermaid, of_blocks
from clonedna.app.personas import PersonaOrder, Personas
from clonedna.app.revoking import Revoking
from clonedna.app.serving import Serving
from clonedna.app.speakers import ServerSpeakers
from clonedna.app.teams import Binding, TeamOrder, Teams
from clonedna.app.threads import Threads
from clonedna.core.block import Lineage, Manifest, Measure
from clonedna.core.errors import (
    BadReference,
    BlockCorrupt,
    BlockRevoked,
    BlockUntrusted,
    ConsentMissing,
    DnaError,
    InputError,
    NotFound,
)
from clonedna.core.genome import Composition, GenomeEvaluation, GenomeManifest, Similarity
from tests.genomes import NOTHING, layer, signed
from tests.serving import ServerParts, add_block
from tests.sharing import Ada, put
from tests.values import ADA

NASTY = 'Ada <script>alert("1")</script> & `x`] --> #35;'


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    made = ServerParts(tmp_path / "home", min_free_bytes=0)
    consent = made.consents.grant_self(ADA, [ADA], "local:abacus")
    for name in ("ada", "bob"):
        add_block(made, name, consent=consent)
    return made


@pytest.fixture
def personas(parts: ServerParts) -> Personas:
    return Personas(parts)


def genome(parts: ServerParts, version: str, *members: Manifest, name: str = "stack", **changes: Any) -> GenomeManifest:
    layers = tuple(
        layer(
            m.name, id=m.id, license=m.license, consent_mode=m.consent_mode, rank=m.rank, alpha=m.alpha, target_modules=m.target_modules,
        )
        for m in members
    )  # fmt: skip
    method = "single" if len(layers) == 1 else "cat"
    made = signed(
        parts.signer, name, version, layers=layers, base_fingerprint=members[0].base_fingerprint, license=members[0].license,
        composition=Composition(kind="stack", method=method), **changes,
    )  # fmt: skip
    parts.genomes.put(made)
    return made.manifest


def refused(kind: type[DnaError], work: Callable[[], object]) -> DnaError:
    with pytest.raises(kind) as error:
        work()
    return error.value


def test_a_persona_keeps_every_version_and_goes_back_by_adding_one(parts: ServerParts, personas: Personas) -> None:
    ada, bob = parts.registry.resolve("ada"), parts.registry.resolve("bob")
    genome(parts, "1.0.0", ada)
    made = personas.create(PersonaOrder(name="helper", title="  Helper  ", role="swe", binds="stack"), by="a token")
    assert (made.title, made.versions[0].called, made.versions[0].by) == ("Helper", "genome:stack@1.0.0", "a token")
    genome(parts, "1.1.0", ada, bob)
    personas.bind("helper", "genome:stack")
    assert personas.bind("helper", "stack@1.1.0").versions[-1].number == 2  # it speaks already
    personas.bind("helper", "bob")
    back = personas.rollback("helper", 1)
    assert [(v.number, v.called, v.why, v.of) for v in back.versions] == [
        (1, "genome:stack@1.0.0", "created", None), (2, "genome:stack@1.1.0", "bound", None), (3, "bob@1.0.0", "bound", None),
        (4, "genome:stack@1.0.0", "rolled-back", 1),
    ]  # fmt: skip
    assert Personas(ServerParts(parts.settings.home)).show("helper").persona == back
    refused(InputError, lambda: personas.rollback("helper", 4))
    refused(NotFound, lambda: personas.rollback("helper", 9))
    assert [work.handle for work in personas.show("helper").works] == [ada.candidate.handle]


def test_what_may_not_be_bound(parts: ServerParts, personas: Personas) -> None:
    genome(parts, "1.0.0", parts.registry.resolve("ada"), name="bob")
    personas.create(PersonaOrder(name="helper"))
    refused(InputError, lambda: personas.create(PersonaOrder(name="helper")))
    assert "genome:bob" in refused(InputError, lambda: personas.bind("helper", "bob")).hint  # a block is called so, too
    assert personas.bind("helper", "genome:bob").versions[0].kind == "genome"
    assert personas.bind("helper", parts.registry.resolve("bob").id).versions[1].kind == "block"
    for reference in ("nobody", "genome:nobody"):
        refused(NotFound, lambda reference=reference: personas.bind("helper", reference))
    for reference in ("ada+bob", "ada:0.5", "persona:helper", "../../etc/passwd", "genome:../x"):
        refused(InputError, lambda reference=reference: personas.bind("helper", reference))
    refused(NotFound, lambda: personas.bind("nobody", "ada"))
    for name in ("..", "a/b", "A", "", "a" * 65):
        refused(BadReference, lambda name=name: personas.show(name))
        with pytest.raises(ValueError, match="name"):
            PersonaOrder(name=name)
    for text in ("\x1b[2J", "a\0b"):
        with pytest.raises(ValueError, match="about"):
            PersonaOrder(name="x", about=text)


def test_one_that_nothing_speaks_for_says_so(personas: Personas) -> None:
    personas.create(PersonaOrder(name="mute"))
    assert not personas.show("mute").speaks
    assert "dna persona bind" in refused(InputError, lambda: personas.speaker("mute")).hint


def test_a_revoked_member_silences_it_and_going_back_helps(
    parts: ServerParts, personas: Personas, tmp_path: Path
) -> None:
    ada, bob = parts.registry.resolve("ada"), parts.registry.resolve("bob")
    genome(parts, "1.0.0", ada)
    genome(parts, "1.1.0", ada, bob)
    personas.create(PersonaOrder(name="helper", binds="genome:stack@1.0.0"))
    personas.bind("helper", "stack")
    Revoking(parts).block("bob")
    shown = personas.show("helper")
    assert (shown.speaks, [fault.code for fault in shown.faults]) == (False, ["block_revoked"])
    assert personas.list().personas[0].fault == "block_revoked"
    error = refused(BlockRevoked, lambda: personas.speaker("helper"))
    assert "persona helper does not speak" in error.message
    assert "rollback helper" in error.hint
    refused(BlockRevoked, lambda: PersonaArchives(parts).export("helper", tmp_path / "x.dna"))
    refused(BlockRevoked, lambda: personas.bind("helper", "genome:stack@1.1.0"))
    personas.rollback("helper", 1)
    assert personas.show("helper").speaks
    refused(BlockRevoked, lambda: personas.rollback("helper", 2))


def test_it_talks_by_itself_and_in_a_team_and_remembers_both(parts: ServerParts, personas: Personas) -> None:
    personas.create(PersonaOrder(name="helper", title="Helper", role="swe", instructions="Be short.", binds="ada"))
    genome(parts, "1.0.0", parts.registry.resolve("ada"))
    threads = Threads(parts)
    teams = Teams(parts, threads)
    team = teams.create(TeamOrder(name="Abacus", roles=("pm",)))
    slot = teams.bind(team.id, team.slots[0].id, Binding(block="persona:helper", instructions="In the team."))
    assert slot.persona is not None
    assert (slot.persona.kind, slot.persona.block, slot.persona.name) == ("persona", "persona:helper", "Helper")

    async def talk() -> list[Any]:
        chat = Chat(parts, ServerSpeakers(Serving(parts, "fake")), threads, teams)
        said: list[Any] = []
        for persona in ("persona:helper", slot.id):
            events = [event async for event in chat.stream(ChatAsk(text="a", persona=persona, max_tokens=3))]
            said.append(events[-1].reply)
        personas.bind("helper", "bob")
        events = [event async for event in chat.stream(ChatAsk(text="a", thread=said[1].thread, max_tokens=3))]
        personas.bind("helper", "genome:stack")
        genomes = [event async for event in chat.stream(ChatAsk(text="a", persona="persona:helper", max_tokens=3))]
        return [*said, events[-1].reply, genomes[-1].reply]

    replies = anyio.run(talk)
    assert [reply.answer.served_by.layers[0].block for reply in replies] == [
        "ada@1.0.0", "ada@1.0.0", "bob@1.0.0", "ada@1.0.0"
    ]  # fmt: skip
    assert replies[3].answer.model == "genome:stack@1.0.0"
    assert [reply.answer.persona for reply in replies] == ["persona:helper", slot.id, slot.id, "persona:helper"]
    remembered = {thread.id for thread in personas.threads("helper").threads}
    assert remembered == {replies[0].thread, replies[1].thread, replies[3].thread}
    assert not personas.threads("helper", owner="somebody").threads
    spoken = teams.talking(slot.persona)
    assert (spoken.block, spoken.instructions) == ("genome:stack@1.0.0", "Be short.\nIn the team.")
    refused(NotFound, lambda: threads.create(persona="persona:nobody"))


def test_a_genome_in_a_slot_is_checked_again_when_it_talks(parts: ServerParts) -> None:
    teams = Teams(parts, Threads(parts))
    genome(parts, "1.0.0", parts.registry.resolve("ada"))
    team = teams.create(TeamOrder(name="Abacus", roles=("pm",)))
    slot = teams.bind(team.id, team.slots[0].id, Binding(block="genome:stack"))
    assert slot.persona is not None
    assert teams.talking(slot.persona).block == "genome:stack@1.0.0"
    Revoking(parts).block("ada")
    refused(BlockRevoked, lambda: teams.talking(slot.persona))


def test_lineage_leads_from_the_persona_to_the_blocks_parents_with_what_was_measured(
    parts: ServerParts, personas: Personas
) -> None:
    ada = parts.registry.resolve("ada")
    consent = parts.consents.grant_self(ADA, [ADA], "local:abacus")
    child = add_block(parts, "cora", consent=consent, lineage=Lineage(parents=(ada.id,), relation="continued"))
    first = genome(parts, "1.0.0", ada)
    measured = GenomeEvaluation(
        similarity={
            "lang/python": Similarity(value=0.92, status="measured", n=16, how="t"),
            "fw/x": Similarity(value=0.5, status="predicted", how="t"),
        },
        retention={ada.id: Measure(value=0.74, status="measured", n=8, how="t")},
        interference=NOTHING, guard=NOTHING, latency_ms=NOTHING, bytes=1,
    )  # fmt: skip
    second = genome(parts, "1.1.0", child, parts.registry.resolve("bob"), parent=first.id, evaluation=measured)
    personas.create(PersonaOrder(name="helper", title=NASTY, binds="stack"))
    graph = PersonaLineages(parts).of("helper")
    assert {(edge.source, edge.target) for edge in graph.edges} == {
        ("helper", second.id), (second.id, first.id), (second.id, child.id), (second.id, parts.registry.resolve("bob").id),
        (first.id, ada.id), (child.id, ada.id),
    }  # fmt: skip
    told = {figure.name for node in graph.nodes if node.id == second.id for figure in node.figures}
    assert told == {"s* lang/python", "least retention"}  # what was only predicted is no measurement
    text = mermaid(graph)
    assert "<script>" not in text
    assert "`" not in text
    assert all(line.count('"') in (0, 2) for line in text.splitlines())
    drawing = svg(graph)
    assert drawing == svg(graph)
    root = ElementTree.fromstring(drawing)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "rect", "defs", "marker", "path", "text"}
    shown = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert any(line and line.startswith("Ada <script>") for line in shown)
    assert of_blocks(Lineages(parts).of("ada")).nodes
    Revoking(parts).block("ada")
    after = {node.id: node.status for node in PersonaLineages(parts).of("helper").nodes}
    assert (after[ada.id], after["helper"]) == ("revoked", "not_here")


def test_a_genome_that_is_gone_is_a_node_that_is_not_here(parts: ServerParts, personas: Personas) -> None:
    made = genome(parts, "1.0.0", parts.registry.resolve("ada"))
    personas.create(PersonaOrder(name="helper", binds="stack"))
    parts.genomes.delete(made.id)
    graph = PersonaLineages(parts).of("helper")
    assert [(node.kind, node.status) for node in graph.nodes] == [("persona", "not_here"), ("genome", "not_here")]
    assert personas.list().personas[0].fault == "genome_not_found"


def test_what_may_not_be_shared_is_not_exported(parts: ServerParts, personas: Personas, tmp_path: Path) -> None:
    personas.create(PersonaOrder(name="helper", binds="ada"))  # a consent of one's own does not cover sharing
    refused(ConsentMissing, lambda: PersonaArchives(parts).export("helper", tmp_path / "x.dna"))
    assert not list(tmp_path.glob("*x.dna*"))


class Pair:
    """Two machines that know one GitHub; the first has a persona of a genome of two blocks that may be shared."""

    def __init__(self, ada: Ada, folder: Path) -> None:
        self.one, self.two = ada.parts(folder / "one"), ada.parts(folder / "two")
        consent = ada.consents(self.one)
        self.blocks = tuple(put(self.one, name, consent) for name in ("cora", "dora"))
        self.genome = genome(self.one, "1.0.0", *self.blocks)
        Personas(self.one).create(PersonaOrder(name="helper", title="Helper", role="pm", about="tests", binds="stack"))
        self.file = folder / "helper.dna"
        self.exported = PersonaArchives(self.one).export("helper", self.file)

    def nothing_at_two(self) -> bool:
        return not self.two.registry.manifests() and not self.two.genomes.manifests() and not self.two.personas.names()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with Ada.of(folder) as ada:
        yield Pair(ada, folder)


@pytest.fixture
def two(pair: Pair, tmp_path: Path) -> ServerParts:
    """A machine that trusts the first, with nothing in it."""
    made = ServerParts(tmp_path / "two", min_free_bytes=0, github_url=pair.one.settings.github_url)
    made.signer.trust(pair.one.signer.public_key)
    return made


def _empty(parts: ServerParts) -> bool:
    return not parts.registry.manifests() and not parts.genomes.manifests() and not parts.personas.names()


def test_an_archive_carries_persona_genome_and_blocks_to_another_machine(
    pair: Pair, two: ServerParts, tmp_path: Path
) -> None:
    assert pair.exported.blocks == tuple(sorted(one.id for one in pair.blocks))
    refused(BadReference, lambda: PersonaArchives(pair.one).export("helper", pair.file))
    again = tmp_path / "again.dna"
    PersonaArchives(pair.one).export("helper", again)
    assert again.read_bytes() == pair.file.read_bytes()
    archives = PersonaArchives(two)
    made = archives.load(pair.file, by="somebody")
    assert made.new
    assert (made.persona.title, made.persona.role, made.persona.about) == ("Helper", "pm", "tests")
    assert [(v.id, v.why, v.by) for v in made.persona.versions] == [(pair.genome.id, "imported", "somebody")]
    assert Personas(two).show("helper").speaks
    assert Personas(two).speaker("helper")[0].block == "genome:stack@1.0.0"
    unchanged = archives.load(pair.file)
    assert (unchanged.new, unchanged.persona) == (False, made.persona)
    assert archives.load(pair.file, name="other").persona.name == "other"
    Personas(two).create(PersonaOrder(name="taken"))
    refused(InputError, lambda: archives.load(pair.file, name="taken"))


def test_nothing_of_an_archive_whose_signer_is_not_trusted_comes_in(pair: Pair) -> None:
    refused(BlockUntrusted, lambda: PersonaArchives(pair.two).load(pair.file))
    assert pair.nothing_at_two()


def _rewritten(source: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    with zipfile.ZipFile(out, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
    return out


def _bend(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        key = next(one for one in files if one.startswith(name))
        data = bytearray(files[key])
        data[len(data) // 2] ^= 1
        files[key] = bytes(data)

    return change


def _drop(files: dict[str, bytes]) -> None:
    files.pop(next(iter(files)))


CHANGES: dict[str, Callable[[dict[str, bytes]], None]] = {
    "a block bent": _bend("blocks/"), "the statement bent": _bend("persona.json"), "a block missing": _drop,
    "no statement": lambda files: files.pop("persona.json") and None,
    "a file more": lambda files: files.update({"../evil": b"x"}),
    "a block more": lambda files: files.update({f"blocks/{'0' * 64}.dna": b"x"}),
    "a statement that is none": lambda files: files.update({"persona.json": b"[" * 5000}),
    "blocks exchanged": lambda files: files.update(zip(list(files)[:2], list(files.values())[1::-1], strict=True)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_archive_is_refused_and_leaves_nothing(
    pair: Pair, two: ServerParts, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    bad = _rewritten(pair.file, tmp_path / "bad.dna", change)
    with pytest.raises(DnaError) as error:
        PersonaArchives(two).load(bad)
    assert error.value.code in ("block_corrupt", "signature_invalid", "corrupt")
    assert _empty(two)


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_archive_is_refused(two: ServerParts, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    refused(BlockCorrupt, lambda: PersonaArchives(two).load(tmp_path / "bad"))
    refused(DnaError, lambda: PersonaArchives(two).load(tmp_path / "none"))
    cut = tmp_path / "cut"
    cut.write_bytes(data)
    assert _empty(two)


def test_a_block_that_was_revoked_here_keeps_everything_out(pair: Pair, two: ServerParts) -> None:
    PersonaArchives(two).load(pair.file)
    Revoking(two).block("cora")
    shutil.rmtree(two.settings.home / "personas")
    refused(BlockRevoked, lambda: PersonaArchives(two).load(pair.file))
    assert not two.personas.names()


def test_when_the_last_step_fails_the_blocks_go_again(
    pair: Pair, two: ServerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise InputError("there are too many", "stop")

    monkeypatch.setattr(two.personas, "put", full)
    refused(InputError, lambda: PersonaArchives(two).load(pair.file))
    assert _empty(two)
    monkeypatch.undo()
    assert PersonaArchives(two).load(pair.file).new


class Killed(BaseException):
    """The process ends here."""


class Unfinished(ExitStack):
    """What a killed process leaves: nothing is undone."""

    def __exit__(self, *_: object) -> bool:
        return False


@pytest.mark.parametrize("step", ["second block", "genome", "persona"])
def test_a_kill_between_any_two_steps_leaves_what_may_be_used_and_the_same_import_completes_it(
    pair: Pair, two: ServerParts, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    archives = PersonaArchives(two)
    take, taken = archives.sharing.take_folder, list[Path]()

    def one_block(folder: Path) -> object:
        if taken:
            raise Killed
        taken.append(folder)
        return take(folder)

    def killed(_: object) -> None:
        raise Killed

    monkeypatch.setattr("clonedna.app.persona_archives.ExitStack", Unfinished)
    if step == "second block":
        monkeypatch.setattr(archives.sharing, "take_folder", one_block)
    else:
        monkeypatch.setattr(two.genomes if step == "genome" else two.personas, "put", killed)
    with pytest.raises(Killed):
        archives.load(pair.file)
    monkeypatch.undo()
    left = two.registry.manifests()
    assert len(left) == (1 if step == "second block" else len(pair.blocks))
    for one in left:
        assert genome_checks.member(two, one.id).manifest == one
    assert not two.personas.names()
    assert PersonaArchives(two).load(pair.file).new
    assert Personas(two).show("helper").speaks
    assert not PersonaArchives(two).load(pair.file).new
