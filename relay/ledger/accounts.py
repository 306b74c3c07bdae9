"""Reading the ledger: filters, pages, and the members of an entry as the REST listing shows them.

Newest first, by ``(started_at, request_id)``, which is also the cursor. Not here: who may read what; every
listing of a tenant's own names that tenant in its filter.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import (
    LIMIT_DEFAULT,
    LIMIT_MOST,
    Page,
    broken_cursor,
    check_limit,
    decode_cursor,
    decode_time,
    encode_cursor,
    split_page,
)
from relay.db.engine import Database
from relay.ledger.entry import Outcome
from relay.ledger.rows import LedgerRow

EntryMembers = dict[str, Any]

ENTRY_LISTING: Final = (
    "request_id",
    "client_request_id",
    "upload_id",
    "tenant",
    "key_id",
    "destination",
    "method",
    "path",
    "protocol",
    "outcome",
    "code",
    "early",
    "client_left",
    "repeated",
    "status",
    "upstream_status",
    "bytes_in",
    "bytes_delivered",
    "bytes_out",
    "declared_length",
    "content_type",
    "filenames",
    "digests",
    "started_at",
    "first_byte_at",
    "body_complete_at",
    "finished_at",
    "upstream_wait_ms",
    "client_address",
    "user_agent",
    "trace_id",
    "version",
    "worker",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries to list; ``None`` means all. Times are those of ``started_at``: ``since`` counts in, ``until`` does not."""

    tenant: str | None = None
    upload_id: UUID | None = None
    request_id: UUID | None = None
    outcome: Outcome | None = None
    path_prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_entries(
    session: AsyncSession, filters: EntryFilter, limit: int = LIMIT_DEFAULT, cursor: str | None = None
) -> Page[EntryMembers]:
    """List the entries that the filters let through, newest first.

    Raises:
        RequestInvalid: the limit is out of range, or the cursor is not one of this listing.
        DatabaseUnavailable: Postgres does not answer.
    """
    check_limit(limit)
    query = _filtered(filters)
    if cursor is not None:
        started_at, request_id = _parse_cursor(cursor)
        # The first condition alone lets Postgres leave out whole partitions.
        query = query.where(LedgerRow.started_at <= started_at)
        query = query.where(tuple_(LedgerRow.started_at, LedgerRow.request_id) < (started_at, request_id))
    if not _can_match(filters):
        return Page((), None)
    query = query.order_by(LedgerRow.started_at.desc(), LedgerRow.request_id.desc()).limit(limit + 1)
    rows, has_more = split_page((await session.scalars(query)).all(), limit)
    following = encode_cursor(rows[-1].started_at.isoformat(), str(rows[-1].request_id)) if has_more else None
    return Page(tuple(entry_members(row) for row in rows), following)


async def every_entry(database: Database, filters: EntryFilter) -> AsyncIterator[EntryMembers]:
    """All entries that the filters let through, newest first, however many: a page and a transaction at a time.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    cursor: str | None = None
    while True:
        async with database.transaction() as session:
            page = await list_entries(session, filters, LIMIT_MOST, cursor)
        for entry in page.items:
            yield entry
        cursor = page.next
        if cursor is None:
            return


def entry_members(row: LedgerRow) -> EntryMembers:
    """The members of an entry in the order of the listing; ids are text, times RFC 3339 in UTC."""
    return {name: _shown(getattr(row, name)) for name in ENTRY_LISTING}


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value


def _filtered(filters: EntryFilter) -> Select[LedgerRow]:
    query = select(LedgerRow)
    for name in ("tenant", "upload_id", "request_id", "outcome"):
        if (value := getattr(filters, name)) is not None:
            query = query.where(getattr(LedgerRow, name) == value)
    if filters.path_prefix:
        query = query.where(LedgerRow.path.startswith(filters.path_prefix.removeprefix("/"), autoescape=True))
    if filters.since is not None:
        query = query.where(LedgerRow.started_at >= filters.since)
    if filters.until is not None:
        query = query.where(LedgerRow.started_at < filters.until)
    return query


def _can_match(filters: EntryFilter) -> bool:
    """False for text that no row can hold, and that Postgres would refuse to compare: NUL and lone surrogates."""
    text = f"{filters.tenant or ''}{filters.path_prefix or ''}"
    return "\0" not in text and text.encode(errors="replace").decode() == text


def _parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    started_at, request_id = decode_cursor(cursor, 2)
    try:
        return decode_time(started_at).astimezone(UTC), UUID(request_id)
    except (ValueError, OverflowError):
        raise broken_cursor() from None
