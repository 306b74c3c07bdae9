"""Cursors come back as they went out; anything else is refused in one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.db.cursors import decode_cursor, decode_time, encode_cursor
from relay.db.etags import check_if_match, make_etag
from relay.errors import EtagMismatch, RequestInvalid

PRINTABLE = st.text(max_size=15).filter(str.isprintable)


@given(PRINTABLE, PRINTABLE)
def test_cursor_comes_back(first: str, second: str) -> None:
    assert decode_cursor(encode_cursor(first, second), 2) == (first, second)


@given(st.text(max_size=100) | st.binary(max_size=60).map(lambda some: some.decode("latin-1")))
def test_whatever_comes_is_a_key_or_refused(cursor: str) -> None:
    try:
        key = decode_cursor(cursor, 1)
    except RequestInvalid:
        return
    assert len(key) == 1
    assert key[0].isprintable()


@pytest.mark.parametrize("part", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "9" * 30])
def test_time_without_zone_or_sense_is_refused(part: str) -> None:
    with pytest.raises(RequestInvalid):
        decode_time(part)


@pytest.mark.parametrize("if_match", [None, "*", " * ", make_etag("a", 1), f'"other", {make_etag("a", 1)}'])
def test_tag_that_is_listed_matches(if_match: str | None) -> None:
    check_if_match(make_etag("a", 1), if_match)


@pytest.mark.parametrize("if_match", ["", '"other"', make_etag("a", 2), "W/" + make_etag("a", 1), make_etag("a1")])
def test_tag_that_is_not_listed_or_weak_does_not_match(if_match: str) -> None:
    with pytest.raises(EtagMismatch):
        check_if_match(make_etag("a", 1), if_match)
