"""Postgres stopped, frozen and back: the known are served, the unknown wait, nothing hangs."""

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest

from relay.db.engine import Database
from relay.errors import DirectoryUnavailable
from relay.settings import DatabaseSettings, DirectorySettings
from tests.support.directories import make_tenant, run_directory
from tests.support.postgres import OwnPostgres, execute
from tests.support.waiting import until

UNKNOWN = "u" * 16


async def _make_tenant(url: str) -> str:
    database = Database(url, DatabaseSettings())
    try:
        return await make_tenant(database)
    finally:
        await database.close()


async def test_stopped_postgres_leaves_the_known_served_and_the_unknown_refused() -> None:
    with OwnPostgres() as postgres:
        key_id = await _make_tenant(postgres.url)
        async with run_directory(postgres.url) as running:
            grant = await running.get(key_id)
            postgres.stop()
            await until(lambda: running.directory.state == "stale")
            for _ in range(20):
                assert await running.get(key_id) == grant
            with pytest.raises(DirectoryUnavailable):
                await running.directory.find_grant(UNKNOWN)
            assert running.directory.state == "stale"

            postgres.start()
            await execute(postgres.url, "UPDATE api_keys SET revoked_at = now()")

            async def is_refused() -> bool:
                return (await running.get(key_id)).key.revoked_at is not None

            # A second in which nobody asks, and then the promised one.
            await until(is_refused, seconds=2)
            await until(lambda: running.directory.state == "ok")
            assert await running.directory.find_grant(UNKNOWN) is None


async def test_beyond_the_stale_time_the_known_are_refused_too() -> None:
    with OwnPostgres() as postgres:
        key_id = await _make_tenant(postgres.url)
        async with run_directory(postgres.url, settings=DirectorySettings(stale_seconds=timedelta(seconds=1))) as running:
            await running.get(key_id)
            postgres.stop()
            assert (await running.get(key_id)).key.id == key_id

            async def is_refused() -> bool:
                try:
                    await running.directory.find_grant(key_id)
                except DirectoryUnavailable:
                    return True
                return False

            await until(is_refused, seconds=5)


async def test_frozen_postgres_delays_a_known_tenant_by_a_bounded_time() -> None:
    with OwnPostgres() as postgres:
        key_id = await _make_tenant(postgres.url)
        async with run_directory(postgres.url) as running:
            await running.get(key_id)
            postgres.freeze()
            await until(lambda: running.directory.state == "stale")
            ends = time.monotonic() + 3.0
            longest = 0.0
            while time.monotonic() < ends:
                began = time.monotonic()
                await asyncio.gather(*(running.get(key_id) for _ in range(10)))
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(0.01)
            assert longest < 5.0  # one reading's deadline, and much more for a machine that stands still
            postgres.thaw()
            await execute(postgres.url, "UPDATE api_keys SET revoked_at = now()")

            async def is_refused() -> bool:
                with contextlib.suppress(DirectoryUnavailable):  # it is told of the change before it dares to ask again
                    return (await running.get(key_id)).key.revoked_at is not None
                return False

            await until(is_refused, seconds=2)
            await until(lambda: running.directory.state == "ok")
