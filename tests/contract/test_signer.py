"""What every ``Signer`` must do. ``GAPS`` says which promise which part does not keep."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.errors import BlockUntrusted, SignatureInvalid
from clonedna.core.fakes import FakeSigner
from clonedna.core.seams import Signer
from clonedna.trust.keys import KeyRing

TYPE = "application/example"
PARTS: dict[str, Callable[[Path], Signer]] = {
    "keyring": lambda home: KeyRing(home / "keys"),
    "fake": lambda home: FakeSigner(),
}
GAPS: dict[str, dict[str, str]] = {
    "fake": {
        "test_a_strangers_signature_is_untrusted": "every fake signer is the same one",
        "test_not_exactly_one_signature_is_refused": "looks at the first one only",
        "test_a_claim_to_another_key_is_refused": "does not look at the key id",
    },
}


@pytest.fixture(params=list(PARTS))
def make(request: pytest.FixtureRequest) -> Callable[[Path], Signer]:
    gap = GAPS.get(request.param, {}).get(request.node.originalname)
    if gap:
        request.applymarker(pytest.mark.xfail(reason=gap, strict=True))
    return PARTS[request.param]


@pytest.fixture
def signer(make: Callable[[Path], Signer], tmp_path: Path) -> Signer:
    return make(tmp_path)


@pytest.mark.parametrize("name", list(PARTS))
@given(payload=st.binary(max_size=300), kind=st.text(min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_what_was_signed_comes_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, payload: bytes, kind: str
) -> None:
    signer = PARTS[name](tmp_path_factory.getbasetemp() / "shared-signer")
    envelope = signer.sign(payload, kind)
    assert base64.b64decode(envelope.payload, validate=True) == payload
    assert [entry.keyid for entry in envelope.signatures] == [signer.key_id]
    assert signer.verify(envelope, kind) == payload


def test_the_key_is_the_same_each_time(make: Callable[[Path], Signer], tmp_path: Path) -> None:
    assert make(tmp_path).key_id == make(tmp_path).key_id
    assert len(make(tmp_path).key_id) == 64


def test_another_payload_type_or_signature_is_refused(signer: Signer) -> None:
    envelope = signer.sign(b"payload", TYPE)
    other = signer.sign(b"another", TYPE)
    for forged in (
        envelope.model_copy(update={"payload": other.payload}),
        envelope.model_copy(update={"payloadType": "application/other"}),
        envelope.model_copy(update={"signatures": other.signatures}),
    ):
        with pytest.raises(SignatureInvalid) as caught:
            signer.verify(forged, TYPE)
        assert caught.value.hint
    with pytest.raises(SignatureInvalid):
        signer.verify(envelope, "application/other")


def test_a_strangers_signature_is_untrusted(make: Callable[[Path], Signer], tmp_path: Path) -> None:
    envelope = make(tmp_path / "stranger").sign(b"payload", TYPE)
    with pytest.raises(BlockUntrusted):
        make(tmp_path / "home").verify(envelope, TYPE)


def test_not_exactly_one_signature_is_refused(signer: Signer) -> None:
    envelope = signer.sign(b"payload", TYPE)
    with pytest.raises(SignatureInvalid):
        signer.verify(envelope.model_copy(update={"signatures": envelope.signatures * 2}), TYPE)


def test_a_claim_to_another_key_is_refused(signer: Signer) -> None:
    envelope = signer.sign(b"payload", TYPE)
    claimed = envelope.signatures[0].model_copy(update={"keyid": "0" * 64})
    with pytest.raises((BlockUntrusted, SignatureInvalid)):
        signer.verify(envelope.model_copy(update={"signatures": (claimed,)}), TYPE)
