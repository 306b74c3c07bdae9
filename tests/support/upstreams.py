"""A tenant's HTTP service for tests: a real socket, an account of every request, and faults on demand.

Hand-written HTTP/1.1 over ``asyncio.start_server``, because what matters here is what no framework shows
or allows: the raw head, how a body ended, an answer before its time, half an answer. One ``Conduct``
says how requests are treated; set ``upstream.conduct`` to change it for the requests that follow.

    async with Upstream() as upstream:                                    # records, answers 200
    async with Upstream(Conduct(status=413, answer_after=1_000, then="close")) as upstream:
    async with Upstream(Conduct(stop_reading_after=0)) as upstream:       # never reads the body
"""

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

READ_BYTES = 65_536
HEAD_BYTES = 262_144
BODYLESS = frozenset({204, 304})


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How an upstream behaves. The default reads the whole body, answers 200 and keeps the connection.

    ``answer_after``: answer as soon as this many body bytes have come; ``None``: when the body is whole.
    ``then``: what follows the answer: read on (and keep), close, reset, or hang (neither read nor close).
    ``pieces``: answer with chunked framing in these chunks, ``pause_seconds`` before each.
    ``raw_answer``: sent as it is in place of any answer. ``cut_answer_at``: close after that many bytes of
    the answer's body, whose full length was declared (or, with ``pieces``, after that many chunks).
    ``close_after``, ``reset_after``: go without an answer once that many body bytes have come; 0: after the head.
    ``stop_reading_after``: read no more once that many body bytes have come; 0: nothing of the body.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = (("Content-Type", "text/plain"),)
    answer: bytes = b"taken"
    pieces: Sequence[bytes] | None = None
    pause_seconds: float = 0.0
    informational: Sequence[int] = ()
    raw_answer: bytes | None = None
    answer_after: int | None = None
    then: Literal["read_on", "close", "reset", "hang"] = "read_on"
    cut_answer_at: int | None = None
    close_after: int | None = None
    reset_after: int | None = None
    stop_reading_after: int | None = None
    bytes_per_second: int | None = None
    is_reading_head: bool = True
    is_answering: bool = True


@dataclass
class Recorded:
    """One request as it arrived.

    ``ending``: open (still coming), whole (it ended as its framing says), cut (the peer closed or reset
    before that), left (this side stopped first).
    """

    method: str
    target: str
    version: str
    headers: list[tuple[bytes, bytes]]
    connection: int
    body_bytes: int = 0
    ending: Literal["open", "whole", "cut", "left"] = "open"
    first_bytes: bytes = b""
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    @property
    def is_whole(self) -> bool:
        """True when the body ended as its framing says."""
        return self.ending == "whole"

    @property
    def sha256(self) -> str:
        """SHA-256 of the body bytes that came, framing removed, in hex."""
        return self._sha256.hexdigest()

    def take(self, data: bytes) -> None:
        """Account for bytes of the body; the first 64 KiB are kept."""
        self.body_bytes += len(data)
        self._sha256.update(data)
        self.first_bytes += data[: max(0, READ_BYTES - len(self.first_bytes))]

    def values(self, name: str) -> list[bytes]:
        """The values of a field, in their order."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]


class Upstream:
    """A server on 127.0.0.1 that records what comes and behaves as its ``conduct`` says.

    An upstream that stops reading still takes what fits into its buffers: half a MiB of its own and the
    kernel's, which ``receive_buffer`` (bytes) makes small.
    """

    def __init__(self, conduct: Conduct | None = None, *, receive_buffer: int | None = None, context: ssl.SSLContext | None = None) -> None:
        self.conduct = conduct or Conduct()
        self.requests: list[Recorded] = []
        self.connections = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio sets TCP_NODELAY
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._read_bytes = min(READ_BYTES, receive_buffer or READ_BYTES)
        self._context = context
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(
            self._accept, sock=self._socket, limit=max(HEAD_BYTES, self._read_bytes), ssl=self._context
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        tasks = dict(self._open)
        for task, writer in tasks.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its base URL, without a trailing slash."""
        return f"{'http' if self._context is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Connections that neither side has closed."""
        return len(self._open)

    async def request(self, index: int = 0) -> Recorded:
        """Wait until this request's head has come."""
        await self.until(lambda: len(self.requests) > index)
        return self.requests[index]

    async def received(self, count: int, index: int = 0) -> Recorded:
        """Wait until this many bytes of this request's body have come."""
        recorded = await self.request(index)
        await self.until(lambda: recorded.body_bytes >= count)
        return recorded

    async def ended(self, index: int = 0) -> Recorded:
        """Wait until this request's body has ended, one way or another."""
        recorded = await self.request(index)
        await self.until(lambda: recorded.ending != "open")
        return recorded

    async def until(self, is_true: Callable[[], bool], *, seconds: float = 10.0) -> None:
        """Wait until the condition, of what is recorded here, holds."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(is_true)

    async def tell(self) -> None:
        """Say that something of the record has changed."""
        async with self._changed:
            self._changed.notify_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        try:
            await _Conversation(self, _Reading(reader, self._read_bytes), writer, self.connections).run()
        except asyncio.CancelledError:
            writer.transport.abort()  # the test is over
        except OSError:
            writer.transport.abort()
        else:
            writer.close()
        finally:
            del self._open[task]
        await self.tell()


class _Reading:
    """Takes requests apart. ``EOFError`` (of which IncompleteReadError is one): the peer ended too early."""

    def __init__(self, reader: asyncio.StreamReader, read_bytes: int) -> None:
        self._reader = reader
        self.read_bytes = read_bytes

    async def head(self, connection: int) -> Recorded | None:
        """Read one head; ``None`` when the peer closed between requests."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        first, *lines = head[:-4].split(b"\r\n")
        method, target, version = first.decode("latin-1").split(" ")
        pairs = (line.partition(b":") for line in lines)
        return Recorded(method, target, version, [(name, value.strip()) for name, _, value in pairs], connection)

    def body(self, recorded: Recorded) -> AsyncIterator[bytes]:
        """Yield the body's bytes without their framing."""
        if recorded.values("transfer-encoding"):
            return self._chunked()
        return self._counted(int((recorded.values("content-length") or [b"0"])[0]))

    async def _counted(self, left: int) -> AsyncIterator[bytes]:
        while left:
            data = await self._reader.read(min(left, self.read_bytes))
            if not data:
                raise EOFError
            left -= len(data)
            yield data

    async def _chunked(self) -> AsyncIterator[bytes]:
        while size := int((await self._line()).partition(b";")[0], 16):
            async for data in self._counted(size):
                yield data
            await self._reader.readexactly(2)
        while await self._line():
            pass

    async def _line(self) -> bytes:
        return (await self._reader.readuntil(b"\r\n"))[:-2]


class _Gone(Exception):
    """This side has closed or reset the connection."""


class _Conversation:
    """One connection, request after request, as the conduct says at the time of each request."""

    def __init__(self, upstream: Upstream, reading: _Reading, writer: asyncio.StreamWriter, number: int) -> None:
        self._upstream = upstream
        self._reading = reading
        self._writer = writer
        self._number = number

    async def run(self) -> None:
        if not self._upstream.conduct.is_reading_head:
            await _for_ever()
        with contextlib.suppress(EOFError, _Gone):
            while recorded := await self._reading.head(self._number):
                self._upstream.requests.append(recorded)
                await self._upstream.tell()
                await self._exchange(recorded, self._upstream.conduct)

    async def _exchange(self, recorded: Recorded, conduct: Conduct) -> None:
        for status in conduct.informational:
            self._writer.write(f"HTTP/1.1 {status} Interim\r\nX-Interim: yes\r\n\r\n".encode())
        try:
            is_answered = await self._step(recorded, conduct, is_answered=False)
            async for data in self._reading.body(recorded):
                recorded.take(data)
                await self._upstream.tell()
                is_answered = await self._step(recorded, conduct, is_answered=is_answered)
                if conduct.bytes_per_second:
                    await asyncio.sleep(len(data) / conduct.bytes_per_second)
        except (EOFError, OSError):
            recorded.ending = "cut"
            raise
        recorded.ending = "whole"
        await self._upstream.tell()
        if not conduct.is_answering:
            await _for_ever()
        if not is_answered:
            await self._answer(recorded, conduct)

    async def _step(self, recorded: Recorded, conduct: Conduct, *, is_answered: bool) -> bool:
        """Do what is due after this many bytes of the body; say whether the answer is given."""
        got = recorded.body_bytes
        if _is_due(conduct.reset_after, got):
            self._leave(recorded, is_reset=True)
        if _is_due(conduct.close_after, got):
            self._leave(recorded)
        if not is_answered and _is_due(conduct.answer_after, got):
            await self._answer(recorded, conduct)
            is_answered = True
        if _is_due(conduct.stop_reading_after, got):
            await _for_ever()
        return is_answered

    async def _answer(self, recorded: Recorded, conduct: Conduct) -> None:
        is_cut = await self._write_answer(recorded, conduct)
        if is_cut or conduct.then == "close":
            self._leave(recorded)
        if conduct.then == "reset":
            self._leave(recorded, is_reset=True)
        if conduct.then == "hang":
            await _for_ever()

    async def _write_answer(self, recorded: Recorded, conduct: Conduct) -> bool:
        """Write the answer, and say whether it was cut."""
        if conduct.raw_answer is not None:
            return await self._write(conduct.raw_answer)
        has_body = recorded.method != "HEAD" and conduct.status not in BODYLESS
        framing = [("Content-Length", str(len(conduct.answer)))] if conduct.pieces is None else [("Transfer-Encoding", "chunked")]
        if conduct.status in BODYLESS:
            framing = []
        lines = [f"{name}: {value}" for name, value in (*conduct.headers, *framing)]
        await self._write("\r\n".join([f"HTTP/1.1 {conduct.status} Status", *lines, "", ""]).encode("latin-1"))
        if not has_body:
            return False
        if conduct.pieces is None:
            await self._write(conduct.answer[: conduct.cut_answer_at])
            return conduct.cut_answer_at is not None
        for piece in conduct.pieces[: conduct.cut_answer_at]:
            await asyncio.sleep(conduct.pause_seconds)
            await self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return conduct.cut_answer_at is not None or await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> bool:
        """Write, and say ``False``: not cut."""
        self._writer.write(data)
        await self._writer.drain()
        return False

    def _leave(self, recorded: Recorded, *, is_reset: bool = False) -> None:
        if recorded.ending == "open":
            recorded.ending = "left"
        if is_reset:
            raw: socket.socket = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        raise _Gone


def _is_due(after: int | None, got: int) -> bool:
    return after is not None and got >= after


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
