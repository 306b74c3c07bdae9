"""A store that misbehaves: a proxy in front of a real one that answers for it, loses its answers, cuts requests or alters them.

It speaks just enough HTTP/1.1: requests with a Content-Length, one after another on a connection; answers as they come.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

MOST = 64 << 20


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    target: str
    fields: dict[str, str]

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.target

    @property
    def is_create(self) -> bool:
        return self.method == "POST" and self.target.endswith("uploads=")

    @property
    def is_complete(self) -> bool:
        return self.method == "POST" and "uploadId=" in self.target

    @property
    def is_abort(self) -> bool:
        return self.method == "DELETE" and "uploadId=" in self.target


@dataclass(frozen=True)
class Say:
    """Answer this and do not ask the store."""

    status: int
    body: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lose:
    """Let the store do it, and cut the connection instead of answering."""


@dataclass(frozen=True)
class Cut:
    """Cut the connection in the middle of the request's body."""

    after: int = 0


@dataclass(frozen=True)
class Alter:
    """Let the store do it, and answer with something replaced."""

    old: bytes
    new: bytes


@dataclass(frozen=True)
class Hold:
    """Let the store do it only once this is set."""

    until: asyncio.Event


@dataclass(frozen=True)
class Flip:
    """Flip a bit of the body on the way to the store."""


Whim = Say | Lose | Cut | Alter | Hold | Flip | None


def error_xml(code: str, **members: str) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in {"Code": code, "Message": "hidden-text", **members}.items())
    return f"<?xml version='1.0'?><Error>{inner}</Error>".encode()


class StoreProxy:
    """Listens on a free port of 127.0.0.1. ``whim`` says for each request what becomes of it; ``None`` passes it."""

    def __init__(self, port: int, whim: Callable[[Asked], Whim], context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._port = port
        self._whim = whim
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
        self.bodies: list[int] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MOST, ssl=self._context)
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        scheme = "https" if self._context is not None else "http"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def count(self, judge: Callable[[Asked], bool]) -> int:
        return sum(map(judge, self.asked))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._serve(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
        method, target, _ = line.split(" ")
        asked = Asked(method, target, fields)
        self.asked.append(asked)
        whim = self._whim(asked)
        length = int(fields.get("content-length", "0"))
        if isinstance(whim, Cut):
            await reader.readexactly(min(whim.after, length))
            return False
        body = await reader.readexactly(length)
        self.bodies.append(length)
        if isinstance(whim, Hold):
            await whim.until.wait()
        if isinstance(whim, Flip) and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if isinstance(whim, Say):
            said = "".join(f"{name}: {value}\r\n" for name, value in {"content-length": str(len(whim.body)), **whim.fields}.items())
            writer.write(f"HTTP/1.1 {whim.status} Said\r\n{said}\r\n".encode() + (b"" if method == "HEAD" else whim.body))
            await writer.drain()
            return True
        answer = await self._ask(head, body)
        if isinstance(whim, Lose):
            return False
        writer.write(answer.replace(whim.old, whim.new) if isinstance(whim, Alter) else answer)
        await writer.drain()
        return False

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """Ask the store on a connection of its own, to the end of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=MOST)
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        try:
            return await reader.read(-1)
        finally:
            writer.transport.abort()
