"""What a request is, byte for byte: our server on a socket beside h11 on the same bytes. See ``tests/vectors/requests.toml``."""

import asyncio
import itertools
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from relay.errors import BodyIncomplete
from tests.support.loops import LOOPS, run_in
from tests.support.raw_client import ConnectionEnded, RawClient
from tests.support.readings import NEXT, SENTINEL, Ends, Reading, Request, bytes_of, h11_reading_of_requests
from tests.wire.test_server import Receive, Scope, Send, Served, answer, serving

ROWS: Final[list[dict[str, Any]]] = tomllib.loads((Path(__file__).parent.parent / "vectors" / "requests.toml").read_text(encoding="utf-8"))[
    "request"
]
REFUSALS: Final[dict[int, Ends]] = {400: "refused", 431: "too large"}
AT_ONCE: Final = 20


class Recorder:
    """An app that records what it is given, by the connection that it came on, and answers when it has ended."""

    def __init__(self) -> None:
        self.requests: dict[int, list[Request]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        request = Request(scope["method"], target.decode())
        self.requests.setdefault(scope["client"][1], []).append(request)
        while not request.is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                await answer(send, message["fault"].code.encode(), status=400)
                return
            request.body += message["body"]
            request.is_whole = not message["more_body"]
        await answer(send, b"", (b"x-target", target))


async def our_reading(served: Served, recorder: Recorder, data: bytes, *, waits_after: int | None = None) -> Reading:
    """Send the bytes on a connection of their own, and see what becomes of them."""
    async with RawClient(*served.address) as client:
        reading = Reading([])
        recorder.requests[client.port] = reading.requests  # an earlier connection may have had the same port
        await client.try_to_send(data)
        await see_what_comes(client, reading, waits_after=waits_after)
        return reading


async def see_what_comes(client: RawClient, reading: Reading, *, waits_after: int | None = None) -> None:
    """Send the sentinel and read answers, until one of them says how it ends.

    ``waits_after``: end the client's side after so many answers; nothing more is expected by itself.
    """
    await client.try_to_send(SENTINEL)
    told = None
    for number in itertools.count():
        if number == waits_after:
            client.half_close()
        try:
            told = await client.final_answer()
        except ConnectionEnded:
            reading.ends = "closed" if told is not None and told.value("connection") == "close" else "waits"
            return
        if told.value("x-target") == NEXT:
            reading.requests.pop()
            reading.ends = "next"
            return
        if told.status in REFUSALS:
            reading.ends = "waits" if told.body == BodyIncomplete.code.encode() else REFUSALS[told.status]
            return


def expected_of(row: dict[str, Any]) -> list[tuple[str, str, bytes]]:
    """The requests that end, as the row says them."""
    return [(method, target, bytes_of(body)) for method, target, body in row["read"]]


def difference_from_row(row: dict[str, Any], ours: Reading) -> str | None:
    """What of our reading is not as the row says."""
    if (ours.whole, ours.ends) != (expected_of(row), row["ends"]):
        return f"read {ours.whole}, then {ours.ends}"
    return None


def difference_from_h11(row: dict[str, Any], ours: Reading) -> str | None:
    """What of our reading is not h11's, or not in the way that the row says."""
    theirs = h11_reading_of_requests(bytes_of(row["send"]) + SENTINEL)
    shorter = min(len(ours.whole), len(theirs.whole))
    if ours.whole[:shorter] != theirs.whole[:shorter]:
        return f"read {ours.whole}, h11 {theirs.whole}"
    match row.get("h11", "alike"):
        case "alike":
            is_so = (ours.whole, ours.ends) == (theirs.whole, theirs.ends) and is_beginning_of_the_same(ours.part, theirs.part)
        case "laxer":
            reads_on = theirs.ends not in REFUSALS.values() or len(theirs.whole) > len(ours.whole)
            is_so = ours.ends in REFUSALS.values() and reads_on
        case "stricter":
            is_so = ours.ends not in REFUSALS.values() and theirs.ends == "refused" and bool(row["why"])
        case other:
            return f"{other!r} is no way"
    return None if is_so else f"read {ours.whole}, then {ours.ends}; h11 {theirs.whole}, then {theirs.ends}"


def is_beginning_of_the_same(one: Request | None, other: Request | None) -> bool:
    """True where both began to read the same request, as far as either got, or one of them none."""
    if one is None or other is None:
        return True
    shorter = min(len(one.body), len(other.body))
    return (one.method, one.target, one.body[:shorter]) == (other.method, other.target, other.body[:shorter])


async def read_all(served: Served, recorder: Recorder) -> dict[str, str]:
    """Read every row; give what is different from what it says."""
    found: dict[str, str] = {}
    rows = iter(ROWS)

    async def read_some() -> None:
        for row in rows:
            waits_after = len(row["read"]) if row["ends"] == "waits" else None
            ours = await our_reading(served, recorder, bytes_of(row["send"]), waits_after=waits_after)
            difference = difference_from_row(row, ours) or difference_from_h11(row, ours)
            if difference is not None:
                found[row["name"]] = difference

    await asyncio.gather(*(read_some() for _ in range(AT_ONCE)))
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_every_request_is_read_as_h11_reads_it_or_refused(loop: str) -> None:
    async def run() -> dict[str, str]:
        recorder = Recorder()
        async with serving(recorder) as served:
            return await read_all(served, recorder)

    assert run_in(loop, run) == {}


def test_the_table_is_large_and_each_row_has_a_name() -> None:
    assert len(ROWS) >= 120
    assert len({row["name"] for row in ROWS}) == len(ROWS)
