"""Tokens and pairing codes: how they look, how much chance is in them, and that what is kept of them gives nothing away."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clonedna.trust import tokens
from clonedna.trust.tokens import code_digest, id_of, is_token, new_code, new_id, new_token, token_digest


def test_a_token_has_its_id_and_256_random_bits() -> None:
    made = new_token("0123456789ab")
    assert re.fullmatch(r"dnat_0123456789ab_[0-9A-Za-z]{49}", made)
    assert id_of(made) == "0123456789ab"
    assert 62**tokens._SECRET >= 2**256
    assert len({new_token("0123456789ab") for _ in range(200)}) == 200
    assert len({new_id() for _ in range(200)}) == 200


def test_the_largest_and_the_smallest_secret_have_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 2**256 - 1):
        monkeypatch.setattr(tokens.secrets, "randbits", lambda bits, number=number: number)
        assert id_of(new_token("0123456789ab")) == "0123456789ab"


@settings(max_examples=200)
@given(at=st.integers(0, 66), by=st.sampled_from("0aZ_-é"))
def test_a_mistyped_token_is_none(at: int, by: str) -> None:
    made = new_token("0123456789ab")
    other = made[:at] + by + made[at + 1 :]
    assert (id_of(other) is None) == (other != made)


@given(st.text(max_size=200))
def test_whatever_is_sent_is_read_without_an_error(text: str) -> None:
    assert id_of(text) is None
    assert not is_token(text, None)


def test_only_the_token_itself_fits_its_digest() -> None:
    one, other = new_token("0123456789ab"), new_token("0123456789ab")
    assert is_token(one, token_digest(one))
    assert not is_token(other, token_digest(one))
    assert not is_token(one, None)
    assert not is_token("", token_digest(one))
    assert one[18:] not in token_digest(one)


def test_a_code_has_100_random_bits_and_may_be_typed_in_any_way() -> None:
    code = new_code()
    assert re.fullmatch(r"(?:[0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}", code)
    assert len(tokens._CODE) ** tokens._CODE_LENGTH == 2**100
    assert len({new_code() for _ in range(200)}) == 200
    kept = code_digest(code)
    for typed in (code.lower(), code.replace("-", ""), f" {code} ", code.replace("0", "o").replace("1", "L")):
        assert code_digest(typed) == kept
    assert kept is not None
    assert code.replace("-", "") not in kept


@pytest.mark.parametrize("typed", ["", "-", "A" * 19, "A" * 21, "U" * 20, "é" * 20, "A" * 10_000, "' OR 1=1 --"])
def test_what_is_no_code_has_no_digest(typed: str) -> None:
    assert code_digest(typed) is None
