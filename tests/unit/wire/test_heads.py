"""The head of a request: one reading, or none."""

import pytest

from relay.errors import FramingInvalid, HeadTooLarge
from relay.wire.heads import FIELDS_LIMIT, check_beginning, parse_head

GOOD = b"POST /upload/a%20b?q=1&r HTTP/1.1\r\nHost: relay\r\nX-Thing:  a b\t\r\nX-THING: \xe9\r\nEmpty:\r\n\r\n"

MALFORMED = {
    "a folded field": b"POST /a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "a fold by a tab": b"POST /a HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
    "a space before the first field": b"POST /a HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare LFs": b"POST /a HTTP/1.1\nHost: a\n\n",
    "a bare LF behind a field": b"POST /a HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    "a bare LF at the end": b"POST /a HTTP/1.1\r\nHost: a\r\n\n",
    "a bare CR in a value": b"POST /a HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n",
    "a bare CR behind the version": b"POST /a HTTP/1.1\r\r\nHost: a\r\n\r\n",
    "a NUL": b"POST /a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a control character": b"POST /a HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "a space before the colon": b"POST /a HTTP/1.1\r\nHost : a\r\n\r\n",
    "no name": b"POST /a HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "no colon": b"POST /a HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n",
    "a name that is not ASCII": b"POST /a HTTP/1.1\r\nHost: a\r\nX\xe4: 1\r\n\r\n",
    "a signed length": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
    "a list of lengths": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    "both framings": b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a coding behind a vertical tab": b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "two spaces": b"POST  /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab for a space": b"POST\t/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"POST /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"POST /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a byte that no target has": b"POST /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"post /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method that nobody knows": b"FROBNICATE /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "RTSP": b"PLAY /a RTSP/1.0\r\nHost: a\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\n\n",
}


def test_a_head_is_read_as_it_was_sent() -> None:
    head = parse_head(GOOD)
    assert (head.method, head.raw_path, head.query, head.http_version) == ("POST", b"/upload/a%20b", b"q=1&r", "1.1")
    assert head.headers == [(b"host", b"relay"), (b"x-thing", b"a b"), (b"x-thing", b"\xe9"), (b"empty", b"")]
    assert head.keep_alive


@pytest.mark.parametrize("head", MALFORMED.values(), ids=list(MALFORMED))
def test_what_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(FramingInvalid):
        parse_head(head)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://other:80/a?b", b"/a", b"b"),
        (b"HTTPS://other", b"/", b""),
        (b"http://other?q", b"/", b"q"),
        (b"//other/a", b"//other/a", b""),
    ],
)
def test_the_absolute_form_is_taken(target: bytes, path: bytes, query: bytes) -> None:
    head = parse_head(b"POST " + target + b" HTTP/1.1\r\nHost: relay\r\n\r\n")
    assert (head.raw_path, head.query) == (path, query)


@pytest.mark.parametrize("line", [b"CONNECT relay:443", b"OPTIONS *"])
def test_other_forms_are_no_path(line: bytes) -> None:
    assert not parse_head(line + b" HTTP/1.1\r\nHost: relay\r\n\r\n").raw_path.startswith(b"/")


def test_a_wish_to_upgrade_leaves_the_head_as_it_is() -> None:
    head = parse_head(b"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n")
    assert (b"content-length", b"5") in head.headers


def test_a_client_may_say_that_it_will_close() -> None:
    assert not parse_head(b"POST /a HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive


def test_fields_are_counted() -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(FIELDS_LIMIT + 1))
    with pytest.raises(HeadTooLarge):
        parse_head(b"POST /a HTTP/1.1\r\n" + lines + b"\r\n")


@pytest.mark.parametrize("beginning", [b"\x16\x03\x01", b"SSH-2.0-x", b"get / HT", b"A" * 40, b" GET", b"-X /"])
def test_what_cannot_become_a_request_is_refused_at_once(beginning: bytes) -> None:
    with pytest.raises(FramingInvalid):
        check_beginning(bytearray(beginning))


@pytest.mark.parametrize("beginning", [b"P", b"POST", b"POST /upl", b"M-SEARCH"])
def test_what_may_become_one_is_waited_for(beginning: bytes) -> None:
    check_beginning(bytearray(beginning))
