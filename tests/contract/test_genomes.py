"""What every ``Genomes`` must do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clonedna.core.errors import BadReference, DnaError, GenomeNotFound, InputError
from clonedna.core.fakes import FakeGenomes, FakeSigner
from clonedna.core.genome import SignedGenome
from clonedna.core.seams import Genomes
from clonedna.store.genomes import GenomeFiles
from tests.genomes import genome, layer, signed

PARTS: dict[str, Callable[[Path], Genomes]] = {
    "files": lambda home: GenomeFiles(home / "genomes", FakeSigner()),
    "fake": lambda home: FakeGenomes(),
}
SIGNER = FakeSigner()


@pytest.fixture(params=list(PARTS))
def genomes(request: pytest.FixtureRequest, tmp_path: Path) -> Genomes:
    return PARTS[request.param](tmp_path)


def test_what_is_put_is_given_by_name_version_and_digits(genomes: Genomes) -> None:
    one = signed(SIGNER)
    assert genomes.put(one) == one.manifest.id
    for reference in ("stack", "stack@1.0.0", one.manifest.id, one.manifest.id[:8]):
        assert genomes.get(reference) == one


def test_putting_it_again_changes_nothing(genomes: Genomes) -> None:
    one = signed(SIGNER)
    assert genomes.put(one) == genomes.put(one)
    assert genomes.manifests() == (one.manifest,)


def test_a_name_means_its_newest_version(genomes: Genomes) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        genomes.put(signed(SIGNER, version=version))
    assert genomes.get("stack").manifest.version == "1.10.0"
    assert [one.version for one in genomes.manifests("stack")] == ["1.10.0", "1.9.0", "1.2.0"]
    assert genomes.manifests("other") == ()


def test_a_version_that_is_taken_by_another_is_refused(genomes: Genomes) -> None:
    genomes.put(signed(SIGNER))
    with pytest.raises(InputError):
        genomes.put(signed(SIGNER, layers=(layer("bob"),)))
    assert len(genomes.manifests()) == 1


def test_one_whose_id_is_not_its_contents_is_refused(genomes: Genomes) -> None:
    good = signed(SIGNER)
    changed = good.manifest.model_copy(update={"license": "Apache-2.0"})
    with pytest.raises(DnaError):
        genomes.put(SignedGenome(manifest=changed, envelope=good.envelope))
    assert genomes.manifests() == ()


def test_what_is_not_there_or_cannot_be_a_reference(genomes: Genomes) -> None:
    genomes.put(signed(SIGNER))
    for reference in ("other", "stack@2.0.0", "0" * 64):
        with pytest.raises(GenomeNotFound):
            genomes.get(reference)
    for reference in ("", "../../etc/passwd", "Stack", "stack@", "stack/1"):
        with pytest.raises(BadReference):
            genomes.get(reference)


def test_deleting_takes_one_and_ignores_unknown_ids(genomes: Genomes) -> None:
    first, second = signed(SIGNER), signed(SIGNER, version="1.1.0")
    genomes.put(first)
    genomes.put(second)
    genomes.delete(second.manifest.id)
    genomes.delete("f" * 64)
    genomes.delete("../..")
    assert genomes.get("stack") == first
    assert genomes.faults() == ()


def test_the_id_covers_everything() -> None:
    one = genome(SIGNER.key_id)
    assert one.id != genome(SIGNER.key_id, created_at="2026-01-02T03:04:06Z").id
    assert one.id != genome(SIGNER.key_id, parent="0" * 64).id
