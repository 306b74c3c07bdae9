"""Many requests that come together: few of them begin in one turn of the loop, and none is lost."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.wire import rota, surroundings
from relay.wire.intake import LATE
from relay.wire.rota import BEGUN_MOST
from tests.support.certificates import Certificate, make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.raw_client import RawClient
from tests.support.waiting import until
from tests.wire.test_server import POST, Receive, Scope, Send, Served, count, serving

CROWD = 5 * BEGUN_MOST
SIZES = [0, 1, LATE - 100, LATE, 70_000]
LONG = 1_500_000


@contextlib.asynccontextmanager
async def crowd(served: Served, certificate: Certificate | None) -> AsyncIterator[list[RawClient]]:
    """Clients that are connected, and have sent nothing."""
    tls = certificate.client_context() if certificate is not None else None
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(*served.address, tls=tls)) for _ in range(CROWD)]
        await until(lambda: len(served.connections) == CROWD)
        yield clients


async def send_together(clients: list[RawClient], *more: int) -> list[int]:
    """Send a request by each of them, and tell the sizes of their bodies. ``more`` are sizes that no kernel holds unread."""
    of_each = [*SIZES, *more]
    sizes = [of_each[number % len(of_each)] for number in range(len(clients))]
    await asyncio.gather(*(client.send(POST % size + b"x" * size) for client, size in zip(clients, sizes, strict=True)))
    return sizes


async def read_answers(clients: list[RawClient], sizes: list[int]) -> None:
    """Take the answers: each tells the size of its body."""
    answers = await asyncio.gather(*(client.answer() for client in clients))
    assert [(told.status, told.body) for told in answers] == [(200, b"%d" % size) for size in sizes]


def let_time_run_out(served: Served) -> None:
    """Of every connection that has any."""
    for connection in served.connections:
        connection._deadline = connection._deadline and 0.0


def let_nobody_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request has to wait."""
    monkeypatch.setattr(rota, "BEGUN_MOST", 0)
    monkeypatch.setattr(rota, "BEGUN_SHARE", 100 * CROWD)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_few_begin_in_one_turn_of_the_loop(loop: str, is_tls: bool, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path) if is_tls else None
    begun, turn = Counter[int](), 0

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        begun[turn] += 1
        await count(scope, receive, send)

    async def run() -> None:
        def count_turn() -> None:
            nonlocal turn
            turn += 1
            if not is_over:
                asyncio.get_running_loop().call_soon(count_turn)

        is_over = False
        async with serving(note, certificate=certificate) as served, crowd(served, certificate) as clients:
            count_turn()
            for _ in range(3):
                await read_answers(clients, await send_together(clients, LONG))
            is_over = True

    run_in(loop, run)
    assert begun.total() == 3 * CROWD
    assert max(begun.values()) <= BEGUN_MOST


@pytest.mark.parametrize("loop", LOOPS)
def test_who_waits_has_no_time_that_runs_out_and_is_answered_before_the_end(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    let_nobody_begin(monkeypatch)
    monkeypatch.setattr(surroundings, "TICK_SECONDS", 0.05)

    async def run() -> None:
        async with serving(count) as served:
            async with crowd(served, None) as clients:
                sizes = await send_together(clients)
                await until(lambda: all(connection._held for connection in served.connections))
                let_time_run_out(served)
                await asyncio.sleep(0.2)
                held = [len(connection._held) for connection in served.connections]
                assert len(held) == CROWD
                assert 0 < min(held) <= max(held) <= LATE
                stopping = asyncio.create_task(served.stop())
                await read_answers(clients, sizes)
            await stopping

    run_in(loop, run)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_has_left_while_it_waited_is_forgotten(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sent is not begun, and the others are."""
    let_nobody_begin(monkeypatch)
    begun = 0

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await count(scope, receive, send)

    async def run() -> None:
        async with serving(note) as served, crowd(served, None) as clients:
            await send_together(clients)
            await until(lambda: all(connection._held for connection in served.connections))
            for connection in list(served.connections)[: CROWD // 2]:
                connection.cut()
            await until(lambda: len(served.connections) == CROWD - CROWD // 2)
            monkeypatch.setattr(rota, "BEGUN_MOST", BEGUN_MOST)
            async with RawClient(*served.address) as another:
                await read_answers([another], await send_together([another]))
            await until(lambda: begun == CROWD - CROWD // 2 + 1)

    run_in(loop, run)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_end_behind_a_request_that_waits_does_not_lose_it(loop: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Over TLS the end is read together with what stands before it."""
    let_nobody_begin(monkeypatch)
    certificate, received = make_certificate(tmp_path), list[bytes]()

    async def note(_scope: Scope, receive: Receive, _send: Send) -> None:
        received.append((await receive())["body"])

    async def run() -> None:
        async with serving(note, certificate=certificate) as served:
            async with RawClient(*served.address, tls=certificate.client_context()) as client:
                await client.send(POST % 5 + b"hello")
                client.close()
            await until(lambda: received == [b"hello"])

    run_in(loop, run)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_sends_nothing_but_empty_lines_is_closed_in_its_time(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it waits for its turn."""
    let_nobody_begin(monkeypatch)
    monkeypatch.setattr(surroundings, "TICK_SECONDS", 0.05)

    async def run() -> None:
        async with serving(count) as served, crowd(served, None) as clients:
            await asyncio.gather(*(client.send(b"\r\n") for client in clients))
            await until(lambda: all(connection._held for connection in served.connections))
            monkeypatch.setattr(rota, "BEGUN_MOST", BEGUN_MOST)
            async with RawClient(*served.address) as another:
                await read_answers([another], await send_together([another]))
            let_time_run_out(served)
            assert {await client.end() for client in clients} == {"fin"}

    run_in(loop, run)
