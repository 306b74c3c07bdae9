"""Grants as the directory would give them."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from relay.tenants.keys import hash_secret
from relay.tenants.tenant import Grant, Key, Limits, Scope, Tenant, TenantStatus

SECRET = "s" * 43
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def make_grant(
    key_id: str = "k" * 16,
    *,
    tenant_id: UUID | None = None,
    limits: Limits | None = None,
    content_types: tuple[str, ...] = (),
    revoked_at: datetime | None = None,
) -> Grant:
    """A grant of an active tenant without destinations; its secret is ``SECRET``."""
    tenant = Tenant(
        id=tenant_id or uuid4(),
        slug="acme",
        name=None,
        status=TenantStatus.ACTIVE,
        limits=limits or Limits(),
        content_types=content_types,
        default_destination=None,
        created_at=EPOCH,
        updated_at=EPOCH,
    )
    key = Key(id=key_id, name=None, scopes=frozenset(Scope), created_at=EPOCH, expires_at=None, revoked_at=revoked_at, last_used_at=None)
    return Grant(key=key, secret_hash=hash_secret(SECRET), tenant=tenant, routes=(), destinations={})
