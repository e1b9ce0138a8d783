"""The order of verification: of a block with every fault at once, the first is named; each one repaired shows the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clonedna.app.admission import admit
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord, Manifest
from clonedna.core.canonical import canonical, strict_json
from clonedna.core.errors import BlockRevoked, DnaError
from clonedna.core.fakes import FakeEngine
from clonedna.store.blocks import CONTENT, LIMITS, PAYLOAD_TYPE, verify_block
from clonedna.store.files import measure
from clonedna.store.store import DirectoryStore
from clonedna.trust.consents import SelfConsents
from clonedna.trust.keys import KeyRing
from tests.unit.store.making import manifest


def sign(block: Path, ring: KeyRing, **changes: Any) -> None:
    table = {name: measure(block / name, LIMITS[name]) for name in CONTENT}
    data = canonical({**manifest(table, ring.key_id).model_dump(mode="json"), **changes})
    (block / "manifest.json").write_bytes(data)
    (block / "signature.json").write_bytes(canonical(ring.sign(data, PAYLOAD_TYPE)))


def test_faults_are_found_in_the_order_that_is_promised(block: Path, ring: KeyRing, tmp_path: Path) -> None:
    stranger = KeyRing(tmp_path / "stranger")
    store, consents = DirectoryStore(tmp_path / "store", ring), SelfConsents(tmp_path / "consents", ring)
    parts = cast("Parts", SimpleNamespace(store=store, consents=consents))
    base, right = FakeEngine().base, (block / "README.md").read_bytes()
    at_last: dict[str, Any] = {"base_fingerprint": base.fingerprint, "base_model": base.id}
    wrong_licence = {**at_last, "license": "as you like"}
    consent = ConsentRecord.model_validate(strict_json((block / "consent.json").read_bytes()))
    revoked_consent = consent.model_copy(update={"status": "revoked"})

    def whole(record: ConsentRecord) -> Manifest:
        found = verify_block(block, ring)
        admit(parts, found, record, "serve", base=base)
        return found

    def digests_wrong(**changes: Any) -> None:
        (block / "README.md").write_bytes(right)
        sign(block, ring, **changes)
        (block / "README.md").write_bytes(right[:-1] + b"!")

    def schema_wrong(signer: KeyRing) -> None:
        digests_wrong()
        data = canonical(strict_json((block / "manifest.json").read_bytes()) | {"extra": 1})
        (block / "manifest.json").write_bytes(data)
        (block / "signature.json").write_bytes(canonical(signer.sign(data, PAYLOAD_TYPE)))

    def too_big() -> None:
        (block / "signature.json").write_bytes(b"{")
        os.truncate(block / "profile.md", LIMITS["profile.md"] + 1)

    def sound(**changes: Any) -> None:
        (block / "README.md").write_bytes(right)
        sign(block, ring, **changes)

    profile = (block / "profile.md").read_bytes()
    steps: list[tuple[Callable[[], object], ConsentRecord, str, str]] = [
        (too_big, revoked_consent, "block_corrupt", "profile.md"),
        (lambda: (block / "profile.md").write_bytes(profile), revoked_consent, "block_corrupt", "signature.json"),
        (lambda: schema_wrong(stranger), revoked_consent, "block_untrusted", "signature.json"),
        (lambda: schema_wrong(ring), revoked_consent, "block_corrupt", "manifest.json"),
        (lambda: digests_wrong(license="as you like"), revoked_consent, "block_corrupt", "README.md"),
        (lambda: sound(license="as you like"), revoked_consent, "wrong_base", "base_fingerprint"),
        (lambda: sound(**wrong_licence), revoked_consent, "licence_unknown", "license"),
        (lambda: sound(**at_last), revoked_consent, "consent_missing", "consent.json"),
    ]
    for repair, record, code, where in steps:
        repair()
        with pytest.raises(DnaError) as caught:
            whole(record)
        found = caught.value.facts.get("file", caught.value.facts.get("field"))
        assert (caught.value.code, found) == (code, where)
        assert caught.value.hint
    block_id = store.put(block)
    assert whole(consent).id == block_id
    store.revoke(block_id)
    with pytest.raises(BlockRevoked) as caught:
        whole(consent)
    assert caught.value.facts["id"] == block_id
