"""What is encoded is JSON, whatever it was, and comes back the same."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.json_text import decode, encode
from relay.ledger.entry import Outcome

TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES)
def test_what_is_encoded_comes_back_here_and_elsewhere(value: Any) -> None:
    encoded = encode(value)
    assert decode(encoded) == value and json.loads(encoded) == value
    assert decode(json.dumps(value).encode()) == value  # as a release before this one wrote it
    assert b"\n" not in encoded


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Outcome.DELIVERED, '"delivered"'),
        (("begun", "é", None), '["begun","é",null]'),
        (Path("/a"), '"/a"'),
        ([math.nan, math.inf], "[null,null]"),
        ({1 << 70: "\ud800"}, '{"1180591620717411303424":"\\ud800"}'),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC), "big": 1 << 64}, '{"at":"2026-01-02 00:00:00+00:00","big":18446744073709551616}'),
    ],
)
def test_what_json_does_not_know_becomes_its_text(value: Any, text: str) -> None:
    assert encode(value) == text.encode()


@dataclass
class Credentials:
    name: str
    secret: str = field(repr=False)


@pytest.mark.parametrize("beside", [[], [1 << 64]], ids=["quick", "the standard library"])
def test_an_object_becomes_its_text_whoever_encodes_it(beside: list[int]) -> None:
    told, at, *_ = json.loads(encode([Credentials("acme", "hidden"), datetime(2026, 1, 2, tzinfo=UTC), *beside]))
    assert (told, at) == ("Credentials(name='acme')", "2026-01-02 00:00:00+00:00")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1,]", b'"\n"'])
def test_what_is_no_json_is_told_so(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)
