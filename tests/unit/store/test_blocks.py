"""A block is exactly what was signed: any other byte, file, link or key is refused, and the error names the file."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clonedna.core.block import Manifest
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import BlockCorrupt, BlockNotFound, BlockUntrusted, DnaError, SignatureInvalid
from clonedna.store import blocks
from clonedna.store.blocks import CONTENT, LIMITS, PAYLOAD_TYPE, block_id, file_table, pack, sign_block, verify_block
from clonedna.store.weights import check_weights
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import contents, manifest, weights, write_block

FILES = sorted(LIMITS)
file_names = st.sampled_from(FILES)
REFUSALS = (BlockCorrupt, SignatureInvalid, BlockUntrusted)


def refused(directory: Path, ring: KeyRing) -> DnaError:
    """The refusal that verifying raises, with the facts that every refusal has."""
    with pytest.raises(REFUSALS) as caught:
        verify_block(directory, ring)
    assert caught.value.hint
    assert str(caught.value.facts["file"]) in caught.value.message
    return caught.value


def named(directory: Path, ring: KeyRing) -> object:
    return refused(directory, ring).facts["file"]


def sign_raw(directory: Path, ring: KeyRing, data: bytes) -> None:
    """Sign whatever ``data`` is as the manifest: what a trusted but careless signer could do."""
    (directory / "manifest.json").write_bytes(data)
    (directory / "signature.json").write_bytes(canonical(ring.sign(data, PAYLOAD_TYPE)))


def resign(directory: Path, ring: KeyRing, **changes: object) -> None:
    """Sign a manifest over the files as they are now, with ``changes``, past every check of ``pack``."""
    table = {name: blocks.measure(directory / name, LIMITS[name]) for name in CONTENT}
    fields = {**manifest(table, ring.key_id).model_dump(mode="json"), **changes}
    sign_raw(directory, ring, canonical(fields))


# What is right is accepted.


def test_a_block_verifies_and_gives_its_manifest(block: Path, ring: KeyRing) -> None:
    found = verify_block(block, ring)
    assert found == Manifest.model_validate_json((block / "manifest.json").read_bytes())
    assert found.id == block_id(file_table(block))
    assert verify_block(block, ring, expect_id=found.id) == found


def test_equal_files_have_equal_ids_wherever_they_lie(tmp_path: Path, ring: KeyRing) -> None:
    first = write_block(tmp_path / "a", ring)
    assert write_block(tmp_path / "b", ring, created_at="2030-01-01T00:00:00Z").id == first.id
    assert write_block(tmp_path / "c", ring, note="other").id != first.id


def test_another_block_than_the_expected_is_refused(block: Path, ring: KeyRing) -> None:
    with pytest.raises(BlockCorrupt) as caught:
        verify_block(block, ring, expect_id="0" * 64)
    assert caught.value.facts["file"] == "manifest.json"


def test_no_directory_is_not_found(tmp_path: Path, ring: KeyRing) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(BlockNotFound):
            verify_block(path, ring)


# Any change is refused, and named.


def changed_and_restored(directory: Path, name: str, data: bytes, ring: KeyRing) -> object:
    path = directory / name
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        return named(directory, ring)
    finally:
        path.write_bytes(before)


@given(name=file_names, place=st.integers(0, 1_000_000), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=300)
def test_a_flipped_bit_anywhere_is_refused_and_the_file_named(
    original: Path, ring: KeyRing, name: str, place: int, bit: int
) -> None:
    data = bytearray((original / name).read_bytes())
    data[place % len(data)] ^= 1 << bit
    assert changed_and_restored(original, name, bytes(data), ring) == name


@given(name=file_names, tail=st.binary(min_size=1, max_size=9))
@settings(deadline=None, max_examples=100)
def test_appended_bytes_are_refused_and_the_file_named(original: Path, ring: KeyRing, name: str, tail: bytes) -> None:
    assert changed_and_restored(original, name, (original / name).read_bytes() + tail, ring) == name


@given(name=file_names, keep=st.integers(0, 1_000_000))
@settings(deadline=None, max_examples=100)
def test_truncated_files_are_refused_and_named(original: Path, ring: KeyRing, name: str, keep: int) -> None:
    data = (original / name).read_bytes()
    assert changed_and_restored(original, name, data[: keep % len(data)], ring) == name


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_and_named(block: Path, ring: KeyRing, name: str) -> None:
    (block / name).unlink()
    assert named(block, ring) == name


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "x.py",
        ".git",
        "readme.md",
        "Manifest.json",
        "README.md ",
        "REPLICA.md",
        "\u212a.md",
        "a\nb",
    ],
)
def test_an_added_file_is_refused_and_named(block: Path, ring: KeyRing, name: str) -> None:
    (block / name).write_bytes(b"")
    assert named(block, ring) == ascii(name)[1:-1]


def test_an_added_file_whose_name_is_not_text_is_refused_and_named(block: Path, ring: KeyRing) -> None:
    with open(os.fsencode(block) + b"/\xff\xfe", "wb"):
        pass
    assert named(block, ring) == "\\udcff\\udcfe"


def test_an_added_directory_is_refused(block: Path, ring: KeyRing) -> None:
    (block / "adapter").mkdir()
    assert named(block, ring) == "adapter"


@pytest.mark.parametrize("name", FILES)
def test_links_pipes_and_directories_are_refused_and_named(
    block: Path, ring: KeyRing, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (block / name).rename(elsewhere)
    makers: list[Callable[[], None]] = [
        lambda: (block / name).symlink_to(elsewhere), lambda: (block / name).hardlink_to(elsewhere),
        lambda: os.mkfifo(block / name), lambda: (block / name).mkdir(),
    ]  # fmt: skip
    for make in makers:
        make()
        error = refused(block, ring)
        assert error.facts["file"] == name
        assert error.facts["reason"] in ("not a regular file", "2 links to it, where there must be one")
        if (block / name).is_dir() and not (block / name).is_symlink():
            (block / name).rmdir()
        else:
            (block / name).unlink()
    elsewhere.rename(block / name)
    verify_block(block, ring)


@given(pair=st.lists(file_names, min_size=2, max_size=2, unique=True))
@settings(deadline=None, max_examples=45)
def test_swapped_files_are_refused_and_one_of_them_named(original: Path, ring: KeyRing, pair: list[str]) -> None:
    a, b = (original / name for name in pair)
    data = a.read_bytes(), b.read_bytes()
    a.write_bytes(data[1])
    b.write_bytes(data[0])
    try:
        assert named(original, ring) in pair
    finally:
        a.write_bytes(data[0])
        b.write_bytes(data[1])


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_block_by_the_same_signer_is_refused(
    block: Path, ring: KeyRing, tmp_path: Path, name: str
) -> None:
    write_block(tmp_path / "other", ring, {key: data + b"\n" for key, data in contents().items()}, name="bob")
    if (tmp_path / "other" / name).read_bytes() == (block / name).read_bytes():
        pytest.fail("the two blocks should differ in every file")
    shutil.copy(tmp_path / "other" / name, block / name)
    assert named(block, ring) in (name, "manifest.json")


def test_a_file_over_its_limit_is_refused_before_anything_is_read(block: Path, ring: KeyRing) -> None:
    (block / "signature.json").write_bytes(b"nonsense")
    for name in FILES:
        size = (block / name).stat().st_size
        os.truncate(block / name, LIMITS[name] + 1)  # sparse: takes no space
        error = refused(block, ring)
        assert (error.facts["file"], "allowed" in error.message) == (name, True)
        os.truncate(block / name, size)


# Who signed.


def test_an_unknown_signer_is_untrusted_until_trusted(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    stranger = KeyRing(tmp_path / "stranger")
    with pytest.raises(BlockUntrusted) as caught:
        verify_block(block, stranger)
    assert caught.value.facts["file"] == "signature.json"
    stranger.trust(ring.public_key)
    assert verify_block(block, stranger).name == "ada"


def envelope_bytes(block: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = strict_json((block / "signature.json").read_bytes())
    change(fields)
    (block / "signature.json").write_bytes(canonical(fields))


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(extra=1),
        lambda e: e.update(signatures=[]),
        lambda e: e.update(signatures=e["signatures"] * 2),
        lambda e: e["signatures"][0].update(extra=1),
        lambda e: e["signatures"][0].pop("keyid"),
        lambda e: e.update(payloadType="application/vnd.clonedna.consent+json"),
        lambda e: e.update(payload=e["payload"] + "===="),
        lambda e: e.update(payload=base64.b64encode(b"{}").decode()),
        lambda e: e.update(payload=1),
        lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"].rstrip("=")),
        lambda e: e["signatures"][0].update(sig=""),
        lambda e: e["signatures"][0].update(keyid=""),
        lambda e: e["signatures"][0].update(keyid="../private"),
        lambda e: e["signatures"][0].update(keyid=e["signatures"][0]["keyid"].upper()),
    ],
)
def test_any_other_envelope_is_refused(block: Path, ring: KeyRing, change: Callable[[dict[str, Any]], None]) -> None:
    envelope_bytes(block, change)
    assert named(block, ring) == "signature.json"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw + b"\n", lambda raw: raw.replace(b":", b": ", 1), lambda raw: b"\xef\xbb\xbf" + raw, lambda raw: b"",
        lambda raw: raw.decode().encode("utf-16"), lambda raw: b'{"' + b"\\u%04x" % raw[2] + raw[3:], lambda raw: b"[" * 200_000,
        lambda raw: raw[:-1] + b',"payload":"e30="}', lambda raw: b"NaN",
        lambda raw: b'"\\ud800"', lambda raw: b"1e999", lambda raw: b"\xff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["manifest.json", "signature.json"])
def test_another_spelling_of_the_same_values_is_refused(
    block: Path, ring: KeyRing, spoil: Callable[[bytes], bytes], name: str
) -> None:
    raw = spoil((block / name).read_bytes())
    if name == "manifest.json":
        sign_raw(block, ring, raw)  # the refusal must not hang on the signature alone
    (block / name).write_bytes(raw)
    assert named(block, ring) == name


# A trusted signer's mistakes are refused as well.


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0" * 64}, {"format": "dna/2"}, {"extra": 1}, {"name": "Ada"}, {"name": "../ada"}, {"version": "1"},
        {"created_by": "0" * 64},
        {"rank": "16"}, {"files": {}}, {"license": None},
    ],
)  # fmt: skip
def test_a_signed_manifest_that_is_not_one_of_ours_is_refused(
    block: Path, ring: KeyRing, changes: dict[str, object]
) -> None:
    resign(block, ring)
    verify_block(block, ring)
    resign(block, ring, **changes)
    assert named(block, ring) == "manifest.json"


def test_a_signed_table_with_another_set_of_files_is_refused(block: Path, ring: KeyRing) -> None:
    table = file_table(block)
    one = table["README.md"]
    for files in (
        {name: entry for name, entry in table.items() if name != "consent.json"},
        {**table, "../evil": one}, {**table, "manifest.json": one}, {**table, "signature.json": one},
    ):  # fmt: skip
        resign(block, ring, files={name: entry.model_dump() for name, entry in files.items()}, id=block_id(files))
        assert named(block, ring) == "manifest.json"


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"null", b'{"r": 1, "r": 2}', b'{"r": NaN}', b"\xff{}", b"[" * 200_000, b'{"a":1}{']
)
def test_a_signed_adapter_config_that_is_not_strict_json_is_refused(block: Path, ring: KeyRing, config: bytes) -> None:
    (block / "adapter_config.json").write_bytes(config)
    resign(block, ring)
    assert named(block, ring) == "adapter_config.json"


def tensor(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


BAD_WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "short prefix": b"\0" * 7,
    "pickle": b"\x80\x04\x95" + b"\0" * 40,
    "header longer than the file": (10_000).to_bytes(8, "little") + b"{}",
    "header over any bound": (2**63).to_bytes(8, "little") + b"{}",
    "header not JSON": (4).to_bytes(8, "little") + b"{abc" + b"\0" * 16,
    "header begins with a space": (4).to_bytes(8, "little") + b' {} ',
    "header a list": (4).to_bytes(8, "little") + b"[]  ",
    "duplicate tensors": (lambda h: len(h).to_bytes(8, "little") + h + b"\0" * 4)(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "no tensors": (2).to_bytes(8, "little") + b"{}",
    "bytes behind the tensors": weights() + b"\0",
    "bytes missing": weights()[:-1],
    "hole at the start": weights(a=tensor([2], 8, 16)),
    "hole between": weights(a=tensor([1], 0, 4), b=tensor([2], 8, 16)),
    "overlap": weights(a=tensor([3], 0, 12), b=tensor([2], 8, 16)),
    "same bytes twice": weights(a=tensor([4], 0, 16), b=tensor([4], 0, 16)),
    "shape and bytes differ": weights(a=tensor([3], 0, 16)),
    "negative shape": weights(a=tensor([-2, -2], 0, 16)),
    "huge shape": weights(a=tensor([2**70, 0], 0, 0), b=tensor([4], 0, 16)),
    "many dimensions": weights(a=tensor([1] * 9 + [4], 0, 16)),
    "true as a size": weights(a=tensor([True, 4], 0, 16)),
    "false as an offset": weights(a=tensor([4], False, 16)),
    "float offset": weights(a=tensor([4], 0.0, 16.0)),
    "backwards": weights(a=tensor([4], 16, 0)),
    "object dtype": weights(a=tensor([2], 0, 16, "O")),
    "integer dtype": weights(a=tensor([2], 0, 16, "I64")),
    "no dtype": weights(a={"shape": [4], "data_offsets": [0, 16]}),
    "more keys": weights(a=tensor([4], 0, 16, code="x")),
    "metadata not texts": weights(__metadata__={"a": 1}, a=tensor([4], 0, 16)),
    "metadata a list": weights(__metadata__=[], a=tensor([4], 0, 16)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_signed_weights_that_are_not_sound_safetensors_are_refused(block: Path, ring: KeyRing, case: str) -> None:
    (block / "adapter_model.safetensors").write_bytes(BAD_WEIGHTS[case])
    resign(block, ring)
    assert named(block, ring) == "adapter_model.safetensors"


def test_sound_weights_of_several_tensors_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    for data in (
        weights(__metadata__={"format": "pt"}, b=tensor([2, 2], 8, 16, "BF16"), a=tensor([2], 0, 8)),
        weights(a=tensor([0, 4], 0, 0), b=tensor([], 0, 4), c=tensor([3], 4, 16)),
    ):
        path.write_bytes(data)
        check_weights(path, 10**6)


def test_weights_as_the_safetensors_library_writes_them_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file(
        {"x.lora_A.weight": np.ones((4, 8), np.float32), "y": np.ones((3,), np.float16)},
        path,
        metadata={"format": "pt"},
    )
    check_weights(path, 10**6)


# Packing and signing.


def test_packing_the_same_files_again_gives_the_same_bytes(tmp_path: Path, ring: KeyRing) -> None:
    write_block(tmp_path / "a", ring)
    write_block(tmp_path / "b", ring)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_packing_again_takes_the_old_signature_away(block: Path, ring: KeyRing) -> None:
    pack(block, manifest(file_table(block), ring.key_id, name="other"))
    assert not (block / "signature.json").exists()
    sign_block(block, ring)
    assert verify_block(block, ring).name == "other"


def test_what_a_killed_signing_left_is_cleared_away(block: Path, ring: KeyRing) -> None:
    (block / ".signature.json.6496.tmp").write_bytes(b"{")
    sign_block(block, ring)
    assert verify_block(block, ring).name
    assert not list(block.glob(".*"))


def test_a_manifest_that_is_not_of_these_files_is_neither_packed_nor_signed(block: Path, ring: KeyRing) -> None:
    made = verify_block(block, ring)
    (block / "README.md").write_bytes(b"something else")
    for act in (lambda: pack(block, made), lambda: sign_block(block, ring)):
        with pytest.raises(BlockCorrupt) as caught:
            act()
        assert caught.value.facts["file"] == "README.md"
    with pytest.raises(BlockCorrupt) as caught:
        pack(block, made.model_copy(update={"id": "0" * 64}))
    assert caught.value.facts["file"] == "manifest.json"


def test_only_the_key_that_the_manifest_names_signs_it(block: Path, tmp_path: Path) -> None:
    with pytest.raises(BlockCorrupt, match="created_by"):
        sign_block(block, KeyRing(tmp_path / "other"))


def test_a_directory_with_too_few_or_too_many_files_has_no_table(block: Path) -> None:
    (block / "notes.txt").write_text("x")
    with pytest.raises(BlockCorrupt, match=r"notes\.txt"):
        file_table(block)
    (block / "notes.txt").unlink()
    (block / "profile.md").unlink()
    with pytest.raises(BlockCorrupt, match=r"profile\.md"):
        file_table(block)
