"""What an answer is, byte for byte: our transport on a socket beside h11 on the same bytes. See ``tests/vectors/answers.toml``."""

import asyncio
import contextlib
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from relay.settings import DnsSettings
from relay.wire.client import Account, Place, Transport, make_client
from relay.wire.names import Names
from tests.support.loops import LOOPS, run_in
from tests.support.raw_client import RawClient
from tests.support.readings import AnswerReading, bytes_of, h11_reading_of_answer
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.wire.test_client import server

ROWS: Final[list[dict[str, Any]]] = tomllib.loads((Path(__file__).parent.parent / "vectors" / "answers.toml").read_text(encoding="utf-8"))[
    "answer"
]
IDLE_SECONDS: Final = 3.0
AT_ONCE: Final = 20


@dataclass
class Hostile:
    """A service that answers each request with the bytes of the row that its target names; ``connections`` made for each row."""

    port: int
    connections: dict[int, int]


@contextlib.asynccontextmanager
async def hostile() -> AsyncIterator[Hostile]:
    """A service that is running."""
    connections = dict.fromkeys(range(len(ROWS)), 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_new = True
        with contextlib.suppress(ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(3)
                number = int(head.split(b" ")[1].rpartition(b"/")[2])
                connections[number] += is_new
                is_new = False
                writer.write(bytes_of(ROWS[number]["send"]))
                if ROWS[number].get("then") == "close":
                    break
        writer.close()

    async with server(serve) as port:
        yield Hostile(port, connections)


async def our_reading(client: httpx.AsyncClient, port: int, number: int, method: str) -> AnswerReading:
    """Send a request and read its answer as bytes of the row."""
    url = httpx.URL(f"http://127.0.0.1:{port}/{number}")
    place = Place.of(url, Account("acme", str(number)))
    request = httpx.Request(method, url, content=b"abc", extensions={"place": place, "timeout": {"connect": 5, "read": IDLE_SECONDS}})
    reading = AnswerReading()
    try:
        response = await client.send(request, stream=True)
    except httpx.TransportError:
        return reading
    reading.status, reading.ends = response.status_code, "cut"
    try:
        async for piece in response.stream:  # type: ignore[union-attr] # of this client it is an asynchronous one
            reading.body += piece
        reading.ends = "whole"
    except httpx.TransportError:
        pass
    finally:
        await response.aclose()
    return reading


async def read_row(client: httpx.AsyncClient, service: Hostile, number: int) -> AnswerReading:
    """Read the answer to a request, then that to another one on the same account: it must be no other, wherever it comes on."""
    method = ROWS[number].get("method", "POST")
    first = await our_reading(client, service.port, number, method)
    second = await our_reading(client, service.port, number, method)
    assert second == first, (ROWS[number]["name"], first, second)
    first.is_kept = service.connections[number] == 1
    return first


def difference(row: dict[str, Any], ours: AnswerReading) -> str | None:
    """What of our reading is not as the row says, or not h11's in the way that it says."""
    expected = AnswerReading(row.get("status", 0), bytes_of(row.get("body", "")), row["ends"], row.get("kept", False))
    if ours != expected:
        return f"read {ours}"
    theirs = h11_reading_of_answer(bytes_of(row["send"]), row.get("method", "POST"), is_closing=row.get("then") == "close")
    is_alike = (ours.status, ours.ends, ours.body) == (theirs.status, theirs.ends, theirs.body)
    match row.get("h11", "alike"):
        case "alike":
            is_so = is_alike and ours.is_kept <= theirs.is_kept
        case "laxer":
            is_so = is_laxer(theirs, ours)
        case "stricter":
            is_so = is_stricter(theirs, ours) and bool(row["why"])
        case other:
            return f"{other!r} is no way"
    return None if is_so else f"read {ours}, h11 {theirs}"


def is_laxer(theirs: AnswerReading, ours: AnswerReading) -> bool:
    """True where h11 reads on behind the place at which we stop, and the same up to there."""
    return ours.ends != "whole" and progress(theirs) > progress(ours) and theirs.body.startswith(ours.body)


def is_stricter(theirs: AnswerReading, ours: AnswerReading) -> bool:
    """True where h11 stops before us, or gives the connection up where we keep it."""
    is_same = (ours.status, ours.ends, ours.body) == (theirs.status, theirs.ends, theirs.body)
    return is_same if ours.is_kept and theirs.ends == "whole" else theirs.ends != "whole" and progress(theirs) < progress(ours)


def progress(reading: AnswerReading) -> tuple[int, int]:
    """How far somebody read."""
    return ["broken", "cut", "whole"].index(reading.ends), len(reading.body)


async def read_all() -> dict[str, str]:
    """Read every row; give what is different from what it says."""
    found: dict[str, str] = {}
    numbers = iter(range(len(ROWS)))
    names = Names(DnsSettings())
    async with hostile() as service, make_client(Transport(names, lambda _host, _address: True)) as client:

        async def read_some() -> None:
            for number in numbers:
                told = difference(ROWS[number], await read_row(client, service, number))
                if told is not None:
                    found[ROWS[number]["name"]] = told

        await asyncio.gather(*(read_some() for _ in range(AT_ONCE)))
    names.close()
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_every_answer_is_read_as_h11_reads_it_or_broken(loop: str) -> None:
    assert run_in(loop, read_all) == {}


def test_the_table_is_large_and_each_row_has_a_name() -> None:
    assert len(ROWS) >= 60
    assert len({row["name"] for row in ROWS}) == len(ROWS)


# ── through a relay ──────────────────────────────────────────────────────────────────────────────


async def told_of(relay: RunningRelay, tenant: TestTenant, number: int) -> AnswerReading:
    """Upload to the row; read as h11 does what a client gets, which must be one answer and nothing else."""
    head = [f"POST /upload/{number} HTTP/1.1", "Host: relay", f"Authorization: Bearer {tenant.key}", "Connection: close"]
    async with RawClient(*relay.address) as client:
        await client.send("\r\n".join([*head, "Content-Length: 3", "", "abc"]).encode())
        data = await client.rest()
    reading = h11_reading_of_answer(data, "POST", is_closing=True)
    assert reading.ends != "broken", data
    return reading


def expected_through_relay(row: dict[str, Any]) -> AnswerReading:
    """What a client is told of an answer: the same, or that it broke."""
    if row["ends"] == "broken" or not 200 <= row["status"] < 600:
        return AnswerReading(502, ends="whole")
    return AnswerReading(row["status"], bytes_of(row.get("body", "")), row["ends"])


async def test_whatever_a_service_answers_the_client_gets_one_answer(database_url: str, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    async with hostile() as service, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, f"http://127.0.0.1:{service.port}", idle_timeout_seconds=IDLE_SECONDS)
        numbers = iter([number for number, row in enumerate(ROWS) if row.get("method", "POST") == "POST"])

        async def upload_some() -> None:
            for number in numbers:
                told, expected = await told_of(relay, tenant, number), expected_through_relay(ROWS[number])
                is_same = (told.status, told.ends) == (expected.status, expected.ends)
                if not is_same or (expected.status != 502 and not expected.body.startswith(told.body)):
                    found[ROWS[number]["name"]] = f"told {told}, not {expected}"

        await asyncio.gather(*(upload_some() for _ in range(4)))
    assert found == {}
