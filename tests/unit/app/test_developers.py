"""The audit of one developer: what everybody sees, what only the person sees, who is the person, and taking everything back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from clonedna.app.developers import ASKED_MOST, Developers
from clonedna.app.holding import Holding
from clonedna.app.throttle import Throttle
from clonedna.core.block import Lineage
from clonedna.core.canonical import canonical, sha256
from clonedna.core.errors import (
    BlockRevoked,
    ConsentInvalid,
    ConsentRevoked,
    Corrupt,
    InputError,
    Overloaded,
    Unauthorised,
)
from clonedna.core.work import Identity
from tests.developers import ADA, BOB, World, world
from tests.unit.trust.small_github import ssh_key, ssh_sign
from tests.values import REPOSITORY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[World]:
    with world(tmp_path, monkeypatch) as made:
        yield made


def fault(work: Callable[[], object]) -> object:
    with pytest.raises(ConsentInvalid) as caught:
        work()
    assert caught.value.hint
    return caught.value.facts["fault"]


def test_everybody_sees_what_may_be_shared_and_nothing_else(here: World) -> None:
    parts = here.parts()
    here.block(parts, "open", here.consent(parts, ["mint", "serve", "share"]))
    here.block(parts, "closed")
    (shown,) = Developers(parts).show("@Ada-Example").blocks
    assert (shown.name, shown.licence, shown.consent, shown.audited) == ("open", "MIT", "granted", None)
    view = Developers(parts).show("ada-example")
    assert (view.account_id, view.standing, view.proven, view.revoked, view.given) == (ADA, "granted", False, (), None)
    assert Developers(parts).show("nobody-here").blocks == ()
    assert Developers(parts).show("bob-example").account_id is None
    assert "closed" not in view.model_dump_json()


def test_a_block_that_may_not_be_shared_is_not_public(here: World) -> None:
    parts = here.parts()
    here.block(parts, "mine", here.consent(parts, ["mint", "serve"]))
    assert Developers(parts).show("ada-example").blocks == ()


def test_the_person_sees_every_block_with_its_papers(here: World) -> None:
    parts = here.parts()
    consent = here.consent(parts, ["mint", "serve"])
    granted = here.block(parts, "granted", consent)
    here.block(parts, "closed")
    merged = here.block(parts, "both", consent, lineage=Lineage(parents=(granted.id,), relation="merged"))
    here.block(parts, "hers", here.consent(parts, ["mint"], "bob-example"), "bob-example")
    developers = Developers(parts)
    Holding(parts).note(granted.id, "downloaded", "token laptop (1)")
    opened = here.prove(developers)
    assert (opened.account_id, opened.handle) == (ADA, "ada-example")
    view = developers.show("ada-example", session=opened.token)
    assert [one.name for one in view.blocks] == ["closed", "granted"]
    closed, one = view.blocks
    assert (one.consent, closed.consent, closed.mode) == ("granted", "none", "local-only")
    assert one.audited is not None
    assert one.audited.consent == consent
    assert one.audited.sources[0].url.endswith("/ada-example")
    assert [(given.way, given.who) for given in one.audited.holders.holders] == [("downloaded", "token laptop (1)")]
    assert closed.audited is not None
    assert (closed.audited.holders.status, closed.audited.holders.holders) == ("measured", ())
    assert [(kin.id, kin.step) for kin in one.audited.kin] == [(merged.id, 1)]
    assert view.given is not None
    assert view.given.kind == "ssh"
    assert view.proven


def test_only_the_accounts_own_keys_prove_it(here: World) -> None:
    developers = Developers(here.parts())
    assert fault(lambda: here.prove(developers, key=here.bob)) == "wrong_key"
    other = here.home / "other"
    ssh_key(other)
    assert fault(lambda: here.prove(developers, key=other)) == "wrong_key"
    asked = developers.challenge("ada-example")
    text = asked.text.encode()
    # A signature for consent proves nothing here, and one of here gives no consent.
    assert fault(lambda: developers.prove("ada-example", text, ssh_sign(here.ada, text))) == "wrong_namespace"
    signed = ssh_sign(here.ada, text, asked.namespace)
    assert fault(lambda: developers.prove("bob-example", text, signed)) == "other_handle"
    assert fault(lambda: developers.prove("ada-example", text + b" ", signed)) == "not_canonical"
    assert fault(lambda: developers.prove("ada-example", b"{}", signed)) == "malformed"
    assert fault(lambda: developers.prove("ada-example", text, b"nothing")) == "malformed_signature"


def test_a_challenge_holds_once_and_ten_minutes(here: World) -> None:
    parts = here.parts()
    developers = Developers(parts)
    asked = developers.challenge("ada-example")
    text, signed = asked.text.encode(), ssh_sign(here.ada, asked.text.encode(), asked.namespace)
    developers.prove("ada-example", text, signed)
    # Another process over the same home knows it, too.
    assert fault(lambda: Developers(here.parts()).prove("ada-example", text, signed)) == "replayed"
    late = developers.challenge("ada-example")
    here.later(minutes=11)
    signed = ssh_sign(here.ada, late.text.encode(), late.namespace)
    assert fault(lambda: developers.prove("ada-example", late.text.encode(), signed)) == "expired"


def test_a_challenge_that_this_machine_did_not_make_proves_nothing(here: World) -> None:
    developers, elsewhere = Developers(here.parts()), Developers(here.parts("elsewhere"))

    def given(text: bytes) -> object:
        signed = ssh_sign(here.ada, text, "developer@clone.dna")
        return fault(lambda: developers.prove("ada-example", text, signed))

    assert given(elsewhere.challenge("ada-example").text.encode()) == "other_minter"
    fields = json.loads(developers.challenge("ada-example").text)
    assert given(canonical(fields | {"nonce": "0" * 32})) == "not_requested"
    assert given(canonical(fields | {"login": "bob-example"})) == "edited_text"
    # A revocation or a grant is no challenge.
    assert given(developers.challenge("ada-example", "revoke").text.encode()) == "malformed"


def test_a_session_is_for_one_handle_and_half_an_hour(here: World) -> None:
    parts = here.parts()
    developers = Developers(parts)
    token = here.prove(developers).token
    assert developers.show("Ada-Example", session=token).proven
    for handle, session in (
        ("bob-example", token),
        ("ada-example", token[:-1] + "?"),
        ("ada-example", "dnad_" + "A" * 43),
    ):
        with pytest.raises(Unauthorised):
            developers.show(handle, session=session)
        with pytest.raises(Unauthorised):
            developers.revoke(handle, session=session)
    kept = b"".join(path.read_bytes() for path in parts.settings.home.glob("registry.sqlite*"))
    assert sha256(token).encode() in kept
    assert token.encode() not in kept
    here.later(minutes=31)
    with pytest.raises(Unauthorised):
        developers.show("ada-example", session=token)


def test_the_person_takes_everything_back_by_the_session(here: World) -> None:
    parts = here.parts()
    consent = here.consent(parts, ["mint", "serve", "share"])
    block = here.block(parts, "open", consent)
    closed = here.block(parts, "closed")
    made = here.block(parts, "made", consent, lineage=Lineage(parents=(block.id,), relation="merged"))
    hers = here.block(parts, "hers", here.consent(parts, ["mint", "share"], "bob-example"), "bob-example")
    developers = Developers(parts)
    token = here.prove(developers).token
    Holding(parts).note(block.id, "pushed", "https://other.example")
    done = developers.revoke("ada-example", session=token)
    assert set(done.effects.blocks) == {block.id, closed.id}
    assert done.effects.derived == (made.id,)
    assert done.given is not None
    assert "in a session that key SHA256:" in done.given.how
    for one in (block, closed, made):
        with pytest.raises(BlockRevoked):
            parts.registry.resolve(one.id)
    assert parts.registry.resolve("hers").id == hers.id
    view = developers.show("ada-example", session=token)
    assert (view.blocks, view.standing) == ((), "revoked")
    assert {(one.id, one.reason) for one in view.revoked} == {
        (block.id, "consent-revoked"), (closed.id, "consent-revoked"), (made.id, "derived"),
    }  # fmt: skip
    assert {one.id: [to.who for to in one.holders.holders] for one in view.revoked}[block.id] == [
        "https://other.example"
    ]
    assert developers.show("ada-example").revoked == ()
    with pytest.raises(ConsentRevoked):
        parts.consents.refuse_revoked(
            [Identity(name="", email=f"{ADA}+ada-example@users.noreply.127.0.0.1")], "ada-example"
        )
    kinds = [entry.kind for entry in parts.audit.entries()]
    assert "proved" in kinds
    assert token not in "".join(entry.model_dump_json() for entry in parts.audit.entries())


def test_a_log_that_was_changed_tells_nobody_what_was_revoked(here: World) -> None:
    parts = here.parts()
    here.block(parts, "closed")
    developers = Developers(parts)
    token = here.prove(developers).token
    developers.revoke("ada-example", session=token)
    log = parts.settings.home / "audit" / "log.jsonl"
    envelopes = [json.loads(line) for line in log.read_bytes().splitlines()]
    for one in envelopes:
        entry = json.loads(base64.b64decode(one["payload"])) | {"about": "0" * 64}
        one["payload"] = base64.b64encode(canonical(entry)).decode()
    log.write_bytes(b"".join(canonical(one) + b"\n" for one in envelopes))
    with pytest.raises(Corrupt):
        developers.show("ada-example", session=token)


def test_who_never_was_asked_can_take_back_what_was_minted_without_asking(here: World) -> None:
    parts = here.parts()
    closed = here.block(parts, "closed")
    developers = Developers(parts)
    assert developers.revoke("ada-example", session=here.prove(developers).token).effects.blocks == (closed.id,)
    with pytest.raises(ConsentRevoked):
        parts.consents.refuse_revoked([], "ada-example")


def test_a_signed_revocation_needs_no_session(here: World) -> None:
    parts = here.parts()
    block = here.block(parts, "open", here.consent(parts, ["mint", "share"]))
    developers = Developers(parts)
    asked = developers.challenge("ada-example", "revoke")
    text = asked.text.encode()
    assert (
        fault(lambda: developers.revoke("ada-example", statement=text, signature=ssh_sign(here.bob, text)))
        == "wrong_key"
    )
    assert (
        fault(lambda: developers.revoke("bob-example", statement=text, signature=ssh_sign(here.ada, text)))
        == "other_handle"
    )
    with pytest.raises(InputError):
        developers.revoke("ada-example")
    done = developers.revoke("ada-example", statement=text, signature=ssh_sign(here.ada, text, asked.namespace))
    assert done.effects.blocks == (block.id,)
    assert (
        fault(lambda: developers.revoke("ada-example", statement=text, signature=ssh_sign(here.ada, text)))
        == "replayed"
    )


def test_asking_for_a_revocation_pushes_no_request_out(here: World) -> None:
    parts = here.parts()
    asked = parts.granted_consents.request("ada-example", ["*"], ["mint"])
    developers = Developers(parts)
    for _ in range(3):
        developers.challenge("ada-example", "revoke")
    assert parts.granted_consents.standing("ada-example").requests == (asked,)


def test_who_takes_a_login_over_sees_and_revokes_nothing_of_who_had_it(here: World) -> None:
    parts = here.parts()
    granted = here.block(parts, "granted", here.consent(parts, ["mint", "serve", "share"]))
    closed = here.block(parts, "closed")
    taker = here.home / "taker"
    here.github.gone("ada-example", ADA)
    here.github.person("ada-example", 9009, signing=[ssh_key(taker)])
    developers = Developers(parts)
    assert fault(lambda: here.prove(developers)) == "wrong_key"
    token = here.prove(developers, key=taker).token
    assert developers.show("ada-example", session=token).blocks == ()
    assert developers.revoke("ada-example", session=token).effects.blocks == ()
    assert parts.registry.resolve("granted").id == granted.id
    assert parts.registry.resolve("closed").id == closed.id


def test_a_challenge_of_before_the_login_changed_hands_proves_nothing(here: World) -> None:
    developers = Developers(here.parts())
    asked = developers.challenge("ada-example")
    here.github.person("ada-example", 9009, signing=[ssh_key(here.home / "taker")])
    signed = ssh_sign(here.ada, asked.text.encode(), asked.namespace)
    assert fault(lambda: developers.prove("ada-example", asked.text.encode(), signed)) == "reused_login"
    here.github.gone("ada-example", BOB)
    assert fault(lambda: developers.prove("ada-example", asked.text.encode(), signed)) == "account_gone"


def test_one_handle_is_asked_about_so_often_and_no_more(here: World) -> None:
    developers = Developers(here.parts())
    for _ in range(ASKED_MOST):
        developers.challenge("ada-example")
    asked = len(here.github.asked)
    with pytest.raises(Overloaded) as caught:
        developers.challenge("@Ada-Example")
    assert caught.value.facts["retry_after"]
    assert len(here.github.asked) == asked
    developers.challenge("bob-example")


def test_a_throttle_forgets_what_is_long_ago() -> None:
    now = [0.0]
    throttle = Throttle(2, 60, clock=lambda: now[0])
    for _ in range(2):
        throttle.take("x")
    with pytest.raises(Overloaded):
        throttle.take("x")
    throttle.take("y")
    now[0] = 60.0
    throttle.take("x")


def test_a_self_asserted_block_of_the_accounts_numbered_address_is_the_persons(here: World) -> None:
    parts = here.parts()
    ada = Identity(name="Ada Example", email=f"{ADA}+ada-example@users.noreply.127.0.0.1")
    own = parts.consents.grant_self(ada, [ada], REPOSITORY.url)
    here.block(parts, "own", own, "somebody")
    developers = Developers(parts)
    (one,) = developers.show("ada-example", session=here.prove(developers).token).blocks
    assert (one.name, one.consent, one.shareable) == ("own", "self-asserted", False)


def test_a_block_whose_consent_cannot_be_read_keeps_nobody_from_taking_back(here: World) -> None:
    parts = here.parts()
    odd = here.block(parts, "odd", login="bob-example", files_too={"consent.json": b'{"mode": 1}'})
    mine = here.block(parts, "mine", files_too={"consent.json": b'{"mode": 2}'})
    block = here.block(parts, "open", here.consent(parts, ["mint", "share"]))
    developers = Developers(parts)
    token = here.prove(developers).token
    view = developers.show("ada-example", session=token)
    assert ([one.name for one in view.blocks], view.unreadable) == (["open"], (mine.id,))
    assert set(developers.revoke("ada-example", session=token).effects.blocks) == {block.id, mine.id}
    assert parts.registry.resolve("odd").id == odd.id
