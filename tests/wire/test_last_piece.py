"""The end of a body counts as sent only if it was: a destination may be gone by then, though its answer is whole."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from relay.api.incoming import Incoming
from relay.destinations.http_upstream import HttpDelivery
from relay.errors import AnsweredEarly
from relay.protocols.header_rules import Framing
from relay.settings import UploadSettings
from relay.uploads.body import RequestBody
from relay.wire.exchange import Exchange
from relay.wire.pieces import Piece
from tests.support.bodies import make_item
from tests.support.waiting import until
from tests.wire.test_client import destination

FIRST: Final = b"F" * 1000
LAST: Final = b"L" * 5000


class Deaf:
    """A connection of a client whose server is this test."""

    is_gone = False
    is_writable = True

    def write(self, data: bytes) -> None: ...
    async def writable(self) -> None: ...
    def read_on(self) -> None: ...
    def cut(self) -> None: ...
    def complete(self, *, keep: bool) -> None: ...


class Leaving:
    """A service that answers 200 to the first piece, and leaves when it is told to."""

    def __init__(self, answer_bytes: int, *, resets: bool) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % answer_bytes + b"a" * answer_bytes
        self._resets = resets
        self._connection: socket.socket | None = None
        self._has_sent = False
        self.got = bytearray()

    async def serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listening)
        while FIRST not in self.got:
            self.got += await loop.sock_recv(connection, 65536)
        self._connection = connection
        await loop.sock_sendall(connection, self._answer)
        self._has_sent = True

    def is_across(self) -> bool:
        """Whether all of the answer has come to the other side, be it read or not: a reset would take along what has not."""
        assert self._connection is not None
        return self._has_sent and fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)) == bytes(4)

    def leave(self) -> None:
        assert self._connection is not None
        if self._resets:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


@asynccontextmanager
async def delivering(service: Leaving) -> AsyncIterator[tuple[Exchange, HttpDelivery]]:
    """A delivery of which the first piece has come, been sent and answered."""
    length = len(FIRST) + len(LAST)
    exchange = Exchange(Deaf(), "POST", "1.1", Framing(length, expects_continue=False), keep_alive=True)
    incoming = Incoming(exchange.receive, exchange.framing, exchange)
    body = RequestBody(incoming, declared_bytes=length, limit_bytes=None, settings=UploadSettings())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        serving = asyncio.create_task(service.serve(listening))
        async with destination(f"http://127.0.0.1:{listening.getsockname()[1]}") as to:
            exchange.feed(FIRST)
            async with to.deliver(make_item(declared_bytes=length), body) as delivery:
                assert isinstance(delivery, HttpDelivery)
                yield exchange, delivery
        serving.cancel()


@pytest.mark.parametrize(("answer_bytes", "resets"), [(100_000, False), (600_000, True)], ids=["closes", "resets"])
async def test_a_last_piece_that_comes_when_the_destination_has_left_was_not_sent(answer_bytes: int, *, resets: bool) -> None:
    service = Leaving(answer_bytes, resets=resets)
    async with delivering(service) as (exchange, delivery):
        answer = delivery.answer()
        await anext(answer)
        await until(lambda: (delivery._turn._is_paused or not resets) and service.is_across())
        service.leave()
        await asyncio.sleep(0.05)  # whoever reads the answer is busy elsewhere
        exchange.feed(LAST)
        exchange.end()
        with pytest.raises(AnsweredEarly):
            await delivery.settled()
    assert LAST[:1] not in service.got


async def test_a_last_piece_that_comes_with_the_reset_was_not_sent() -> None:
    service = Leaving(2, resets=True)
    async with delivering(service) as (exchange, delivery):
        settling = asyncio.create_task(delivery.settled())
        await until(lambda: delivery._turn.is_answered and service.is_across())
        service.leave()
        exchange.feed(LAST)  # before the loop has told of the reset
        exchange.end()
        with pytest.raises(AnsweredEarly):
            await settling


async def test_an_empty_message_is_no_end_of_a_chunked_body() -> None:
    messages = [b"abc", b"", b"def"]

    async def receive() -> dict[str, object]:
        body = messages.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(messages)}

    incoming = Incoming(receive, Framing(None, expects_continue=False), None)
    body = RequestBody(incoming, declared_bytes=None, limit_bytes=None, settings=UploadSettings())
    taken: list[bytes] = []

    def take(piece: Piece) -> bool:
        taken.append(bytes(piece))
        return True

    assert await body.pour(take)
    assert taken == [b"abc", b"def"]
