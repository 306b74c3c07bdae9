"""One request and its answer, as ASGI sees them: what has come of the body, and the framing of what goes out.

The connection feeds it (``feed``, ``end``, ``fail``, ``leave``); the app asks it (``receive``, ``send``). Bytes that came are
handed over before anything else is told, a departure included.

Beyond ASGI: ``pour`` gives each piece away in the very call that received it, without a copy and without a turn of the
loop; a disconnect that has a reason which the client can still be told carries it as ``fault``, and the answer may still
be sent; informational answers (1xx) go out by ``http.response.informational``; the exchange itself lies in
``scope["extensions"]``.
"""

import asyncio
import enum
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol

from relay.errors import RelayError
from relay.protocols.header_rules import Field, Framing, connection_tokens
from relay.wire.news import News
from relay.wire.pieces import PLENTY, Piece, Room, Take

EXTENSION: Final = "relay.exchange"
INFORMATIONAL: Final = "http.response.informational"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JOIN_LIMIT: Final = 64 * 1024
"""Up to this size an answer's piece is copied behind its head or frame rather than written by itself (bytes)."""
PIECE_COST: Final = 64
"""What a piece takes at least, however few bytes are in it: a client chooses how many it sends them in (bytes)."""

_STATUS_LINES: Final[dict[int, bytes]] = {
    int(status): f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode() for status in HTTPStatus
}
UNREAD_LIMIT: Final = 64 * 1024
"""So much of a body may wait for the app before no more is read (bytes)."""

_BREAKS_OUT: Final = re.compile(rb"[\x00\r\n]")
_NO_BODY: Final = frozenset([204, 304])


class Poured(enum.Enum):
    """Why ``pour`` came back: nobody takes more for now, the body has ended, or it broke."""

    FULL = enum.auto()
    ENDED = enum.auto()
    BROKEN = enum.auto()


class Carrier(Protocol):
    """The connection below an exchange."""

    is_gone: bool

    @property
    def is_writable(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    async def writable(self) -> None: ...
    def read_on(self) -> None: ...
    def cut(self) -> None: ...
    def complete(self, *, keep: bool) -> None: ...


class Exchange:
    """One request and its answer. The app finds it in ``scope["extensions"]`` too: it knows more than ASGI has messages for."""

    def __init__(self, carrier: Carrier, method: str, http_version: str, framing: Framing, *, keep_alive: bool) -> None:
        self._carrier = carrier
        self._is_head = method == "HEAD"
        self._is_old = http_version == "1.0"
        self.framing = framing
        self.has_left = False
        """True once the client has closed its side or the connection."""
        self.on_departure: Callable[[], None] | None = None
        """Called once when the connection is lost before the whole body has come."""
        self._pieces: list[bytes] = []
        self._take: Take | None = None
        self._is_full = False
        self.room: Room = UNREAD_LIMIT
        """How many bytes more would be taken at once, about, or where they are wanted."""
        self.unread_bytes = 0
        self.received_bytes = 0
        self.is_whole = False
        self._is_end_told = False
        self.fault: RelayError | None = None
        """Why the body broke, where the client can be told."""
        self._news = News()
        self.awaits_continue = framing.expects_continue
        self.keep_alive = keep_alive and not self._is_old
        self.is_started = False
        self.is_complete = False
        self._head = b""
        self._is_chunked = False
        self._rest_bytes: int | None = None

    # ── what the connection tells ────────────────────────────────────────────────────────────────

    def feed(self, piece: Piece) -> None:
        """Bytes of the body have come."""
        self.received_bytes += len(piece)
        if self._take is None:
            self._pieces.append(bytes(piece))
            self.unread_bytes += max(len(piece), PIECE_COST)
            self._news.tell()
        elif not (room := self._take(piece)):
            self._take, self.room = None, UNREAD_LIMIT
            self._is_full = True
            self._news.tell()
        else:
            self.room = room

    def end(self) -> None:
        """The whole body has come."""
        self.is_whole = True
        self._news.tell()

    def fail(self, fault: RelayError) -> None:
        """The body will never be whole, and the client can be told why."""
        self.fault = fault
        self.keep_alive = False
        self._news.tell()

    def leave(self) -> None:
        """The connection is lost."""
        self.has_left = True
        self._news.tell()
        if not self.is_whole and self.on_departure is not None:
            self.on_departure()

    def drop(self) -> None:
        """The app has ended; what it did not take, and whom it wanted called, is dropped at once, whoever still remembers the exchange."""
        self._pieces.clear()
        self.on_departure = None

    def answer(self, status: int, fields: list[Field], body: bytes) -> None:
        """Answer without the app."""
        self._start(status, [*fields, (b"content-length", b"%d" % len(body))])
        self._send_body(body, is_last=True)

    # ── what the app asks ────────────────────────────────────────────────────────────────────────

    @property
    def is_told(self) -> bool:
        """True once the client has been sent all of an answer whose length it was told, whatever the app still does."""
        return self.is_complete or (self.is_started and self._rest_bytes == 0 and not self._head)

    @property
    def wants_more(self) -> bool:
        """False while enough of the body is here that nobody takes."""
        return self._take is not None or not (self._is_full or self.unread_bytes > UNREAD_LIMIT)

    @property
    def ends_with_connection(self) -> bool:
        """True of an answer that has no other end: one of unknown length to an HTTP/1.0 client."""
        return self.is_started and self._rest_bytes is None and not self._is_chunked

    @property
    def is_writable(self) -> bool:
        """True when ``send`` would not wait."""
        return self._carrier.is_writable

    async def pour(self, take: Take) -> Poured:
        """Give what has come of the body to ``take``, and then what comes, as it comes, until it says that it takes no more."""
        self._continue()
        self._is_full = False
        while True:
            if self._pieces and not take(self._taken()):
                self._is_full = True
                return Poured.FULL
            if self.is_whole:
                self._is_end_told = True
                return Poured.ENDED
            if self._carrier.is_gone or self.is_complete or self.fault is not None:
                return Poured.BROKEN
            self._take, self.room = take, PLENTY
            self._carrier.read_on()
            try:
                await self._news.come()
                if self._take is None:
                    return Poured.FULL
            finally:
                self._take, self.room = None, UNREAD_LIMIT

    async def receive(self) -> dict[str, Any]:
        """Give what has come of the body, waiting for it; then the end, once; then, when it comes, the departure."""
        self._continue()
        while True:
            if self._pieces or (self.is_whole and not self._is_end_told):
                return self._hand_over()
            if self._carrier.is_gone or self.is_complete or self.fault is not None:
                return {"type": "http.disconnect", "fault": self.fault}
            self._carrier.read_on()
            await self._news.come()

    def _continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        if self.awaits_continue:
            self.awaits_continue = False
            if not self.is_started:
                self._carrier.write(CONTINUE)

    def _taken(self) -> bytes:
        """Take what has come, in one piece."""
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.unread_bytes = 0
        return taken

    def _hand_over(self) -> dict[str, Any]:
        body = self._taken()
        self._is_end_told = self.is_whole
        if not self.is_whole:
            self._carrier.read_on()
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    async def send(self, message: Any) -> None:
        """Send a message of the answer; returns when the client has taken enough of what was sent before."""
        await self._carrier.writable()
        if self._carrier.is_gone:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.is_started and not self.is_complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
        elif kind == "http.response.start" and not self.is_started:
            self._start(message["status"], list(message.get("headers", ())))
        elif kind == INFORMATIONAL and not self.is_started:
            if not self._is_old:
                self._carrier.write(_head_of(message["status"], message.get("headers", ())))
        else:
            raise RuntimeError(f"the app sent {kind} out of turn")

    def _start(self, status: int, fields: list[Field]) -> None:
        self.is_started = True
        self.awaits_continue = False
        names = dict(fields)
        if b"close" in connection_tokens(fields):
            self.keep_alive = False
        elif not self.keep_alive:
            fields.append((b"connection", b"close"))
        if self._is_head or status in _NO_BODY:
            self._rest_bytes = 0
        elif (length := names.get(b"content-length")) is not None:
            self._rest_bytes = int(length)
        elif self._is_old:
            self.keep_alive = False
        else:
            self._is_chunked = True
            fields.append((b"transfer-encoding", b"chunked"))
        # The head waits for the first piece, or for the end of this turn of the loop: a small answer is one write.
        self._head = _head_of(status, fields)
        asyncio.get_running_loop().call_soon(self._flush_head)

    def _flush_head(self) -> None:
        if self._head and not self._carrier.is_gone:
            self._carrier.write(self._head)
        self._head = b""

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self._is_head:
            body = b""
        if self._rest_bytes is not None and len(body) > self._rest_bytes:
            raise RuntimeError("the app sent more than it declared")
        before, after = self._head, b""
        self._head = b""
        if self._is_chunked:
            before += b"%x\r\n" % len(body) if body else b""
            after = (b"\r\n" if body else b"") + (b"0\r\n\r\n" if is_last else b"")
        elif self._rest_bytes is not None:
            self._rest_bytes -= len(body)
        if is_last and self._rest_bytes:
            self._write(before, body, after)
            raise RuntimeError("the app sent less than it declared")
        self._write(before, body, after)
        if is_last:
            self.is_complete = True
            self._news.tell()
            self._carrier.complete(keep=self.keep_alive)

    def _write(self, before: bytes, body: bytes, after: bytes) -> None:
        if len(body) <= JOIN_LIMIT:
            if data := before + body + after:
                self._carrier.write(data)
            return
        for data in (before, body, after):
            if data:
                self._carrier.write(data)


def _head_of(status: int, fields: Iterable[Field]) -> bytes:
    """Write the head of an answer.

    Raises:
        RuntimeError: a field would break out of its line.
    """
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    for name, value in fields:
        if _BREAKS_OUT.search(name) or _BREAKS_OUT.search(value):
            raise RuntimeError("a header field of the answer holds a line break")
        lines.append(name + b": " + value + b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
