"""The head of a request, read by ``httptools`` (llhttp in its strict mode), and what it leaves to us."""

import re
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

from relay.errors import FramingInvalid, HeadTooLarge
from relay.protocols.header_rules import Field, connection_tokens

FIELDS_LIMIT: Final = 256
END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
"""What every reader of HTTP takes for the end of a head, those included that take a bare LF; the parser then refuses it."""

_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,31}(?: |\Z)")
_FIRST_LINE: Final = re.compile(rb"[A-Z][A-Z-]* [!-\"$-~]+ HTTP/1\.[01]\r\n")
"""Stricter than the parser, which takes RTSP, several spaces and a fragment as well."""
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class RequestHead(NamedTuple):
    """One head. ``headers`` are lower-case byte pairs; ``raw_path`` is as sent, without the query."""

    method: str
    raw_path: bytes
    query: bytes
    http_version: str
    headers: list[Field]
    keep_alive: bool

    def as_scope(self, root_path: str) -> dict[str, Any]:
        """What ASGI's scope says of it (HTTP connection scope)."""
        return {
            "http_version": self.http_version,
            "method": self.method,
            "path": root_path + unquote_to_bytes(self.raw_path).decode("utf-8", "replace"),
            "raw_path": root_path.encode("ascii") + self.raw_path,
            "query_string": self.query,
            "headers": self.headers,
        }


class _Collector:
    __slots__ = ("headers", "is_complete", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[Field] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def check_beginning(head: bytearray) -> None:
    """Refuse at once what cannot become a request: another protocol, or what a client sent beyond its body.

    Raises:
        FramingInvalid: as it says.
    """
    if not _METHOD.match(head):
        raise FramingInvalid("The request is not HTTP/1.1.")


def parse_head(head: bytes) -> RequestHead:
    """Read one whole head.

    Raises:
        FramingInvalid: it is not the head of an HTTP/1 request.
        HeadTooLarge: it has too many fields.
    """
    if not _FIRST_LINE.match(head):
        raise FramingInvalid("The request is not HTTP/1.1.")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # a wish that is not granted; the request is answered as HTTP/1.1, and its body is its body
    except httptools.HttpParserError:
        raise FramingInvalid("The request is not HTTP/1.1.") from None
    if not collector.is_complete:
        raise FramingInvalid("The request is not HTTP/1.1.")
    if len(collector.headers) > FIELDS_LIMIT:
        raise HeadTooLarge(f"Send at most {FIELDS_LIMIT} header fields.")
    path, _, query = collector.target.partition(b"?")
    if not path.startswith(b"/") and (authority := _ABSOLUTE.match(path)):  # RFC 9112 "absolute-form": every server takes it
        path = path[authority.end() :] or b"/"
    return RequestHead(
        parser.get_method().decode("ascii"),
        path,
        query,
        parser.get_http_version(),
        collector.headers,
        keep_alive=b"close" not in connection_tokens(collector.headers),
    )
