"""Hostile documents are refused by name, and never reach a model or the database."""

import pytest

from relay.api.admin.documents import DEPTH_LIMIT, parse_document
from relay.errors import RequestInvalid


@pytest.mark.parametrize(
    ("body", "code", "location"),
    [
        (b'{"a": "x\\u0000"}', "text_invalid", ("body", "a")),
        (b'{"a\\u0000": 1}', "text_invalid", ("body",)),
        (b'{"a": ["\\ud800"]}', "text_invalid", ("body", "a", 0)),
        (b'{"a": 9223372036854775808}', "number_out_of_range", ("body", "a")),
        (b'{"a": -9223372036854775809}', "number_out_of_range", ("body", "a")),
        (b'{"a": 1e999}', "number_out_of_range", ("body", "a")),
        (b"9" * 5_000, "json_invalid", ("body",)),
        (b'{"a": NaN}', "json_invalid", ("body",)),
        (b'{"a": -Infinity}', "json_invalid", ("body",)),
        (b'{"a": 1, "a": 2}', "member_repeated", ("body", "a")),
        (b'{"a": "\xff"}', "json_invalid", ("body",)),
        ('{"a": 1}'.encode("utf-16"), "json_invalid", ("body",)),
        (b'\xef\xbb\xbf{"a": 1}', "json_invalid", ("body",)),
        (b'{"a": 1} {}', "json_invalid", ("body",)),
        (b'{"a": 1,}', "json_invalid", ("body",)),
        (b"", "json_invalid", ("body",)),
        (b"[" * 100_000, "json_too_deep", ("body",)),
        (b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1), "json_too_deep", ("body", 0, 0)),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "json_too_deep", ("body",)),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(body: bytes, code: str, location: tuple[str | int, ...]) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_document(body)
    [error] = refused.value.errors
    assert (error.code, error.location) == (code, location)


@pytest.mark.parametrize("value", [b'"\\ud83d\\ude00"', b"9223372036854775807", b"-9223372036854775808", b"null", b"true", b"[]", b"0.1"])
def test_what_can_be_stored_is_taken(value: bytes) -> None:
    assert set(parse_document(b'{"a": ' + value + b"}")) == {"a"}


def test_a_megabyte_of_repeated_names_costs_no_more_than_reading_it() -> None:
    names = b",".join(b'"%d":0' % number for number in range(80_000))
    with pytest.raises(RequestInvalid):
        parse_document(b"{" + names + b',"79999":0}')
