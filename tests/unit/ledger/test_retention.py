"""Partitions are made ahead and dropped when they are wholly expired, by one process at a time."""

from datetime import UTC, datetime

from sqlalchemy import text

from relay.db.engine import Database
from relay.ledger.partitions import ensure_partition
from relay.ledger.retention import RETENTION_LOCK, Retention
from relay.settings import LedgerSettings

NOW = datetime(2031, 5, 17, tzinfo=UTC)


async def partitions(database: Database) -> set[str]:
    async with database.transaction() as session:
        names = await session.scalars(
            text("SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'ledger'::regclass")
        )
        return set(names)


async def test_partitions_are_made_ahead_and_expired_ones_dropped(database: Database) -> None:
    async with database.transaction() as session:
        await ensure_partition(session, datetime(2031, 3, 1, tzinfo=UTC))
        await ensure_partition(session, datetime(2031, 4, 1, tzinfo=UTC))
    assert await Retention(database, LedgerSettings(retention_days=30)).keep(NOW)
    assert await partitions(database) == {f"ledger_y2031m{month:02}" for month in (4, 5, 6, 7, 8)}


async def test_nothing_is_dropped_where_no_retention_is_set(database: Database) -> None:
    before = await partitions(database)
    assert before
    assert await Retention(database, LedgerSettings()).keep(NOW)
    assert before < await partitions(database)


async def test_one_process_at_a_time_looks_after_the_partitions(database: Database) -> None:
    before = await partitions(database)
    async with database.transaction() as session:
        await session.execute(text(f"SELECT pg_advisory_xact_lock({RETENTION_LOCK})"))
        assert not await Retention(database, LedgerSettings(retention_days=1)).keep(NOW)
    assert await partitions(database) == before
