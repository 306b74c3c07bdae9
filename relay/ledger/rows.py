"""Tables of the ledger, its daily sums, and the audit of changes.

``ledger`` is range-partitioned by month on ``started_at`` and has no foreign keys: an entry outlives
the tenant it belongs to.
"""

from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Date, Double, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from relay.db.tables import CreatedTime, Id, Row, String, Time
from relay.ledger.entry import Outcome

PATH_START_LIMIT: Final = 128
"""How much of a path is indexed (characters): an entry of an index has at most 2,704 bytes, and a path may have more."""

PATH_START: Final = f'"left"(path, {PATH_START_LIMIT})'
DAY: Final = "((started_at AT TIME ZONE 'UTC'::text)::date)"

_OUTCOMES = ", ".join(f"'{outcome}'" for outcome in Outcome)
_IS_TROUBLE = text(f"outcome <> '{Outcome.DELIVERED}'")


class LedgerRow(Row):
    """One entry."""

    __tablename__ = "ledger"
    __table_args__ = (
        CheckConstraint(f"outcome IN ({_OUTCOMES})", name="outcome"),
        Index(None, "upload_id"),
        Index(None, "request_id"),
        Index(None, "tenant", "started_at", "request_id"),
        # Rare outcomes at once, for next to nothing: most entries are in neither of these.
        Index(None, "outcome", "started_at", "request_id", postgresql_where=_IS_TROUBLE),
        Index(None, "tenant", "outcome", "started_at", "request_id", postgresql_where=_IS_TROUBLE),
        # By day: so a path that was common once is found without reading what came after it.
        Index("ix_ledger_day_path", text(DAY), text(f"{PATH_START} text_pattern_ops")),
        Index("ix_ledger_tenant_day_path", "tenant", text(DAY), text(f"{PATH_START} text_pattern_ops")),
        {"postgresql_partition_by": "RANGE (started_at)"},
    )

    started_at: Mapped[Time] = mapped_column(primary_key=True)
    request_id: Mapped[Id]
    client_request_id: Mapped[String | None]
    upload_id: Mapped[UUID | None]
    tenant: Mapped[String]
    key_id: Mapped[String | None]
    destination: Mapped[String | None]
    method: Mapped[String]
    path: Mapped[String]
    protocol: Mapped[String]
    outcome: Mapped[String]
    code: Mapped[String | None]
    early: Mapped[bool]
    client_left: Mapped[bool]
    repeated: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[int | None] = mapped_column(Integer)
    upstream_status: Mapped[int | None] = mapped_column(Integer)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_delivered: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)
    declared_length: Mapped[int | None] = mapped_column(BigInteger)
    content_type: Mapped[String | None]
    filenames: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    digests: Mapped[dict[str, str] | None] = mapped_column(JSONB)
    first_byte_at: Mapped[Time | None]
    body_complete_at: Mapped[Time | None]
    finished_at: Mapped[Time | None]
    upstream_wait_ms: Mapped[float | None] = mapped_column(Double)
    client_address: Mapped[String | None]
    user_agent: Mapped[String | None]
    trace_id: Mapped[String | None]
    version: Mapped[String | None]
    worker: Mapped[String | None]
    objects: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)
    fields: Mapped[list[dict[str, str]] | None] = mapped_column(JSONB)


class UsageRow(Row):
    """What one tenant sent on one day (UTC of ``finished_at``; of ``started_at`` where that is unknown)."""

    __tablename__ = "usage_daily"
    __table_args__ = (Index(None, "day", "tenant"),)

    tenant: Mapped[str] = mapped_column(Text, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    uploads: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    delivered: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rejected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    refused: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bytes_in: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bytes_delivered: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class AuditRow(Row):
    """One change made by an operator, written in the same transaction as the change."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "tenant", "at"), Index(None, "at", "id"))

    id: Mapped[Id]
    at: Mapped[CreatedTime]
    actor: Mapped[String]
    action: Mapped[String]
    tenant: Mapped[String | None]
    target: Mapped[String]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    request_id: Mapped[String | None]


class InstallationRow(Row):
    """The one row that names this installation: its random id goes into every ``Via``."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("singleton", name="singleton"),)

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    id: Mapped[String]
