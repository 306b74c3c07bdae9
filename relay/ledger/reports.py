"""What a tenant may know of its own uploads: a report of each, read from the ledger.

Every query here names its tenant, so another tenant's upload is as absent as one that never was. A report says less than
an entry: no address of an upstream, no key, no worker. Refusals that were summed up have no upload id and no report.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Row, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.ledger.entry import Outcome
from relay.ledger.rows import LedgerRow
from relay.ledger.searches import show_page

State = Literal["receiving", "delivered", "failed", "cancelled"]

STATES: Final[Mapping[Outcome, State]] = MappingProxyType(
    {
        Outcome.ACCEPTED: "receiving",
        Outcome.DELIVERED: "delivered",
        Outcome.CANCELLED: "cancelled",
        Outcome.REJECTED: "failed",
        Outcome.REFUSED: "failed",
        Outcome.CLIENT_FAULT: "failed",
        Outcome.CLIENT_GONE: "failed",
        Outcome.DESTINATION_FAILED: "failed",
        Outcome.RELAY_FAILED: "failed",
        Outcome.INTERRUPTED: "failed",
    }
)
"""What an outcome comes to for the client: is it there, will it be, or does it have to be sent again."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one upload. ``length`` is that of the whole body, where it is known; sizes are in bytes."""

    upload_id: UUID
    state: State
    outcome: Outcome
    received_bytes: int
    length: int | None
    destination: str | None
    objects: list[dict[str, Any]] | None
    fields: list[dict[str, str]] | None
    digests: dict[str, str]
    destination_status: int | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """Whose uploads, and of which time: that of ``started_at``; ``since`` counts in, ``until`` does not."""

    tenant: str
    since: datetime | None = None
    until: datetime | None = None


async def find_report(session: AsyncSession, tenant: str, upload_id: UUID) -> Report | None:
    """Find what became of one upload of this tenant; ``None`` while the ledger does not hold it.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    row = (await session.execute(_of_tenant(tenant).where(LedgerRow.upload_id == upload_id).limit(1))).one_or_none()
    return None if row is None else _read(row)


async def list_reports(session: AsyncSession, filters: ReportFilter, limit: int, cursor: str | None) -> Page[Report]:
    """List what became of a tenant's uploads, newest first; a page of large ones has fewer than ``limit``.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
        DatabaseUnavailable: Postgres does not answer.
    """
    check_limit(limit)
    query = _of_tenant(filters.tenant).where(LedgerRow.upload_id.is_not(None))
    if filters.since is not None:
        query = query.where(LedgerRow.started_at >= filters.since)
    if filters.until is not None:
        query = query.where(LedgerRow.started_at < filters.until)
    if cursor is not None:
        started_at, request_id = _parse_cursor(cursor)
        # The first condition alone lets Postgres leave out whole partitions.
        query = query.where(LedgerRow.started_at <= started_at)
        query = query.where(tuple_(LedgerRow.started_at, LedgerRow.request_id) < (started_at, request_id))
    page = show_page(query.limit(limit + 1).subquery("page"))
    found = (await session.execute(select(page).order_by(page.c.started_at.desc(), page.c.request_id.desc()))).all()
    rows, is_more = split_page(found, limit)
    is_more = is_more or bool(found and found[0].of > len(found))
    following = encode_cursor(rows[-1].started_at.isoformat(), str(rows[-1].request_id)) if is_more else None
    return Page(tuple(_read(row) for row in rows), following)


def _of_tenant(tenant: str) -> Select[Any]:
    """What the tenant has, newest first."""
    query = select(*LedgerRow.__table__.columns).where(LedgerRow.tenant == tenant)
    return query.order_by(LedgerRow.started_at.desc(), LedgerRow.request_id.desc())


def _parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    started_at, request_id = decode_cursor(cursor, 2)
    try:
        return decode_time(started_at), UUID(request_id)
    except ValueError:
        raise broken_cursor() from None


def _read(row: Row[Any]) -> Report:
    is_whole = row.body_complete_at is not None
    outcome = Outcome(row.outcome)
    return Report(
        upload_id=row.upload_id,
        state=STATES[outcome],
        outcome=outcome,
        received_bytes=row.bytes_in,
        length=row.declared_length if row.declared_length is not None or not is_whole else row.bytes_in,
        destination=row.destination,
        objects=row.objects,
        fields=row.fields,
        digests=row.digests or {},
        destination_status=row.upstream_status,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
