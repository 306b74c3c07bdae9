from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import CredentialsAmbiguous, FramingInvalid, LoopDetected
from relay.protocols.header_rules import (
    HOP_BY_HOP,
    Field,
    Passage,
    Peer,
    Trace,
    answer_fields,
    check_no_loop,
    client_address,
    continue_trace,
    find_credential,
    parse_framing,
    request_fields,
    values_of,
)

HOST: Field = (b"host", b"relay.example")
STRANGER = Peer("203.0.113.9", "http", is_trusted=False)
PROXY = Peer("10.0.0.1", "http", is_trusted=True)
TRUSTED = [ip_network("10.0.0.0/8")]

NAMES = st.sampled_from(
    [
        b"accept",
        b"x_forwarded_for",
        b"relay_x",
        b"transfer_encoding",
        b"content-type",
        b"x-a",
        b"x-b",
        b"authorization",
        b"x-api-key",
        b"cookie",
        b"expect",
        b"host",
        b"te",
        b"relay-upload-id",
        b"relay-x",
        b"content-length",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-for",
        b"forwarded",
        b"via",
        b"keep-alive",
        b"proxy-connection",
        b"trailer",
        b"traceparent",
        b"set-cookie",
        b"access-control-allow-origin",
    ]
)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12).map(str.encode)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


def passage(peer: Peer = STRANGER) -> Passage:
    return Passage(b"0123456789abcdef", peer, Trace("ab" * 16, ((b"traceparent", b"tp"),)), "request", "upload", "1.1")


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], "1.1"),
        ([HOST, (b"content-length", b"1"), (b"content-length", b"2")], "1.1"),
        ([HOST, (b"content-length", b"+1")], "1.1"),
        ([HOST, (b"content-length", b"1_0")], "1.1"),
        ([HOST, (b"content-length", b"-1")], "1.1"),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], "1.1"),
        ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], "1.1"),
        ([HOST, (b"transfer-encoding", b"chunked")], "1.0"),
        ([HOST, HOST], "1.1"),
        ([], "1.1"),
    ],
)
def test_ambiguous_framing_is_refused(headers: list[Field], version: str) -> None:
    with pytest.raises(FramingInvalid):
        parse_framing(headers, version)


def test_framing_is_read() -> None:
    assert parse_framing([HOST, (b"content-length", b"12")], "1.1").length == 12
    assert parse_framing([HOST], "1.1").length == 0
    assert parse_framing([HOST, (b"transfer-encoding", b"Chunked")], "1.1").length is None
    assert parse_framing([HOST, (b"expect", b"100-Continue")], "1.1").expects_continue
    assert not parse_framing([(b"expect", b"100-continue")], "1.0").expects_continue


def test_one_key_in_either_header_or_the_same_in_both() -> None:
    assert find_credential([(b"authorization", b"Bearer k")]) == "k"
    assert find_credential([(b"x-api-key", b"k"), (b"authorization", b"bearer  k")]) == "k"
    assert find_credential([(b"authorization", b"Basic abc")]) is None
    assert find_credential([]) is None


def test_two_different_keys_are_ambiguous() -> None:
    with pytest.raises(CredentialsAmbiguous):
        find_credential([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")])
    with pytest.raises(CredentialsAmbiguous):
        find_credential([(b"x-api-key", b"a"), (b"x-api-key", b"b")])


@given(FIELDS, st.lists(NAMES, max_size=3))
def test_what_a_destination_must_not_see_never_passes(fields: list[Field], declared: list[bytes]) -> None:
    headers = [*fields, (b"connection", b", ".join(declared))]
    passed = request_fields(headers, passage())
    names = {name for name, _ in passed}
    forbidden = HOP_BY_HOP | {b"authorization", b"x-api-key", b"cookie", b"expect", b"host", b"content-length"}
    assert not names & forbidden
    assert not {name for name in names if name.startswith(b"relay-")} - {b"relay-upload-id"}
    assert values_of(passed, b"relay-upload-id") == [b"upload"]
    kept = {b"accept", b"content-type", b"x-a", b"x-b"} - set(declared)
    assert [field for field in passed if field[0] in kept] == [field for field in headers if field[0] in kept]
    assert len(values_of(passed, b"via")) == len(values_of(passed, b"x-forwarded-for")) == 1


@given(FIELDS)
def test_what_a_client_must_not_see_never_passes(fields: list[Field]) -> None:
    passed = answer_fields([(name.upper(), value) for name, value in fields])
    names = {name for name, _ in passed}
    assert not names & (HOP_BY_HOP | {b"set-cookie", b"content-length", b"access-control-allow-origin"})
    assert not any(name.startswith(b"relay-") for name in names)
    assert values_of(passed, b"x-content-type-options") == [b"nosniff"]
    assert [field for field in passed if field[0] in {b"x-a", b"x-b"}] == [field for field in fields if field[0] in {b"x-a", b"x-b"}]


def test_a_stranger_cannot_forge_where_a_request_came_from() -> None:
    forged = [HOST, (b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-proto", b"https")]
    passed = request_fields(forged, passage())
    assert values_of(passed, b"x-forwarded-for") == [b"203.0.113.9"]
    assert values_of(passed, b"forwarded") == [b'for=203.0.113.9;host="relay.example";proto=http']
    assert values_of(passed, b"x-forwarded-proto") == [b"http"]
    assert client_address(forged, STRANGER, TRUSTED) == "203.0.113.9"


def test_a_trusted_proxy_is_believed_and_extended() -> None:
    headers = [HOST, (b"x-forwarded-for", b"6.6.6.6, 1.2.3.4, 10.0.0.7"), (b"x-forwarded-proto", b"https")]
    passed = request_fields(headers, passage(PROXY))
    assert values_of(passed, b"x-forwarded-for") == [b"6.6.6.6, 1.2.3.4, 10.0.0.7, 10.0.0.1"]
    assert values_of(passed, b"x-forwarded-proto") == [b"https"]
    assert client_address(headers, PROXY, TRUSTED) == "1.2.3.4"


def test_our_own_via_is_a_loop_and_anothers_is_not() -> None:
    check_no_loop([(b"via", b"1.1 relay-other, 1.0 fred")], b"relay-mine")
    with pytest.raises(LoopDetected):
        check_no_loop([(b"via", b"1.0 fred, 1.1 relay-mine (comment)")], b"relay-mine")


def test_a_trace_is_continued_under_a_new_span_or_begun_anew() -> None:
    given_id = b"0af7651916cd43dd8448eb211c80319c"
    headers = [(b"traceparent", b"00-" + given_id + b"-b7ad6b7169203331-01"), (b"tracestate", b"a=1")]
    trace = continue_trace(headers)
    assert trace.trace_id == given_id.decode()
    assert trace.fields[0][1].startswith(b"00-" + given_id) and not trace.fields[0][1].endswith(b"b7ad6b7169203331-01")
    assert trace.fields[1] == (b"tracestate", b"a=1")
    for bad in (b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"junk", b"01-x"):
        begun = continue_trace([(b"traceparent", bad), (b"tracestate", b"a=1")])
        assert begun.trace_id != "0" * 32
        assert len(begun.fields) == 1


def test_the_clients_request_id_is_forwarded_and_ours_where_there_is_none() -> None:
    assert values_of(request_fields([(b"x-request-id", b"theirs")], passage()), b"x-request-id") == [b"theirs"]
    assert values_of(request_fields([], passage()), b"x-request-id") == [b"request"]
