"""One outgoing TCP or TLS connection, as httpcore's network interface wants it.

Why not httpcore's own: a write that makes slow progress must not time out (the timeout is about
silence, not about speed), an answer that comes while the body is still going must be noticed, and the
address really used must be judged before anything is sent.

The receive buffer is bounded by ``RECEIVE_LIMIT``: reading pauses above it. The send side is bounded by
the transport's high-water mark: ``write`` returns only when less than that is waiting.

Interim answers (1xx but 101) are dropped here, where that costs a search: whoever sends them without end must
neither be parsed without end nor hide the final answer that follows.
"""

import asyncio
import fcntl
import re
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Iterable
from typing import Any, cast

import httpcore
from httpcore._backends.base import SOCKET_OPTION

from relay.errors import DestinationRefusedTls, DestinationTimeout, DestinationUnreachable, EgressDenied
from relay.wire.names import Names

Permit = Callable[[str, str], bool]
"""``permit(host, address)``: may this host be reached at this address?"""

RECEIVE_LIMIT = 256 * 1024
SEND_LIMIT = 256 * 1024
INTERIM_MOST = 10_000
INTERIM_BYTES = 64 * 1024
_REFUSAL = re.compile(rb"HTTP/1\.[01] [3-5][0-9][0-9]")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9]")
_PROTOCOL = b"HTTP/1."
_STATUS_BYTES = len(b"HTTP/1.1 100")
_HEAD_END = re.compile(rb"\n\r?\n")


class Wire(asyncio.Protocol):
    """Receives into a bounded buffer and knows whether writing may go on."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.failure: Exception | None = None
        self._is_head_due = True
        self._interim = 0
        self._transport: asyncio.Transport | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SEND_LIMIT)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._is_head_due:
            self._drop_interim()
        if len(self.received) > RECEIVE_LIMIT and self._transport is not None:
            self._transport.pause_reading()
        self._readable.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._readable.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.failure = exc or ConnectionResetError("closed")
        self._readable.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def wait_readable(self) -> None:
        await self._readable.wait()

    async def wait_writable(self) -> None:
        await self._writable.wait()

    def expect_answer(self) -> None:
        """Say that a request is sent now: what comes next begins with the head of its answer."""
        if self.received:
            self._give_up("an answer came before its request")
        self._is_head_due = True
        self._interim = 0

    def take(self, most: int) -> bytes:
        """Take received bytes out of the buffer; reading goes on when it was paused. Empty: not yet, or the end."""
        if self._is_head_due and not self.ended:
            self._readable.clear()
            return b""
        chunk = bytes(self.received[:most])
        del self.received[:most]
        if not self.received and not self.ended:
            self._readable.clear()
        if len(self.received) <= RECEIVE_LIMIT and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        return chunk

    @property
    def has_refused(self) -> bool:
        """True when a final status of 300 or more has come already."""
        return _REFUSAL.match(self.received) is not None

    def _drop_interim(self) -> None:
        """Drop whole interim answers from the beginning; the head is due until something else stands there."""
        while len(self.received) >= _STATUS_BYTES and self._interim <= INTERIM_MOST:
            if _INTERIM.match(self.received) is None:
                self._is_head_due = False
                return
            end = _HEAD_END.search(self.received)
            if end is None:
                break
            del self.received[: end.end()]
            self._interim += 1
        if self._interim > INTERIM_MOST or len(self.received) > INTERIM_BYTES:
            self._give_up("interim answers without end")
        elif not _PROTOCOL.startswith(bytes(self.received[: len(_PROTOCOL)])):
            self._is_head_due = False  # not HTTP at all: nothing to wait for

    def _give_up(self, reason: str) -> None:
        self.received.clear()
        self.ended = True
        self.failure = ConnectionAbortedError(reason)
        if self._transport is not None:
            self._transport.abort()


class Stream(httpcore.AsyncNetworkStream):
    """A connection to a destination."""

    def __init__(self, transport: asyncio.Transport, wire: Wire) -> None:
        self._transport = transport
        self._wire = wire
        self._is_answered = False
        self._is_spoiled = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has come; empty at the end.

        Raises:
            httpcore.ReadTimeout: nothing came in time.
            httpcore.ReadError: the connection broke.
        """
        self._is_answered = True
        chunk = b""
        while not chunk and not self._wire.ended:
            try:
                async with asyncio.timeout(timeout):
                    await self._wire.wait_readable()
            except TimeoutError:
                raise httpcore.ReadTimeout("no answer in time") from None
            chunk = self._wire.take(max_bytes)
        chunk = chunk or self._wire.take(max_bytes)
        if not chunk and self._wire.failure is not None:
            raise httpcore.ReadError("the connection broke")
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, and wait until the peer takes it.

        Raises:
            httpcore.WriteTimeout: the peer took nothing at all for the timeout.
            httpcore.WriteError: the connection broke, or the peer has refused the request already.
        """
        if not buffer:
            return
        if self._is_answered:
            self._is_answered = False
            self._wire.expect_answer()
        self._check_open()
        self._transport.write(buffer)
        while True:
            waiting = self._waiting_bytes()
            try:
                async with asyncio.timeout(timeout):
                    await self._wire.wait_writable()
                break
            except TimeoutError:
                if self._waiting_bytes() >= waiting:
                    raise httpcore.WriteTimeout("the destination takes nothing") from None
        self._check_open()

    def _check_open(self) -> None:
        if self._wire.failure is not None or self._transport.is_closing():
            raise httpcore.WriteError("the connection broke")
        if self._wire.has_refused:
            # httpcore counts what it was about to write as written: the next request would end this one's body.
            self._is_spoiled = True
            raise httpcore.WriteError("the destination answered before the body's end")

    def _waiting_bytes(self) -> int:
        """Bytes that the peer has not acknowledged: the transport's and the kernel's."""
        waiting = self._transport.get_write_buffer_size()
        plain: socket.socket | None = self._transport.get_extra_info("socket")
        if plain is not None and plain.fileno() >= 0:
            waiting += struct.unpack("i", fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        return waiting

    async def aclose(self) -> None:
        """Close at once; what was not sent is dropped."""
        self._transport.abort()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> "Stream":
        """Change to TLS.

        Raises:
            DestinationRefusedTls: no trusted connection could be made.
        """
        loop = asyncio.get_running_loop()
        wire = Wire()
        try:
            async with asyncio.timeout(timeout):
                transport = await loop.start_tls(self._transport, wire, ssl_context, server_hostname=server_hostname)
        except (OSError, TimeoutError) as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise DestinationTimeout("The tenant's destination did not finish the TLS handshake in time.") from None
            raise DestinationRefusedTls from None
        wire.connection_made(cast("asyncio.Transport", transport))
        return Stream(cast("asyncio.Transport", transport), wire)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of an idle connection: ``is_readable`` means that it cannot be used again."""
        if info == "is_readable":
            return self._is_spoiled or bool(self._wire.received) or self._wire.ended or self._transport.is_closing()
        if info in {"socket", "ssl_object"}:
            return self._transport.get_extra_info(info)
        return None


class Dialler(httpcore.AsyncNetworkBackend):
    """Connects on one tenant's account: looks the name up, judges each address, connects to it."""

    def __init__(self, names: Names, permit: Permit, owner: str) -> None:
        self._names = names
        self._permit = permit
        self._owner = owner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Connect to the first permitted address that answers; ``timeout`` bounds them all together.

        Raises:
            EgressDenied: no address of the host is permitted.
            DestinationUnreachable: none answers.
            DestinationTimeout: none answered in time.
        """
        del local_address, socket_options
        permitted = [address for address in await self._names.addresses(host, self._owner) if self._permit(host, address)]
        if not permitted:
            raise EgressDenied
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                for address in permitted:
                    try:
                        transport, wire = await loop.create_connection(Wire, address, port)
                    except OSError:
                        continue
                    return Stream(transport, wire)
        except TimeoutError:
            raise DestinationTimeout("The tenant's destination did not accept a connection in time. Nothing was delivered.") from None
        raise DestinationUnreachable

    async def sleep(self, seconds: float) -> None:
        """Wait, for httpcore's own use."""
        await asyncio.sleep(seconds)
