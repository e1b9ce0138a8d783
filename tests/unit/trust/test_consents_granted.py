"""Consent of somebody else: real SSH keys, a small GitHub, and everything that must not pass, each with its own fault."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import (
    ConsentInvalid,
    ConsentMissing,
    ConsentRevoked,
    Corrupt,
    DnaError,
    InputError,
    Unavailable,
)
from clonedna.core.work import Identity
from clonedna.trust.audit import AuditLog
from clonedna.trust.consents import SelfConsents
from clonedna.trust.consents_granted import GrantedConsents
from clonedna.trust.evidence import Signers, sound_key, verify_ssh
from clonedna.trust.evidence_github import GitHubAccounts
from clonedna.trust.keys import KeyRing
from clonedna.trust.statements import Fault, Statement, made, parsed, words
from tests.unit.trust.small_github import SmallGitHub, small_github, ssh_key, ssh_sign

ADA, BOB = 1001, 2002
REPOSITORY = "ada-example/abacus"
COMMIT = "c" * 40


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class World:
    """One minter's machine, a small GitHub, and two people with keys."""

    home: Path
    clock: Clock
    github: SmallGitHub
    ring: KeyRing
    ada: Path
    bob: Path

    def consents(
        self, *, tool: str | None = "", home: Path | None = None, ring: KeyRing | None = None
    ) -> GrantedConsents:
        home, ring = home or self.home, ring or self.ring
        audit = AuditLog(home / "audit", ring, self.clock)
        return GrantedConsents(home / "consents", ring, GitHubAccounts(self.github.url), audit, self.clock, tool=tool)

    def ask(self, handle: str = "ada-example", **changes: object) -> Statement:
        wanted: dict[str, object] = {"repositories": [REPOSITORY], "uses": ["mint", "serve"]}
        return self.consents().request(handle, **(wanted | changes))  # type: ignore[arg-type]

    def granted(self, **changes: object) -> Statement:
        statement = self.ask(**changes)
        self.consents().grant(statement.data(), signature=ssh_sign(self.ada, statement.data()))
        return statement


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (("ada", "ed25519"), ("bob", "ed25519"), ("rsa", "rsa"), ("ecdsa", "ecdsa"), ("old", "ed25519")):
        ssh_key(folder / name, kind)
    return folder


def line(path: Path) -> str:
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture
def world(tmp_path: Path, keys: Path) -> Generator[World]:
    with small_github() as github:
        github.person("ada-example", ADA, signing=[line(keys / "ada")])
        github.person("bob-sample", BOB, keys=[line(keys / "bob")])
        yield World(tmp_path, Clock(), github, KeyRing(tmp_path / "keys"), keys / "ada", keys / "bob")


def fault(work: Callable[[], object]) -> str:
    with pytest.raises(ConsentInvalid) as caught:
        work()
    assert caught.value.hint
    return str(caught.value.facts["fault"])


def altered(statement: Statement, **changes: object) -> Statement:
    """Another statement, whose words fit its fields again."""
    fields = statement.model_dump(mode="json") | changes
    del fields["text_sha256"]
    return made(text_of=fields)


# The way it should go.


def test_asked_signed_granted_used(world: World) -> None:
    assert world.consents().standing("ada-example").status == "none"
    statement = world.ask()
    assert (statement.account_id, statement.login, statement.serial, statement.minter) == (
        ADA,
        "ada-example",
        1,
        world.ring.key_id,
    )
    assert sha256(words(statement)) == statement.text_sha256
    assert world.consents().standing("ada-example").status == "requested"
    given = world.consents().grant(statement.data(), signature=ssh_sign(world.ada, statement.data()))
    assert (given.kind, given.how, given.at) == ("ssh", "ssh-keygen -Y verify", "2026-03-04T05:06:07Z")
    assert given.key.startswith("SHA256:")
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    assert (record.mode, record.status, record.evidence, record.verified) == ("granted", "granted", "ssh", True)
    assert record == world.consents().granted("ada-example", [REPOSITORY], "mint")
    for use in ("mint", "serve"):
        world.consents().check(record, use)
    assert "@" not in record.how


@pytest.mark.parametrize("tool", ["", None], ids=["ssh-keygen", "library"])
@pytest.mark.parametrize("kind", ["ada", "rsa"])
def test_ed25519_and_rsa_are_verified_by_both(world: World, keys: Path, kind: str, tool: str | None) -> None:
    world.github.person("ada-example", ADA, signing=[line(keys / "ada")], keys=[line(keys / "rsa")])
    statement = world.ask()
    signature = ssh_sign(keys / kind, statement.data())
    assert world.consents(tool=tool).grant(statement.data(), signature=signature).kind == "ssh"


def test_without_ssh_keygen_other_kinds_are_not_verified_and_so_refused(world: World, keys: Path) -> None:
    world.github.person("ada-example", ADA, keys=[line(keys / "ecdsa")])
    statement = world.ask()
    signature = ssh_sign(keys / "ecdsa", statement.data())
    assert fault(lambda: world.consents(tool=None).grant(statement.data(), signature=signature)) == "not_verified"
    assert world.consents().grant(statement.data(), signature=signature).how == "ssh-keygen -Y verify"


def test_an_editor_may_end_the_file_with_a_newline(world: World) -> None:
    statement = world.ask()
    world.consents().grant(statement.data() + b"\n", signature=ssh_sign(world.ada, statement.data()))


# Evidence that does not hold.


@pytest.mark.parametrize("tool", ["", None], ids=["ssh-keygen", "library"])
def test_forged_signatures(world: World, tool: str | None) -> None:
    statement = world.ask()
    data = statement.data()
    consents = world.consents(tool=tool)
    assert fault(lambda: consents.grant(data, signature=ssh_sign(world.bob, data))) == "wrong_key"
    assert fault(lambda: consents.grant(data, signature=ssh_sign(world.ada, data, "file"))) == "wrong_namespace"
    assert fault(lambda: consents.grant(data, signature=ssh_sign(world.ada, data + b"x"))) == "bad_signature"
    for bad in (b"", b"no signature", ssh_sign(world.ada, data)[:-60], ssh_sign(world.ada, data) * 2):
        assert fault(lambda bad=bad: consents.grant(data, signature=bad)) == "malformed_signature"  # type: ignore[misc]
    assert fault(lambda: consents.grant(data)) == "no_evidence"
    assert consents.standing("ada-example").status == "requested"


@pytest.mark.parametrize("tool", ["", None], ids=["ssh-keygen", "library"])
def test_keys_of_another_principal(world: World, tool: str | None) -> None:
    statement = world.ask()
    signature = ssh_sign(world.ada, statement.data())
    signers = Signers(principal=f"{BOB}@{statement.host}", keys=(sound_key(line(world.ada)) or "",))
    assert fault(lambda: verify_ssh(statement, signature, signers, tool=tool)) == "wrong_principal"
    right = signers.model_copy(update={"principal": statement.principal})
    assert verify_ssh(statement, signature, right, tool=tool).kind == "ssh"


def test_keys_that_do_not_count() -> None:
    low = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + b"\x01" + bytes(31)).decode()
    for bad in (
        f"ssh-ed25519 {low}", "ssh-dss AAAAB3NzaC1kc3M=", "ssh-ed25519", "", "ssh-ed25519 ####", "ssh-ed25519 AAAA",
        'cert-authority ssh-ed25519 AAAA', f"ssh-rsa {low}",
    ):  # fmt: skip
        assert sound_key(bad) is None, bad


def test_every_fault_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/consent.md").read_text("utf-8")
    rows = " ".join(row.split("|")[1] for row in page.splitlines() if row.startswith("| `"))
    assert set(get_args(Fault)) <= set(re.findall(r"`(\w+)`", rows))


def test_an_account_without_keys(world: World) -> None:
    statement = world.ask()
    world.github.person("ada-example", ADA)
    assert (
        fault(lambda: world.consents().grant(statement.data(), signature=ssh_sign(world.ada, statement.data())))
        == "no_keys"
    )


def test_a_key_that_is_no_longer_listed_grants_nothing(world: World, keys: Path) -> None:
    statement = world.ask()
    world.github.person("ada-example", ADA, signing=[line(keys / "rsa")])
    assert (
        fault(lambda: world.consents().grant(statement.data(), signature=ssh_sign(world.ada, statement.data())))
        == "wrong_key"
    )


# Statements that do not hold.


def test_an_edited_scope(world: World) -> None:
    statement = world.ask()
    assert statement.scope is not None
    wider = altered(
        statement, scope=statement.scope.model_copy(update={"uses": ("mint", "serve", "share")}).model_dump(mode="json")
    )
    assert (
        fault(lambda: world.consents().grant(wider.data(), signature=ssh_sign(world.ada, wider.data())))
        == "edited_scope"
    )
    assert (
        fault(lambda: world.consents().grant(wider.data(), signature=ssh_sign(world.ada, statement.data())))
        == "edited_scope"
    )


def test_words_that_do_not_fit_and_other_spellings(world: World) -> None:
    statement = world.ask()
    fields = strict_json(statement.data())
    fields["scope"]["repositories"] = ["*"]
    assert fault(lambda: world.consents().grant(canonical(fields), signature=b"")) == "edited_text"
    assert fault(lambda: world.consents().grant(b" " + statement.data(), signature=b"")) == "not_canonical"
    doubled = statement.data().replace(b'"serial":1', b'"serial":1,"serial":1')
    for bad in (b"{}", b"[", b"\xff", doubled, b"[" * 5000):
        assert fault(lambda bad=bad: world.consents().grant(bad, signature=b"")) == "malformed"  # type: ignore[misc]


def test_a_replayed_nonce(world: World) -> None:
    statement = world.granted()
    signature = ssh_sign(world.ada, statement.data())
    assert fault(lambda: world.consents().grant(statement.data(), signature=signature)) == "replayed"


def test_a_lower_serial(world: World) -> None:
    first, second = world.ask(), world.ask(uses=["mint"])
    assert (first.serial, second.serial) == (1, 2)
    world.consents().grant(second.data(), signature=ssh_sign(world.ada, second.data()))
    assert (
        fault(lambda: world.consents().grant(first.data(), signature=ssh_sign(world.ada, first.data())))
        == "lower_serial"
    )


def test_an_expired_statement_and_an_expired_consent(world: World) -> None:
    late = world.ask(days=10)
    signature = ssh_sign(world.ada, late.data())
    world.clock.now += timedelta(days=10)
    assert fault(lambda: world.consents().grant(late.data(), signature=signature)) == "expired"
    world.granted(days=10)
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    world.clock.now += timedelta(days=10)
    assert world.consents().standing("ada-example").status == "expired"
    assert fault(lambda: world.consents().check(record, "serve")) == "expired"
    assert fault(lambda: world.consents().granted("ada-example", [REPOSITORY], "mint")) == "expired"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expires": "2027-03-05T05:06:08Z"}, "bad_times"), ({"expires": "soon"}, "bad_times"), ({"expires": None}, "malformed"),
        ({"issued": "2026-03-04T05:16:07Z"}, "not_yet"), ({"host": "github.com"}, "other_host"), ({"minter": "0" * 64}, "other_minter"),
        ({"nonce": "0" * 32}, "not_requested"), ({"login": "bob-sample"}, "other_handle"), ({"serial": 2}, "edited_text"),
        ({"serial": 0}, "malformed"), ({"action": "revoke", "scope": None, "expires": None}, "malformed"),
    ],
)  # fmt: skip
def test_a_statement_outside_the_rules(world: World, changes: dict[str, object], expected: str) -> None:
    statement = world.ask()
    fields = strict_json(statement.data()) | changes
    try:
        fields["text_sha256"] = altered(statement, **changes).text_sha256
    except ConsentInvalid:
        assert expected == "malformed"
    data = canonical(fields)
    assert fault(lambda: world.consents().grant(data, signature=ssh_sign(world.ada, data))) == expected


def test_somebody_else_cannot_answer_for_ada(world: World) -> None:
    statement = altered(world.ask(), login="bob-sample", account_id=BOB)
    assert (
        fault(lambda: world.consents().grant(statement.data(), signature=ssh_sign(world.bob, statement.data())))
        == "not_requested"
    )


def test_whole_years_and_more_cannot_be_asked_for(world: World) -> None:
    for days in (0, 366):
        with pytest.raises(InputError):
            world.ask(days=days)
    assert fault(lambda: world.ask(repositories=["not a repository"])) == "malformed"


# The account behind the login.


def test_a_renamed_login_of_the_same_account_is_fine_and_noted(world: World, keys: Path) -> None:
    asked = world.ask()
    world.github.gone("ada-example", ADA)
    world.github.person("ada-renamed", ADA, signing=[line(keys / "ada")])
    world.consents().grant(asked.data(), signature=ssh_sign(world.ada, asked.data()))
    assert world.consents().granted("ada-renamed", [REPOSITORY], "mint").subject == "ada-example"
    assert "ada-renamed" in world.consents().standing("ada-renamed").notes[0]
    with pytest.raises(InputError):
        world.consents().granted("ada-example", [REPOSITORY], "mint")


def test_a_login_that_somebody_else_took_over_is_refused(world: World, keys: Path) -> None:
    asked = world.ask()
    waiting = ssh_sign(world.bob, asked.data())
    world.granted()
    world.github.gone("ada-example", ADA)
    world.github.person("ada-example", 3003, signing=[line(keys / "bob")])
    assert fault(lambda: world.consents().granted("ada-example", [REPOSITORY], "mint")) == "reused_login"
    newer = altered(asked, serial=9)
    assert fault(lambda: world.consents().grant(newer.data(), signature=waiting)) in ("edited_text", "reused_login")


def test_a_statement_of_an_account_whose_login_was_taken_over(world: World, keys: Path) -> None:
    asked = world.ask()
    world.github.gone("ada-example", ADA)
    world.github.person("ada-example", 3003, signing=[line(keys / "bob")])
    assert (
        fault(lambda: world.consents().grant(asked.data(), signature=ssh_sign(world.bob, asked.data())))
        == "reused_login"
    )
    world.github.gone("ada-example", 3003)
    assert (
        fault(lambda: world.consents().grant(asked.data(), signature=ssh_sign(world.ada, asked.data())))
        == "account_gone"
    )


def test_an_organisation_is_no_person(world: World) -> None:
    world.github.routes["/users/acme-example"] = {"id": 5, "login": "acme-example", "type": "Organization"}
    assert fault(lambda: world.ask("acme-example")) == "not_a_person"


@pytest.mark.parametrize("status", [403, 429, 500, 302])
def test_github_that_does_not_answer_grants_nothing(world: World, status: int) -> None:
    statement = world.ask()
    world.github.routes["/users/ada-example/keys"] = status
    with pytest.raises(Unavailable) as caught:
        world.consents().grant(statement.data(), signature=ssh_sign(world.ada, statement.data()))
    assert caught.value.hint
    assert world.consents().standing("ada-example").status == "requested"


# Places that only the account can write.


def profile(login: str = "ada-example", repository: str = "ada-example", commit: str = COMMIT) -> str:
    return f"https://github.com/{login}/{repository}/blob/{commit}/consent.json"


def test_a_file_in_the_profile_at_a_commit(world: World) -> None:
    statement = world.ask()
    world.github.profile("ada-example", ADA, COMMIT, "consent.json", statement.data() + b"\n")
    given = world.consents().grant(statement.data(), where=profile())
    assert (given.kind, given.where) == ("profile-file", profile())
    assert world.consents().granted("ada-example", [REPOSITORY], "serve").evidence == "profile-file"


def test_a_gist_of_the_account(world: World) -> None:
    statement = world.ask()
    world.github.gist("ab12", ADA, statement.data().decode())
    assert (
        world.consents().grant(statement.data(), where="https://gist.github.com/ada-example/ab12").kind
        == "profile-file"
    )


def test_a_file_that_somebody_else_could_have_written(world: World) -> None:
    statement = world.ask()
    data, github = statement.data(), world.github

    def refused(where: str) -> str:
        return fault(lambda: world.consents().grant(data, where=where))

    github.profile("ada-example", ADA, COMMIT, "consent.json", data)
    assert refused(profile(repository="abacus")) == "ordinary_repository"
    assert refused(profile(login="bob-sample", repository="bob-sample")) == "ordinary_repository"
    assert refused(profile(commit="main")) == "no_evidence"
    assert refused("https://github.com/ada-example/ada-example/blob/" + COMMIT + "/../../x") == "no_evidence"
    assert refused(profile().replace("consent.json", "other.json")) == "no_evidence"
    github.profile("ada-example", ADA, COMMIT, "consent.json", data, status="diverged")  # a commit of somebody's fork
    assert refused(profile()) == "not_at_that_commit"
    github.profile("ada-example", BOB, COMMIT, "consent.json", data)
    assert refused(profile()) == "not_the_owner"
    github.profile("ada-example", ADA, COMMIT, "consent.json", data, fork=True)
    assert refused(profile()) == "ordinary_repository"
    github.profile("ada-example", ADA, COMMIT, "consent.json", data.replace(b'"mint"', b'"xint"'))
    assert refused(profile()) == "other_content"
    github.gist("ab12", BOB, data.decode())
    assert refused("https://gist.github.com/ada-example/ab12") == "not_the_owner"
    github.gist("ab13", ADA, data.decode(), "and more")
    assert refused("https://gist.github.com/ada-example/ab13") == "no_evidence"
    assert refused("https://gist.github.com/ada-example/ffff") == "no_evidence"


# What a consent covers.


def test_only_what_was_granted(world: World) -> None:
    world.granted()
    consents = world.consents()
    assert fault(lambda: consents.granted("ada-example", [REPOSITORY], "share")) == "out_of_scope"
    assert fault(lambda: consents.granted("ada-example", ["ada-example/other"], "mint")) == "out_of_scope"
    record = consents.granted("ada-example", [REPOSITORY, "ada-example/other"], "mint")
    assert record.repositories == (REPOSITORY,)
    assert fault(lambda: consents.check(record, "share")) == "out_of_scope"


def test_nobody_consented(world: World) -> None:
    with pytest.raises(ConsentMissing) as caught:
        world.consents().granted("bob-sample", ["bob-sample/tool"], "mint")
    assert caught.value.hint == "dna consent request bob-sample --repository bob-sample/tool --use mint --use serve"
    world.ask("bob-sample")
    with pytest.raises(ConsentMissing) as caught:
        world.consents().granted("bob-sample", ["bob-sample/tool"], "mint")
    assert "dna consent grant" in caught.value.hint


def test_a_newer_narrower_consent_counts_for_older_blocks(world: World) -> None:
    world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    world.granted(uses=["mint"])
    assert fault(lambda: world.consents().check(record, "serve")) == "out_of_scope"


@pytest.mark.parametrize(
    "changes",
    [
        {"uses": ("mint", "serve", "share")}, {"repositories": ("ada-example/other",)}, {"repositories": ()}, {"subject": "bob-sample"},
        {"expires_at": "2099-01-01T00:00:00Z"}, {"how": "trust me"}, {"verified": False}, {"identity_digest": "0" * 64},
        {"evidence": "profile-file"}, {"key_id": "0" * 64}, {"status": "requested"},
    ],
)  # fmt: skip
def test_an_edited_record_is_refused(world: World, changes: dict[str, object]) -> None:
    world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint").model_copy(update=changes)
    with pytest.raises(ConsentInvalid):
        world.consents().check(record, "serve")


def test_another_machine_has_not_verified_it(world: World, tmp_path: Path) -> None:
    statement = world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    ring = KeyRing(tmp_path / "elsewhere/keys")
    elsewhere = world.consents(home=tmp_path / "elsewhere", ring=ring)
    with pytest.raises(ConsentMissing, match="not verified"):
        elsewhere.check(record, "serve")
    assert fault(lambda: elsewhere.grant(statement.data(), signature=record.signature.encode())) == "other_minter"
    ring.trust(world.ring.public_key)
    elsewhere.grant(statement.data(), signature=record.signature.encode())
    moved = elsewhere.granted("ada-example", [REPOSITORY], "serve")
    elsewhere.check(moved, "serve")
    elsewhere.check(record, "serve")  # as it came with a block: checked there at another time, and here too
    with pytest.raises(ConsentInvalid):
        elsewhere.check(record.model_copy(update={"uses": ("mint", "serve", "share")}), "serve")


def test_a_minter_who_rotated_is_still_believed_elsewhere(world: World, tmp_path: Path) -> None:
    world.ring.rotate()
    statement = world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    assert statement.minter != world.ring.log.identity
    ring = KeyRing(tmp_path / "elsewhere/keys")
    elsewhere = world.consents(home=tmp_path / "elsewhere", ring=ring)
    ring.trust_log(world.ring.log.to_bytes())
    elsewhere.grant(statement.data(), signature=record.signature.encode())
    elsewhere.check(record, "serve")


def test_a_statement_for_a_stolen_key_is_not(world: World, tmp_path: Path) -> None:
    statement = world.granted()
    signature = world.consents().granted("ada-example", [REPOSITORY], "mint").signature.encode()
    world.ring.rotate()
    second = world.ask()
    world.ring.rotate(compromised=True)
    ring = KeyRing(tmp_path / "elsewhere/keys")
    ring.trust_log(world.ring.log.to_bytes())
    elsewhere = world.consents(home=tmp_path / "elsewhere", ring=ring)
    assert fault(lambda: elsewhere.grant(second.data(), signature=ssh_sign(world.ada, second.data()))) == "other_minter"
    elsewhere.grant(statement.data(), signature=signature)


# Taking it back.


def test_the_person_takes_it_back(world: World) -> None:
    world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    statement = world.ask(revoke=True)
    given = world.consents().revoke(statement.data(), ssh_sign(world.ada, statement.data()))
    assert (given.statement.serial, world.consents().standing("ada-example").status) == (2, "revoked")
    for work in (
        lambda: world.consents().check(record, "serve"),
        lambda: world.consents().granted("ada-example", [REPOSITORY], "mint"),
    ):
        with pytest.raises(ConsentRevoked):
            work()
    world.clock.now += timedelta(days=4000)
    assert world.consents().standing("ada-example").status == "revoked"


def test_a_newer_grant_lifts_a_revocation_and_an_older_one_does_not(world: World) -> None:
    older = world.ask()
    revocation = world.ask(revoke=True)
    world.consents().revoke(revocation.data(), ssh_sign(world.ada, revocation.data()))
    assert (
        fault(lambda: world.consents().grant(older.data(), signature=ssh_sign(world.ada, older.data())))
        == "lower_serial"
    )
    world.granted()
    assert world.consents().standing("ada-example").status == "granted"


def test_at_equal_serials_the_revocation_wins(world: World) -> None:
    grant = world.granted()
    tie = altered(grant, action="revoke", scope=None, expires=None, nonce="a" * 32)
    assert tie.serial == grant.serial
    world.consents().revoke(tie.data(), ssh_sign(world.ada, tie.data()))
    assert world.consents().standing("ada-example").status == "revoked"


def test_a_key_of_earlier_times_still_revokes_even_without_a_network(world: World, keys: Path) -> None:
    grant = world.granted()
    world.github.person("ada-example", ADA, signing=[line(keys / "rsa")])
    tie = altered(grant, action="revoke", scope=None, expires=None, nonce="a" * 32)
    world.github.routes["/user/1001"] = 500
    world.consents().revoke(tie.data(), ssh_sign(world.ada, tie.data()))
    assert world.consents().standings()[0].status == "revoked"


def test_nobody_else_revokes(world: World) -> None:
    grant = world.granted()
    tie = altered(grant, action="revoke", scope=None, expires=None, nonce="a" * 32)
    assert fault(lambda: world.consents().revoke(tie.data(), ssh_sign(world.bob, tie.data()))) == "wrong_key"
    assert fault(lambda: world.consents().revoke(grant.data(), ssh_sign(world.ada, grant.data()))) == "malformed"
    lower = altered(tie, serial=1, nonce=grant.nonce)
    assert fault(lambda: world.consents().revoke(lower.data(), ssh_sign(world.ada, lower.data()))) == "replayed"
    assert world.consents().standing("ada-example").status == "granted"


def test_the_holder_lets_go_of_it(world: World) -> None:
    world.granted()
    assert world.consents().revoke_here("ada-example").kind == "minter"
    assert world.consents().standing("ada-example").status == "revoked"
    with pytest.raises(ConsentMissing):
        world.consents().revoke_here("bob-sample")


def test_a_revoked_person_is_refused_by_every_name(world: World) -> None:
    world.granted()
    consents = SelfConsents(world.home / "consents", world.ring, world.clock, others=world.consents())
    host = "users.noreply.127.0.0.1"
    ada = [
        Identity(name="Ada", email=mail)
        for mail in (f"{ADA}+ada-example@{host}", f"{ADA}+new@{host}", f"ada-example@{host}")
    ]
    for one in ada:
        consents.refuse_revoked([one])
    world.consents().revoke_here("ada-example")
    for one in ada:
        with pytest.raises(ConsentRevoked):
            consents.refuse_revoked([one])
    with pytest.raises(ConsentRevoked):
        consents.refuse_revoked([], "Ada-Example")
    other = Identity(name="Ada", email=f"{BOB}+bob-sample@{host}")
    consents.refuse_revoked([other, Identity(name="Ada Example")], "bob-sample")
    world.consents().revoke_identities([sha256("eve@example.org")])
    with pytest.raises(ConsentRevoked):
        consents.refuse_revoked([Identity(name="Eve", email="Eve@example.org")])
    with pytest.raises(ConsentRevoked):
        consents.check(consents.local_only([Identity(name="Eve", email="eve@example.org")], "local:x"), "serve")


# What is on the disk.


def test_a_state_that_was_changed_is_an_error_and_allows_nothing(world: World) -> None:
    world.granted()
    record = world.consents().granted("ada-example", [REPOSITORY], "mint")
    (path,) = (world.home / "consents/accounts").glob("*-1001.json")
    whole = path.read_bytes()
    for bad in (whole[:-20], whole.replace(b'"sig":"', b'"sig":"AA'), b"{}", b""):
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            world.consents().check(record, "serve")
    path.write_bytes(whole)
    world.consents().check(record, "serve")


def test_no_email_reaches_the_disk(world: World) -> None:
    world.granted()
    stored = b"".join(path.read_bytes() for path in world.home.rglob("*.json*") if path.is_file())
    assert b"somewhere" not in stored  # a key's comment, which is often an address
    assert b"example.org" not in stored


def test_what_was_done_is_in_the_log(world: World) -> None:
    statement = world.granted()
    with pytest.raises(ConsentInvalid):
        world.consents().grant(statement.data(), signature=b"")
    world.consents().revoke_here("ada-example")
    log = AuditLog(world.home / "audit", world.ring, world.clock)
    assert [entry.kind for entry in log.entries()] == ["requested", "granted", "refused", "revoked"]
    assert log.entries()[2].facts["fault"] == "replayed"
    assert log.verify().ok


@pytest.mark.parametrize("url", ["http://github.example/api", "ftp://x", "https://user@host", "", "https://"])
def test_an_address_that_others_could_answer_for_is_refused(url: str) -> None:
    with pytest.raises(DnaError):
        GitHubAccounts(url)


def test_parsed_takes_what_data_gives(world: World) -> None:
    statement = world.ask()
    assert parsed(statement.data()) == statement
