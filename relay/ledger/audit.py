"""Who changed what: one row for each change that an operator makes, in the same transaction as the change.

A change that is rolled back leaves no row; a row never exists without its change. ``before`` and ``after`` hold
what the REST interface shows of an object, so never a secret: callers hand over ``secret_names`` only. What changes
nothing (reading, the check of a destination, revoking what is revoked) leaves no row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.ledger.entry import clean_text
from relay.ledger.rows import AuditRow

_TEXTS: Final = ("tenant", "actor", "action")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: ``operator``, ``operator:<name>`` or ``cli:<os user>``, and the request that asked."""

    name: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """What was done to what: ``key.revoke`` on the key ``target`` of ``tenant``. No secrets."""

    action: str
    tenant: str | None
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change, told afterwards."""

    id: UUID
    at: datetime
    actor: str
    action: str
    tenant: str | None
    target: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which changes to list; ``None`` means all. As in the ledger, ``since`` counts in and ``until`` does not."""

    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def record(session: AsyncSession, actor: Actor, act: Act) -> None:
    """Add the row of one change to the transaction of that change."""
    session.add(
        AuditRow(
            id=uuid7(),
            actor=actor.name,
            action=act.action,
            tenant=act.tenant,
            target=act.target,
            before=dict(act.before) if act.before is not None else None,
            after=dict(act.after) if act.after is not None else None,
            request_id=actor.request_id,
        )
    )


async def list_audit(session: AsyncSession, filters: AuditFilter, limit: int, cursor: str | None) -> Page[AuditRecord]:
    """List the changes that the filters let through, newest first.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    query = select(AuditRow).order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit + 1)
    for name in _TEXTS:
        if (text := getattr(filters, name)) is not None:
            query = query.where(getattr(AuditRow, name) == text)
    if filters.since is not None:
        query = query.where(AuditRow.at >= filters.since)
    if filters.until is not None:
        query = query.where(AuditRow.at < filters.until)
    if cursor is not None:
        at, row_id = decode_cursor(cursor, 2)
        try:
            query = query.where(tuple_(AuditRow.at, AuditRow.id) < (decode_time(at), UUID(row_id)))
        except ValueError:
            raise broken_cursor() from None
    if any(clean_text(getattr(filters, name)) != getattr(filters, name) for name in _TEXTS):
        return Page((), None)  # no row can hold this text, and Postgres would refuse to compare it
    rows, is_more = split_page((await session.scalars(query)).all(), limit)
    last = rows[-1] if is_more else None
    return Page(tuple(_read(row) for row in rows), encode_cursor(last.at.isoformat(), str(last.id)) if last else None)


def _read(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        id=row.id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        tenant=row.tenant,
        target=row.target,
        before=row.before,
        after=row.after,
        request_id=row.request_id,
    )
