"""Tables of tenants, their keys and routes."""

from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from relay.db.tables import CreatedTime, Id, Row, String, Time


class TenantRow(Row):
    """A tenant; deleted ones stay, because a slug is unique for ever."""

    __tablename__ = "tenants"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint("status IN ('active', 'disabled')", name="status"),
        CheckConstraint("slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'", name="slug"),
    )

    id: Mapped[Id]
    slug: Mapped[String]
    name: Mapped[String | None]
    status: Mapped[String] = mapped_column(server_default=text("'active'"))
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    content_types: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    default_destination_id: Mapped[UUID | None] = mapped_column(ForeignKey("destinations.id", ondelete="SET NULL", use_alter=True))
    created_at: Mapped[CreatedTime]
    updated_at: Mapped[CreatedTime]
    deleted_at: Mapped[Time | None]


class ApiKeyRow(Row):
    """A key: its public id and the hash of its secret."""

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "tenant_id", "created_at"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[String | None]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{upload,read}'"))
    created_at: Mapped[CreatedTime]
    expires_at: Mapped[Time | None]
    revoked_at: Mapped[Time | None]
    last_used_at: Mapped[Time | None]


class RouteRow(Row):
    """A path prefix of one tenant and the destination it leads to."""

    __tablename__ = "routes"
    __table_args__ = (UniqueConstraint("tenant_id", "prefix"),)

    id: Mapped[Id]
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    prefix: Mapped[String]
    destination_id: Mapped[UUID] = mapped_column(ForeignKey("destinations.id", ondelete="RESTRICT"), index=True)
    strip_prefix: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[CreatedTime]
    updated_at: Mapped[CreatedTime]
