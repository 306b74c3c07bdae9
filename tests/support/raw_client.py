"""An HTTP client that does as it is told: sends bytes exactly, reads answers, sees how the connection ends.

For hazards that no real client produces on demand: half a head, both framings, a body that stops, a
half-close, a reset. It never adds, corrects or retries anything.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Literal, Self

BODYLESS = frozenset({204, 304})


class ConnectionEnded(Exception):
    """The server ended the connection where an answer was expected."""


@dataclass(frozen=True)
class Answer:
    """One answer as it came. ``is_whole`` is False when the connection ended within its body."""

    status: int
    version: str
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool = True

    def values(self, name: str) -> list[str]:
        """The values of a field, in their order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The first value of a field."""
        return next(iter(self.values(name)), None)


class RawClient:
    """One connection. Every wait is bounded by ``seconds``.

    async with RawClient("127.0.0.1", 8000) as client:
        await client.send(b"POST /upload/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        client.half_close()
        answer = await client.answer()
        assert await client.end() == "fin"

    With ``tls`` it speaks TLS, whose end is a FIN to it as well.
    """

    def __init__(
        self, host: str, port: int, *, seconds: float = 10.0, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address = (host, port)
        self._seconds = seconds
        self._receive_buffer = receive_buffer
        self._tls = tls
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        raw = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio sets TCP_NODELAY
        if self._receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        raw.setblocking(False)
        async with asyncio.timeout(self._seconds):
            await asyncio.get_running_loop().sock_connect(raw, self._address)
            name = self._address[0] if self._tls is not None else None
            self._reader, self._writer = await asyncio.open_connection(sock=raw, ssl=self._tls, server_hostname=name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        """The port of this end."""
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    async def send(self, data: bytes) -> None:
        """Send these bytes; returns when the kernel or a bounded buffer has taken them.

        Raises:
            OSError: the server has reset the connection.
        """
        try:
            self._writer.write(data)
        except RuntimeError as error:  # what uvloop says of a connection that is lost
            raise ConnectionResetError from error
        async with asyncio.timeout(self._seconds):
            await self._writer.drain()

    async def try_to_send(self, data: bytes) -> bool:
        """Send these bytes; False when the connection is gone."""
        try:
            await self.send(data)
        except OSError:
            return False
        return True

    async def send_slowly(self, data: bytes, *, piece: int = 1, pause_seconds: float = 0.01) -> None:
        """Send the bytes in pieces, each a packet of its own."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), piece):
            await self.send(data[start : start + piece])
            await asyncio.sleep(pause_seconds)

    def pause(self) -> None:
        """Take nothing more from the kernel: its buffers fill, then the server's."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined] # what open_connection gives is a full transport

    def resume(self) -> None:
        """Read on."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined] # as above

    def half_close(self) -> None:
        """Send a FIN: nothing more will be sent, answers are still read."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close both directions, as a client does that goes away."""
        self._writer.close()

    def reset(self) -> None:
        """Close by a RST."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def read(self, count: int) -> bytes:
        """Read exactly this many bytes, whatever they are."""
        async with asyncio.timeout(self._seconds):
            return await self._reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read all that still comes, to the server's end."""
        async with asyncio.timeout(self._seconds):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read()
        return b""

    async def answer(self, method: str = "POST") -> Answer:
        """Read the next answer, 1xx included, to the end of its body.

        Raises:
            ConnectionEnded: the connection ended before a whole head.
        """
        async with asyncio.timeout(self._seconds):
            status, version, headers = await self._head()
            if 100 <= status < 200 or status in BODYLESS or method == "HEAD":
                return Answer(status, version, headers, b"")
            named = {name.lower(): value for name, value in headers}
            body, is_whole = await self._body(named.get("transfer-encoding"), named.get("content-length"))
            return Answer(status, version, headers, body, is_whole)

    async def final_answer(self, method: str = "POST") -> Answer:
        """Read answers until one that is not 1xx."""
        while (answer := await self.answer(method)).status < 200:
            pass
        return answer

    async def end(self) -> Literal["fin", "rst", "data"]:
        """Wait for what comes next: the server's FIN, its RST, or more bytes."""
        async with asyncio.timeout(self._seconds):
            try:
                return "data" if await self._reader.read(1) else "fin"
            except ConnectionResetError:
                return "rst"

    async def is_kept(self, *, seconds: float = 0.3) -> bool:
        """True when the connection is still open, and silent, after this time."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(1)
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    async def _head(self) -> tuple[int, str, list[tuple[str, str]]]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionEnded(f"{type(error).__name__} instead of an answer") from error
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return int(status), version, [(name, value.strip()) for name, _, value in pairs]

    async def _body(self, coding: str | None, length: str | None) -> tuple[bytes, bool]:
        """The body, and whether its framing says that it is whole."""
        body = bytearray()
        try:
            if coding is not None:
                await self._read_chunks(body)
            elif length is not None:
                while len(body) < int(length):
                    body += await self._some(int(length) - len(body))
            else:
                while data := await self._reader.read(65_536):
                    body += data
        except (EOFError, ConnectionError):
            return bytes(body), False
        return bytes(body), True

    async def _read_chunks(self, body: bytearray) -> None:
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            end = len(body) + size
            while len(body) < end:
                body += await self._some(end - len(body))
            await self._reader.readexactly(2)
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass

    async def _some(self, most: int) -> bytes:
        data = await self._reader.read(most)
        if not data:
            raise EOFError
        return data
