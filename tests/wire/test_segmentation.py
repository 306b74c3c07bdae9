"""However the network cuts the same bytes, the outcome is the same: requests to our server, answers to our transport."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from relay.cli.http_server import refusal_of
from relay.settings import MemorySettings
from relay.wire.channel import Channel
from relay.wire.intake import Intake
from relay.wire.server import Connection
from relay.wire.surroundings import Surroundings
from relay.wire.turn import Outgoing, Turn
from tests.support.paper_transport import PaperTransport, cut
from tests.support.raw_client import RawClient
from tests.support.readings import NEXT, SENTINEL, AnswerReading, Ends, Reading, Request, bytes_of
from tests.wire import test_answers as answers
from tests.wire import test_requests as requests
from tests.wire.test_server import Receive, Scope, Send, answer, serving

LONGEST: Final = 2_000
"""Rows of more bytes are cut elsewhere: one byte a read, they take too long."""

INTAKE: Final = Intake(MemorySettings())
REQUESTS: Final = [data for row in requests.ROWS if len(data := bytes_of(row["send"]) + SENTINEL) < LONGEST]
ANSWERS: Final = [
    (data, row.get("method", "POST"), row.get("then") == "close") for row in answers.ROWS if len(data := bytes_of(row["send"])) < LONGEST
]
PLACES: Final = st.lists(st.integers(min_value=0, max_value=LONGEST), max_size=12)

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run something in a loop that all examples share."""
    with asyncio.Runner() as runner:
        yield runner.run


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


async def read_requests(pieces: Sequence[bytes], turns: int = 0) -> Reading:
    """What our server makes of these pieces."""
    reading = Reading()

    async def record(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope["method"], scope["raw_path"].decode())
        reading.requests.append(request)
        while not request.is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                with contextlib.suppress(AttributeError):
                    await answer(send, message["fault"].code.encode(), status=400)
                return
            request.body += message["body"]
            request.is_whole = not message["more_body"]
        await answer(send, b"")

    config = uvicorn.Config(record, ws="none", lifespan="off", log_config=None)
    config.load()
    surroundings = Surroundings(intake=INTAKE, refuse=refusal_of, head_timeout=timedelta(seconds=5))
    transport = PaperTransport(Connection(surroundings, config, ServerState(), {}))
    await transport.give(pieces, turns=turns)
    await transport.settle()
    reading.ends = ending_of(reading, transport)
    transport.abort()
    await transport.settle()
    return reading


def ending_of(reading: Reading, transport: PaperTransport) -> Ends:
    last = int(_STATUS.findall(transport.written)[-1]) if transport.written else 0
    if last in requests.REFUSALS:
        return requests.REFUSALS[last]
    if reading.requests and reading.requests[-1].target == NEXT:
        return "next"
    return "closed" if transport.has_sent_end or transport.is_closing() else "waits"


def check_alike(one: Reading, other: Reading) -> None:
    assert (one.whole, one.ends) == (other.whole, other.ends)
    assert requests.is_beginning_of_the_same(one.part, other.part)


@pytest.mark.full
def test_requests_are_read_alike_byte_by_byte(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    for data in REQUESTS:
        check_alike(run(read_requests(single_bytes(data))), run(read_requests([data])))


@given(data=st.sampled_from(REQUESTS), places=PLACES, turns=st.integers(min_value=0, max_value=3))
def test_requests_are_read_alike_however_they_are_cut(
    run: Callable[[Coroutine[Any, Any, Any]], Any], data: bytes, places: list[int], turns: int
) -> None:
    check_alike(run(read_requests(cut(data, places), turns)), run(read_requests([data])))


@given(rows=st.lists(st.sampled_from(REQUESTS), min_size=2, max_size=4), places=PLACES, turns=st.integers(min_value=0, max_value=3))
def test_pipelined_requests_are_read_alike_however_they_are_cut(
    run: Callable[[Coroutine[Any, Any, Any]], Any], rows: list[bytes], places: list[int], turns: int
) -> None:
    data = b"".join(row.removesuffix(SENTINEL) for row in rows) + SENTINEL
    check_alike(run(read_requests(cut(data, places), turns)), run(read_requests([data])))


async def test_requests_are_read_alike_byte_by_byte_on_a_socket() -> None:
    recorder = requests.Recorder()
    rows = iter([row for row in requests.ROWS[::9] if len(bytes_of(row["send"])) < 150 and row["ends"] != "waits"])

    async def check_some() -> None:
        for row in rows:
            async with RawClient(*served.address) as client:
                reading = Reading([])
                recorder.requests[client.port] = reading.requests  # an earlier connection may have had the same port
                with contextlib.suppress(OSError):
                    await client.send_slowly(bytes_of(row["send"]), pause_seconds=0)
                await requests.see_what_comes(client, reading)
            assert requests.difference_from_row(row, reading) is None, row["name"]

    async with serving(recorder) as served:
        await asyncio.gather(*(check_some() for _ in range(10)))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


async def read_answer(pieces: Sequence[bytes], method: str, turns: int = 0, *, is_closing: bool) -> tuple[AnswerReading, list[Any]]:
    """What our transport makes of these pieces."""
    channel = Channel()
    transport = PaperTransport(channel)
    turn = Turn(channel, Outgoing.of(httpx.Request(method, "http://a/a", content=b"abc")))
    reading = AnswerReading()

    async def read() -> None:
        with contextlib.suppress(httpx.TransportError):
            await turn.run()
            reading.status, reading.ends = turn.status, "cut"
            while (piece := await turn.next_piece()) is not None:
                reading.body += piece
            reading.ends = "whole"

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    await transport.give(pieces, turns=turns)
    if is_closing:
        transport.end()
    await transport.settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await turn.close()
    transport.abort()
    await transport.settle()
    return reading, turn.headers if reading.status else []


def test_answers_are_read_alike_byte_by_byte(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    for data, method, is_closing in ANSWERS:
        apart = run(read_answer(single_bytes(data), method, is_closing=is_closing))
        assert apart == run(read_answer([data], method, is_closing=is_closing)), data


@given(row=st.sampled_from(ANSWERS), places=PLACES, turns=st.integers(min_value=0, max_value=3))
def test_answers_are_read_alike_however_they_are_cut(
    run: Callable[[Coroutine[Any, Any, Any]], Any], row: tuple[bytes, str, bool], places: list[int], turns: int
) -> None:
    data, method, is_closing = row
    apart = run(read_answer(cut(data, places), method, turns, is_closing=is_closing))
    assert apart == run(read_answer([data], method, is_closing=is_closing))
