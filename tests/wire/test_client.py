"""The transport below the HTTP client on real sockets: what a destination may do to it, and what it may not."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from relay.destinations.destination import Receipt
from relay.destinations.http_config import HttpConfig
from relay.destinations.http_upstream import HttpUpstream
from relay.errors import ClientGone, DestinationBroke, DestinationRefusedTls, DestinationTimeout, RelayError
from relay.settings import DnsSettings
from relay.wire.channel import Channel
from relay.wire.client import Account, Place, Transport, make_client
from relay.wire.names import Names
from relay.wire.pieces import Take
from relay.wire.turn import Outgoing, Turn
from tests.support.bodies import ScriptedBody, make_item
from tests.support.certificates import make_certificate
from tests.support.loops import LOOPS, SHIPPED, run_in
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def destination(url: str, context: ssl.SSLContext | None = None, **config: float) -> AsyncIterator[HttpUpstream]:
    """A destination over a transport of its own."""
    names = Names(DnsSettings())
    transport = Transport(names, lambda _host, _address: True, context)
    async with make_client(transport) as client:
        yield HttpUpstream(client, Account("acme", "main"), HttpConfig.model_validate({"base_url": url, **config}), {})
    names.close()


@contextlib.asynccontextmanager
async def server(serve: Serve, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server of a test; what it does wrong, it does on purpose."""
    conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations[task] = writer
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, EOFError):
            await serve(reader, writer)

    running = await asyncio.start_server(accept, host, 0, ssl=context)
    async with running:
        yield running.sockets[0].getsockname()[1]
        for task, writer in conversations.items():
            if writer.transport.get_write_buffer_size() or not writer.transport.is_closing():  # the loop cannot abort what has closed
                writer.transport.abort()
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def deliver(to: HttpUpstream, content: bytes = b"abc") -> tuple[int, bytes, Receipt]:
    async with to.deliver(make_item(declared_bytes=len(content)), ScriptedBody([content], declared_bytes=len(content))) as delivery:
        answer = b"".join([piece async for piece in delivery.answer()])
        return delivery.status, answer, await delivery.settled()


def pumps() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "pump"]


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_trusted_destination_is_spoken_to_over_tls_and_its_connection_kept(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await read_request(reader)
                writer.write(OK)
        writer.close()

    content = b"x" * 3_000_000
    async with (
        server(serve, certificate.server_context()) as port,
        destination(f"https://127.0.0.1:{port}", certificate.client_context()) as to,
    ):
        for _ in range(3):
            status, answer, receipt = await deliver(to, content)
            assert (status, answer, receipt.bytes) == (200, b"ok", len(content))
            await asyncio.sleep(0.05)  # session tickets have come by now
    assert connections == 1


@pytest.mark.parametrize("wrong", ["unknown", "of another host", "plain"])
async def test_a_destination_that_cannot_be_trusted_gets_nothing(wrong: str, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "127.0.0.2" if wrong == "of another host" else "127.0.0.1")
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(1000)
        if wrong == "plain":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            heard.append(data)
        writer.close()

    context = ssl.create_default_context() if wrong == "unknown" else certificate.client_context()
    async with (
        server(serve, certificate.server_context() if wrong != "plain" else None) as port,
        destination(f"https://127.0.0.1:{port}", context) as to,
    ):
        with pytest.raises(DestinationRefusedTls):
            await deliver(to)
    assert not any(heard)


async def test_a_handshake_that_hangs_ends_with_the_connect_timeout(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    context = make_certificate(tmp_path).client_context()
    async with server(serve) as port, destination(f"https://127.0.0.1:{port}", context, connect_timeout_seconds=0.3) as to:
        with pytest.raises(DestinationTimeout):
            await deliver(to)


# ── what may be used again ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("poison", [b"H", b"HTTP/1.1 200 OK\r\n", OK, b"x"], ids=["a byte", "half a head", "an answer", "garbage"])
async def test_a_connection_with_a_byte_too_many_is_used_once(poison: bytes) -> None:
    async with Upstream(Conduct(raw_answer=OK + poison)) as upstream, destination(upstream.url) as to:
        for _ in range(3):
            assert (await deliver(to))[1] == b"ok"
        assert upstream.connections == 3


async def test_what_comes_late_on_an_idle_connection_is_no_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with server(serve) as port, destination(f"http://127.0.0.1:{port}") as to:
        for _ in range(3):
            assert (await deliver(to))[1] == b"ok"
            await asyncio.sleep(0.1)


async def test_a_connection_that_was_closed_while_idle_is_passed_over() -> None:
    async with Upstream() as upstream, destination(upstream.url) as to:
        await deliver(to)
        upstream.conduct = Conduct(then="close")
        await deliver(to)
        await asyncio.sleep(0.05)
        assert (await deliver(to))[0] == 200
        assert [request.body_bytes for request in upstream.requests] == [3, 3, 3]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_early_refusal_that_ends_with_its_connection_is_heard() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        writer.close()  # with much unread: the system resets

    async with server(serve) as port, destination(f"http://127.0.0.1:{port}") as to:
        heard = 0
        for _ in range(20):
            body = ScriptedBody([b"x" * 65536] * 200)
            with contextlib.suppress(DestinationBroke):  # a reset may destroy it on its way
                async with to.deliver(make_item(), body) as delivery:
                    assert delivery.status == 413
                    heard += 1
        assert heard >= 10
    assert not pumps()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 140_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"",
    ],
    ids=["head too long", "two lengths", "both framings", "broken chunk", "signed length", "another protocol", "nothing"],
)
async def test_what_is_no_answer_breaks_the_delivery(answer: bytes) -> None:
    async with Upstream(Conduct(raw_answer=answer, then="close")) as upstream, destination(upstream.url) as to:
        with pytest.raises(DestinationBroke):
            await deliver(to)
        await until(lambda: not upstream.open_connections)
    assert not pumps()


async def test_an_answer_that_nobody_reads_is_held_within_a_bound() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 80000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(800):
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000
        writer.close()

    async with server(serve) as port, destination(f"http://127.0.0.1:{port}") as to:
        async with to.deliver(make_item(declared_bytes=3), ScriptedBody([b"abc"], declared_bytes=3)) as delivery:
            await asyncio.sleep(0.3)
            assert sent < 40_000_000
            assert sum([len(piece) async for piece in delivery.answer()]) == 80_000_000
            await delivery.settled()
        assert (await deliver_head(to)) == 200


async def deliver_head(to: HttpUpstream) -> int:
    async with to.deliver(make_item(declared_bytes=3), ScriptedBody([b"abc"], declared_bytes=3)) as delivery:
        return delivery.status


# ── bodies that break, deliveries that are cancelled ─────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"abcd", b"ab"], ids=["too long", "too short"])
async def test_a_body_of_another_length_is_never_ended(content: bytes) -> None:
    async with Upstream() as upstream, destination(upstream.url) as to:
        with pytest.raises(DestinationBroke):
            async with to.deliver(make_item(declared_bytes=3), ScriptedBody([content], declared_bytes=3)):
                pytest.fail("delivered")
        await until(lambda: not upstream.open_connections)
        assert all(request.ending == "cut" for request in upstream.requests)
    assert not pumps()


@pytest.mark.parametrize("fault", [ClientGone(), asyncio.CancelledError(), ValueError("x")], ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("answer_after", [None, 3], ids=["unanswered", "answered early"])
async def test_a_body_that_breaks_breaks_the_delivery(fault: BaseException, answer_after: int | None) -> None:
    async with Upstream(Conduct(answer_after=answer_after)) as upstream, destination(upstream.url) as to:
        gate = asyncio.Event()

        async def run() -> None:
            async with to.deliver(make_item(), ScriptedBody([b"abc"], fault=fault, gate=gate)) as delivery:
                assert delivery.status == 200
                await delivery.settled()

        asyncio.get_running_loop().call_later(0.1, gate.set)
        with pytest.raises((RelayError, asyncio.CancelledError)):
            await run()
        await until(lambda: not upstream.open_connections)
        assert upstream.requests[0].ending == "cut"
    assert not pumps()


@pytest.mark.parametrize(
    "conduct",
    [Conduct(is_reading_head=False), Conduct(stop_reading_after=0), Conduct(is_answering=False), Conduct(answer_after=1, then="hang")],
    ids=["deaf", "stuck", "silent", "hanging"],
)
async def test_a_cancelled_delivery_leaves_nothing_behind(conduct: Conduct) -> None:
    async with Upstream(conduct) as upstream, destination(upstream.url) as to:

        async def run() -> None:
            async with to.deliver(make_item(), ScriptedBody([b"x" * 100_000] * 300)) as delivery:
                await delivery.settled()

        task = asyncio.create_task(run())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not pumps()


@pytest.mark.parametrize("loop", [SHIPPED, *(pytest.param(loop, marks=pytest.mark.full) for loop in LOOPS if loop != SHIPPED)])
def test_a_slow_destination_over_tls_is_told_from_one_that_takes_nothing(loop: str, tmp_path: Path) -> None:
    """What counts is what waits below TLS: above it everything was written long ago."""
    certificate = make_certificate(tmp_path)
    body = b"x" * 3_000_000

    async def run() -> None:
        slow, none = Conduct(bytes_per_second=1_500_000), Conduct(stop_reading_after=0)
        async with (
            Upstream(slow, tls=certificate.server_context(), receive_buffer=65536) as upstream,
            destination(upstream.url, certificate.client_context(), idle_timeout_seconds=1.2) as to,
        ):
            assert (await deliver(to, body))[0] == 200
            upstream.conduct = none
            with pytest.raises(DestinationTimeout):
                await deliver(to, body)
        assert not pumps()

    run_in(loop, run)


async def test_the_total_timeout_ends_a_delivery_that_moves() -> None:
    async with Upstream(Conduct(bytes_per_second=200_000)) as upstream, destination(upstream.url, total_timeout_seconds=0.3) as to:
        with pytest.raises(DestinationTimeout):
            await deliver(to, b"x" * 20_000_000)
    assert not pumps()


@pytest.mark.parametrize("loop", LOOPS)
def test_who_gives_up_in_the_moment_of_the_answer_leaves_no_connection_behind(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[Turn] = []

    def begin(channel: Channel, request: Outgoing) -> Turn:
        turns.append(Turn(channel, request))
        return turns[-1]

    async def run() -> None:
        monkeypatch.setattr("relay.wire.client.Turn", begin)
        async with Upstream() as upstream:
            async with destination(upstream.url) as to:
                for count in range(1, 11):
                    giving_up = asyncio.create_task(deliver(to))
                    while len(turns) < count or not turns[-1].is_answered:
                        await asyncio.sleep(0)
                    giving_up.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await giving_up
            await until(lambda: not upstream.open_connections)

    run_in(loop, run)


class Lingering:
    """A body that stands still, and ends when it may."""

    is_at_hand = False
    has_ended = False

    def __init__(self) -> None:
        self.is_ending, self.may_end = asyncio.Event(), asyncio.Event()

    async def pour(self, take: Take) -> bool:
        take(b"x")
        try:
            await asyncio.Event().wait()
        finally:
            self.is_ending.set()
            await self.may_end.wait()
            self.has_ended = True
        return False


async def test_a_closing_that_is_cancelled_ends_both_directions_and_then_says_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\nx")
        writer.write(OK)
        await reader.read()

    names, body = Names(DnsSettings()), Lingering()
    transport = Transport(names, lambda _host, _address: True)
    async with server(serve) as port:
        place = Place(Account("acme", "main"), "http", "127.0.0.1", port, None)
        answer = await transport.exchange(place, Outgoing("POST", b"/", [(b"transfer-encoding", b"chunked")], body))
        closing = asyncio.create_task(answer.aclose())
        await body.is_ending.wait()
        closing.cancel()
        asyncio.get_running_loop().call_later(0.05, body.may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert body.has_ended and pumps() == []
    names.close()
