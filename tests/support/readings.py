"""How h11 reads bytes: requests as a server, answers as a client. What it refuses, and where, is part of the reading."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

import h11

Ends = Literal["next", "refused", "too large", "closed", "waits"]
HEAD_LIMIT: Final = 128 * 1024
NEXT: Final = "/next"
SENTINEL: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
"""What is sent behind every row: whoever reads it as a request has found where the one before it ended."""

_REPEATED: Final = re.compile(r"<([^|<>]+)\|(\d+)>", re.DOTALL)
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*")


def expanded(text: str) -> str:
    """What a row of the tables writes: ``<text|n>`` is n times the text."""
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text)


def bytes_of(text: str, charset: str = "latin-1") -> bytes:
    """The bytes that a row of the tables writes: a character is a byte, where no other charset is named."""
    return expanded(text).encode(charset)


def path_of(target: str) -> str:
    """A target without what an absolute form has before its path."""
    return target if target.startswith("/") else _ABSOLUTE.sub("", target)


@dataclass
class Request:
    """One request, as somebody read it. Its body is what was read of it."""

    method: str
    target: str
    body: bytes = b""
    is_whole: bool = False


@dataclass
class Reading:
    """What somebody read, and how it ended."""

    requests: list[Request] = field(default_factory=list)
    ends: Ends = "waits"

    @property
    def whole(self) -> list[tuple[str, str, bytes]]:
        """The requests that ended."""
        return [(request.method, request.target, request.body) for request in self.requests if request.is_whole]

    @property
    def part(self) -> Request | None:
        """The request that did not."""
        return self.requests[-1] if self.requests and not self.requests[-1].is_whole else None


def h11_reading_of_requests(data: bytes) -> Reading:
    """Read as a server that answers each request when it has ended; ``data`` ends with the sentinel."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    reading = Reading()
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                reading.requests.append(Request(event.method.decode(), path_of(event.target.decode())))
            elif isinstance(event, h11.Data):
                reading.requests[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.requests[-1].is_whole = True
                if not _answer(connection):
                    reading.ends = "closed"
                    return reading
            elif event is h11.NEED_DATA:
                if reading.requests and reading.requests[-1].target == NEXT:
                    reading.requests.pop()
                    reading.ends = "next"
                return reading
            else:
                raise AssertionError(event)
    except h11.RemoteProtocolError:
        reading.ends = "refused"
        return reading


def _answer(connection: h11.Connection) -> bool:
    """Answer a request; true when another one may follow."""
    connection.send(h11.Response(status_code=400, headers=[("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    if connection.our_state is not h11.DONE:
        return False
    connection.start_next_cycle()
    return True


AnswerEnds = Literal["whole", "cut", "broken"]


@dataclass
class AnswerReading:
    """How somebody read an answer: ``cut`` behind its head, ``broken`` before; and whether the connection may serve another request."""

    status: int = 0
    body: bytes = b""
    ends: AnswerEnds = "broken"
    is_kept: bool = False


def h11_reading_of_answer(data: bytes, method: str, *, is_closing: bool) -> AnswerReading:
    """Read as a client that has sent its whole request; ``is_closing``: the server closes behind these bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    connection.send(h11.Request(method=method, target="/a", headers=[("Host", "a"), ("Content-Length", "3")]))
    connection.send(h11.Data(data=b"abc"))
    connection.send(h11.EndOfMessage())
    reading = AnswerReading()
    connection.receive_data(data)
    if is_closing:
        connection.receive_data(b"")
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                reading.status, reading.ends = event.status_code, "cut"
            elif isinstance(event, h11.Data):
                reading.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.ends = "whole"
                reading.is_kept = connection.their_state is h11.DONE and not connection.trailing_data[0]
                return reading
            elif not isinstance(event, h11.InformationalResponse):
                return reading
    except h11.RemoteProtocolError:
        return reading
