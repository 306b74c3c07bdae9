"""What parts hold in memory while a store stands still, whatever number of clients sends."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from relay.destinations.object_store import NewObject
from tests.support.buckets import PART, Stores, opened_stores
from tests.support.objects import write
from tests.support.store_proxy import Asked, Hold, StoreProxy, Whim
from tests.support.stores import TestBucket
from tests.support.waiting import until

BUDGET = 32 << 20
ROOM = BUDGET - BUDGET // 8


async def send(stores: Stores, bucket: TestBucket, url: str, number: int, count: int) -> str:
    """Send an object in pieces of which each is a receive's worth; returns its digest."""
    writer = stores.open(bucket, url=url, tenant=f"tenant {number % 4}", overwrite="replace").begin(NewObject(f"{number}.bin"))
    try:
        for step in range(count):
            await write(writer, bytes([number % 256, step % 256]) * (PART // 8))
        await writer.seal()
        await writer.publish()
        return writer.sha256
    finally:
        await writer.discard()


@pytest.mark.full  # megabytes on two cores; the bound itself is tried in tests/unit/destinations/test_parts.py
@pytest.mark.timeout(240)
@pytest.mark.parametrize("uploads", [24, 200])
async def test_a_store_that_stands_still_pushes_back(tmp_path: Path, plain_bucket: TestBucket, uploads: int) -> None:
    going = asyncio.Event()
    parts = 16 if uploads < 100 else 6

    def whim(asked: Asked) -> Whim:
        return Hold(going) if asked.is_part else None

    async with opened_stores(tmp_path, parts=BUDGET) as stores, StoreProxy(plain_bucket.server.port, whim) as proxy:
        memory, most = stores.tools.memory, 0
        sending = [asyncio.create_task(send(stores, plain_bucket, proxy.url, number, parts * 4)) for number in range(uploads)]

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, memory.held_bytes)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        try:
            # Each upload stops after its parts on their way and the one that it fills, or where there is no room.
            expected = min(ROOM * 9 // 10, uploads * 3 * PART)
            await until(lambda: memory.held_bytes >= expected, seconds=60)
            if uploads * 4 * PART > ROOM:
                await until(lambda: memory.waiting > 0, seconds=60)
            going.set()
            async with asyncio.timeout(200):
                digests = await asyncio.gather(*sending)
        finally:
            watching.cancel()
            for task in sending:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await asyncio.gather(*sending, return_exceptions=True)
        assert len(set(digests)) == uploads and len(plain_bucket.keys()) == uploads
        assert most <= ROOM and memory.held_bytes == memory.waiting == 0


@pytest.mark.full
async def test_a_part_is_never_larger_than_what_a_tenant_may_hold(tmp_path: Path, plain_bucket: TestBucket) -> None:
    async with opened_stores(tmp_path, parts=BUDGET) as stores:
        store, most, size = stores.open(plain_bucket, overwrite="replace"), 0, 40 << 20
        store.place.config = store.place.config.model_copy(update={"part_bytes": 5 << 30})
        writer = store.begin(NewObject("large.bin"))
        for _ in range(size // PART):
            await write(writer, bytes(PART))
            most = max(most, stores.tools.memory.held_bytes)
        await writer.seal()
        await writer.publish()
        assert plain_bucket.head("large.bin")["ContentLength"] == size and most <= ROOM // 2
