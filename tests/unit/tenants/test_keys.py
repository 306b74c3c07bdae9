"""Keys: their form, their secrecy, and that no input breaks the parser."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import KeyInvalid
from relay.tenants.keys import KEY_LENGTH, hash_secret, issue_key, parse_key, verify

FORM = re.compile(r"rk_[a-z0-9]{16}_[A-Za-z0-9]{43}")
GOOD = "rk_" + "a0" * 8 + "_" + "Zz9" * 14 + "Q"


def test_issued_key_has_the_promised_form_and_verifies() -> None:
    issued = issue_key()
    assert FORM.fullmatch(issued.text)
    parsed = parse_key(issued.text)
    assert parsed.id == issued.id
    assert verify(parsed.secret, issued.secret_hash)
    assert not verify(parsed.secret[:-1] + ("a" if parsed.secret[-1] != "a" else "b"), issued.secret_hash)


def test_only_a_hash_of_the_secret_is_to_be_stored() -> None:
    issued = issue_key()
    secret = parse_key(issued.text).secret
    assert issued.secret_hash == hash_secret(secret)
    assert len(issued.secret_hash) == 32
    assert secret.encode() not in issued.secret_hash


def test_no_repr_shows_a_secret() -> None:
    issued = issue_key()
    parsed = parse_key(issued.text)
    assert parsed.secret not in repr((issued, parsed))


def test_issued_keys_differ() -> None:
    issued = [issue_key() for _ in range(200)]
    assert len({key.id for key in issued}) == len({key.text for key in issued}) == 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rk_",
        GOOD[:-1],
        GOOD + "a",
        GOOD + "\n",
        GOOD[:-1] + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace("rk_", "rk-"),
        GOOD[:-1] + "_",
        GOOD[:-1] + "é",
        GOOD[:3] + "A" + GOOD[4:],
        GOOD[:-1] + "\u0660",  # a digit to str.isdigit, none to us
        "\x00" * KEY_LENGTH,
        "\ud800" * KEY_LENGTH,
    ],
)
def test_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(KeyInvalid):
        parse_key(text)


@given(st.text(max_size=KEY_LENGTH * 2) | st.from_regex(FORM) | st.text(min_size=KEY_LENGTH, max_size=KEY_LENGTH))
def test_whatever_comes_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_key(text)
    except KeyInvalid:
        assert not FORM.fullmatch(text)
    else:
        assert f"rk_{parsed.id}_{parsed.secret}" == text


def test_a_megabyte_costs_no_more_than_a_key() -> None:
    megabyte = GOOD + "a" * (1 << 20)
    began = time.perf_counter()
    for _ in range(1_000):
        with pytest.raises(KeyInvalid):
            parse_key(megabyte)
    assert time.perf_counter() - began < 1.0  # reading it even once each time would take longer
