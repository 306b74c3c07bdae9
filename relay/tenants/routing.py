"""The routes of a tenant: create, put, list, get, delete. See ``registry`` for what holds for all of these.

A prefix is stored percent-decoded and without outer slashes: paths are compared segment by segment after decoding,
so two spellings of one prefix are one route. Not here: which route a path takes (the edge asks the grant).
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from relay.db.cursors import Page, broken_cursor, check_limit, decode_cursor, decode_time, encode_cursor, split_page
from relay.db.etags import check_if_match, make_etag
from relay.destinations.registry import is_destination_name, stamp
from relay.destinations.rows import DestinationRow
from relay.errors import EtagMismatch, FieldError, PathInvalid, RequestInvalid, RouteExists, RouteNotFound
from relay.ledger.audit import Act, Actor, record
from relay.protocols.paths import parse_path
from relay.tenants.registry import get_tenant, lock_tenant
from relay.tenants.rows import RouteRow, TenantRow
from relay.tenants.tenant import Route

PREFIX_LONGEST = 1_024


@dataclass(frozen=True, slots=True)
class RouteDraft:
    """A route as it shall be. ``destination`` is the name of one of the tenant's destinations."""

    prefix: str
    destination: str
    strip_prefix: bool = False


def etag_of(route: Route) -> str:
    """Make the entity tag of a route."""
    return make_etag(route.id, route.prefix, route.destination, route.strip_prefix)


def show(route: Route) -> dict[str, Any]:
    """Show a route as the audit keeps it."""
    return {"id": str(route.id), "prefix": route.prefix, "destination": route.destination, "strip_prefix": route.strip_prefix}


def normalise_prefix(prefix: str) -> str:
    """Make the one spelling of a prefix: percent-decoded, without outer slashes.

    Raises:
        RequestInvalid: it is empty or too long, or no path could begin with it.
    """
    try:
        segments = parse_path(prefix.strip("/").encode()).segments if len(prefix) <= PREFIX_LONGEST else ()
        decoded = "/".join(segments)
        decoded.encode()  # an escape may hide bytes that are no UTF-8; Postgres does not take them
    except (PathInvalid, UnicodeEncodeError):
        segments, decoded = (), ""
    if not all(segments) or not decoded.isprintable() or not decoded:
        message = (
            f"Use 1 to {PREFIX_LONGEST} characters: segments joined by single slashes, without dot segments, "
            "encoded slashes, backslashes, NUL or control characters."
        )
        raise RequestInvalid(errors=[FieldError(("body", "prefix"), "prefix_invalid", message)])
    return decoded


async def create_route(session: AsyncSession, actor: Actor, slug: str, draft: RouteDraft) -> Route:
    """Make a route with an id of its own.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: a member is wrong, or the tenant has no such destination.
        RouteExists: the tenant has a route with this prefix.
    """
    prefix = normalise_prefix(draft.prefix)
    tenant = await lock_tenant(session, slug)
    return await _insert(session, actor, tenant, uuid7(), RouteDraft(prefix, draft.destination, draft.strip_prefix))


async def set_route(
    session: AsyncSession, actor: Actor, place: tuple[str, UUID], draft: RouteDraft, if_match: str | None = None
) -> tuple[Route, bool]:
    """Put a route at ``place``, the tenant's slug and the route's id; the second value says whether it is new.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: a member is wrong, or the tenant has no such destination.
        RouteExists: another route of the tenant has this prefix, or another tenant's route has this id.
        EtagMismatch: it changed since the caller read it, or does not exist although ``if_match`` is given.
    """
    slug, route_id = place
    draft = RouteDraft(normalise_prefix(draft.prefix), draft.destination, draft.strip_prefix)
    tenant = await lock_tenant(session, slug)
    found = await _find(session, tenant.id, route_id)
    if found is None:
        if if_match is not None:
            raise EtagMismatch  # what does not exist has no tag, so not even * fits (RFC 9110, "If-Match")
        return await _insert(session, actor, tenant, route_id, draft), True
    row, before = found
    check_if_match(etag_of(before), if_match)
    # Before the row changes: the query would flush it, and a taken prefix is to be met where it is translated.
    destination_id = await _destination_id(session, tenant, draft.destination)
    row.prefix = draft.prefix
    row.strip_prefix = draft.strip_prefix
    row.destination_id = destination_id
    await _flush(session, row)
    await stamp(session, row)
    after = read_route(row, draft.destination)
    record(session, actor, Act("route.change", slug, str(after.id), show(before), show(after)))
    return after, False


async def list_routes(session: AsyncSession, slug: str, limit: int, cursor: str | None) -> Page[Route]:
    """List a tenant's routes, oldest first.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RequestInvalid: the limit is out of range or the cursor broken.
    """
    check_limit(limit)
    tenant = await get_tenant(session, slug)
    query = _query(tenant.id).order_by(RouteRow.created_at, RouteRow.id).limit(limit + 1)
    if cursor is not None:
        at, route_id = decode_cursor(cursor, 2)
        try:
            query = query.where(tuple_(RouteRow.created_at, RouteRow.id) > (decode_time(at), UUID(route_id)))
        except ValueError:
            raise broken_cursor() from None
    rows, is_more = split_page((await session.execute(query)).all(), limit)
    last = rows[-1][0] if is_more else None
    return Page(
        tuple(read_route(row, name) for row, name in rows), encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None
    )


async def get_route(session: AsyncSession, slug: str, route_id: UUID) -> Route:
    """Get one route.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RouteNotFound: the tenant has no route of this id.
    """
    tenant = await get_tenant(session, slug)
    found = await _find(session, tenant.id, route_id)
    if found is None:
        raise _not_found()
    return found[1]


async def delete_route(session: AsyncSession, actor: Actor, slug: str, route_id: UUID, if_match: str | None = None) -> None:
    """Delete a route; paths that took it take a shorter one or the tenant's default destination.

    Raises:
        TenantNotFound: there is no tenant of this slug.
        RouteNotFound: the tenant has no route of this id.
        EtagMismatch: it changed since the caller read it.
    """
    tenant = await lock_tenant(session, slug)
    found = await _find(session, tenant.id, route_id)
    if found is None:
        raise _not_found()
    row, before = found
    check_if_match(etag_of(before), if_match)
    await session.delete(row)
    await session.flush()
    record(session, actor, Act("route.delete", slug, str(route_id), before=show(before)))


async def _insert(session: AsyncSession, actor: Actor, tenant: TenantRow, route_id: UUID, draft: RouteDraft) -> Route:
    row = RouteRow(
        id=route_id,
        tenant_id=tenant.id,
        prefix=draft.prefix,
        destination_id=await _destination_id(session, tenant, draft.destination),
        strip_prefix=draft.strip_prefix,
    )
    await _flush(session, row)
    await session.refresh(row)
    route = read_route(row, draft.destination)
    record(session, actor, Act("route.create", tenant.slug, str(route.id), after=show(route)))
    return route


async def _flush(session: AsyncSession, row: RouteRow) -> None:
    try:
        async with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        if "uq_routes" in str(error.orig):
            raise RouteExists from None
        if "pk_routes" in str(error.orig):
            raise RouteExists("This route id is taken. Choose another one, or let POST make one.") from None
        raise


async def _destination_id(session: AsyncSession, tenant: TenantRow, name: str) -> UUID:
    # Locked against deletion: the foreign key must still hold at the end of this transaction.
    query = select(DestinationRow.id).where(DestinationRow.tenant_id == tenant.id, DestinationRow.name == name)
    found = await session.scalar(query.with_for_update(key_share=True)) if is_destination_name(name) else None
    if found is None:
        error = FieldError(("body", "destination"), "destination_not_found", "Name one of the tenant's destinations.")
        raise RequestInvalid(errors=[error])
    return found


def _query(tenant_id: UUID) -> Select[RouteRow, str]:
    query = select(RouteRow, DestinationRow.name).join(DestinationRow, DestinationRow.id == RouteRow.destination_id)
    return query.where(RouteRow.tenant_id == tenant_id)


async def _find(session: AsyncSession, tenant_id: UUID, route_id: UUID) -> tuple[RouteRow, Route] | None:
    found = (await session.execute(_query(tenant_id).where(RouteRow.id == route_id))).one_or_none()
    return None if found is None else (found[0], read_route(found[0], found[1]))


def _not_found() -> RouteNotFound:
    return RouteNotFound("This tenant has no route with this id. List its routes to see which exist.")


def read_route(row: RouteRow, destination: str) -> Route:
    """Make the frozen value of a row and the name of its destination."""
    return Route(id=row.id, prefix=row.prefix, destination=destination, strip_prefix=row.strip_prefix)
