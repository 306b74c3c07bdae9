"""The server's connection on real sockets, below small apps: what the table of hazards does not show."""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from relay.cli.http_server import refusal_of
from relay.errors import BodyIncomplete, FramingInvalid
from relay.protocols.header_rules import HEAD_LIMIT
from relay.settings import MemorySettings
from relay.wire import server as module
from relay.wire import surroundings
from relay.wire.exchange import EXTENSION, UNREAD_LIMIT, Exchange
from relay.wire.intake import LARGEST, Intake
from relay.wire.server import Connection
from relay.wire.surroundings import Surroundings
from tests.support.certificates import Certificate, make_certificate
from tests.support.loops import LOOPS, SHIPPED, run_in
from tests.support.raw_client import ConnectionEnded, RawClient
from tests.support.waiting import until

Scope = dict[str, Any]
Receive = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

POST = b"POST /a HTTP/1.1\r\nHost: relay\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /%d HTTP/1.1\r\nHost: relay\r\n\r\n"


class Counting(Connection):
    """Counts how often the loop asked for the buffer."""

    asked = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        Counting.asked += 1
        return super().get_buffer(sizehint)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Served:
    """A running server."""

    server: uvicorn.Server
    address: tuple[str, int]
    task: "asyncio.Task[None]"

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections

    async def stop(self) -> None:
        """Have it end as on SIGTERM, and wait for that."""
        self.server.should_exit = True
        await self.task


@contextlib.asynccontextmanager
async def serving(app: App, *, head_seconds: float = 5.0, certificate: Certificate | None = None) -> AsyncIterator[Served]:
    """Serve an app on a free port, in this loop."""
    surroundings = Surroundings(intake=Intake(MemorySettings()), refuse=refusal_of, head_timeout=timedelta(seconds=head_seconds))
    config = uvicorn.Config(
        app,
        http=functools.partial(Counting, surroundings),  # type: ignore[arg-type] # called like the class
        ws="none",
        lifespan="off",
        server_header=False,
        date_header=False,
        log_config=None,
        timeout_graceful_shutdown=8,
        ssl_certfile=certificate.path if certificate is not None else None,
    )
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = _Server(config)
    served = Served(server, ("127.0.0.1", listening.getsockname()[1]), asyncio.create_task(server.serve([listening])))
    await until(lambda: server.started)
    try:
        yield served
    finally:
        await served.stop()


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds pass tenfold."""
    monkeypatch.setattr(surroundings, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.3)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.6)


async def answer(send: Send, body: bytes, *fields: tuple[bytes, bytes], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *fields]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def count(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body; or with the code of what broke it."""
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            fault = message.get("fault")
            await answer(send, fault.code.encode() if fault is not None else b"gone", status=400)
            return
        total += len(message["body"])
        if not message["more_body"]:
            break
    await answer(send, b"%d" % total)


async def tell_path(scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, scope["path"].encode())


# ── heads ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_head_has_a_time_that_no_trickle_prolongs() -> None:
    async with serving(count, head_seconds=0.5) as served, RawClient(*served.address) as client:
        trickling = asyncio.create_task(client.send_slowly(b"POST /a HTTP/1.1\r\n" + b"X: 1\r\n" * 100, pause_seconds=0.02))
        told = await client.final_answer()
        assert (told.status, json.loads(told.body)["code"], told.value("connection")) == (408, "client_too_slow", "close")
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)


async def test_a_connection_without_a_request_is_closed_without_a_word() -> None:
    async with serving(count, head_seconds=0.3) as served, RawClient(*served.address) as client:
        assert await client.end() == "fin"


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with serving(tell_path) as served, RawClient(*served.address) as client:
        for _ in range(3):
            await client.send(b"\r\n")
            await asyncio.sleep(0.02)
            await client.send(b"\r\n" + GET % 1)
            assert (await client.answer()).body == b"/1"


@pytest.mark.parametrize("piece", [7, 4096, 1 << 20])
async def test_a_head_past_its_limit_is_told_so_however_it_comes(piece: int) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: relay\r\nX: " + b"x" * HEAD_LIMIT
    async with serving(count) as served, RawClient(*served.address) as client:
        for start in range(0, len(head), piece):
            if not await client.try_to_send(head[start : start + piece]):
                break
        told = await client.final_answer()
        assert (told.status, json.loads(told.body)["code"]) == (431, "head_too_large")
        assert told.value("relay-request-id") is not None


@pytest.mark.parametrize("line", [b"CONNECT relay:443 HTTP/1.1", b"POST http://other/x?y HTTP/1.1", b"OPTIONS * HTTP/1.1"])
async def test_odd_targets_are_ordinary_requests_to_the_app(line: bytes) -> None:
    async with serving(tell_path) as served, RawClient(*served.address) as client:
        for _ in range(2):
            await client.send(line + b"\r\nHost: relay\r\n\r\n")
            assert (await client.answer()).body in {b"relay:443", b"/x", b"*"}


# ── the client's end ─────────────────────────────────────────────────────────────────────────────


async def test_a_half_close_after_a_whole_request_costs_no_answer() -> None:
    large = b"x" * 6_000_000

    async def late(_scope: Scope, _receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await answer(send, large)

    async with serving(late) as served, RawClient(*served.address, receive_buffer=8192) as client:
        await client.send(POST % 3 + b"abc")
        client.half_close()
        client.pause()
        await asyncio.sleep(0.6)
        client.resume()
        assert (await client.answer()).body == large
        assert await client.end() == "fin"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (POST % 10 + b"abc", BodyIncomplete.code),
        (b"POST /a HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", BodyIncomplete.code),
        (b"POST /a HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n", FramingInvalid.code),
    ],
    ids=["short", "without its end", "broken"],
)
async def test_a_body_that_cannot_become_whole_is_told_to_the_app_and_the_client(request_bytes: bytes, code: str) -> None:
    async with serving(count) as served, RawClient(*served.address) as client:
        await client.send(request_bytes)
        if code == BodyIncomplete.code:
            client.half_close()
        told = await client.answer()
        assert (told.status, told.body, told.value("connection")) == (400, code.encode(), "close")
        client.half_close()
        assert await client.end() == "fin"
        await until(lambda: not served.connections)


@pytest.mark.parametrize("before", [b"", b"POST /a HT"], ids=["nothing", "half a head"])
async def test_a_half_close_without_a_request_ends_the_connection(before: bytes) -> None:
    async with serving(count) as served, RawClient(*served.address) as client:
        await client.send(before)
        client.half_close()
        assert await client.end() == "fin"


async def test_a_reset_is_noticed_while_nothing_is_read() -> None:
    departed = asyncio.Event()

    async def deaf(scope: Scope, _receive: Receive, _send: Send) -> None:
        scope["extensions"][EXTENSION].on_departure = departed.set
        await departed.wait()

    async with serving(deaf) as served, RawClient(*served.address) as client:
        sending = asyncio.create_task(client.try_to_send(POST % 50_000_000 + b"x" * 50_000_000))
        await asyncio.sleep(0.3)
        assert not sending.done()
        client.reset()
        await departed.wait()
        await sending
        await until(lambda: not served.connections)


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_what_is_unread_is_bounded_and_reading_goes_on(is_chunked: bool) -> None:
    size = 48_000_000
    most = 0

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        exchange: Exchange = scope["extensions"][EXTENSION]
        total = 0
        while True:
            await asyncio.sleep(0.005)
            most = max(most, exchange.unread_bytes)
            message = await receive()
            total += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, b"%d" % total)

    head = POST % size
    body = b"x" * size
    if is_chunked:
        head = b"POST /a HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = (b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n") * (size // 1_000_000) + b"0\r\n\r\n"
    async with serving(slow) as served, RawClient(*served.address) as client:
        await client.send(head + body)
        assert (await client.answer()).body == b"%d" % size
    if is_chunked:
        assert LARGEST // 4 < most <= 2 * LARGEST
    else:  # so long a body is left where it lies, but for what is asked for
        assert UNREAD_LIMIT // 2 < most <= 2 * UNREAD_LIMIT


async def test_a_cancelled_receive_loses_nothing() -> None:
    async def impatient(_scope: Scope, receive: Receive, send: Send) -> None:
        total, has_more = 0, True
        while has_more:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.003):
                    message = await receive()
                    total += len(message["body"])
                    has_more = message["more_body"]
        await answer(send, b"%d" % total)

    async with serving(impatient) as served, RawClient(*served.address) as client:
        await client.send(POST % 60)
        await client.send_slowly(b"x" * 60, pause_seconds=0.004)
        assert (await client.answer()).body == b"60"


async def test_pipelined_requests_are_answered_in_their_order_and_held_within_a_bound() -> None:
    gate = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await receive()
        await tell_path(scope, receive, send)

    async with serving(wait) as served, RawClient(*served.address) as client:
        first = [GET % number for number in range(3000)]
        sending = asyncio.create_task(client.try_to_send(b"".join(first) + (POST % 20_000_000 + b"x" * 20_000_000)))
        await asyncio.sleep(0.3)
        assert not sending.done()
        gate.set()
        for number in range(len(first)):
            assert (await client.answer()).body == b"/%d" % number
        assert (await client.answer()).body == b"/a"


# ── the last answer ──────────────────────────────────────────────────────────────────────────────


async def test_a_refusal_is_read_by_a_client_that_is_still_sending() -> None:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, b"no", (b"connection", b"close"), status=413)

    async with serving(refuse) as served:
        for _ in range(5):
            async with RawClient(*served.address) as client:
                sending = asyncio.create_task(client.try_to_send(POST % 9_000_000 + b"x" * 4_000_000))
                told = await client.answer()
                assert (told.status, told.body) == (413, b"no")
                await sending
                client.half_close()
                assert await client.end() == "fin"


async def test_a_slow_client_gets_all_of_the_last_answer() -> None:
    large = b"x" * 12_000_000

    async def tell(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, large, (b"connection", b"close"))

    async with serving(tell) as served, RawClient(*served.address, receive_buffer=65536) as client:
        await client.send(GET % 1)
        client.pause()
        got = b""
        await asyncio.sleep(0.2)
        client.resume()
        while not got.endswith(b"\r\n\r\n"):
            got += await client.read(1)
        for _ in range(12):
            assert len(await client.read(1_000_000)) == 1_000_000
            await asyncio.sleep(0.12)  # all together far longer than the linger
        assert await client.end() == "fin"


@pytest.mark.parametrize(
    ("loop", "size", "is_tls"), [(SHIPPED, 12_000_000, False), *((loop, 500_000, True) for loop in LOOPS)], ids=["plain", *LOOPS]
)
def test_a_client_that_takes_nothing_of_the_last_answer_is_cut(loop: str, size: int, is_tls: bool, tmp_path: Path) -> None:
    """Of the smaller answer nothing is left above TLS: it waits below."""
    certificate = make_certificate(tmp_path) if is_tls else None

    async def tell(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, b"x" * size, (b"connection", b"close"))

    async def run() -> None:
        tls = certificate.client_context() if certificate is not None else None
        async with serving(tell, certificate=certificate) as served, RawClient(*served.address, receive_buffer=4096, tls=tls) as client:
            client.pause()
            await client.send(GET % 1)
            await until(lambda: served.server.server_state.total_requests)
            assert served.connections
            await until(lambda: not served.connections)

    run_in(loop, run)


# ── apps that fail ───────────────────────────────────────────────────────────────────────────────


async def break_before(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("before its answer")


async def break_within(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("within its answer")


async def send_less(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": False})


async def send_more(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": False})


async def send_nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    return


async def break_out(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, b"ok", (b"x", b"1\r\nSet-Cookie: a=b"))


@pytest.mark.parametrize("app", [break_before, break_within, send_less, send_more, send_nothing, break_out], ids=lambda app: app.__name__)
async def test_an_answer_that_the_app_does_not_finish_is_cut(app: App) -> None:
    async with serving(app) as served, RawClient(*served.address) as client:
        await client.send(GET % 1)
        try:
            told = await client.answer()
        except ConnectionEnded:
            told = None
        assert told is None or not told.is_whole
        assert b"Set-Cookie" not in (told.body if told else b"")
        await until(lambda: not served.connections)


async def test_an_old_client_sees_that_an_answer_without_a_length_is_cut() -> None:
    async with serving(break_within) as served, RawClient(*served.address) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionEnded):
            assert not (await client.answer()).is_whole
        await until(lambda: not served.connections)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_waits_for_what_runs_and_for_nothing_else() -> None:
    gate = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/2":
            await gate.wait()
        await tell_path(scope, receive, send)

    async with (
        serving(wait) as served,
        RawClient(*served.address) as idle,
        RawClient(*served.address) as fresh,
        RawClient(*served.address) as running,
    ):
        await idle.send(GET % 1)
        assert (await idle.answer()).body == b"/1"
        await running.send(GET % 2)
        await until(lambda: len(served.connections) == 3)
        stopping = asyncio.create_task(served.stop())
        assert (await idle.end(), await fresh.end()) == ("fin", "fin")
        assert not stopping.done()
        gate.set()
        told = await running.answer()
        assert (told.body, told.value("connection")) == (b"/2", "close")
        assert await running.end() == "fin"
        await stopping


async def test_a_stop_does_not_wait_for_a_client_that_will_not_close() -> None:
    async with serving(count) as served, RawClient(*served.address) as client:
        await client.send(b"\x01\x02garbage")
        assert (await client.answer()).status == 400  # lingering now
        await asyncio.wait_for(served.stop(), 5)
