"""Files of personas: whole, signed, and never without a version that was there. Their archives are bounded before they are read."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import BadReference, BlockCorrupt, Corrupt, DnaError, InputError, NotFound, SignatureInvalid
from clonedna.core.fakes import FakeSigner
from clonedna.core.persona import EXPORT_PAYLOAD, Persona, PersonaExport, PersonaVersion
from clonedna.store.persona_archive import STATEMENT, unzip_persona, zip_persona
from clonedna.store.personas import PersonaFiles

BLOCK = sha256("ada")


def version(number: int, name: str = "ada") -> PersonaVersion:
    return PersonaVersion(
        number=number, kind="block", id=sha256(name), name=name, version="1.0.0", at="2026-01-02T03:04:05Z", by="local", key="k",
        why="bound",
    )  # fmt: skip


def persona(*versions: PersonaVersion, name: str = "helper") -> Persona:
    return Persona(name=name, title="Helper", created_at="2026-01-02T03:04:05Z", versions=versions)


@pytest.fixture
def files(tmp_path: Path) -> PersonaFiles:
    return PersonaFiles(tmp_path / "personas", FakeSigner())


def test_what_was_put_is_read_back_and_listed(files: PersonaFiles) -> None:
    assert files.names() == ()
    files_now = (persona(), persona(version(1), name="a.b-c"))
    for one in files_now:
        with files.changing():
            files.put(one)
        assert files.get(one.name) == one
    assert files.names() == ("a.b-c", "helper")
    with pytest.raises(NotFound):
        files.get("nobody")
    for name in ("..", ".", "a/b", "", "A", "a\n"):
        with pytest.raises(BadReference):
            files.get(name)


def test_no_version_is_changed_or_taken_out(files: PersonaFiles) -> None:
    with files.changing():
        files.put(persona(version(1), version(2, "bob")))
    for worse in (
        persona(),
        persona(version(1)),
        persona(version(1), version(2, "eve")),
        persona(version(1, "bob"), version(2, "bob")),
    ):
        with pytest.raises(InputError):
            files.put(worse)
    assert len(files.get("helper").versions) == 2


def test_a_file_that_was_changed_is_corrupt(files: PersonaFiles, tmp_path: Path) -> None:
    with files.changing():
        files.put(persona(version(1)))
    path = tmp_path / "personas" / "helper" / "persona.json"
    whole = path.read_bytes()
    changed = json.loads(whole)
    changed["persona"]["title"] = "Somebody"
    for data in (b"", b"{", whole[:-5], canonical(changed), b"[" * 50_000, b" " * 5_000_000):
        path.write_bytes(data)
        with pytest.raises((Corrupt, SignatureInvalid)):
            files.get("helper")
    path.write_bytes(whole)
    assert files.get("helper").versions
    (tmp_path / "personas" / "other").mkdir()
    (tmp_path / "personas" / "other" / "persona.json").write_bytes(whole)  # signed, and another's
    with pytest.raises(Corrupt):
        files.get("other")


def test_many_at_once_lose_nothing(files: PersonaFiles) -> None:
    with files.changing():
        files.put(persona())

    def add(_: int) -> None:
        with files.changing():
            before = files.get("helper")
            files.put(before.model_copy(update={"versions": (*before.versions, version(len(before.versions) + 1))}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert [one.number for one in files.get("helper").versions] == list(range(1, 25))


def _archive(out: Path, signer: FakeSigner) -> Path:
    said = PersonaExport(
        name="helper", title="Helper", role="any", about="", instructions="", block=BLOCK, members={BLOCK: {"sha256": "0" * 64, "size": 0}}
    )  # type: ignore[arg-type]  # fmt: skip
    zip_persona(out, {BLOCK: [b"block", b" bytes"]}, said, signer)
    return out


def test_an_archive_gives_back_what_went_in_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    signer = FakeSigner()
    one, two = _archive(tmp_path / "one", signer), _archive(tmp_path / "two", signer)
    assert one.read_bytes() == two.read_bytes()
    said, found = unzip_persona(one, tmp_path / "out", signer)
    assert (said.name, said.block) == ("helper", BLOCK)
    assert found[BLOCK].read_bytes() == b"block bytes"


def test_a_writing_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def broken():
        yield b"some"
        raise BlockCorrupt("it changed", "again")

    said = PersonaExport(
        name="helper", title="Helper", role="any", about="", instructions="", block=BLOCK, members={BLOCK: {"sha256": "0" * 64, "size": 0}}
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(BlockCorrupt):
        zip_persona(tmp_path / "out", {BLOCK: broken()}, said, FakeSigner())
    assert list(tmp_path.iterdir()) == []


def _zipped(out: Path, files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out


def test_what_was_not_written_by_us_is_refused_before_it_is_read(tmp_path: Path) -> None:
    signer = FakeSigner()
    with zipfile.ZipFile(_archive(tmp_path / "good", signer)) as good:
        statement, member = good.read(STATEMENT), good.read(f"blocks/{BLOCK}.dna")
    mine = (f"blocks/{BLOCK}.dna", member)
    other = canonical(signer.sign(b'{"format": "dna-persona-export/1"}', EXPORT_PAYLOAD))
    foreign = canonical(signer.sign(b"{}", "application/vnd.clone-dna.genome+json"))
    cases = [
        [mine], [(STATEMENT, statement)], [mine, (STATEMENT, b"{}")], [mine, (STATEMENT, other)], [mine, (STATEMENT, foreign)],
        [mine, (STATEMENT, statement), ("x", b"")], [("../x", b""), (STATEMENT, statement)],
        [(f"blocks/{BLOCK}.dna", member + b"x"), (STATEMENT, statement)],
        [(f"blocks/{BLOCK}.dna", b"other bytes"), (STATEMENT, statement)],
        [*((f"blocks/{sha256(str(n))}.dna", b"") for n in range(40)), (STATEMENT, statement)],
    ]  # fmt: skip
    for number, case in enumerate(cases):
        with pytest.raises(DnaError):
            unzip_persona(_zipped(tmp_path / f"bad{number}", case), tmp_path / f"out{number}", signer)
    bomb = _zipped(
        tmp_path / "bomb", [(f"blocks/{BLOCK}.dna", b"\0" * 5_000_000), (STATEMENT, statement)], zipfile.ZIP_DEFLATED
    )
    with pytest.raises(DnaError):
        unzip_persona(bomb, tmp_path / "bombed", signer)


@given(st.data())
def test_any_bent_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bent")
    signer = FakeSigner()
    whole = bytearray(_archive(folder / "good", signer).read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    (folder / "bent").write_bytes(whole)
    try:
        said, found = unzip_persona(folder / "bent", folder / "out", signer)
    except DnaError:
        return
    # Dates and other marks of the zip itself are nobody's: what comes out is what was signed.
    assert (said.block, found[BLOCK].read_bytes()) == (BLOCK, b"block bytes")
