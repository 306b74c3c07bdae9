"""One connection to a destination, on both event loops, plain and over TLS."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.destinations.http_upstream import HttpUpstream
from relay.errors import AnsweredEarly
from relay.wire.channel import RECEIVE_BYTES, Channel
from relay.wire.pieces import Scattered
from tests.support.bodies import ScriptedBody, make_item
from tests.support.certificates import make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.paper_transport import PaperTransport
from tests.wire.test_client import OK, deliver, destination, read_request, server

ANSWER_BYTES = 3_000_000

on_both_loops = pytest.mark.parametrize("loop", LOOPS)
plain_and_tls = pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How much came by each read of every channel."""
    reads: list[int] = []
    asked, told = Channel.get_buffer, Channel.buffer_updated
    is_asked = False

    def get_buffer(channel: Channel, sizehint: int) -> memoryview:
        nonlocal is_asked
        is_asked = True
        return asked(channel, sizehint)

    def buffer_updated(channel: Channel, nbytes: int) -> None:
        nonlocal is_asked
        assert is_asked
        is_asked = False
        reads.append(nbytes)
        told(channel, nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "get_buffer", get_buffer)
        patch.setattr(Channel, "buffer_updated", buffer_updated)
        yield reads


@plain_and_tls
@on_both_loops
def test_both_loops_receive_answers_into_the_one_buffer(loop: str, is_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path) if is_tls else None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES + bytes(ANSWER_BYTES))

    async def run() -> None:
        async with (
            server(serve, certificate.server_context() if certificate else None) as port,
            destination(
                f"{'https' if certificate else 'http'}://127.0.0.1:{port}", certificate.client_context() if certificate else None
            ) as to,
        ):
            for _ in range(2):
                assert len((await deliver(to))[1]) == ANSWER_BYTES

    with counted(monkeypatch) as reads:
        run_in(loop, run)
    assert sum(reads) > 2 * ANSWER_BYTES
    assert max(reads) <= RECEIVE_BYTES
    assert len(reads) >= 2 * ANSWER_BYTES // RECEIVE_BYTES


@on_both_loops
def test_a_service_that_ends_its_side_and_then_takes_the_rest_is_told_apart_from_success(loop: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)  # until much waits to be written
        writer.write(OK)
        writer.write_eof()
        while await reader.read(65536):
            pass
        writer.close()

    async def run() -> None:
        async with server(serve) as port, destination(f"http://127.0.0.1:{port}") as to:
            with pytest.raises(AnsweredEarly):
                await settle_late(to)

    run_in(loop, run)


async def settle_late(to: HttpUpstream) -> None:
    async with to.deliver(make_item(), ScriptedBody([bytes(65536)] * 400)) as delivery:
        await asyncio.sleep(0.2)  # what was written is taken, and the connection lost, before it is given up
        await delivery.settled()


class Keeping(PaperTransport):
    """Remembers what it was given to write."""

    def write(self, data: Any) -> None:
        self.given = data


async def test_what_cannot_change_is_kept_without_a_copy_and_what_may_is_copied() -> None:
    channel = Channel()
    transport = Keeping(channel)
    held, received = bytes(100_000), bytearray(100_000)
    for piece, owner in ((held, held), (memoryview(held)[10:], held), (memoryview(received).toreadonly(), received)):
        channel.write(piece)
        assert memoryview(transport.given).obj is owner
    channel.write(memoryview(received))
    assert memoryview(transport.given).obj is not received
    channel.write(Scattered([memoryview(b"ab"), memoryview(b"cd")]), b"before ")
    assert transport.given == b"before abcd"
    channel.abort()


@on_both_loops
@pytest.mark.parametrize("first", [1, 2 << 20])
def test_what_is_scattered_arrives_in_its_order_wherever_the_peer_stops_taking_it(loop: str, first: int) -> None:
    received = bytearray(os.urandom(4 << 20))
    expected = b"before" + bytes(received[:first]) + bytes(received[first + 7 :])

    async def run() -> None:
        is_written, arrived = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await is_written.wait()
            arrived.set_result(await reader.readexactly(2 * len(expected)))
            writer.close()

        async with server(serve) as port:
            _, channel = await asyncio.get_running_loop().create_connection(Channel, "127.0.0.1", port)
            view = memoryview(received)
            channel.write(Scattered([view[:first], view[first + 7 :]]), b"before")
            assert 0 < channel._transport.get_write_buffer_size() < len(expected)  # the kernel took some of it
            channel.write(Scattered([view[:first], view[first + 7 :]]), b"before")  # of this one nothing
            received[:] = bytes(len(received))
            is_written.set()
            assert await arrived == 2 * expected
            channel.abort()

    run_in(loop, run)


@on_both_loops
def test_what_waits_to_be_sent_arrives_as_it_was_when_it_was_written(loop: str) -> None:
    size = 3 << 20

    async def run() -> None:
        is_written, arrived = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await is_written.wait()
            arrived.set_result(await reader.readexactly(3 * size))
            writer.close()

        async with server(serve) as port:
            _, channel = await asyncio.get_running_loop().create_connection(Channel, "127.0.0.1", port)
            held, received = b"a" * size, bytearray(b"c" * size)
            channel.write(held)
            channel.write(memoryview(b"b" * (size + 5)).toreadonly()[5:])
            channel.write(memoryview(received))
            received[:] = bytes(size)
            assert channel.unsent_bytes > 0
            is_written.set()
            assert await arrived == b"a" * size + b"b" * size + b"c" * size
            channel.abort()

    run_in(loop, run)
