"""Tokens in use: made, looked at, replaced, taken back, paired; and whom a server lets in by them."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from clonedna.app.gate import USED_SECONDS, Gate
from clonedna.app.paired import Paired, origin, readable_on_the_way
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.tokens import PairOrder, TokenOrder, Tokens
from clonedna.core.errors import BadConfig, DnaError, InputError, NotFound, Unauthorised
from clonedna.store.tokens import SqlTokens


class Clock:
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Here:
    """The use cases and the gate over one home, by one clock."""

    def __init__(self, home: Path) -> None:
        self.parts, self.clock = Parts(Settings(home=home)), Clock()
        self.tokens, self.gate = Tokens(self.parts), Gate(self.parts)
        self.tokens._now = self.gate._now = self.clock

    def new(self, name: str = "ada", **order: object) -> str:
        return self.tokens.new(TokenOrder.model_validate({"name": name, "scopes": ["read"]} | order)).token

    def pair(self, name: str = "ada", **order: object) -> str:
        return self.tokens.pair(PairOrder.model_validate({"name": name, "scopes": ["chat"]} | order)).code


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_token_opens_what_it_was_made_for(here: Here) -> None:
    made = here.new(scopes=["chat", "read", "chat"])
    who = here.gate.who(made)
    assert who is not None
    assert (who.kind, who.name, who.scopes) == ("token", "ada", {"read", "chat"})
    assert who.label == f"token ada ({who.id})"
    assert here.tokens.list()[0].scopes == ("read", "chat")
    assert here.gate.who(made[:-1]) is None
    assert here.gate.who("") is None


def test_it_ends_after_ninety_days_unless_said_otherwise(here: Here) -> None:
    usual, ever, brief = here.new("usual"), here.new("ever", days=None), here.new("brief", days=1)
    here.clock.now += timedelta(days=1)
    assert (here.gate.who(usual) is not None, here.gate.who(brief)) == (True, None)
    here.clock.now += timedelta(days=89)
    assert here.gate.who(usual) is None
    assert here.gate.who(ever) is not None
    assert {one.name: one.status for one in here.tokens.list()} == {
        "usual": "expired",
        "ever": "live",
        "brief": "expired",
    }


@pytest.mark.parametrize(
    "order",
    [{"name": "Ada"}, {"name": ""}, {"name": "a" * 64}, {"name": "../x"}, {"name": "a\n"}, {"scopes": []}, {"scopes": ["root"]},
     {"days": 0}, {"days": 4000}, {"more": 1}],
)  # fmt: skip
def test_an_order_that_is_none_is_refused(here: Here, order: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        here.new(**order)


def test_a_rotated_token_s_old_secret_is_refused_at_once(here: Here) -> None:
    old = here.new(days=10)
    here.clock.now += timedelta(days=9)
    new = here.tokens.rotate("ada")
    assert here.gate.who(old) is None
    who = here.gate.who(new.token)
    assert who is not None
    assert who.id == new.about.id == old[5:17]
    here.clock.now += timedelta(days=9, hours=23)
    assert here.gate.who(new.token) is not None
    with pytest.raises(NotFound):
        here.tokens.rotate("nobody")
    with pytest.raises(InputError):
        here.tokens.rotate("No Name")


def test_a_revoked_token_is_refused_at_once_also_by_another_process_s_gate(here: Here, tmp_path: Path) -> None:
    made, elsewhere = here.new(), Here(tmp_path)
    assert elsewhere.gate.who(made) is not None
    assert here.tokens.revoke("ada").name == "ada"
    assert elsewhere.gate.who(made) is None
    with pytest.raises(NotFound):
        here.tokens.revoke("ada")


def test_tokens_are_wanted_while_there_are_any_even_expired_ones(here: Here) -> None:
    assert not here.gate.wanted()
    here.pair("eve")
    assert not here.gate.wanted()
    here.new(days=1)
    here.clock.now += timedelta(days=2)
    assert here.gate.wanted()
    assert not here.gate.live()
    here.new("bob")
    assert here.gate.live()


def test_no_secret_is_kept_or_printed(here: Here, tmp_path: Path) -> None:
    made, code = (
        here.tokens.new(TokenOrder(name="ada", scopes=("read",))),
        here.tokens.pair(PairOrder(name="bob", scopes=("read",))),
    )
    for secret, shown in ((made.token[18:], made), (code.code, code)):
        assert secret not in repr(shown)
        assert secret not in repr(here.tokens.list())
        assert all(secret.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_last_use_is_noted_now_and_then(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    token_id, writes = here.new()[5:17], list[str]()
    used = SqlTokens.used
    monkeypatch.setattr(SqlTokens, "used", lambda self, of, at: (writes.append(at), used(self, of, at)))
    for _ in range(5):
        here.gate.note(token_id)
    assert writes == [here.tokens.list()[0].used_at]
    here.clock.now += timedelta(seconds=USED_SECONDS)
    assert here.gate.due(token_id)
    here.gate.note(token_id)
    assert len(writes) == 2


def test_a_database_that_cannot_be_written_keeps_nobody_out(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = here.new()
    monkeypatch.setattr("clonedna.store.database.BUSY_SECONDS", 0)
    with sqlite3.connect(tmp_path / "registry.sqlite") as held:
        held.execute("BEGIN IMMEDIATE")
        who = here.gate.who(made)
        assert who is not None
        here.gate.note(who.id)
        with pytest.raises(DnaError):
            here.new("bob")
        held.rollback()
    held.close()
    assert here.tokens.list()[0].used_at is None


def test_a_code_is_worth_one_token(here: Here) -> None:
    code = here.pair(days=5)
    assert here.tokens.list()[0].status == "waiting"
    here.clock.now += timedelta(minutes=9)
    made = here.tokens.claim(code.lower().replace("-", " "))
    who = here.gate.who(made.token)
    assert who is not None
    assert (who.name, who.scopes) == ("ada", {"chat"})
    assert made.about.expires_at == "2026-03-09T05:15:07Z"
    with pytest.raises(Unauthorised):
        here.tokens.claim(code)


def test_a_code_that_is_wrong_revoked_or_old_opens_nothing_and_all_are_told_the_same(here: Here) -> None:
    told = set[str]()
    gone = here.pair("gone")
    here.tokens.revoke("gone")
    old = here.pair("old", minutes=1)
    here.clock.now += timedelta(minutes=1)
    for code in (gone, old, "0" * 20, "x", ""):
        with pytest.raises(Unauthorised) as refused:
            here.tokens.claim(code)
        told.add(str(refused.value))
    assert len(told) == 1
    with pytest.raises(NotFound):
        here.tokens.rotate("old")


def test_of_fifty_that_claim_a_code_at_once_one_gets_a_token(here: Here) -> None:
    code, start = here.pair(), threading.Barrier(50)
    got, refused = list[str](), list[DnaError]()

    def claim() -> None:
        start.wait(30)
        try:
            got.append(here.tokens.claim(code).token)
        except DnaError as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert (len(got), len(refused)) == (1, 49)
    assert {error.code for error in refused} == {"unauthorised"}
    assert here.gate.who(got[0]) is not None


def test_a_paired_server_s_token_is_kept_privately_and_for_it_alone(tmp_path: Path) -> None:
    paired = Paired(tmp_path)
    path = paired.keep("http://127.0.0.1:8000/", "ada", "dnat_secret")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert paired.token("http://127.0.0.1:8000") == "dnat_secret"
    for other in ("https://127.0.0.1:8000", "http://127.0.0.1:8001", "http://127.0.0.1", "http://localhost:8000"):
        assert paired.token(other) is None
    assert paired.forget("http://127.0.0.1:8000")
    assert not paired.forget("http://127.0.0.1:8000")
    assert paired.token("http://127.0.0.1:8000") is None


def test_a_kept_token_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    paired = Paired(tmp_path)
    path = paired.keep("http://127.0.0.1:8000", "ada", "dnat_secret")
    path.chmod(0o644)
    with pytest.raises(BadConfig, match="others"):
        paired.token("http://127.0.0.1:8000")
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(BadConfig, match="damaged"):
        paired.token("http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "is_at"),
    [("http://Ada.example:80/x", "http://ada.example:80"), ("https://ada.example.", "https://ada.example:443"),
     ("http://[::1]:9/", "http://[::1]:9")],
)  # fmt: skip
def test_a_server_is_its_scheme_host_and_port(url: str, is_at: str) -> None:
    assert origin(url) == is_at


@pytest.mark.parametrize("url", ["", "ada", "ftp://ada.example", "http://ada.example:x"])
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(InputError):
        origin(url)


@pytest.mark.parametrize(
    ("url", "readable"),
    [("http://dna.example.org", True), ("https://dna.example.org", False), ("http://127.0.0.1:8000", False), ("http://[::1]:8000", False),
     ("http://localhost", False), ("http://192.0.2.7", True)],
)  # fmt: skip
def test_who_carries_a_token_without_tls_can_read_it(url: str, readable: bool) -> None:
    assert readable_on_the_way(url) == readable
