"""The ledger's partitions: one a month, named ``ledger_y2026m11``, bounded by UTC months.

Made three months ahead at every start, and on demand by the shipper. A new partition is made beside the ledger and then
attached: that takes a lock under which reading and writing go on, where ``CREATE TABLE … PARTITION OF`` stops both.
Two processes may make the same one at once: an advisory lock, held to the end of the transaction, lets one wait for
the other. Waiting for locks is bounded, so that a long query never makes the shipper queue behind this module.
"""

import logging
import re
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

PARTITION_LOCK = 0x6C6564676572  # "ledger": the advisory lock of whoever makes or drops partitions
LOCK_TIMEOUT = timedelta(seconds=2)
LOCK_NOT_AVAILABLE = "55P03"

NAME = re.compile(r"ledger_y(\d{4})m(\d{2})")
ATTACHED = "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'ledger'::regclass"

logger = logging.getLogger(__name__)


def partition_of(month: date) -> str:
    """The name of the partition that holds the month of ``month``."""
    return f"ledger_y{month.year:04}m{month.month:02}"


def month_after(month: date) -> date:
    """The first day of the month after that of ``month``."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


async def ensure_partition(session: AsyncSession, month: date) -> bool:
    """Make the partition of the month (UTC) of ``month``; True if it was missing. The caller commits.

    A ``datetime`` must be aware; its UTC month counts.

    Raises:
        DBAPIError: the lock was not available in time (SQLSTATE 55P03), or a table of that name exists detached.
        DatabaseUnavailable: Postgres does not answer.
    """
    if isinstance(month, datetime):
        month = month.astimezone(UTC).date()
    first = month.replace(day=1)
    name = partition_of(first)
    if await _is_attached(session, name):
        return False
    await _lock(session)
    if await _is_attached(session, name):
        return False
    await session.execute(text(f"CREATE TABLE {name} (LIKE ledger INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"))
    await session.execute(
        text(f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES FROM ('{first} 00:00:00+00') TO ('{month_after(first)} 00:00:00+00')")
    )
    logger.info("Made the ledger's partition %s", name)
    return True


async def ensure_ahead(session: AsyncSession, now: datetime, months: int = 3) -> None:
    """Make the partitions of this month (UTC) and of ``months`` after it.

    Raises:
        DBAPIError, DatabaseUnavailable: as ``ensure_partition``.
    """
    month = now.astimezone(UTC).date()
    for _ in range(months + 1):
        await ensure_partition(session, month)
        month = month_after(month)


async def drop_expired(session: AsyncSession, now: datetime, retention_days: int) -> list[str]:
    """Drop the partitions that lie wholly before ``now`` minus ``retention_days``; return their names.

    Where somebody reads the ledger for longer than the lock timeout, nothing is dropped: the next call tries again.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    kept_from = (now.astimezone(UTC) - timedelta(days=retention_days)).date()
    found = [(name, match) for name in await session.scalars(text(ATTACHED)) if (match := NAME.fullmatch(name))]
    expired = sorted(name for name, match in found if month_after(date(int(match[1]), int(match[2]), 1)) <= kept_from)
    if not expired:
        return []
    try:
        async with session.begin_nested():
            await _lock(session)
            for name in expired:
                await session.execute(text(f"DROP TABLE IF EXISTS {name}"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        logger.warning("Expired partitions of the ledger are in use and stay until the next try: %s", ", ".join(expired))
        return []
    logger.info("Dropped expired partitions of the ledger: %s", ", ".join(expired))
    return expired


async def _is_attached(session: AsyncSession, name: str) -> bool:
    return (await session.scalar(text(f"SELECT EXISTS ({ATTACHED} AND relname = :name)"), {"name": name})) is True


async def _lock(session: AsyncSession) -> None:
    await session.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT // timedelta(milliseconds=1)}"))
    await session.execute(text(f"SELECT pg_advisory_xact_lock({PARTITION_LOCK})"))
