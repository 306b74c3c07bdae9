"""Which header fields pass, and what is added. Headers in, values out; no I/O.

Sources: RFC 9110 "Connection" and "Via", RFC 9112 "Message Body Length", RFC 7239, W3C Trace Context.
Fields are lower-case byte pairs in the order they came, as ASGI gives them.
"""

import random
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from relay.errors import CredentialsAmbiguous, FramingInvalid, HeadTooLarge, LoopDetected

Field = tuple[bytes, bytes]
Networks = Sequence[IPv4Network | IPv6Network]

HEAD_LIMIT = 64 * 1024

HOP_BY_HOP = frozenset([b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"])
_FRAMING = frozenset([b"content-length", b"host", b"expect"])
_READ_FOR_FRAMING = _FRAMING | {b"transfer-encoding"}
_CREDENTIALS = frozenset([b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"])
_SET_ANEW = frozenset([b"via", b"traceparent", b"tracestate", b"x-request-id"])
_FORWARDING = frozenset([b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"])
_NOT_TO_DESTINATION = HOP_BY_HOP | _FRAMING | _CREDENTIALS | _SET_ANEW | _FORWARDING
_NOT_TO_CLIENT = HOP_BY_HOP | frozenset(
    [b"set-cookie", b"clear-site-data", b"strict-transport-security", b"alt-svc", b"service-worker-allowed", b"x-content-type-options"]
)
_OURS = b"relay-"
_CORS = b"access-control-"
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Za-z.:%\-_~]+\])(?::[0-9]{0,5})?")
_FIELD_OVERHEAD = len(b": \r\n")


def values_of(headers: Iterable[Field], name: bytes) -> list[bytes]:
    """Every value of one field, in order."""
    return [value for field, value in headers if field == name]


def find_value(headers: Iterable[Field], name: bytes) -> bytes | None:
    """The first value of a field."""
    for field, value in headers:
        if field == name:
            return value
    return None


def check_size(headers: Iterable[Field]) -> None:
    """Refuse a head that no honest client sends (RFC 6585 "431 Request Header Fields Too Large").

    Raises:
        HeadTooLarge: its fields have more than ``HEAD_LIMIT`` bytes.
    """
    if sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers) > HEAD_LIMIT:
        raise HeadTooLarge


class Framing(NamedTuple):
    """How a request's body is framed. ``length`` is ``None`` for a chunked body, 0 for none."""

    length: int | None
    expects_continue: bool


def parse_framing(headers: Sequence[Field], http_version: str) -> Framing:
    """Read the framing of a request (RFC 9112 "Message Body Length").

    Raises:
        FramingInvalid: both framings, two lengths, a coding other than ``chunked``, any coding on
            HTTP/1.0, no Host on HTTP/1.1, several or one that names no host; another HTTP than 1.x.
    """
    told: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _READ_FOR_FRAMING:
            told.setdefault(name, []).append(value)
    lengths = told.get(b"content-length", [])
    codings = told.get(b"transfer-encoding", [])
    hosts = told.get(b"host", [])
    if not http_version.startswith("1."):
        raise FramingInvalid("Send the request as HTTP/1.1.")
    if len(hosts) > 1 or (not hosts and http_version != "1.0"):
        raise FramingInvalid("Send exactly one Host field.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise FramingInvalid("Send a Host field that is a host name or address, with or without a port.")
    if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked" or http_version == "1.0"):
        raise FramingInvalid
    if len(set(lengths)) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise FramingInvalid
    expected = {item.strip().lower() for value in told.get(b"expect", ()) for item in value.split(b",")}
    is_continue = b"100-continue" in expected and http_version != "1.0"
    return Framing(None if codings else int(lengths[0]) if lengths else 0, is_continue)


def find_credential(headers: Sequence[Field]) -> str | None:
    """The one key that a request carries, or ``None``.

    Raises:
        CredentialsAmbiguous: it carries two different ones.
    """
    found = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(key.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    if len(found) > 1:
        raise CredentialsAmbiguous
    return found.pop().decode("latin-1") if found else None


def as_read(name: bytes) -> bytes:
    """A field's name as gateways to CGI and WSGI read it: to them ``X_Forwarded_For`` is ``X-Forwarded-For``."""
    return name.replace(b"_", b"-")


def connection_tokens(headers: Iterable[Field]) -> frozenset[bytes]:
    """The names that ``Connection`` declares to be for this hop alone."""
    tokens: set[bytes] = set()
    for field, value in headers:
        if field == b"connection":
            tokens.update(token.strip().lower() for token in value.split(b","))
    return frozenset(tokens)


def check_no_loop(headers: Iterable[Field], pseudonym: bytes) -> None:
    """Refuse a request that has passed through this installation (RFC 9110 "Via").

    Raises:
        LoopDetected: our own pseudonym stands in ``Via``.
    """
    for value in values_of(headers, b"via"):
        for element in value.split(b","):
            if pseudonym in element.split()[1:2]:
                raise LoopDetected


class Peer(NamedTuple):
    """Who is at the other end of the connection, and whether its forwarding fields are believed."""

    address: str | None
    scheme: str
    is_trusted: bool


def is_within(address: str | None, networks: Networks) -> bool:
    """True when the address lies in one of the networks."""
    if not networks or address is None:
        return False
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


def client_address(headers: Iterable[Field], peer: Peer, trusted: Networks) -> str | None:
    """The address of the client: the last one in X-Forwarded-For that no trusted proxy has."""
    if not peer.is_trusted:
        return peer.address
    listed = b",".join(values_of(headers, b"x-forwarded-for")).decode("latin-1").split(",")
    for address in reversed([item.strip() for item in listed if item.strip()]):
        if not is_within(address, trusted):
            return address[:64]
    return peer.address


def forwarding_fields(headers: Sequence[Field], peer: Peer) -> list[Field]:
    """``Forwarded`` and ``X-Forwarded-*`` for the next hop: extended for a trusted peer, else replaced."""
    address = (peer.address or "unknown").encode()
    node = b'"[' + address + b']"' if b":" in address else address
    host = find_value(headers, b"host") or b""
    quoted = host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    element = b'for=%b;host="%b";proto=%b' % (node, quoted, peer.scheme.encode())
    if not peer.is_trusted:
        return [
            (b"forwarded", element),
            (b"x-forwarded-for", address),
            (b"x-forwarded-proto", peer.scheme.encode()),
            (b"x-forwarded-host", host),
        ]
    before = {name: b", ".join(values_of(headers, name)) for name in _FORWARDING}
    return [
        (b"forwarded", _extended(before[b"forwarded"], element)),
        (b"x-forwarded-for", _extended(before[b"x-forwarded-for"], address)),
        (b"x-forwarded-proto", before[b"x-forwarded-proto"] or peer.scheme.encode()),
        (b"x-forwarded-host", before[b"x-forwarded-host"] or host),
    ]


def _extended(before: bytes, element: bytes) -> bytes:
    return before + b", " + element if before else element


class Trace(NamedTuple):
    """The trace a request belongs to: its id, and the fields that continue it."""

    trace_id: str
    fields: tuple[Field, ...]


def continue_trace(headers: Sequence[Field]) -> Trace:
    """Continue the client's trace under a span of our own, or begin one (W3C Trace Context)."""
    given = values_of(headers, b"traceparent")
    match = _TRACEPARENT.fullmatch(given[0].strip()) if len(given) == 1 else None
    span = b"%016x" % random.getrandbits(64)
    if match is None or not match[1].strip(b"0") or not match[2].strip(b"0"):
        trace_id = f"{random.getrandbits(128):032x}"
        return Trace(trace_id, ((b"traceparent", b"00-%b-%b-00" % (trace_id.encode(), span)),))
    state = tuple((b"tracestate", value) for value in values_of(headers, b"tracestate"))
    return Trace(match[1].decode(), ((b"traceparent", b"00-%b-%b-%b" % (match[1], span, match[3])), *state))


class Passage(NamedTuple):
    """What is added to a request on its way to a destination."""

    pseudonym: bytes
    peer: Peer
    trace: Trace
    request_id: str
    upload_id: str
    http_version: str


def request_fields(headers: Sequence[Field], passage: Passage) -> tuple[Field, ...]:
    """The fields of a request that go on to an HTTP destination, in their order, and those added.

    Framing and Host are not among them: the destination sets them anew.
    """
    dropped = connection_tokens(headers) | _NOT_TO_DESTINATION
    passed = [(name, value) for name, value in headers if (read := as_read(name)) not in dropped and not read.startswith(_OURS)]
    via = [*values_of(headers, b"via"), b"%b relay-%b" % (passage.http_version.encode(), passage.pseudonym)]
    request_id = (find_value(headers, b"x-request-id") or b"").strip() or passage.request_id.encode()
    return (
        *passed,
        *forwarding_fields(headers, passage.peer),
        (b"via", b", ".join(via)),
        *passage.trace.fields,
        (b"x-request-id", request_id),
        (b"relay-upload-id", passage.upload_id.encode()),
    )


def answer_fields(headers: Iterable[Field]) -> list[Field]:
    """The fields of a destination's answer that go back to the client, ``nosniff`` added.

    Content-Length is not among them: the answer is framed anew.
    """
    fields = [(name.lower(), value) for name, value in headers]
    dropped = connection_tokens(fields) | _NOT_TO_CLIENT | {b"content-length"}
    passed = [(name, value) for name, value in fields if name not in dropped and not name.startswith(_OURS) and not name.startswith(_CORS)]
    passed.append((b"x-content-type-options", b"nosniff"))
    return passed
