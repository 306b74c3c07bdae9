from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import PathInvalid
from relay.protocols.paths import parse_path

HARMLESS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), max_size=20).filter(
    lambda segment: segment.partition(";")[0] not in {".", ".."}
)


@pytest.mark.parametrize(
    "raw",
    [
        b"..",
        b"a/../b",
        b"a/./b",
        b".",
        b"%2e%2e/a",
        b"a/%2E%2e",
        b"a/.%2e",
        b"a%2Fb",
        b"a%2fb",
        b"a%5Cb",
        b"a\\b",
        b"a%00b",
        b"a%0Ab",
        b"a%7f",
        b"a%C2%85b",
        b"a%",
        b"a%2",
        b"a%zz",
        b"%",
        b"a/..;/b",
        b"..;x=1/b",
        b"a/.;/b",
        b"a/%2e%2e;x/b",
        b"a#b",
    ],
)
def test_a_path_that_could_be_read_as_another_is_refused(raw: bytes) -> None:
    with pytest.raises(PathInvalid):
        parse_path(raw)


@given(st.lists(HARMLESS, min_size=1, max_size=6))
def test_a_path_is_used_as_sent_and_compared_decoded(segments: list[str]) -> None:
    raw = "/".join(quote(segment, safe="") for segment in segments).encode()
    path = parse_path(raw)
    assert path.target == raw
    assert path.segments == tuple(segments)


@given(st.binary(max_size=60).map(lambda raw: raw.replace(b"?", b"")))
def test_no_accepted_path_holds_a_dangerous_segment_after_decoding(raw: bytes) -> None:
    try:
        path = parse_path(raw)
    except PathInvalid:
        return
    assert path.target == raw
    for piece in raw.split(b"/"):
        decoded = unquote_to_bytes(piece)
        assert decoded not in {b".", b".."}
        assert not set(decoded) & {0, 0x2F, 0x5C, 0x0A, 0x0D, 0x7F}


def test_a_prefix_matches_whole_segments_only() -> None:
    path = parse_path(b"photos/2026/a.jpg")
    assert path.starts_with(("photos",))
    assert path.starts_with(("photos", "2026"))
    assert not path.starts_with(("phot",))
    assert path.without(1).target == b"2026/a.jpg"


def test_a_prefix_is_compared_after_decoding() -> None:
    assert parse_path(b"%70hotos/a").starts_with(("photos",))


def test_empty_segments_are_kept() -> None:
    assert parse_path(b"a//b/").target == b"a//b/"
