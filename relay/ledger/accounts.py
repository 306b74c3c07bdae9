"""Reading the ledger: filters, pages, and the members of an entry as the REST listing shows them.

Newest first, by ``(started_at, request_id)``, which is also the cursor. Not here: how matches are found (``searches``),
how they are printed in bulk (``exports``), who may read what; every listing of a tenant's own names that tenant in its
filter.
"""

from datetime import UTC
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import LIMIT_DEFAULT, Page, broken_cursor, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.ledger.searches import PAGE_BYTES, EntryFilter, Place, find_entries, show_page

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
    "objects",
    "fields",
)
_IDS: Final = ("request_id", "upload_id")
_TIMES: Final = ("started_at", "first_byte_at", "body_complete_at", "finished_at")


async def list_entries(
    session: AsyncSession, filters: EntryFilter, limit: int = LIMIT_DEFAULT, cursor: str | None = None
) -> Page[EntryMembers]:
    """List the entries that the filters let through, newest first; a page of large ones has fewer than ``limit``.

    Raises:
        RequestInvalid: the limit is out of range, or the cursor is not one of this listing.
        SearchTooSlow: they cannot be found within the statement timeout.
        DatabaseUnavailable: Postgres does not answer.
    """
    check_limit(limit)
    after = _parse_cursor(cursor) if cursor is not None else None
    found: list[Row[Any]] = []
    spent, is_cut = 0, False
    async for rows in find_entries(session, filters, after, limit + 1, show_page):
        found += rows
        spent += rows[-1].spent
        is_cut = rows[0].of > len(rows) or spent > PAGE_BYTES
        if is_cut or len(found) > limit:
            break
    rows, is_more = split_page(found, limit)
    following = encode_cursor(rows[-1].started_at.isoformat(), str(rows[-1].request_id)) if is_more or is_cut else None
    return Page(tuple(entry_members(row) for row in rows), following)


def entry_members(row: Row[Any]) -> EntryMembers:
    """The members of an entry in the order of the listing; ids are text, times RFC 3339 in UTC."""
    known = dict(zip(row._fields, row, strict=True))  # all at once: a row is slow to give its members one by one
    members = {name: known[name] for name in ENTRY_LISTING}
    for name in _IDS:
        members[name] = None if (value := members[name]) is None else str(value)
    for name in _TIMES:
        members[name] = (
            None if (value := members[name]) is None else value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        )
    return members


def _parse_cursor(cursor: str) -> Place:
    started_at, request_id = decode_cursor(cursor, 2)
    try:
        return decode_time(started_at).astimezone(UTC), UUID(request_id)
    except (ValueError, OverflowError):
        raise broken_cursor() from None
