"""Who changed what: one row for each change that an operator makes, in the same transaction as the change.

A change that is rolled back leaves no row; a row never exists without its change. ``before`` and ``after`` hold
what the REST interface shows of an object, so never a secret: callers hand over ``secret_names`` only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.ledger.rows import AuditRow


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: ``operator`` or ``cli:<os user>``, and the request that asked."""

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


async def list_audit(session: AsyncSession, tenant: str | None, limit: int, cursor: str | None) -> Page[AuditRecord]:
    """List changes, newest first; ``tenant`` narrows them to one slug.

    Raises:
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    query = select(AuditRow).order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit + 1)
    if tenant is not None:
        query = query.where(AuditRow.tenant == tenant)
    if cursor is not None:
        at, row_id = decode_cursor(cursor, 2)
        try:
            query = query.where(tuple_(AuditRow.at, AuditRow.id) < (decode_time(at), UUID(row_id)))
        except ValueError:
            raise broken_cursor() from None
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
