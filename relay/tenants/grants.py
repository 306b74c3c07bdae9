"""Read one grant from Postgres: a key, its tenant, the tenant's routes and destinations, as of one moment.

All of it comes from one statement, so from one snapshot: a grant never joins a tenant as it was before a change with
routes as they were after it. Not here: remembering it (``directory``) and judging it (the edge).
"""

from typing import Final, cast

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from relay.destinations.registry import Owner, read_spec
from relay.destinations.rows import DestinationRow
from relay.tenants.issued_keys import read_key
from relay.tenants.registry import read_tenant
from relay.tenants.routing import read_route
from relay.tenants.rows import ApiKeyRow, RouteRow, TenantRow
from relay.tenants.tenant import Grant

# Every route leads to a destination, so the rows are those of the routes, never a product of both.
_GRANT: Final = (
    select(ApiKeyRow, TenantRow, DestinationRow, RouteRow)
    .join(TenantRow, TenantRow.id == ApiKeyRow.tenant_id)
    .outerjoin(DestinationRow, DestinationRow.tenant_id == TenantRow.id)
    .outerjoin(RouteRow, RouteRow.destination_id == DestinationRow.id)
    .where(ApiKeyRow.id == bindparam("key_id"), TenantRow.deleted_at.is_(None))
)
"""Made once: making it anew took a tenth of a tenant's first upload."""


async def find_grant(session: AsyncSession, key_id: str) -> Grant | None:
    """Read the grant of a key id; ``None`` when there is no such key or its tenant was deleted."""
    found_rows = (await session.execute(_GRANT, {"key_id": key_id})).all()
    # An outer join leaves out what it did not find, which the statement's type does not say.
    rows = cast("list[tuple[ApiKeyRow, TenantRow, DestinationRow | None, RouteRow | None]]", found_rows)
    if not rows:
        return None
    key, tenant = rows[0][0], rows[0][1]
    owner = Owner(tenant.id, tenant.slug)
    found = {destination.name: destination for _, _, destination, _ in rows if destination is not None}
    default = next((name for name, row in found.items() if row.id == tenant.default_destination_id), None)
    return Grant(
        key=read_key(key),
        secret_hash=key.secret_hash,
        tenant=read_tenant(tenant, default),
        routes=tuple(read_route(route, destination.name) for _, _, destination, route in rows if destination and route),
        destinations={name: read_spec(row, owner) for name, row in found.items()},
    )
