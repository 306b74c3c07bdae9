"""When a key was last used, as the shipper notes it."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from relay.db.engine import Database
from relay.ledger.batches import Batches
from relay.ledger.entry import Entry, Outcome, now_us
from tests.support.entries import as_read, finished_entry, ledger_ids, read_usage

NOW_US = now_us()
NOW = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOW_US)
TENANT = "00000000-0000-7000-8000-00000000000a"


def used(key_id: str | None, seconds_ago: float = 0, outcome: Outcome = Outcome.DELIVERED) -> Entry:
    return finished_entry(key_id=key_id, started_us=NOW_US - round(seconds_ago * 1_000_000), outcome=outcome)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the shipper's, to a database with the keys ``a`` to ``j``."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(f"INSERT INTO tenants (id, slug) VALUES ('{TENANT}', 'acme')")
    await connection.execute(
        f"INSERT INTO api_keys (id, tenant_id, secret_hash) SELECT chr(96 + n), '{TENANT}', '' FROM generate_series(1, 10) n"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def batches(database: Database, tmp_path: Path) -> AsyncIterator[Batches]:
    with ThreadPoolExecutor(1) as executor:
        yield Batches(database, tmp_path, executor)


async def last_used(connection: asyncpg.Connection, key_id: str = "a") -> datetime | None:
    at: datetime | None = await connection.fetchval("SELECT last_used_at FROM api_keys WHERE id = $1", key_id)
    return at


async def test_it_is_the_start_of_the_last_request_of_each_key(connection: asyncpg.Connection, batches: Batches) -> None:
    await batches.ship(as_read(used("a", 300), used("a", 100), used("a", 200), used("b", 50), used(None), used("gone")))
    assert await last_used(connection, "a") == NOW - timedelta(seconds=100)
    assert await last_used(connection, "b") == NOW - timedelta(seconds=50)
    assert await last_used(connection, "c") is None


async def test_it_moves_by_a_minute_at_least_and_never_back(connection: asyncpg.Connection, batches: Batches) -> None:
    await batches.ship(as_read(used("a", 200)))
    version = await connection.fetchval("SELECT xmin FROM api_keys WHERE id = 'a'")
    await batches.ship(as_read(used("a", 141), used("a", 9_999)))
    assert await last_used(connection) == NOW - timedelta(seconds=200)
    assert await connection.fetchval("SELECT xmin FROM api_keys WHERE id = 'a'") == version, "the row was written in vain"
    await batches.ship(as_read(used("a", 140)))
    assert await last_used(connection) == NOW - timedelta(seconds=140)


async def test_a_refused_request_counts_as_use(connection: asyncpg.Connection, batches: Batches) -> None:
    await batches.ship(as_read(used("a", 10, Outcome.REFUSED)))
    assert await last_used(connection) == NOW - timedelta(seconds=10)


async def test_a_clock_that_runs_ahead_is_not_believed(connection: asyncpg.Connection, batches: Batches) -> None:
    await batches.ship(as_read(used("a", -30 * 86_400)))
    at = await last_used(connection)
    assert at is not None
    assert at <= datetime.now(UTC) + timedelta(seconds=1)


async def test_a_batch_that_is_sent_again_changes_nothing(connection: asyncpg.Connection, batches: Batches) -> None:
    batch = as_read(used("a"))
    await batches.ship(batch)
    await connection.execute("UPDATE api_keys SET last_used_at = NULL")
    await batches.ship(batch)
    assert await last_used(connection) is None


async def test_the_ledger_does_not_wait_for_a_key_that_somebody_holds(
    connection: asyncpg.Connection, batches: Batches, database: Database
) -> None:
    entry = used("a", 90)
    async with connection.transaction():
        await connection.execute("SELECT * FROM api_keys WHERE id = 'a' FOR UPDATE")
        async with asyncio.timeout(5):
            await batches.ship(as_read(entry, used("b", 90)))
        assert entry.request_id in await ledger_ids(database)
    assert await last_used(connection, "a") is None
    assert await last_used(connection, "b") is not None
    await batches.ship(as_read(used("a")))
    assert await last_used(connection, "a") == NOW


async def test_two_shippers_with_the_same_keys_never_lock_each_other_out(
    connection: asyncpg.Connection, batches: Batches, database: Database
) -> None:
    keys = [chr(97 + number) for number in range(10)]
    async with asyncio.timeout(20):
        for ago in range(1_000, 0, -100):
            lots = [[used(key, ago - shipper * 61) for key in order] for shipper, order in enumerate((keys, keys[::-1]))]
            await asyncio.gather(*(batches.ship(as_read(*lot)) for lot in lots))
    assert len(await ledger_ids(database)) == 200
    assert [row["uploads"] for row in await read_usage(database)]
    assert await connection.fetchval("SELECT count(*) FROM api_keys WHERE last_used_at > $1", NOW - timedelta(seconds=300)) == 10


async def test_use_is_not_told_to_the_directory(connection: asyncpg.Connection, batches: Batches, database_url: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("relay_directory", lambda *told: heard.put_nowait(told[-1]))
    await batches.ship(as_read(used("a")))
    await connection.execute("NOTIFY relay_directory, 'end'")
    assert await asyncio.wait_for(heard.get(), 5) == "end"
    assert await last_used(connection) == NOW
