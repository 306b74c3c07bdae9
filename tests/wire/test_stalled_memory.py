"""Two hundred uploads that a destination does not read, and as many answers that clients do not: memory is bounded, and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from relay.cli.heap import LOOK_SECONDS
from relay.wire.channel import RECEIVE_BYTES
from relay.wire.client import IDLE_MOST
from relay.wire.intake import SMALLEST
from relay.wire.server import WRITE_LIMIT
from relay.wire.turn import RECEIVE_LIMIT
from tests.support.raw_client import RawClient
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until
from tests.wire.early_refusals import descriptors_of

COUNT: Final = 200
MIB: Final = 1 << 20
BUFFERS: Final = 64 * MIB
REQUEST: Final = 128 * 1024
"""What a request takes beside its body: two sockets, tasks, heads (bytes)."""

UPLOADS: Final = BUFFERS + COUNT * (SMALLEST + REQUEST)
"""Pieces of all uploads together; what waits to be sent (bytes)."""

ANSWERS: Final = COUNT * (3 * (RECEIVE_LIMIT + RECEIVE_BYTES) + WRITE_LIMIT + REQUEST)
"""An answer's unread bytes, those being handed over, those that were when little less than the limit waited, and what did (bytes)."""

LEFT: Final = 40 * MIB
"""What may stay resident once a crowd has left (bytes)."""

MORE_AGAIN: Final = 0.3
"""How much of the first round's growth the second one may add. What is never freed adds all of it; what the allocator keeps, less."""


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise LookupError(pid)


async def steady(pid: int, is_there: Callable[[], bool]) -> int:
    """Wait until it is there and memory grows no more; give what is resident."""
    await until(is_there, seconds=40)
    before = -1
    while (now := resident(pid)) > before:
        before = now
        await asyncio.sleep(0.5)
    return now


@contextlib.asynccontextmanager
async def crowd(relay: ServedRelay, begin: Callable[[RawClient], Awaitable[object]]) -> AsyncIterator[None]:
    """So many clients that have begun and then stall."""
    host, _, port = relay.url.rpartition("/")[2].partition(":")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(host, int(port), seconds=25, receive_buffer=65536)) for _ in range(COUNT)]
        sending = [asyncio.ensure_future(begin(client)) for client in clients]
        yield
        for client, task in zip(clients, sending, strict=True):
            client.reset()  # an end behind what nobody reads would not be seen
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


@pytest.mark.full
@pytest.mark.timeout(300)  # four crowds that fill every buffer on their way
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_what_stalls_is_held_within_its_bound_and_comes_back(loop: str, database_url: str, tmp_path: Path) -> None:
    variables = {"RELAY_DATABASE_URL": database_url, "RELAY_MEMORY_BUFFERS": str(BUFFERS)}
    async with Upstream(receive_buffer=65536) as upstream, serve_relay(tmp_path, workers=1, loop=loop, **variables) as relay:
        await relay.set_up(http_base_url=upstream.url)
        async with relay.admin() as admin:
            answer = await admin.patch("/tenants/storm/destinations/http", json={"config": {"max_connections": 500}})
            assert answer.status_code == 200, answer.text
        (worker,) = await relay.wait_for_workers(1)
        await ask_once(relay)
        head = f"POST /upload/a HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {relay.key}\r\nContent-Length: "

        async def upload(client: RawClient) -> None:
            await client.try_to_send(f"{head}{8 * MIB}\r\n\r\n".encode() + bytes(8 * MIB))

        async def ask(client: RawClient) -> None:
            client.pause()
            await client.send(f"{head}3\r\n\r\nabc".encode())

        stall = Stall(loop, relay, upstream, worker)
        await stall.twice(Conduct(stop_reading_after=0), upload, UPLOADS)
        await stall.twice(Conduct(answer=bytes(8 * MIB)), ask, ANSWERS)


@dataclass
class Stall:
    """A relay with one worker, and the service that it sends to."""

    loop: str
    relay: ServedRelay
    upstream: Upstream
    worker: int

    async def twice(self, conduct: Conduct, begin: Callable[[RawClient], Awaitable[object]], bound: int) -> None:
        """Have a crowd stall, leave, and another one: what both take is within the bound, and the first one's is used again."""
        self.upstream.conduct = conduct
        idle, descriptors = resident(self.worker), descriptors_of(self.worker) + IDLE_MOST
        peaks = [await self.once(begin, descriptors), await self.once(begin, descriptors)]
        each, most = (peaks[0] - idle) // COUNT // 1024, bound // COUNT // 1024
        print(f"{self.loop}: {each} KiB each, at most {most}; resident {idle // MIB} MiB, then {[peak // MIB for peak in peaks]}")
        assert peaks[0] - idle <= bound
        assert peaks[1] - peaks[0] <= MORE_AGAIN * (peaks[0] - idle)
        await until(lambda: resident(self.worker) <= idle + LEFT, seconds=2 * LOOK_SECONDS + 5)

    async def once(self, begin: Callable[[RawClient], Awaitable[object]], descriptors: int) -> int:
        """Have a crowd stall, and leave; give what is resident while it stalls."""
        due = len(self.upstream.requests) + COUNT
        async with crowd(self.relay, begin):
            peak = await steady(self.worker, lambda: len(self.upstream.requests) >= due)
        await until(lambda: descriptors_of(self.worker) <= descriptors, seconds=20)
        return peak


async def ask_once(relay: ServedRelay) -> None:
    """One upload, so that what is made once has been made."""
    host, _, port = relay.url.rpartition("/")[2].partition(":")
    async with RawClient(host, int(port)) as client:
        await client.send(f"POST /upload/a HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {relay.key}\r\nContent-Length: 1\r\n\r\nx".encode())
        assert (await client.answer()).status == 200
