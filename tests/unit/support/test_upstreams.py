"""The recording upstream and the raw client, tried on each other: each fault is what it says."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from tests.support.raw_client import ConnectionEnded, RawClient
from tests.support.upstreams import Conduct, Upstream


def head(length: int | None, *, target: str = "/up/a?q=1", extra: str = "") -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n{extra}\r\n".encode()


async def test_a_request_is_recorded_as_it_came_and_the_connection_kept() -> None:
    async with Upstream() as upstream, RawClient("127.0.0.1", upstream.port) as client:
        for content in (b"hello", b""):
            await client.send(head(len(content), extra="x-TWICE: 1\r\nX-Twice: 2\r\n") + content)
            answer = await client.answer()
            assert (answer.status, answer.body, answer.is_whole) == (200, b"taken", True)
        assert await client.is_kept(seconds=0.05)
        first, second = upstream.requests
    assert (first.method, first.target, first.version) == ("POST", "/up/a?q=1", "HTTP/1.1")
    assert first.headers == [(b"Host", b"x"), (b"Content-Length", b"5"), (b"x-TWICE", b"1"), (b"X-Twice", b"2")]
    assert first.values("X-TWICE") == [b"1", b"2"]
    assert (first.body_bytes, first.sha256, first.is_whole) == (5, hashlib.sha256(b"hello").hexdigest(), True)
    assert (second.body_bytes, second.connection, upstream.connections) == (0, 1, 1)


async def test_a_chunked_body_is_recorded_without_its_framing() -> None:
    async with Upstream() as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(None) + b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n")
        assert (await client.answer()).status == 200
    assert (upstream.requests[0].first_bytes, upstream.requests[0].is_whole) == (b"abc0123456789", True)


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset])
@pytest.mark.parametrize("sent", [head(10) + b"12345", head(None) + b"5\r\n12345\r\n", head(None) + b"5\r\n123"])
async def test_a_body_that_stops_is_cut_and_never_whole(sent: bytes, leave: Callable[[RawClient], None]) -> None:
    async with Upstream() as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(sent)
        await upstream.received(3)
        leave(client)
        assert (await upstream.ended()).ending == "cut"


@pytest.mark.parametrize(("then", "end"), [("close", {"fin", "rst"}), ("reset", {"rst"})])
async def test_an_early_answer_comes_before_the_bodys_end(then: str, end: set[str]) -> None:
    conduct = Conduct(status=413, answer_after=4, then=then)  # type: ignore[arg-type]  # parametrised values have no type
    async with Upstream(conduct) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(10) + b"12345")
        if then == "close":
            assert (await client.answer()).status == 413
            assert await client.end() in end
        assert (await upstream.ended()).ending == "left"


async def test_an_early_answer_may_be_followed_by_the_rest_of_the_body() -> None:
    async with Upstream(Conduct(answer_after=0)) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(3))
        assert (await client.answer()).status == 200
        await client.send(b"abc")
        assert (await upstream.ended()).is_whole
        assert await client.is_kept(seconds=0.05)


@pytest.mark.parametrize(
    "conduct", [Conduct(answer=b"0123456789", cut_answer_at=4), Conduct(pieces=[b"0123", b"4567"], cut_answer_at=1, pause_seconds=0.001)]
)
async def test_an_answer_that_is_cut_is_not_whole(conduct: Conduct) -> None:
    async with Upstream(conduct) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(0))
        answer = await client.answer()
        assert (answer.body, answer.is_whole) == (b"0123", False)
        assert await client.end() == "fin"


async def test_an_answer_in_chunks_is_joined() -> None:
    async with Upstream(Conduct(pieces=[b"01", b"23"])) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(0))
        answer = await client.answer()
        assert (answer.body, answer.is_whole, answer.value("transfer-encoding")) == (b"0123", True, "chunked")


async def test_interim_answers_come_before_the_final_one() -> None:
    async with Upstream(Conduct(informational=[103, 102])) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(0))
        assert [(await client.answer()).status for _ in range(3)] == [103, 102, 200]


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_with_its_head(status: int) -> None:
    async with Upstream(Conduct(status=status)) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        for _ in range(2):
            await client.send(head(0))
            assert (await client.answer()).status == status


async def test_garbage_is_sent_as_it_is() -> None:
    async with Upstream(Conduct(raw_answer=b"\x00\xffnot http", then="close")) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(0))
        assert await client.read(10) == b"\x00\xffnot http"
        assert await client.end() == "fin"


@pytest.mark.parametrize("conduct", [Conduct(close_after=3), Conduct(reset_after=3), Conduct(close_after=0)])
async def test_an_upstream_that_leaves_midway_gives_no_answer(conduct: Conduct) -> None:
    async with Upstream(conduct) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(10) + b"123")
        with pytest.raises(ConnectionEnded):
            await client.answer()
        assert upstream.requests[0].ending == "left"


async def test_an_upstream_that_does_not_read_holds_the_sender_back() -> None:
    conduct = Conduct(stop_reading_after=0)
    async with Upstream(conduct, receive_buffer=8_192) as upstream, RawClient("127.0.0.1", upstream.port, seconds=0.3) as client:
        await client.send(head(1 << 30))
        with pytest.raises(TimeoutError):
            await client.send(bytes(64 << 20))
        assert upstream.requests[0].body_bytes == 0


async def test_a_slow_upstream_reads_no_faster_than_told() -> None:
    async with (
        Upstream(Conduct(bytes_per_second=50_000), receive_buffer=4_096) as upstream,
        RawClient("127.0.0.1", upstream.port) as client,
    ):
        began = asyncio.get_running_loop().time()
        await client.send(head(20_000) + bytes(20_000))
        assert (await client.answer()).status == 200
        assert asyncio.get_running_loop().time() - began >= 0.35


@pytest.mark.parametrize("conduct", [Conduct(is_reading_head=False), Conduct(is_answering=False)])
async def test_a_silent_upstream_keeps_the_connection_and_says_nothing(conduct: Conduct) -> None:
    async with Upstream(conduct) as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send(head(2) + b"ok")
        assert await client.is_kept(seconds=0.1)
        assert [recorded.is_whole for recorded in upstream.requests] == ([] if not conduct.is_reading_head else [True])


async def test_after_a_half_close_the_answer_is_still_read() -> None:
    async with Upstream() as upstream, RawClient("127.0.0.1", upstream.port) as client:
        await client.send_slowly(head(2) + b"ok", piece=20, pause_seconds=0.001)
        client.half_close()
        assert (await client.answer()).status == 200
        assert await client.end() == "fin"
