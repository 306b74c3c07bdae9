"""The ledger's months: bounds, making them under load and at once, dropping the expired ones."""

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.engine import Database
from relay.ledger import partitions
from relay.ledger.entry import Outcome
from relay.ledger.partitions import drop_expired, ensure_ahead, ensure_partition, month_after, partition_of

BOUNDS = text(
    "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class "
    "WHERE relispartition AND relkind = 'r' AND relname LIKE 'ledger%' ORDER BY relname"
)
INSERT = text(
    "INSERT INTO ledger (started_at, request_id, tenant, method, path, protocol, outcome, early, client_left, "
    "bytes_in, bytes_delivered, bytes_out) "
    "VALUES (:at, gen_random_uuid(), 'acme', 'POST', '/', 'plain', :outcome, false, false, 0, 0, 0) RETURNING tableoid::regclass::text"
)


async def bounds(session: AsyncSession) -> dict[str, str]:
    await session.execute(text("SET LOCAL timezone = 'UTC'"))
    return {row.relname: row.pg_get_expr for row in await session.execute(BOUNDS)}


async def insert(session: AsyncSession, at: datetime, outcome: str = "delivered") -> str:
    place: str = (await session.execute(INSERT, {"at": at, "outcome": outcome})).scalar_one()
    return place


async def test_migration_makes_this_month_and_three_ahead(database: Database) -> None:
    month = datetime.now(UTC).date().replace(day=1)
    wanted = {}
    for _ in range(4):
        wanted[partition_of(month)] = f"FOR VALUES FROM ('{month} 00:00:00+00') TO ('{month_after(month)} 00:00:00+00')"
        month = month_after(month)
    async with database.transaction() as session:
        assert await bounds(session) == wanted


async def test_made_partition_has_the_bounds_and_indexes_of_a_migrated_one(database: Database) -> None:
    async with database.transaction() as session:
        assert await ensure_partition(session, date(2024, 2, 29)) is True
    async with database.transaction() as session:
        assert (await bounds(session))["ledger_y2024m02"] == "FOR VALUES FROM ('2024-02-01 00:00:00+00') TO ('2024-03-01 00:00:00+00')"
        query = text("SELECT regexp_replace(indexdef, 'ledger_y\\d+m\\d+', '', 'g') FROM pg_indexes WHERE tablename = :name")
        migrated = partition_of(datetime.now(UTC).date())
        made, others = [set(await session.scalars(query, {"name": name})) for name in ("ledger_y2024m02", migrated)]
        assert made == others
        assert len(made) == 8


async def test_month_is_that_of_utc(database: Database) -> None:
    at = datetime(2024, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    async with database.transaction() as session:
        await ensure_partition(session, at)
        assert await insert(session, at) == "ledger_y2024m02"


async def test_making_twice_makes_once(database: Database) -> None:
    async with database.transaction() as session:
        assert await ensure_partition(session, date(2024, 1, 1)) is True
        assert await ensure_partition(session, date(2024, 1, 31)) is False


async def test_two_that_make_the_same_at_once_both_succeed(database: Database) -> None:
    async def make() -> bool:
        async with database.transaction() as session:
            return await ensure_partition(session, date(2024, 1, 1))

    assert sorted(await asyncio.gather(*(make() for _ in range(4)))) == [False, False, False, True]


async def test_writing_and_reading_go_on_while_a_partition_is_made(database: Database) -> None:
    async with database.transaction() as writer, database.transaction() as reader:
        await insert(writer, datetime.now(UTC))
        await reader.execute(text("SELECT count(*) FROM ledger"))
        async with asyncio.timeout(partitions.LOCK_TIMEOUT.total_seconds()), database.transaction() as maker:
            await ensure_partition(maker, date(2024, 1, 1))
            await insert(writer, datetime.now(UTC))  # and while it is made but not committed


async def test_year_turns(database: Database) -> None:
    async with database.transaction() as session:
        await ensure_ahead(session, datetime(2030, 11, 30, 23, 59, tzinfo=UTC))
        names = [name for name in await bounds(session) if name.startswith(("ledger_y2030", "ledger_y2031"))]
    assert names == ["ledger_y2030m11", "ledger_y2030m12", "ledger_y2031m01", "ledger_y2031m02"]


async def test_entry_of_a_month_without_partition_is_refused_with_the_state_that_the_shipper_knows(database: Database) -> None:
    async def tell() -> None:
        async with database.transaction() as session:
            await insert(session, datetime(2001, 1, 1, tzinfo=UTC))

    with pytest.raises(Exception, match="no partition of relation") as caught:
        await tell()
    assert getattr(caught.value, "orig").sqlstate == "23514"  # noqa: B009 - the class is the library's


@pytest.mark.parametrize("outcome", [*Outcome, "bogus"])
async def test_outcomes_are_a_closed_table(database_url: str, outcome: str) -> None:
    connection = await asyncpg.connect(database_url)
    query = str(INSERT).replace(":at", "$1").replace(":outcome", "$2")
    try:
        for at in (datetime.now(UTC), datetime.now(UTC) + timedelta(days=40)):
            if outcome in set(Outcome):
                assert str(await connection.fetchval(query, at, outcome)) == partition_of(at)
            else:
                with pytest.raises(asyncpg.exceptions.CheckViolationError):
                    await connection.fetchval(query, at, outcome)
    finally:
        await connection.close()


async def test_only_wholly_expired_partitions_are_dropped(database: Database) -> None:
    async with database.transaction() as session:
        await ensure_ahead(session, datetime(2024, 1, 15, tzinfo=UTC))  # January to April
        assert await drop_expired(session, datetime(2024, 3, 31, 23, 59, tzinfo=UTC), 31) == ["ledger_y2024m01"]
        assert await drop_expired(session, datetime(2024, 3, 31, 23, 59, tzinfo=UTC), 31) == []
        assert await drop_expired(session, datetime(2024, 4, 1, 0, 0, tzinfo=UTC), 31) == ["ledger_y2024m02"]
        assert {"ledger_y2024m03", "ledger_y2024m04"} < set(await bounds(session))


async def test_dropping_waits_for_a_reader_only_so_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", timedelta(milliseconds=100))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with database.transaction() as session:
        await ensure_partition(session, date(2024, 1, 1))
    async with database.transaction() as reader:
        await reader.execute(text("SELECT count(*) FROM ledger"))
        async with database.transaction() as session:
            assert await drop_expired(session, now, 30) == []
            assert "ledger_y2024m01" in await bounds(session)  # the transaction is still good
    async with database.transaction() as session:
        assert await drop_expired(session, now, 30) == ["ledger_y2024m01"]
