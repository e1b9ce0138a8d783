"""Consent of one's own: given by the git identity at the keyboard, signed, used again while valid, and never enough to share."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.core.block import ConsentRecord
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import ConsentMissing
from clonedna.core.work import Identity
from clonedna.trust.consents import PAYLOAD_TYPE, SelfConsents
from clonedna.trust.keys import KeyRing

ADA = Identity(name="Ada Example", email="Ada@Example.org")
ADA_AT_WORK = Identity(name="ada", email="ada@work.example")
BOB = Identity(name="Bob Sample", email="bob@example.org")
URL = "https://example.org/ada/abacus"


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


@pytest.fixture
def consents(tmp_path: Path, ring: KeyRing, clock: Clock) -> SelfConsents:
    return SelfConsents(tmp_path / "consents", ring, clock)


def signed(ring: KeyRing, record: ConsentRecord, **changes: object) -> ConsentRecord:
    """``record`` with its statement changed and signed again by ``ring``, and the record's own fields following it."""
    fields = {**strict_json(record.statement), **changes}
    text = canonical(fields).decode()
    sig = ring.sign(text.encode(), PAYLOAD_TYPE).signatures[0].sig
    follow = {"issued_at": fields["issued"], "expires_at": fields["expires"], "uses": tuple(fields["uses"])}
    return record.model_copy(update={"statement": text, "signature": sig, **follow})


def test_the_statement_binds_who_what_until_when_and_is_signed(consents: SelfConsents, ring: KeyRing) -> None:
    record = consents.grant_self(ADA, [BOB, ADA], URL)
    statement = strict_json(record.statement)
    assert canonical(statement).decode() == record.statement
    assert statement["subject"] == record.subject == "Ada Example"
    assert statement["identity_digest"] == record.identity_digest == sha256("ada@example.org")
    assert statement["identities"] == sorted([sha256("ada@example.org"), sha256("bob@example.org")])
    assert (statement["action"], statement["repository"], statement["uses"]) == ("grant", URL, ["mint", "serve"])
    assert (statement["issued"], statement["expires"]) == ("2026-03-04T05:06:07Z", "2027-03-04T05:06:07Z")
    assert (statement["serial"], statement["key_id"], statement["evidence"]) == (1, ring.key_id, "self-asserted")
    assert (record.mode, record.status, record.evidence, record.verified) == ("self", "granted", "self-asserted", False)


def test_no_email_is_kept_in_clear(consents: SelfConsents, tmp_path: Path) -> None:
    records = [consents.grant_self(ADA, [ADA, BOB], URL), consents.local_only([BOB], URL)]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "consents").iterdir())
    for text in (*(record.model_dump_json().encode() for record in records), stored):
        assert b"@" not in text


@pytest.mark.parametrize(
    "you", [None, BOB, Identity(name="Ada Example"), Identity(name="Ada Example", email="other@example.org")]
)
def test_whoever_is_not_among_the_authors_cannot_grant(
    consents: SelfConsents, tmp_path: Path, you: Identity | None
) -> None:
    with pytest.raises(ConsentMissing) as caught:
        consents.grant_self(you, [ADA], URL)
    assert "local-only" in caught.value.hint
    assert not (tmp_path / "consents").exists()


def test_the_same_mint_twice_carries_the_same_record_and_another_repository_another(
    consents: SelfConsents, tmp_path: Path, ring: KeyRing, clock: Clock
) -> None:
    first = consents.grant_self(ADA, [ADA, ADA_AT_WORK], URL)
    clock.now += timedelta(days=364)
    again = SelfConsents(tmp_path / "consents", ring, clock)
    assert again.grant_self(ADA, [ADA_AT_WORK, ADA], URL) == first
    assert again.grant_self(ADA, [ADA], URL) != first
    assert again.grant_self(ADA, [ADA, ADA_AT_WORK], URL + "2") != first


def test_an_expired_consent_covers_nothing_and_is_given_anew_with_a_higher_serial(
    consents: SelfConsents, clock: Clock
) -> None:
    first = consents.grant_self(ADA, [ADA], URL)
    clock.now += timedelta(days=365)
    with pytest.raises(ConsentMissing, match="expired"):
        consents.check(first, "mint")
    second = consents.grant_self(ADA, [ADA], URL)
    consents.check(second, "mint")
    assert json.loads(second.statement)["serial"] == 2


def test_home_uses_are_covered_and_sharing_never(consents: SelfConsents) -> None:
    for record in (consents.grant_self(ADA, [ADA], URL), consents.local_only([ADA], URL)):
        for use in ("mint", "serve"):
            consents.check(record, use)
        for use in ("share", "", "Mint", "anything"):
            with pytest.raises(ConsentMissing) as caught:
                consents.check(record, use)
            assert caught.value.hint
        # Even a record that claims it.
        with pytest.raises(ConsentMissing):
            consents.check(record.model_copy(update={"uses": ("mint", "serve", "share")}), "share")
        with pytest.raises(ConsentMissing):
            consents.check(record.model_copy(update={"uses": ()}), "mint")


def test_local_only_claims_nothing_and_has_no_times(consents: SelfConsents) -> None:
    record = consents.local_only([BOB], URL)
    assert record == consents.local_only([BOB], URL)
    assert (record.status, record.statement, record.signature, record.verified) == ("none", "", "", False)
    assert (record.issued_at, record.expires_at) == (None, None)
    assert record.identity_digest == sha256("bob@example.org")
    with pytest.raises(ConsentMissing):
        consents.check(record.model_copy(update={"status": "revoked"}), "mint")


def test_somebody_elses_consent_cannot_be_verified_here(consents: SelfConsents) -> None:
    record = consents.grant_self(ADA, [ADA], URL).model_copy(
        update={"mode": "granted", "evidence": "ssh", "verified": True}
    )
    with pytest.raises(ConsentMissing):
        consents.check(record, "mint")


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "revoked"}, {"status": "none"}, {"repositories": ("https://example.org/other",)}, {"subject": "Bob"},
        {"identity_digest": "0" * 64}, {"evidence": "ssh"}, {"verified": True}, {"expires_at": "2099-01-01T00:00:00Z"},
        {"issued_at": None}, {"key_id": "0" * 64}, {"statement": ""}, {"signature": ""}, {"revocable": False}, {"how": "verified"},
        {"statement": "\ud800"},
    ],
)  # fmt: skip
def test_a_record_that_says_more_than_its_statement_is_refused(
    consents: SelfConsents, changes: dict[str, object]
) -> None:
    record = consents.grant_self(ADA, [ADA], URL)
    with pytest.raises(ConsentMissing):
        consents.check(record.model_copy(update=changes), "mint")


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": "2027-03-05T05:06:08Z"}, {"expires": "2026-03-04T05:06:07Z"}, {"expires": "soon"},
        {"issued": "2026-03-04T05:16:07Z"}, {"action": "revoke"}, {"uses": ["mint", "share"]}, {"uses": ["mint"]},
        {"extra": 1}, {"format": "other"}, {"serial": 0},
    ],
)  # fmt: skip
def test_a_signed_statement_outside_the_rules_is_refused(
    consents: SelfConsents, ring: KeyRing, changes: dict[str, object]
) -> None:
    record = consents.grant_self(ADA, [ADA], URL)
    consents.check(signed(ring, record), "mint")
    with pytest.raises(ConsentMissing):
        consents.check(signed(ring, record, **changes), "mint")


def test_a_signed_statement_that_is_not_canonical_json_is_refused(consents: SelfConsents, ring: KeyRing) -> None:
    record = consents.grant_self(ADA, [ADA], URL)
    for text in (
        record.statement + " ",
        record.statement.replace('"serial":1', '"serial":1,"serial":1'),
        "[]",
        "[" * 100_000,
    ):
        sig = ring.sign(text.encode(), PAYLOAD_TYPE).signatures[0].sig
        with pytest.raises(ConsentMissing):
            consents.check(record.model_copy(update={"statement": text, "signature": sig}), "mint")


def test_a_statement_by_a_key_that_is_not_trusted_is_refused(
    consents: SelfConsents, tmp_path: Path, ring: KeyRing, clock: Clock
) -> None:
    other = KeyRing(tmp_path / "other")
    theirs = SelfConsents(tmp_path / "theirs", other, clock).grant_self(ADA, [ADA], URL)
    with pytest.raises(ConsentMissing, match="not trusted"):
        consents.check(theirs, "mint")
    ring.trust(other.public_key)
    consents.check(theirs, "mint")


@given(place=st.integers(0, 10_000), bit=st.integers(0, 6))
@settings(deadline=None, max_examples=150)
def test_a_flipped_bit_in_statement_or_signature_is_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    home = tmp_path_factory.getbasetemp() / "shared-consents"
    consents = SelfConsents(home / "consents", KeyRing(home / "keys"))
    record = consents.grant_self(ADA, [ADA], URL)
    field = "statement" if place % 2 else "signature"
    raw = bytearray(getattr(record, field).encode())
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(ConsentMissing):
        consents.check(record.model_copy(update={field: raw.decode()}), "mint")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_damaged_stored_consent_is_an_error_and_is_not_replaced(
    consents: SelfConsents, tmp_path: Path, content: bytes
) -> None:
    consents.grant_self(ADA, [ADA], URL)
    path = next((tmp_path / "consents").glob("*.json"))
    path.write_bytes(content)
    with pytest.raises(ConsentMissing, match="damaged"):
        consents.grant_self(ADA, [ADA], URL)
    assert path.read_bytes() == content
