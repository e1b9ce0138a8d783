"""What every ``Consents`` must do. ``GAPS`` says which promise which part does not keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clonedna.core.block import ConsentRecord
from clonedna.core.errors import ConsentMissing
from clonedna.core.fakes import FakeConsents, FakeSigner
from clonedna.core.people import Account
from clonedna.core.seams import Consents
from clonedna.core.work import Identity
from clonedna.trust.consents import SelfConsents

ADA = Identity(name="Ada Example", email="ada@example.org")
BOB = Identity(name="Bob Sample", email="bob@example.org")
URL = "https://example.org/ada/abacus"
PARTS: dict[str, Callable[[Path], Consents]] = {
    "self": lambda home: SelfConsents(home / "consents", FakeSigner()),
    "fake": lambda home: FakeConsents(),
}
GAPS: dict[str, dict[str, str]] = {
    "fake": {"test_a_record_that_claims_more_than_was_granted_does_not_cover_it": "believes the record"},
}


@pytest.fixture(params=list(PARTS))
def consents(request: pytest.FixtureRequest, tmp_path: Path) -> Consents:
    gap = GAPS.get(request.param, {}).get(request.node.originalname)
    if gap:
        request.applymarker(pytest.mark.xfail(reason=gap, strict=True))
    return PARTS[request.param](tmp_path)


def test_an_author_grants_their_own_work(consents: Consents) -> None:
    record = consents.grant_self(ADA, [BOB, ADA], URL)
    assert (record.mode, record.status, record.repositories) == ("self", "granted", (URL,))
    assert not record.verified
    consents.check(record, "mint")
    consents.check(record, "serve")


@pytest.mark.parametrize("you", [None, BOB])
def test_nobody_else_does(consents: Consents, you: Identity | None) -> None:
    with pytest.raises(ConsentMissing) as caught:
        consents.grant_self(you, [ADA], URL)
    assert caught.value.hint


def test_the_same_grant_twice_is_the_same_record(consents: Consents) -> None:
    assert consents.grant_self(ADA, [ADA], URL) == consents.grant_self(ADA, [ADA], URL)


def test_local_only_needs_nobody_and_claims_nothing(consents: Consents) -> None:
    record = consents.local_only([BOB], URL)
    assert record == consents.local_only([BOB], URL)
    assert (record.mode, record.status, record.evidence, record.verified) == ("local-only", "none", "none", False)
    consents.check(record, "mint")
    consents.check(record, "serve")


def test_neither_is_enough_to_share(consents: Consents) -> None:
    for record in (consents.grant_self(ADA, [ADA], URL), consents.local_only([ADA], URL)):
        with pytest.raises(ConsentMissing) as caught:
            consents.check(record, "share")
        assert caught.value.hint


def test_a_record_that_claims_more_than_was_granted_does_not_cover_it(consents: Consents) -> None:
    record: ConsentRecord
    for record in (consents.grant_self(ADA, [ADA], URL), consents.local_only([ADA], URL)):
        with pytest.raises(ConsentMissing):
            consents.check(record.model_copy(update={"uses": ("mint", "serve", "share"), "verified": True}), "share")


def test_nobody_has_granted_anything_until_they_have(consents: Consents) -> None:
    with pytest.raises(ConsentMissing) as caught:
        consents.granted(Account(id=1001, login="ada-example"), ["ada-example/abacus"], "mint")
    assert caught.value.hint


def test_nobody_has_taken_anything_back_until_they_have(consents: Consents) -> None:
    consents.refuse_revoked([ADA, BOB], "ada-example")


def test_no_email_stands_in_a_record(consents: Consents) -> None:
    for record in (consents.grant_self(ADA, [ADA], URL), consents.local_only([BOB], URL)):
        assert "@" not in record.model_dump_json()
