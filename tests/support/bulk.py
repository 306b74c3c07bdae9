"""Uploads and answers of any size: sent, hashed and counted as they go, never held.

A client of raw streams, and for the answers a sequence of pieces that is made while it is sent. What goes out differs
in every piece, so that nothing can be lost, doubled or swapped without the digest telling.
"""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

PIECE_BYTES = 256 << 10
_FILLING = os.urandom(PIECE_BYTES - 8)

Framing = Literal["length", "chunked", "form"]
BOUNDARY = "a-boundary-of-the-tests"
FORM_HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'.encode()
FORM_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def piece(number: int) -> bytes:
    """One piece of content; no two are alike."""
    return number.to_bytes(8, "big") + _FILLING


def peak_of(pid: int) -> int:
    """The most memory that a process ever had resident (``VmHWM``), in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise LookupError(pid)


def cpu_seconds_of(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Taken:
    """What a client has sent and got."""

    status: int
    sent_bytes: int
    sent_sha256: str
    answer_bytes: int
    answer_sha256: str
    seconds: float


class LazyPieces(Sequence[bytes]):
    """An answer in pieces that are made when they are sent; ``given`` of them were."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.given = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "LazyPieces": ...
    def __getitem__(self, index: int | slice) -> "bytes | LazyPieces":
        return piece(index) if isinstance(index, int) else self

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self._count):
            self.given = number + 1
            yield piece(number)

    @property
    def sha256(self) -> str:
        """The digest of them all."""
        digest = hashlib.sha256()
        for number in range(self._count):
            digest.update(piece(number))
        return digest.hexdigest()


class BulkClient:
    """One connection for one upload. ``before_last`` is awaited when all but the last piece was handed to the kernel."""

    def __init__(self, address: tuple[str, int], key: str, *, receive_bytes: int = PIECE_BYTES) -> None:
        self._address = address
        self._key = key
        self._receive_bytes = receive_bytes
        self.received_bytes = 0

    async def upload(
        self,
        path: str,
        pieces: int,
        framing: Framing = "length",
        *,
        before_last: Callable[[], Awaitable[object]] | None = None,
        after_piece: Callable[[int], Awaitable[object]] | None = None,
    ) -> Taken:
        """Send so many pieces and read the answer; ``after_piece`` is awaited after each read of the answer, with its bytes so far."""
        began = time.monotonic()
        reader, writer = await self._connect(self._head(path, pieces, framing))
        try:
            digest, sent = hashlib.sha256(), 0
            async for data in _body(pieces, framing, before_last):
                digest.update(data)
                sent += len(data)
                writer.write(b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data)
                await writer.drain()
            writer.write(b"0\r\n\r\n" if framing == "chunked" else b"")
            status, answered = await self._answer(reader, after_piece)
        finally:
            writer.transport.abort()
        seconds = time.monotonic() - began
        return Taken(status, sent, digest.hexdigest(), self.received_bytes, answered, seconds)

    async def _connect(self, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect and send the head in one step: of many clients in a busy loop, none is as late as one that holds back its head."""
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio sets TCP_NODELAY
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)  # what the kernel takes for us is bounded too
        raw.connect(self._address)
        raw.sendall(head)
        raw.setblocking(False)
        return await asyncio.open_connection(sock=raw, limit=self._receive_bytes)

    def _head(self, path: str, pieces: int, framing: Framing) -> bytes:
        size = pieces * PIECE_BYTES + (len(FORM_HEAD) + len(FORM_TAIL) if framing == "form" else 0)
        lines = [f"POST /upload/{path} HTTP/1.1", "Host: relay", f"Authorization: Bearer {self._key}"]
        lines.append("Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {size}")
        lines += [f"Content-Type: multipart/form-data; boundary={BOUNDARY}"] if framing == "form" else []
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    async def _answer(self, reader: asyncio.StreamReader, after_piece: Callable[[int], Awaitable[object]] | None) -> tuple[int, str]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        digest = hashlib.sha256()
        async for data in self._answer_body(reader, fields.get("content-length")):
            digest.update(data)
            self.received_bytes += len(data)
            if after_piece is not None:
                await after_piece(self.received_bytes)
        return int(head.split(" ")[1]), digest.hexdigest()

    async def _answer_body(self, reader: asyncio.StreamReader, length: str | None) -> AsyncIterator[bytes]:
        if length is not None:
            async for data in self._counted(reader, int(length)):
                yield data
            return
        while size := int(await reader.readline(), 16):
            async for data in self._counted(reader, size):
                yield data
            await reader.readexactly(2)
        await reader.readexactly(2)

    async def _counted(self, reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
        while left:
            data = await reader.read(min(left, self._receive_bytes))
            if not data:
                raise EOFError
            left -= len(data)
            yield data


async def _body(pieces: int, framing: Framing, before_last: Callable[[], Awaitable[object]] | None) -> AsyncIterator[bytes]:
    if framing == "form":
        yield FORM_HEAD
    for number in range(pieces):
        if number == pieces - 1 and before_last is not None:
            await before_last()
        yield piece(number)
    if framing == "form":
        yield FORM_TAIL
