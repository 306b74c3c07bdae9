"""``relay route``: lead a path prefix of a tenant to a destination. Routes are named by their prefix here."""

import click
from sqlalchemy.ext.asyncio import AsyncSession

from relay.api.admin.payloads import Listing
from relay.api.admin.routes import RoutePayload
from relay.cli.desk import Desk, Options, at_desk, desk_options, page_options, say, show, show_page
from relay.db.cursors import LIMIT_MOST
from relay.errors import RouteNotFound
from relay.tenants import routing
from relay.tenants.routing import RouteDraft, normalise_prefix
from relay.tenants.tenant import Route


@click.group()
def route() -> None:
    """Lead a path prefix of a tenant to a destination."""


@route.command("set")
@click.argument("tenant")
@click.argument("prefix")
@click.argument("destination")
@click.option("--strip-prefix", is_flag=True, help="Leave the prefix out of the path that the destination sees.")
@desk_options
def set_route(options: Options, tenant: str, prefix: str, destination: str, *, strip_prefix: bool) -> None:
    """Lead paths that begin with PREFIX to DESTINATION; the longest prefix wins."""
    draft = RouteDraft(prefix, destination, strip_prefix)

    async def work(desk: Desk) -> Route:
        async with desk.database.transaction() as session:
            existing = await _find(session, tenant, prefix)
            if existing is None:
                return await routing.create_route(session, desk.actor, tenant, draft)
            changed, _ = await routing.set_route(session, desk.actor, (tenant, existing.id), draft)
            return changed

    show(options, RoutePayload.of(at_desk(options, work)))


@route.command("list")
@click.argument("tenant")
@page_options
@desk_options
def list_routes(options: Options, tenant: str, limit: int, cursor: str | None) -> None:
    """List a tenant's routes, oldest first."""

    async def work(desk: Desk) -> Listing[RoutePayload]:
        async with desk.database.transaction() as session:
            return Listing.of(await routing.list_routes(session, tenant, limit, cursor), RoutePayload.of)

    show_page(options, at_desk(options, work).model_dump(mode="json"), ("prefix", "destination", "strip_prefix", "id"))


@route.command()
@click.argument("tenant")
@click.argument("prefix")
@desk_options
def delete(options: Options, tenant: str, prefix: str) -> None:
    """Delete a route; its paths take a shorter one, or the tenant's default destination."""

    async def work(desk: Desk) -> None:
        async with desk.database.transaction() as session:
            existing = await _find(session, tenant, prefix)
            if existing is None:
                raise RouteNotFound(f"Tenant {tenant} has no route with this prefix. List its routes to see which exist.")
            await routing.delete_route(session, desk.actor, tenant, existing.id)

    at_desk(options, work)
    say(options, f"route {prefix} of {tenant} is deleted")


async def _find(session: AsyncSession, tenant: str, prefix: str) -> Route | None:
    wanted = normalise_prefix(prefix)
    cursor: str | None = None
    while True:
        page = await routing.list_routes(session, tenant, LIMIT_MOST, cursor)
        for each in page.items:
            if each.prefix == wanted:
                return each
        cursor = page.next
        if cursor is None:
            return None
