"""A proxy that freezes, cuts and refuses live connections, and garbles what it passes, over TCP and Unix sockets.

It passes bytes and knows no protocol. Frozen, it keeps connections open and accepts new ones but passes nothing; what
arrives waits and goes on after ``thaw``. ``cut`` resets every connection; ``refuse`` resets new ones at once; ``flip`` changes one bit.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)

Address = tuple[str, int] | str


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything to ``upstream``: host and port, or the path of a socket."""

    def __init__(self, upstream: Address) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_refusing = False
        self._flip_after: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        """Connections taken so far."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._writers) // 2

    def freeze(self) -> None:
        """Pass nothing more, in either direction, and close nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Go on where ``freeze`` stopped."""
        self._flowing.set()

    def refuse(self) -> None:
        """Reset new connections, and those there are."""
        self._is_refusing = True
        self.cut()

    def allow(self) -> None:
        """Take connections again."""
        self._is_refusing = False

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        for writer in list(self._writers):
            _reset(writer)

    def flip(self, after: int) -> None:
        """Change one bit of the byte that comes after so many others, counted from now on, on its way to the upstream."""
        self._flip_after = after

    def _flipped(self, chunk: bytes) -> bytes:
        at = self._flip_after
        if at is None:
            return chunk
        if at >= len(chunk):
            self._flip_after = at - len(chunk)
            return chunk
        self._flip_after = None
        return chunk[:at] + bytes([chunk[at] ^ 0x10]) + chunk[at + 1 :]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            _reset(writer)
            return
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await self._dial()
        pair = {writer, onward_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._pass(reader, onward_writer, self._flipped), self._pass(onward_reader, writer, bytes))
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream, limit=_CHUNK_BYTES)
        return await asyncio.open_connection(*self._upstream, limit=_CHUNK_BYTES)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            writer.write(change(chunk))
            await writer.drain()
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def address_of_postgres(url: str) -> Address:
    """Where the server of a Postgres URL listens: host and port, or the path of its socket."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
    port = int(query.get("port", [str(parts.port or 5432)])[0])
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def url_through(proxy: FaultProxy, url: str) -> str:
    """The same Postgres URL, through the proxy."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}", query="sslmode=disable"))
