"""Long bodies, looked at where they lie: what arrives, what is left behind, and what happens where the kernel moves nothing."""

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from relay.errors import FramingInvalid
from relay.protocols.chunked import ChunkedBody
from relay.protocols.framed import LONG_BYTES, Span
from relay.wire.channel import Channel
from relay.wire.exchange import EXTENSION, UNREAD_LIMIT, Exchange, Poured
from relay.wire.intake import TINY
from relay.wire.pieces import PLENTY, Piece, Room, Unread, views_of
from relay.wire.server import DEAR_PIECES
from tests.support.loops import LOOPS, run_in
from tests.support.raw_client import RawClient
from tests.support.waiting import until
from tests.wire.early_refusals import descriptors_of
from tests.wire.test_server import GET, POST, Receive, Scope, Send, Served, answer, serving, tell_path

on_both_loops = pytest.mark.parametrize("loop", LOOPS)
in_both_framings = pytest.mark.parametrize("framing", ["declared", "chunked"])
BODY: Final = os.urandom(6 * LONG_BYTES + 13)
CHUNKED: Final = b"POST /a HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK_SIZES: Final = (65_536, 65_536, 65_536, 40_001, 1, 300_000, 65_536, 7_000)
"""Large ones, but for a few."""
MARK: Final = b"-mark-"
"""Stands before each piece that is passed on, as the framing of a destination's own would."""
MOST_DESCRIPTORS: Final = 4
"""What a process needs to move bodies: two pipes."""


def in_chunks(body: bytes) -> bytes:
    """A body in chunks, without its end."""
    pieces: list[bytes] = []
    at = 0
    for size in itertools.cycle(CHUNK_SIZES):
        if at >= len(body):
            return b"".join(pieces)
        chunk = body[at : at + size]
        pieces += [b"%x" % len(chunk), b"; a=b\r\n" if size == 300_000 else b"\r\n", chunk, b"\r\n"]
        at += size
    raise AssertionError


def upload(body: bytes, framing: str, *, missing: int = 0) -> bytes:
    """A request; with ``missing`` its body is by so many bytes not whole."""
    if framing == "declared":
        return POST % (len(body) + missing) + body
    return CHUNKED + in_chunks(body) + (b"" if missing else b"0\r\nA: trailer\r\n\r\n")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the process have no more descriptors than it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Passing:
    """An app that passes bodies on to a connection, and tells how many bytes it was given, of what digest."""

    has_descriptors = True
    mark = b""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.unread = 0
        self.exchange: Exchange | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await tell_path(scope, receive, send)
            return
        exchange: Exchange = scope["extensions"][EXTENSION]
        self.exchange = exchange
        digest, taken = hashlib.sha256(), 0

        def take(piece: Piece) -> int:
            nonlocal taken
            self.unread += isinstance(piece, Unread)
            taken += len(piece)
            for view in views_of(piece):
                digest.update(view)
            self.channel.write(piece, self.mark)
            return self.channel.room

        with contextlib.nullcontext() if self.has_descriptors else no_descriptors():
            while (poured := await exchange.pour(take)) is Poured.FULL and self.channel.can_write:
                await self.channel.drained()
        await answer(send, f"{poured.name if self.channel.can_write else 'LOST'} {taken} {digest.hexdigest()}".encode())


class Sink:
    """The other end of the connection that bodies are passed on to."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.writer: asyncio.StreamWriter | None = None

    @property
    def body(self) -> bytes:
        """What came, without what stood before each piece."""
        return bytes(self.got).replace(MARK, b"")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while piece := await reader.read(1 << 16):
                self.got += piece
                await self.is_open.wait()
        except OSError:
            pass
        finally:
            writer.close()


class Splices:
    """Counts what the kernel is asked to move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = 0
        self._splice = os.splice
        monkeypatch.setattr(os, "splice", self)

    def __call__(self, *given: Any, **named: Any) -> int:
        count = self._splice(*given, **named)
        self.moved += count
        return count


@asynccontextmanager
async def passing(framing: str) -> AsyncIterator[tuple[Served, Passing, Sink]]:
    sink = Sink()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    async with await asyncio.start_server(sink.serve, sock=listening) as server:
        address = server.sockets[0].getsockname()
        _, channel = await asyncio.get_running_loop().create_connection(Channel, *address)
        app = Passing(channel)
        app.mark = MARK if framing == "chunked" else b""
        async with serving(app) as served:
            yield served, app, sink
        channel.abort()


def told(body: bytes, outcome: str = "ENDED") -> bytes:
    return f"{outcome} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()


@on_both_loops
@in_both_framings
def test_a_long_body_is_moved_by_the_kernel_and_the_request_behind_it_is_left(
    loop: str, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splices = Splices(monkeypatch)

    async def run() -> None:
        async with passing(framing) as (served, app, sink), RawClient(*served.address) as client:
            before = descriptors_of(os.getpid())
            for number in range(3):
                sending = asyncio.create_task(client.send(upload(BODY, framing) + GET % number))
                assert (await client.answer()).body == told(BODY)
                assert (await client.answer()).body == b"/%d" % number
                await sending
            await until(lambda: len(sink.body) == 3 * len(BODY))
            assert sink.body == 3 * BODY
            assert app.unread
            assert descriptors_of(os.getpid()) == before + MOST_DESCRIPTORS

    run_in(loop, run)
    assert splices.moved > 3 * len(BODY)  # each byte is moved twice, into the pipe and out of it, but for what is copied


@on_both_loops
@in_both_framings
def test_a_destination_that_stands_still_gets_the_rest_when_it_goes_on(loop: str, framing: str) -> None:
    async def run() -> None:
        async with passing(framing) as (served, app, sink), RawClient(*served.address, seconds=20) as client:
            sink.is_open.clear()
            sending = asyncio.create_task(client.send(upload(BODY, framing)))
            await until(lambda: app.channel.is_full)
            assert app.channel.room == 0
            assert app.channel._transport.get_write_buffer_size() <= LONG_BYTES // 4  # the rest is left with the client
            sink.is_open.set()
            assert (await client.answer()).body == told(BODY)
            await sending
            await until(lambda: len(sink.body) == len(BODY))
            assert sink.body == BODY

    run_in(loop, run)


@on_both_loops
@in_both_framings
def test_urgent_data_is_data_like_any_other(loop: str, framing: str) -> None:
    async def run() -> None:
        sent = upload(BODY, framing)

        def send_urgently(plain: socket.socket) -> bytes:
            for at in range(0, len(sent), 700_001):
                plain.sendall(sent[at : at + 700_000])
                plain.send(sent[at + 700_000 : at + 700_001], socket.MSG_OOB)
            return plain.recv(4096)

        async with passing(framing) as (served, app, sink):
            with socket.create_connection(served.address, timeout=20) as plain:
                assert told(BODY) in await asyncio.to_thread(send_urgently, plain)
            await until(lambda: len(sink.body) == len(BODY))
            assert sink.body == BODY
            assert app.unread

    run_in(loop, run)


def fails_with(number: int) -> Callable[..., int]:
    def fail(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@on_both_loops
@in_both_framings
@pytest.mark.parametrize("way", ["no splice", "no pipe", "no descriptor", "no memory information"])
def test_where_the_system_cannot_everything_arrives_by_copies(loop: str, framing: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "no splice":
        monkeypatch.setattr(os, "splice", fails_with(errno.ENOSYS))
    elif way == "no pipe":
        monkeypatch.setattr(os, "pipe2", fails_with(errno.EMFILE))
    elif way == "no descriptor":
        monkeypatch.setattr(Passing, "has_descriptors", False)
    else:
        monkeypatch.setattr("relay.wire.channel.room_of", lambda _: PLENTY)

    async def run() -> None:
        async with passing(framing) as (served, app, sink), RawClient(*served.address) as client:
            sending = asyncio.create_task(client.send(upload(BODY, framing) + GET % 1))
            assert (await client.answer()).body == told(BODY)
            assert (await client.answer()).body == b"/1"
            await sending
            await until(lambda: len(sink.body) == len(BODY))
            assert sink.body == BODY
            assert bool(app.unread) == (way != "no descriptor")

    run_in(loop, run)


@on_both_loops
def test_whoever_keeps_pieces_gets_copies(loop: str) -> None:
    async def run() -> None:
        async def keep(scope: Scope, _receive: Receive, send: Send) -> None:
            exchange: Exchange = scope["extensions"][EXTENSION]
            kept: list[bytes] = []

            def take(piece: Piece) -> int:
                kept.append(bytes(piece))
                return 100_000

            assert await exchange.pour(take) is Poured.ENDED
            assert max(map(len, kept[1:])) <= 100_000  # of what comes behind the first no more than was asked for
            await answer(send, told(b"".join(kept)))

        async with serving(keep) as served, RawClient(*served.address) as client:
            sending = asyncio.create_task(client.send(POST % len(BODY) + BODY))
            assert (await client.answer()).body == told(BODY)
            await sending

    run_in(loop, run)


@on_both_loops
def test_whoever_says_where_it_wants_the_bytes_finds_them_there_and_none_when_it_wants_none(loop: str) -> None:
    async def run() -> None:
        kept, placed = bytearray(len(BODY) + LONG_BYTES), 0

        async def keep(scope: Scope, _receive: Receive, send: Send) -> None:
            exchange: Exchange = scope["extensions"][EXTENSION]
            filled = 0

            def take(piece: Piece) -> Room:
                nonlocal filled, placed
                (view,) = views_of(piece)
                if isinstance(view, memoryview) and view.obj is kept:
                    placed += 1
                kept[filled : filled + len(view)] = bytes(view)
                before, filled = filled, filled + len(view)
                is_enough = before // LONG_BYTES < filled // LONG_BYTES
                return 0 if is_enough else memoryview(kept)[filled : filled + 300_000]

            while (poured := await exchange.pour(take)) is Poured.FULL:
                assert exchange.room == UNREAD_LIMIT
                await asyncio.sleep(0.01)
                assert not any(kept[filled:])
            assert poured is Poured.ENDED
            await answer(send, told(bytes(kept[:filled])))

        async with serving(keep) as served, RawClient(*served.address) as client:
            sending = asyncio.create_task(client.send(POST % len(BODY) + BODY))
            assert (await client.answer()).body == told(BODY)
            await sending
        assert placed

    run_in(loop, run)


@on_both_loops
@in_both_framings
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "paused"])
def test_a_client_that_resets_is_noticed_and_nothing_of_it_is_left(loop: str, framing: str, is_read: bool) -> None:
    async def run() -> None:
        async with passing(framing) as (served, app, sink):
            before = descriptors_of(os.getpid())
            if not is_read:
                sink.is_open.clear()
            client = await RawClient(*served.address).__aenter__()
            await client.try_to_send(upload(BODY, framing, missing=100 * LONG_BYTES))
            await until(lambda: app.unread)
            client.reset()
            await until(lambda: not served.connections)
            assert app.exchange is not None
            assert app.exchange.has_left
            sink.is_open.set()
            await until(lambda: descriptors_of(os.getpid()) <= before + MOST_DESCRIPTORS)

    run_in(loop, run)


@on_both_loops
@in_both_framings
def test_a_client_that_closes_its_side_early_is_answered(loop: str, framing: str) -> None:
    async def run() -> None:
        async with passing(framing) as (served, app, sink), RawClient(*served.address) as client:
            await client.send(upload(BODY, framing, missing=LONG_BYTES + 1))
            client.half_close()
            assert (await client.answer()).body == told(BODY, "BROKEN")
            assert app.unread
            await until(lambda: len(sink.body) == len(BODY))

    run_in(loop, run)


@on_both_loops
@in_both_framings
def test_a_destination_that_resets_stops_the_body_and_the_client_is_answered(loop: str, framing: str) -> None:
    async def run() -> None:
        async with passing(framing) as (served, app, sink), RawClient(*served.address) as client:
            sending = asyncio.create_task(client.try_to_send(upload(BODY, framing, missing=400 * LONG_BYTES)))
            await until(lambda: app.unread and sink.writer is not None)
            assert sink.writer is not None
            sink.writer.transport.abort()
            more = asyncio.create_task(keep_sending(client))
            assert (await client.answer()).body.startswith(b"LOST ")
            for task in (sending, more):
                task.cancel()

    async def keep_sending(client: RawClient) -> None:
        more = bytes(1 << 16)
        while await client.try_to_send(more if framing == "declared" else in_chunks(more)):
            pass

    run_in(loop, run)


@on_both_loops
def test_a_taker_that_fails_ends_the_connection_at_once(loop: str) -> None:
    """It is not called again and again: the loop tells as long as something lies in the socket."""
    called = 0

    async def fail(scope: Scope, _receive: Receive, _send: Send) -> None:
        exchange: Exchange = scope["extensions"][EXTENSION]

        def take(piece: Piece) -> int:
            nonlocal called
            if isinstance(piece, Unread):
                called += 1
                raise RuntimeError("no")  # noqa: TRY004 - it is not the type that is wrong
            return PLENTY

        await exchange.pour(take)

    async def run() -> None:
        told_of: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told_of.append(context["exception"]))
        async with serving(fail) as served, RawClient(*served.address) as client:
            await client.try_to_send(POST % len(BODY) + BODY)
            await until(lambda: not served.connections)
        assert [str(error) for error in told_of] == ["no"]

    run_in(loop, run)
    assert called == 1


@on_both_loops
def test_many_small_chunks_behind_large_ones_are_read_in_small_reads(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is dear to parse: what the kernel would not move is not looked at by the mebibyte."""
    small = os.urandom(400_000)
    body = BODY + small + BODY
    sent = CHUNKED + in_chunks(BODY) + b"".join(b"1\r\n%c\r\n" % byte for byte in small) + in_chunks(BODY) + b"0\r\n\r\n"
    reads: list[tuple[int, int]] = []

    class Watched(ChunkedBody):
        def take(self, buffer: bytearray, at: int, end: int) -> tuple[list[Span], int]:
            taken = super().take(buffer, at, end)
            reads.append((end - at, self.pieces))
            return taken

    monkeypatch.setattr("relay.wire.server.ChunkedBody", Watched)

    async def run() -> None:
        async with passing("chunked") as (served, app, sink), RawClient(*served.address, seconds=20) as client:
            sending = asyncio.create_task(client.send(sent + GET % 1))
            assert (await client.answer()).body == told(body)
            assert (await client.answer()).body == b"/1"
            await sending
            await until(lambda: len(sink.body) == len(body))
            assert sink.body == body
            assert app.unread

    run_in(loop, run)
    dear = [(number, size) for number, (size, pieces) in enumerate(reads) if pieces > DEAR_PIECES]
    assert sum(size > TINY for _, size in dear) <= 2
    assert len(dear) > 6 * len(small) // TINY // 2
    assert max(size for size, _ in reads[dear[-1][0] + 1 :]) > TINY  # behind the small ones reads are large again


@on_both_loops
@pytest.mark.parametrize("end", [b"zz\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n"])
def test_malformed_chunks_behind_a_long_body_break_it(loop: str, end: bytes) -> None:
    async def run() -> None:
        async with passing("chunked") as (served, app, sink), RawClient(*served.address) as client:
            sending = asyncio.create_task(client.send(CHUNKED + in_chunks(BODY)))
            await until(lambda: len(sink.body) == len(BODY))
            await sending
            assert app.unread
            await client.send(end + GET % 1)
            assert (await client.answer()).body.startswith(b"BROKEN")
            assert app.exchange is not None
            assert isinstance(app.exchange.fault, FramingInvalid)
            assert await client.end() == "fin"  # what stands behind is no request

    run_in(loop, run)
