"""How much each tenant sent, a day a row: reading what the shipper has summed up.

The sums are written with the entries, in one transaction (``batches.py``), and outlive them: dropping old months of the
ledger does not touch them. Days are UTC. Not here: today's uploads that still run; they count when they have ended.
"""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, encode_cursor, split_page
from relay.ledger.entry import clean_text
from relay.ledger.rows import UsageRow


@dataclass(frozen=True, slots=True)
class Usage:
    """What one tenant sent on one day."""

    tenant: str
    day: date
    uploads: int
    delivered: int
    rejected: int
    refused: int
    failed: int
    bytes_in: int
    bytes_delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which days of whom; ``None`` means all. As in the ledger, ``since`` counts in and ``until`` does not."""

    tenant: str | None = None
    since: date | None = None
    until: date | None = None


async def list_usage(session: AsyncSession, filters: UsageFilter, limit: int, cursor: str | None) -> Page[Usage]:
    """List days that something was sent on, newest first, the tenants of one day by slug.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    # Byte order, as cursors compare: the database's own collation may differ from host to host.
    tenant = UsageRow.tenant.collate("C")
    query = select(UsageRow).order_by(UsageRow.day.desc(), tenant).limit(limit + 1)
    if filters.tenant is not None:
        query = query.where(UsageRow.tenant == filters.tenant)
    if filters.since is not None:
        query = query.where(UsageRow.day >= filters.since)
    if filters.until is not None:
        query = query.where(UsageRow.day < filters.until)
    if cursor is not None:
        day, slug = _parse_cursor(cursor)
        query = query.where(UsageRow.day <= day, or_(UsageRow.day < day, and_(UsageRow.day == day, tenant > slug)))
    if clean_text(filters.tenant) != filters.tenant:
        return Page((), None)  # no row can hold this text, and Postgres would refuse to compare it
    rows, is_more = split_page((await session.scalars(query)).all(), limit)
    following = encode_cursor(rows[-1].day.isoformat(), rows[-1].tenant) if is_more else None
    return Page(tuple(_read(row) for row in rows), following)


def _parse_cursor(cursor: str) -> tuple[date, str]:
    day, slug = decode_cursor(cursor, 2)
    try:
        return date.fromisoformat(day), slug
    except ValueError:
        raise broken_cursor() from None


def _read(row: UsageRow) -> Usage:
    return Usage(**{name: getattr(row, name) for name in Usage.__slots__})
