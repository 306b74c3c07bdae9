"""Requests to a blob store are signed as its maker says, and as the maker's own client does."""

from datetime import UTC, datetime

import pytest
from azure.storage.blob._shared.authentication import _storage_header_sort
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.azure_signing import SasToken, SharedKey, Unsigned, string_to_sign

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_example_of_the_reference_is_signed_as_it_says() -> None:
    fields = {"x-ms-version": "2015-02-21", "x-ms-date": "Fri, 26 Jun 2015 23:39:12 GMT", "content-length": "0"}
    query = [("restype", "container"), ("comp", "metadata"), ("timeout", "20")]
    assert string_to_sign("myaccount", Unsigned("GET", "/mycontainer", query, fields)) == (
        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
        "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
    )


def test_every_field_that_counts_has_its_line() -> None:
    names = ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"]
    names += ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"]
    fields = {name: f"<{name}>" for name in reversed(names)}
    told = string_to_sign("a", Unsigned("PUT", "/c/%C3%BC%20x", [("blockid", "a+b=="), ("comp", "block")], fields))
    assert told == "\n".join(["PUT", *(f"<{name}>" for name in names), "/a/c/%C3%BC%20x", "blockid:a+b==", "comp:block"])


@given(st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True), unique=True))
def test_fields_are_sorted_as_the_service_sorts_them(names: list[str]) -> None:
    own = ["x-ms-date", "x-ms-version", "x-ms-blob-type", "x-ms-blob-content-md5", "x-ms-blob-content-type", "x-ms-blob-cache-control"]
    fields = dict.fromkeys([*(f"x-ms-meta-{name}" for name in names), *own], "v")
    told = string_to_sign("a", Unsigned("PUT", "/c/b", [], fields)).split("\n")[12:-1]
    assert told == [f"{name}:v" for name, _ in _storage_header_sort(list(fields.items()))]


def test_neither_secret_is_in_what_may_be_logged() -> None:
    key, token = "c2VjcmV0", "sv=2024-08-04&sp=rcwd&sig=c2VjcmV0"
    for signer in (SharedKey("a", key), SasToken(token)):
        assert "c2VjcmV0" not in repr(signer) and "secret" not in repr(signer)
    target, fields = SasToken(token).sign(Unsigned("GET", "/c/b", [], {"x": "y"}))
    assert (target, fields) == (f"/c/b?{token}", {"x": "y"})
    target, _ = SasToken(token).sign(Unsigned("PUT", "/c/b", [("comp", "block")], {}))
    assert target == f"/c/b?comp=block&{token}"


@pytest.mark.parametrize(
    ("token", "is_expired"),
    [
        ("se=2025-12-31T23%3A59%3A59Z&sig=x", True),
        ("se=2025-12-31&sig=x", True),
        ("se=2026-01-02T00:00Z&sig=x", False),
        ("si=policy&sig=x", False),
        ("se=soon&sig=x", False),
    ],
)
def test_a_token_knows_when_it_ran_out(token: str, is_expired: bool) -> None:
    assert (SasToken(token).expired_at(NOW) is not None) is is_expired
