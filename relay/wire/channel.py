"""One outgoing connection, plain or TLS: bytes out with back-pressure, bytes in to the turn that is on.

It knows nothing of HTTP. A connection on which something comes, or that ends, while no turn is on is of no further use.
"""

import asyncio
import contextlib
import math
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final, Protocol, cast

from relay.wire.kernel import room_of, socket_of, unacknowledged_bytes
from relay.wire.pieces import PLENTY, Piece, Unread, views_of
from relay.wire.tls import find_refusal

RECEIVE_BYTES: Final = 64 * 1024
SEND_LIMIT: Final = 256 * 1024
"""So much may wait for a peer within TLS. Without TLS nothing may: what waits there was copied, what waits in the kernel was not."""

MOVED_BYTES: Final = 64 * 1024
"""Less than this is copied: a client chooses how few bytes it sends in a packet, and whoever moves them holds the packet's whole page."""

ROOM_ASKED: Final = 1 << 20
"""With less room than this the kernel is asked anew: it may have got rid of something (bytes)."""
READ_OUT_MOST: Final = 64
"""Reads of what lies in the socket of a broken connection: more is no answer's head."""

_received = bytearray(RECEIVE_BYTES)
_view = memoryview(_received)
"""Where every connection of the process receives: what came is taken out before the loop does anything else."""


class Reader(Protocol):
    """Who is told what comes on a connection."""

    def take(self, data: memoryview) -> None: ...
    def look(self) -> None: ...
    def end(self, failure: Exception | None) -> None: ...


def read_out(transport: asyncio.Transport, buffer: Callable[[int], memoryview], taken: Callable[[int], None]) -> bool:
    """Read what lies unread in the socket of a broken connection, and say whether the peer's own end was among it.

    A write that fails makes the loop forget an answer that has come already. Until ``connection_lost`` returns, the socket is open.
    """
    plain = socket_of(transport)
    if plain is None or plain.fileno() < 0:
        return False
    with contextlib.suppress(OSError):
        for _ in range(READ_OUT_MOST):
            count = os.readv(plain.fileno(), [buffer(RECEIVE_BYTES)])
            if not count:
                return True
            taken(count)
    return False


def _rest_of(views: Iterable[bytes | memoryview], sent: int) -> bytes | memoryview:
    """What stands behind the first ``sent`` bytes: a copy, unless it is of one view of what does not change."""
    rest = []
    for view in views:
        if sent < len(view):
            rest.append(memoryview(view)[sent:])
        sent = max(0, sent - len(view))
    return rest[0] if len(rest) == 1 and rest[0].readonly else b"".join(rest)


class Undertow(asyncio.BufferedProtocol):
    """What stands between the socket and TLS: it reads out the socket of a broken connection while TLS can still read it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._tls = cast("asyncio.BufferedProtocol", transport.get_protocol())
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return cast("memoryview", self._tls.get_buffer(sizehint))

    def buffer_updated(self, nbytes: int) -> None:
        self._tls.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        return self._tls.eof_received()

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            read_out(self._transport, self.get_buffer, self.buffer_updated)
        self._tls.connection_lost(exc)


class Channel(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else happens
        self._reader: Reader | None = None
        self._writable: asyncio.Future[None] | None = None
        self._below: asyncio.Transport | None = None
        self._is_lost = False
        self._is_plain = False
        self._plain: socket.socket | None = None
        self._file = -1
        self._room = 0
        self._poll: select.poll | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf
        self.is_open = False
        self.is_reused = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_plain = transport.get_extra_info("ssl_object") is None
        self._transport.set_write_buffer_limits(high=0 if self._is_plain else SEND_LIMIT)
        self._plain = socket_of(transport)
        self._file = self._plain.fileno() if self._plain is not None else -1
        self.is_open = True

    def secure(self, below: asyncio.Transport, secured: asyncio.Transport) -> None:
        """Speak TLS from now on, by ``secured``; ``below`` is what carries it."""
        Undertow(below)
        self._below = below
        self.connection_made(secured)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        if self._reader is None:
            self.abort()
        else:
            self._reader.take(_view[:nbytes])

    def eof_received(self) -> bool:
        self.is_open = False
        if self._reader is not None:
            self._reader.end(None if self._has_end_of_tls() else ConnectionResetError("no closure alert"))
        return False

    def _has_end_of_tls(self) -> bool:
        """True unless TLS is spoken and its own end did not come (RFC 9112, "TLS Connection Closure"): anybody can send a FIN."""
        secured: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        if secured is None:
            return True
        try:
            return not secured.read(1)
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLZeroReturnError)

    def connection_lost(self, exc: Exception | None) -> None:
        was_open, self.is_open = self.is_open, False
        self._is_lost = True
        self._stop_timer()
        self.resume_writing()
        if self._reader is not None and was_open:
            has_ended = self._read_out()
            if self._reader is not None:
                self._reader.end(None if has_ended else find_refusal(exc) or exc or ConnectionResetError("closed"))
        self._file = -1

    def _read_out(self) -> bool:
        """Read what lies unread in the socket, and say whether the peer's own end was among it. Below TLS, ``Undertow`` has done so."""
        if self._transport.get_extra_info("ssl_object") is not None:
            return False
        return read_out(self._transport, self.get_buffer, self.buffer_updated)

    @property
    def is_quiet(self) -> bool:
        """True while nothing lies unread in the socket, not even its end: what came before a request is no answer to it."""
        if self._file < 0:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLIN)
        return not self._poll.poll(0)

    # ── turns ────────────────────────────────────────────────────────────────────────────────────

    def begin(self, reader: Reader) -> None:
        """A turn begins: ``reader`` is told what comes."""
        self._reader = reader

    def finish(self) -> None:
        """The turn has ended, and the connection may serve another one."""
        self._reader = None
        self.is_reused = True
        self.idle_since = self._loop.time()
        self.resume_reading()

    def abort(self) -> None:
        """Close at once; what was not sent is dropped."""
        self._reader = None
        self.is_open = False
        self._stop_timer()
        if not self._is_lost:  # the loop of asyncio cannot abort what has closed behind its last write
            self._transport.abort()

    # ── the clock ────────────────────────────────────────────────────────────────────────────────

    def look_by(self, when: float) -> None:
        """Have the turn look at its clock at this time of the loop, or before.

        A timer that was set for an earlier turn serves the next one: most turns are over long before it runs out.
        """
        if when < self._looks_at:
            self._stop_timer()
            self._looks_at = when
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._stop_timer()
        if self._reader is not None:
            self._reader.look()

    def _stop_timer(self) -> None:
        self._looks_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def write(self, data: Piece, before: bytes = b"") -> None:
        """Send ``before`` and ``data``, and keep what the peer does not take yet: a copy, if it is a view of what may change.

        On a connection that is closing nothing is sent.
        """
        if not self.can_write:
            return
        sent, size = self._send_at_once(data, before), len(before) + len(data)
        self._room -= size
        if sent < size:
            self._transport.write(_rest_of((before, *views_of(data)), sent))

    def _send_at_once(self, data: Piece, before: bytes) -> int:
        """Give the kernel what it takes, as the loop would, but without a copy; returns how many bytes it took.

        Until ``connection_lost`` returns the descriptor is the connection's own, so it cannot be another's by now. An error is
        left to the loop: it meets the same one with the next write, and ends the connection.
        """
        if not self._is_plain or self._transport.get_write_buffer_size():
            return 0
        try:
            if isinstance(data, Unread) and len(before) <= select.PIPE_BUF and len(data) >= MOVED_BYTES:
                return data.move_to(self._file, before)
            if before or not isinstance(data, bytes | memoryview):
                return os.writev(self._file, (before, *views_of(data)))
            return os.write(self._file, data)
        except OSError:
            return 0

    @property
    def can_write(self) -> bool:
        """False once what is written would be dropped."""
        return self.is_open and not self._transport.is_closing()

    @property
    def is_full(self) -> bool:
        """True while more waits to be sent than should."""
        return self._writable is not None

    @property
    def room(self) -> int:
        """How many bytes should be offered next: 0 while more waits than should, else about what the kernel has room for.

        It is asked seldom; what has drained from there since does not count.
        """
        if self._writable is not None or not self.can_write:
            return 0
        if not self._is_plain:  # what is kept of a piece is kept here: no more than comes anyway
            return PLENTY
        if self._room < ROOM_ASKED:
            self._room = room_of(self._plain)
        return max(1, self._room)

    async def drained(self) -> None:
        """Wait until the peer has taken enough, or the connection is lost."""
        if self._writable is not None:
            await self._writable

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer has not acknowledged: the transport's and the kernel's."""
        waiting = self._transport.get_write_buffer_size() + (self._below.get_write_buffer_size() if self._below is not None else 0)
        if self._file >= 0:
            waiting += unacknowledged_bytes(self._file)
        return waiting

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def pause_reading(self) -> None:
        """Take nothing more for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()
