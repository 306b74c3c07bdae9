"""Peers choose in how many pieces they send: however small these are, what is held is bounded, and they are handed on together."""

import asyncio
import sys
from datetime import timedelta
from typing import Any, Final

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from relay.cli.http_server import refusal_of
from relay.settings import MemorySettings
from relay.wire.channel import Channel
from relay.wire.exchange import EXTENSION, UNREAD_LIMIT, Exchange
from relay.wire.intake import Intake
from relay.wire.server import Connection
from relay.wire.surroundings import Surroundings
from relay.wire.turn import RECEIVE_LIMIT, Outgoing, Turn
from tests.support.paper_transport import PaperTransport
from tests.wire.test_server import POST, Receive, Scope, Send, answer

MIB: Final = 1 << 20
COST_MOST: Final = 2
"""What is held may cost twice its bound: the bytes, and the objects that they are in."""

CHUNKED: Final = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def cost_of(pieces: list[bytes]) -> int:
    return sys.getsizeof(pieces) + sum(map(sys.getsizeof, pieces))


def connect(app: Any) -> PaperTransport:
    """A connection to the server without a socket."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    surroundings = Surroundings(intake=Intake(MemorySettings()), refuse=refusal_of, head_timeout=timedelta(seconds=5))
    return PaperTransport(Connection(surroundings, config, ServerState(), {}))


async def test_small_pieces_of_a_body_that_nobody_takes_are_held_within_the_bound() -> None:
    held: list[Exchange] = []

    async def deaf(scope: Scope, _receive: Receive, _send: Send) -> None:
        held.append(scope["extensions"][EXTENSION])
        await asyncio.Event().wait()

    transport = connect(deaf)
    await transport.give([POST % (4 * MIB)], turns=2)
    await transport.give([b"xy"] * 200_000)
    assert held[0].unread_bytes > UNREAD_LIMIT  # reading has stopped
    assert cost_of(held[0]._pieces) <= COST_MOST * UNREAD_LIMIT
    transport.abort()


async def test_small_pieces_of_an_answer_that_nobody_takes_are_held_within_the_bound() -> None:
    channel = Channel()
    transport = PaperTransport(channel)
    turn = Turn(channel, Outgoing.of(httpx.Request("POST", "http://a/a", content=b"abc")))
    running = asyncio.create_task(turn.run())
    await asyncio.sleep(0)
    await transport.give([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
    await transport.give([b"2\r\nxy\r\n" * 1000] * 200)
    await running
    assert turn._unread_bytes > RECEIVE_LIMIT
    assert cost_of(turn._pieces) <= COST_MOST * RECEIVE_LIMIT
    await turn.close()
    await transport.settle()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_what_came_in_small_pieces_is_handed_on_together(is_chunked: bool) -> None:
    handed: list[int] = []

    async def count(_scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            handed.append(len(message["body"]))
        await answer(send, b"%d" % (sum(handed) + len(message["body"])))

    transport = connect(count)
    if is_chunked:
        await transport.give([CHUNKED, *[b"1\r\nx\r\n" * 1000] * 60, b"0\r\n\r\n"])
    else:
        await transport.give([POST % 60_000, *[b"x"] * 60_000])
    await transport.settle()
    assert bytes(transport.written).endswith(b"60000")
    assert len(handed) <= 64
    transport.abort()
    await transport.settle()
