"""How the server reads, on both event loops, plain and over TLS: into the one buffer, and no more than there is use for."""

import asyncio
import fcntl
import socket
import sys
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from relay.wire import intake, rota
from relay.wire.exchange import EXTENSION, Exchange
from relay.wire.intake import LARGEST, TINY
from relay.wire.pieces import Piece
from tests.support.certificates import make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.raw_client import RawClient
from tests.support.waiting import until
from tests.wire.test_server import GET, POST, Counting, Receive, Scope, Send, answer, count, serving, tell_path


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_both_loops_receive_into_the_one_buffer(loop: str, is_tls: bool, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path) if is_tls else None
    body = b"x" * 3_000_000
    request = b"POST /a HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    async def run() -> None:
        Counting.asked = 0
        async with serving(count, certificate=certificate) as served:
            tls = certificate.client_context() if certificate is not None else None
            reader, writer = await asyncio.open_connection(*served.address, ssl=tls)
            for _ in range(2):
                writer.write(request)
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(7) == b"3000000"
            writer.transport.abort()
            await until(lambda: not served.connections)

    run_in(loop, run)
    assert Counting.asked >= 2 * len(body) // LARGEST


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_what_comes_behind_a_whole_request_is_held_within_a_bound(loop: str, is_tls: bool, tmp_path: Path) -> None:
    """In reads of one byte as in any other."""
    certificate = make_certificate(tmp_path) if is_tls else None

    async def run() -> None:
        gate = asyncio.Event()

        async def wait(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.wait()
            await tell_path(scope, receive, send)

        tls = certificate.client_context() if certificate is not None else None
        async with serving(wait, certificate=certificate) as served, RawClient(*served.address, tls=tls) as client:
            await client.send(GET % 0)
            await client.send_slowly(GET % 1 + b"G", pause_seconds=0)
            (connection,) = served.connections
            before = len(connection._held)
            sending = asyncio.create_task(client.try_to_send(b"ET /2 HTTP/1.1\r\n\r\n" + POST % 30_000_000 + b"x" * 30_000_000))
            await asyncio.sleep(0.1)
            assert len(connection._held) <= before + TINY
            asked = Counting.asked
            await asyncio.sleep(0.1)
            assert Counting.asked == asked
            gate.set()
            for number in range(2):
                assert (await client.answer()).body == b"/%d" % number
            assert (await client.answer()).status == 400  # it names no host
            sending.cancel()

    run_in(loop, run)


def unread_bytes(connection: Counting) -> int:
    """What lies in a connection's socket."""
    plain = connection._transport.get_extra_info("socket")
    return int.from_bytes(fcntl.ioctl(plain.fileno(), termios.FIONREAD, b"\0" * 4), sys.byteorder)


async def take_all(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with the length of a body that is taken as it comes."""
    exchange: Exchange = scope["extensions"][EXTENSION]
    taken = 0

    def take(piece: Piece) -> bool:
        nonlocal taken
        taken += len(piece)
        return True

    await exchange.pour(take)
    await answer(send, b"%d" % taken)


def wait_for_more_than_a_read(connections: set[Counting]) -> None:
    """Hold up the loop until one of them has more at hand than one read takes, or it seems that nothing more comes."""
    deadline = time.monotonic() + 0.1
    while connections and time.monotonic() < deadline and not any(unread_bytes(each) > 2 * TINY for each in connections):
        time.sleep(0.001)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_upload_whose_bytes_are_all_at_hand_gives_way_to_the_others(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read in a turn of the loop, where a loop left to itself takes as many as it finds full."""
    for name in ("TURN_BYTES", "TURN_SMALLEST", "SMALLEST"):
        monkeypatch.setattr(intake, name, TINY)
    monkeypatch.setattr(rota, "TURN_SECONDS", 0.0)
    size, reads, turn, tempted, sent = 1_000_000, Counter[tuple[int, int]](), 0, 0, 0
    take_read = Counting.buffer_updated

    def note_read(connection: Counting, nbytes: int) -> None:
        nonlocal tempted
        if connection._intake._running > 1:  # whoever is alone may go on
            reads[turn, id(connection)] += 1
            tempted += nbytes == TINY and unread_bytes(connection) >= TINY
        take_read(connection, nbytes)

    def upload(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=20) as client:
            nonlocal sent
            client.sendall(POST % size + b"x" * size)
            sent += 1
            return client.recv(4096)

    async def run() -> None:
        def count_turn() -> None:
            nonlocal turn
            turn += 1
            if sent < 3:
                wait_for_more_than_a_read(served.connections)
            if not is_over.is_set():
                asyncio.get_running_loop().call_soon(count_turn)

        is_over = asyncio.Event()
        async with serving(take_all) as served:
            count_turn()
            answers = await asyncio.gather(*(asyncio.to_thread(upload, served.address) for _ in range(3)))
            is_over.set()
        assert [told.endswith(b"\r\n\r\n%d" % size) for told in answers] == [True] * 3

    monkeypatch.setattr(Counting, "buffer_updated", note_read, raising=False)
    run_in(loop, run)
    assert len({connection for _, connection in reads}) == 3
    assert tempted >= size // TINY, "hardly ever was more at hand than one read takes"
    assert set(reads.values()) == {1}
