"""A tenant's destinations, found by slug. See ``registry`` for what holds for all of these.

The tenant's row is locked first by everything that makes or removes a destination, so that two first destinations
made at once agree on which of them is the default.
"""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from relay.db.cursors import Page
from relay.destinations import registry as destinations
from relay.destinations.destination import DestinationSpec
from relay.destinations.registry import DestinationChange, DestinationDraft, Owner, stamp
from relay.destinations.sealing import Sealer
from relay.errors import TenantNotFound
from relay.ledger.audit import Actor
from relay.tenants.registry import get_tenant, lock_tenant


async def create_destination(session: AsyncSession, actor: Actor, sealer: Sealer, slug: str, draft: DestinationDraft) -> DestinationSpec:
    """Make a destination; a tenant without a default destination gets it as its default.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: a member is wrong, or credentials are given and RELAY_SECRET_KEY is not set.
        DestinationExists: the tenant has one of this name.
    """
    tenant = await lock_tenant(session, slug)
    is_first = not (await destinations.list_destinations(session, Owner(tenant.id, slug), 1, None)).items
    spec = await destinations.create_destination(session, actor, sealer, Owner(tenant.id, slug), draft)
    if is_first:
        tenant.default_destination_id = spec.id
        await stamp(session, tenant)
    return spec


async def list_destinations(session: AsyncSession, slug: str, limit: int, cursor: str | None) -> Page[DestinationSpec]:
    """List a tenant's destinations by name.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    return await destinations.list_destinations(session, await _owner(session, slug), limit, cursor)


async def get_destination(session: AsyncSession, slug: str, name: str) -> DestinationSpec:
    """Get one destination.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        DestinationNotFound: the tenant has none of this name.
    """
    return await destinations.get_destination(session, await _owner(session, slug), name)


async def find_destination(session: AsyncSession, slug: str, identity: UUID) -> DestinationSpec | None:
    """One destination by its id; ``None`` when it is gone, or its tenant."""
    try:
        owner = await _owner(session, slug)
    except TenantNotFound:
        return None
    return await destinations.find_destination(session, owner, identity)


async def change_destination(
    session: AsyncSession, actor: Actor, sealer: Sealer, place: tuple[str, str], change: DestinationChange
) -> DestinationSpec:
    """Change the destination at ``place``, the tenant's slug and the destination's name.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        DestinationNotFound: the tenant has none of this name.
        EtagMismatch: it changed since the caller read it.
        RequestInvalid: a member is wrong, or credentials are given and RELAY_SECRET_KEY is not set.
        DestinationMisconfigured: credentials are to be kept that cannot be opened any more.
    """
    spec = await get_destination(session, *place)
    return await destinations.change_destination(session, actor, sealer, spec, change)


async def delete_destination(session: AsyncSession, actor: Actor, slug: str, name: str, if_match: str | None = None) -> None:
    """Delete a destination; if it was the tenant's default, the tenant has none afterwards.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        DestinationNotFound: the tenant has none of this name.
        DestinationInUse: a route leads to it.
        EtagMismatch: it changed since the caller read it.
    """
    tenant = await lock_tenant(session, slug)
    spec = await destinations.get_destination(session, Owner(tenant.id, slug), name)
    was_default = tenant.default_destination_id == spec.id
    await destinations.delete_destination(session, actor, Owner(tenant.id, slug), name, if_match)
    if was_default:
        await session.refresh(tenant)
        await stamp(session, tenant)


async def _owner(session: AsyncSession, slug: str) -> Owner:
    return Owner((await get_tenant(session, slug)).id, slug)
