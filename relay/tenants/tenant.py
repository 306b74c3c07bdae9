"""Who a request belongs to: frozen values, read from the directory, never written back.

Not here: how they are stored (``rows``), changed (``registry``) or cached (``directory``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from relay.destinations.destination import DestinationSpec


class Scope(StrEnum):
    """What a key may do."""

    UPLOAD = "upload"
    READ = "read"


class TenantStatus(StrEnum):
    """A disabled tenant keeps its data and is refused at the door."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may send. ``None`` means that only the global limit holds."""

    max_upload_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A path prefix that leads to a destination. ``prefix`` has no outer slashes."""

    id: UUID
    prefix: str
    destination: str
    strip_prefix: bool

    @property
    def segments(self) -> tuple[str, ...]:
        """The prefix, cut into the segments that a path must begin with."""
        return tuple(self.prefix.split("/"))


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer. ``content_types`` are patterns such as ``image/*``; empty accepts every type."""

    id: UUID
    slug: str
    name: str | None
    status: TenantStatus
    limits: Limits
    content_types: tuple[str, ...]
    default_destination: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API credential without its secret."""

    id: str
    name: str | None
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def status(self, now: datetime) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True)
class Grant:
    """All that the door needs to know about one key: its hash, its tenant, where the tenant's bytes go."""

    key: Key
    secret_hash: bytes
    tenant: Tenant
    routes: tuple[Route, ...]
    destinations: Mapping[str, DestinationSpec]
