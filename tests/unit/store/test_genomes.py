"""Genomes as files: what is damaged, foreign or unsigned is refused with its code, and nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from clonedna.core.canonical import canonical
from clonedna.core.errors import BlockUntrusted, Corrupt, DnaError, GenomeEmpty, GenomeUnsigned, SignatureInvalid
from clonedna.core.genome import (
    GENOME_PAYLOAD,
    DesiredGenome,
    GenomeManifest,
    SignedGenome,
    Skill,
    genome_bytes,
    genome_id,
)
from clonedna.store.genomes import GenomeFiles, read_manifest, sign_genome
from clonedna.trust.keys import KeyRing
from tests.genomes import genome, signed


@pytest.fixture
def signer(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


@pytest.fixture
def files(tmp_path: Path, signer: KeyRing) -> GenomeFiles:
    return GenomeFiles(tmp_path / "genomes", signer)


def place(files: GenomeFiles, signer: KeyRing, tmp_path: Path) -> Path:
    return tmp_path / "genomes" / files.put(signed(signer))


def test_a_byte_that_was_changed_is_found(files: GenomeFiles, signer: KeyRing, tmp_path: Path) -> None:
    where = place(files, signer, tmp_path)
    for name in ("genome.json", "signature.json"):
        data = (where / name).read_bytes()
        for at in range(3, len(data), max(1, len(data) // 40)):
            (where / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(DnaError) as caught:
                files.get(where.name)
            assert caught.value.code in ("corrupt", "signature_invalid", "block_untrusted", "genome_unsigned")
        (where / name).write_bytes(data)
    assert files.get(where.name).manifest.id == where.name


def test_content_changed_with_its_id_has_no_signature_for_it(
    files: GenomeFiles, signer: KeyRing, tmp_path: Path
) -> None:
    where = place(files, signer, tmp_path)
    fields: dict[str, Any] = json.loads((where / "genome.json").read_bytes())
    fields["license"] = "Apache-2.0"
    changed = genome(signer.key_id).model_copy(update={"license": "Apache-2.0"})
    fields["id"] = genome_id(changed)
    where.rename(where.parent / fields["id"])
    (where.parent / fields["id"] / "genome.json").write_bytes(canonical(fields))
    with pytest.raises(Corrupt):
        files.get("stack")
    assert [one.code for one in files.faults()] == ["corrupt"]


def test_without_a_signature_nobody_vouches(files: GenomeFiles, signer: KeyRing, tmp_path: Path) -> None:
    where = place(files, signer, tmp_path)
    (where / "signature.json").unlink()
    with pytest.raises(GenomeUnsigned):
        files.get("stack")
    assert [one.code for one in files.faults()] == ["genome_unsigned"]


def test_a_foreign_key_is_not_believed_until_it_is_trusted(files: GenomeFiles, signer: KeyRing, tmp_path: Path) -> None:
    other = KeyRing(tmp_path / "other")
    theirs = signed(other)
    with pytest.raises(BlockUntrusted):
        files.put(theirs)
    assert files.manifests() == ()
    signer.trust(other.public_key)
    assert files.get(files.put(theirs)) == theirs


def test_another_type_of_payload_is_no_genome(files: GenomeFiles, signer: KeyRing) -> None:
    made = genome(signer.key_id)
    good = signed(signer)
    envelope = signer.sign(genome_bytes(made), "application/vnd.clonedna.manifest+json")
    with pytest.raises(SignatureInvalid):
        files.put(good.model_copy(update={"envelope": envelope}))


def test_one_that_says_it_is_somebody_elses_is_refused(files: GenomeFiles, signer: KeyRing) -> None:
    with pytest.raises(Corrupt):
        sign_genome(genome("f" * 64), signer)
    foreign = genome("f" * 64)
    envelope = signer.sign(genome_bytes(foreign), GENOME_PAYLOAD)
    with pytest.raises(Corrupt):
        files.put(SignedGenome(manifest=foreign, envelope=envelope))


def test_a_field_that_a_later_version_adds_changes_no_genome_from_before(
    files: GenomeFiles, signer: KeyRing, tmp_path: Path
) -> None:
    class LaterSkill(Skill):
        told: str = ""

    class LaterDesired(DesiredGenome):
        skills: tuple[LaterSkill, ...]  # pyright: ignore[reportIncompatibleVariableOverride]

    class Later(GenomeManifest):
        desired: LaterDesired
        scores: dict[str, float] = Field(default_factory=dict)

    data = (place(files, signer, tmp_path) / "genome.json").read_bytes()
    later = Later.model_validate_json(data)
    assert genome_bytes(later) == data
    assert genome_id(later) == later.id
    assert genome_bytes(Later.model_validate_json(later.model_dump_json())) == data
    assert genome_id(later.model_copy(update={"scores": {"a": 1.0}})) != later.id


def test_an_empty_genome_has_its_own_code(signer: KeyRing) -> None:
    fields = json.loads(canonical(genome(signer.key_id)))
    fields["layers"] = []
    with pytest.raises(GenomeEmpty):
        read_manifest(json.dumps(fields).encode())
    for data in (b"", b"{}", b"[" * 100_000, b'{"id": 1, "id": 2}', b"\xff"):
        with pytest.raises(Corrupt):
            read_manifest(data)


def test_links_and_what_a_killed_writer_left_are_passed_by(files: GenomeFiles, signer: KeyRing, tmp_path: Path) -> None:
    where = place(files, signer, tmp_path)
    (where.parent / f".{'a' * 64}.1.tmp").mkdir()
    (where.parent / "notes.txt").write_text("x")
    assert [one.id for one in files.manifests()] == [where.name]
    data = (where / "genome.json").read_bytes()
    (tmp_path / "elsewhere").write_bytes(data)
    (where / "genome.json").unlink()
    (where / "genome.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Corrupt):
        files.get(where.name)
