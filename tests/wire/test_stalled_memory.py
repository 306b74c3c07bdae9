"""Two hundred uploads that a destination does not read, and as many answers that clients do not: memory is bounded, and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from relay.wire.channel import SEND_LIMIT
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
PER_UPLOAD: Final = max(SMALLEST, BUFFERS // (4 * COUNT)) * 3 + SEND_LIMIT + 64 * 1024
"""Two pieces unread, one being handed over; what waits to be sent; and what the request itself takes (bytes)."""

PER_ANSWER: Final = RECEIVE_LIMIT * 2 + WRITE_LIMIT + 64 * 1024
REPEATED_MORE: Final = 16 * MIB
"""What the allocator may keep more after a second round."""


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise LookupError(pid)


async def steady(pid: int, is_there: Callable[[], bool]) -> int:
    """Wait until it is there and memory grows no more; give what is resident."""
    await until(is_there, seconds=20)
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
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


@pytest.mark.full
@pytest.mark.timeout(120)  # four crowds that fill every buffer on their way
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
            await client.send(f"{head}{8 * MIB}\r\n\r\n".encode() + bytes(8 * MIB))

        async def ask(client: RawClient) -> None:
            client.pause()
            await client.send(f"{head}3\r\n\r\nabc".encode())

        for conduct, begin, bound in (
            (Conduct(stop_reading_after=0), upload, PER_UPLOAD),
            (Conduct(answer=bytes(8 * MIB)), ask, PER_ANSWER),
        ):
            upstream.conduct = conduct
            idle, descriptors = resident(worker), descriptors_of(worker)
            peaks = []
            for _ in range(2):
                before = len(upstream.requests)
                async with crowd(relay, begin):
                    peaks.append(await steady(worker, lambda before=before: len(upstream.requests) >= before + COUNT))  # type: ignore[misc]
                await until(lambda descriptors=descriptors: descriptors_of(worker) <= descriptors + 4, seconds=20)  # type: ignore[misc]
            print(f"{loop}: {(peaks[0] - idle) // COUNT // 1024} KiB each, at most {bound // 1024}; {[peak // MIB for peak in peaks]} MiB")
            assert peaks[0] - idle <= COUNT * bound
            assert peaks[1] - peaks[0] <= REPEATED_MORE


async def ask_once(relay: ServedRelay) -> None:
    """One upload, so that what is made once has been made."""
    host, _, port = relay.url.rpartition("/")[2].partition(":")
    async with RawClient(host, int(port)) as client:
        await client.send(f"POST /upload/a HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {relay.key}\r\nContent-Length: 1\r\n\r\nx".encode())
        assert (await client.answer()).status == 200
