"""The block format: which files there are, the id over them, packing, signing, and verifying before anything is believed.

A block is a directory of exactly the files in ``LIMITS``, and of those ``PICTURES`` of its model card that the manifest lists.
``manifest.json`` (canonical JSON) lists size and SHA-256 of every other file but ``signature.json``, its ``id`` is the digest of that list,
and ``signature.json`` is a DSSE envelope over the manifest's exact bytes: no file can be changed, swapped, added or removed without a
trusted key. What this cannot tell: whether what the signer says is true.

To make one: put all but manifest and signature into a directory, ``file_table`` and ``block_id``, ``pack``, ``sign_block``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import rfc8785

from clonedna.core.block import Envelope, FileEntry, Manifest
from clonedna.core.canonical import canonical, digest, strict_json
from clonedna.core.errors import BlockUnsigned, BlockUntrusted, KeyLogInvalid, SignatureInvalid
from clonedna.core.seams import Signer
from clonedna.store.files import closed_world, corrupt, measure, read_small, remove, write_atomic
from clonedna.store.weights import check_weights

PAYLOAD_TYPE = "application/vnd.clonedna.manifest+json"
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MB = 1_000_000
# Every file of a block and the most bytes it may have. Together they stay under 4 GiB, so that an archive needs no zip64.
LIMITS = {
    CONFIG: MB,
    WEIGHTS: 3000 * MB,
    "README.md": 4 * MB,
    "consent.json": MB,
    "eval.json": 64 * MB,
    MANIFEST: MB,
    "pairs.jsonl": 512 * MB,
    "profile.md": 4 * MB,
    SIGNATURE: 2 * MB,
    "sources.json": 64 * MB,
}
CONTENT = tuple(sorted(set(LIMITS) - {MANIFEST, SIGNATURE}))
# What a block may have besides: pictures that its model card shows, PNG because every hub and viewer shows it and none runs it.
PICTURES = {"plot-holdout.png": 2 * MB, "plot-style.png": 2 * MB, "plot-training.png": 2 * MB}
ALLOWED = {**LIMITS, **PICTURES}
_PNG = b"\x89PNG\r\n\x1a\n"


def block_id(files: dict[str, FileEntry]) -> str:
    """The id of a block with these files: SHA-256 over the canonical JSON of the table."""
    return digest(files)


def file_table(directory: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of the files in ``directory`` that a manifest lists. Raises ``BlockCorrupt`` when one is missing or too many."""
    closed_world(directory, CONTENT, ALLOWED)
    return {name: measure(directory / name, ALLOWED[name]) for name in (*CONTENT, *pictures_in(directory))}


def pictures_in(directory: Path) -> tuple[str, ...]:
    """Names of the pictures that are there, whatever they are."""
    return tuple(name for name in PICTURES if os.path.lexists(directory / name))


def pack(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` (canonical, atomically) beside the files that it lists; an old signature goes.

    Raises ``BlockCorrupt`` when the manifest's table or id is not that of the files, or the files are not those of a block; ``NoSpace``.
    """
    closed_world(directory, CONTENT, ALLOWED)
    _check_table(directory, manifest)
    _check_bytes(directory, manifest)
    remove(directory / SIGNATURE)
    data = canonical(manifest)
    if len(data) > LIMITS[MANIFEST]:
        raise corrupt(MANIFEST, f"{len(data)} bytes, more than the {LIMITS[MANIFEST]} allowed")
    write_atomic(directory / MANIFEST, data)


def sign_block(directory: Path, signer: Signer) -> Envelope:
    """Write ``signature.json`` over the exact bytes of ``manifest.json``. Never signs a manifest that is not true of the files beside it.

    Raises ``BlockCorrupt`` (also when the manifest's ``created_by`` is not this signer's key), ``NoSpace``.
    """
    for left in directory.glob(f".{SIGNATURE}.*.tmp"):  # of a process that was killed while it signed
        remove(left)
    closed_world(directory, (*CONTENT, MANIFEST), ALLOWED)
    data = read_small(directory / MANIFEST, LIMITS[MANIFEST])
    manifest = _manifest(data)
    _check_table(directory, manifest)
    _check_bytes(directory, manifest)
    if manifest.created_by != signer.key_id:
        raise corrupt(MANIFEST, "created_by is not the key that is to sign it")
    envelope = signer.sign(data, PAYLOAD_TYPE)
    write_atomic(directory / SIGNATURE, canonical(envelope))
    return envelope


def verify_block(directory: Path, signer: Signer, *, expect_id: str | None = None) -> Manifest:
    """The manifest, when every file of the block is the one that a trusted key signed.

    Order: sizes and the closed set of files; the envelope; its key and signature; the manifest; its id; size and digest of every file;
    and only then a look into the adapter's configuration and header. Raises ``BlockNotFound``, ``BlockCorrupt``, ``SignatureInvalid``,
    ``BlockUntrusted`` (``BlockUnsigned``, ``KeyCompromised``, ``KeyWeak``), each with ``facts["file"]``; ``Unavailable`` when a file
    cannot be read.
    """
    manifest = authenticate(directory, signer, expect_id=expect_id)
    _check_bytes(directory, manifest)
    check_contents(directory)
    return manifest


def authenticate(directory: Path, signer: Signer, *, expect_id: str | None = None) -> Manifest:
    """The part of ``verify_block`` that reads no content: the manifest as a trusted key signed it. The files are not looked into yet."""
    closed_world(directory, set(LIMITS) - {SIGNATURE}, ALLOWED)
    if not os.path.lexists(directory / SIGNATURE):
        raise BlockUnsigned(
            f"{SIGNATURE}: missing: nobody vouches for this block",
            "get the signed block from who made it, and believe its signer: dna keys trust", file=SIGNATURE,
        )  # fmt: skip
    envelope = _envelope(read_small(directory / SIGNATURE, LIMITS[SIGNATURE]))
    try:
        payload = signer.verify(envelope, PAYLOAD_TYPE)
    except (SignatureInvalid, BlockUntrusted, KeyLogInvalid) as error:
        facts = {**error.facts, "file": SIGNATURE}
        raise type(error)(f"{SIGNATURE}: {error.message}", error.hint, **facts) from error
    if read_small(directory / MANIFEST, LIMITS[MANIFEST]) != payload:
        raise corrupt(MANIFEST, "not the manifest that was signed")
    manifest = _manifest(payload)
    if manifest.created_by != envelope.signatures[0].keyid:
        raise corrupt(MANIFEST, "created_by is not the key that signed it")
    _check_table(directory, manifest)
    if expect_id is not None and manifest.id != expect_id:
        raise corrupt(MANIFEST, f"this is block {manifest.id[:12]}, not {expect_id[:12]}")
    return manifest


def check_file(name: str, found: FileEntry, listed: FileEntry) -> None:
    """Raises ``BlockCorrupt`` when what was found is not what the manifest lists."""
    if found.size != listed.size:
        raise corrupt(name, f"{found.size} bytes, but {listed.size} were signed")
    if found.sha256 != listed.sha256:
        raise corrupt(name, "not the bytes that were signed")


def check_contents(directory: Path) -> None:
    """Of verified files: ``adapter_config.json`` is a strict JSON object, the safetensors header sound, a picture a PNG by its first bytes.

    Raises ``BlockCorrupt``.
    """
    if not isinstance(_json(CONFIG, read_small(directory / CONFIG, LIMITS[CONFIG])), dict):
        raise corrupt(CONFIG, "not a JSON object")
    check_weights(directory / WEIGHTS, LIMITS[WEIGHTS])
    for name in pictures_in(directory):
        if not read_small(directory / name, PICTURES[name]).startswith(_PNG):
            raise corrupt(name, "not a PNG picture")


def _check_table(directory: Path, manifest: Manifest) -> None:
    """All content is listed, and of the pictures those that are there."""
    listed = set(manifest.files)
    if not listed.issuperset(CONTENT) or not listed.issubset({*CONTENT, *PICTURES}):
        raise corrupt(MANIFEST, "does not list the files of a block")
    for name in sorted(listed.symmetric_difference((*CONTENT, *pictures_in(directory)))):
        raise corrupt(name, "missing" if name in listed else "not listed in the manifest")
    if manifest.id != block_id(manifest.files):
        raise corrupt(MANIFEST, "its id is not the digest of its files")


def _check_bytes(directory: Path, manifest: Manifest) -> None:
    for name in sorted(manifest.files):
        check_file(name, measure(directory / name, ALLOWED[name]), manifest.files[name])


def _json(name: str, data: bytes) -> Any:
    """Strict JSON in UTF-8. Raises ``BlockCorrupt``."""
    try:
        return strict_json(data.decode())
    except (ValueError, RecursionError) as error:
        raise corrupt(name, f"not strict JSON: {error}") from error


def _canonical_json(name: str, data: bytes) -> Any:
    """As ``_json``, and in the one form that equal values have (RFC 8785). Raises ``BlockCorrupt``."""
    value = _json(name, data)
    try:
        same = rfc8785.dumps(value) == data
    except (rfc8785.CanonicalizationError, RecursionError):
        same = False
    if not same:
        raise corrupt(name, "not canonical JSON")
    return value


def _envelope(data: bytes) -> Envelope:
    try:
        envelope = Envelope.model_validate(_canonical_json(SIGNATURE, data))
    except ValueError as error:
        raise corrupt(SIGNATURE, "not a DSSE envelope") from error
    if len(envelope.signatures) != 1:
        raise corrupt(SIGNATURE, f"{len(envelope.signatures)} signatures where there must be one")
    return envelope


def _manifest(data: bytes) -> Manifest:
    _canonical_json(MANIFEST, data)
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValueError as error:
        raise corrupt(MANIFEST, f"not a manifest of this format: {error}") from error
