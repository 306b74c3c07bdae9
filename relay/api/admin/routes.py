"""``/admin/v1/tenants/{slug}/routes``: one function per verb."""

from http import HTTPStatus
from typing import Self
from uuid import UUID

from fastapi import Response
from pydantic import ConfigDict

from relay.api.admin.operators import ALWAYS, WITH_DOCUMENT, OperatorDesk, operator_router
from relay.api.admin.payloads import Document, IfMatch, Listing, PageQuery, Payload
from relay.api.contract import REQUEST_ID
from relay.api.openapi import ADMIN_PREFIX, MADE, SHOWN, declare
from relay.errors import EtagMismatch, RouteExists, RouteNotFound, TenantNotFound
from relay.tenants import routing
from relay.tenants.routing import RouteDraft, etag_of
from relay.tenants.tenant import Route


class RouteDocument(Document):
    """A route as it shall be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prefix": "photos", "destination": "main", "strip_prefix": False}]})

    prefix: str
    destination: str
    strip_prefix: bool = False


class RoutePayload(Payload):
    """A path prefix and the destination that it leads to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": REQUEST_ID, "prefix": "photos", "destination": "main", "strip_prefix": False}]}
    )

    id: UUID
    prefix: str
    destination: str
    strip_prefix: bool

    @classmethod
    def of(cls, route: Route) -> Self:
        """Show a route."""
        return cls(id=route.id, prefix=route.prefix, destination=route.destination, strip_prefix=route.strip_prefix)


router = operator_router("/tenants/{slug}/routes", "routes")
NEW = MADE[201] | {"model": RoutePayload, "description": "A route that was just made."}


@router.post("", status_code=201, operation_id="create_route", responses=MADE | declare(*WITH_DOCUMENT, TenantNotFound, RouteExists))
async def create_route(slug: str, document: RouteDocument, desk: OperatorDesk, response: Response) -> RoutePayload:
    """Make a route; the longest prefix that a path has wins."""
    async with desk.transaction() as session:
        route = await routing.create_route(session, desk.actor, slug, _draft(document))
    _announce(response, slug, route)
    return RoutePayload.of(route)


@router.get("", operation_id="list_routes", responses=declare(*ALWAYS, TenantNotFound))
async def list_routes(slug: str, page: PageQuery, desk: OperatorDesk) -> Listing[RoutePayload]:
    """List a tenant's routes, oldest first."""
    async with desk.transaction() as session:
        return Listing.of(await routing.list_routes(session, slug, page.limit, page.cursor), RoutePayload.of)


@router.get("/{route_id}", operation_id="get_route", responses=SHOWN | declare(*ALWAYS, TenantNotFound, RouteNotFound))
async def get_route(slug: str, route_id: UUID, desk: OperatorDesk, response: Response) -> RoutePayload:
    """Get one route."""
    async with desk.transaction() as session:
        route = await routing.get_route(session, slug, route_id)
    response.headers["ETag"] = etag_of(route)
    return RoutePayload.of(route)


@router.put(
    "/{route_id}",
    operation_id="set_route",
    responses=SHOWN | {201: NEW} | declare(*WITH_DOCUMENT, TenantNotFound, RouteExists, EtagMismatch),
)
async def set_route(
    slug: str, route_id: UUID, document: RouteDocument, desk: OperatorDesk, response: Response, *, if_match: IfMatch = None
) -> RoutePayload:
    """Put a route at this id, new or in place of what was there."""
    async with desk.transaction() as session:
        route, is_new = await routing.set_route(session, desk.actor, (slug, route_id), _draft(document), if_match)
    response.headers["ETag"] = etag_of(route)
    if is_new:
        response.status_code = HTTPStatus.CREATED
        _announce(response, slug, route)
    return RoutePayload.of(route)


@router.delete(
    "/{route_id}", status_code=204, operation_id="delete_route", responses=declare(*ALWAYS, TenantNotFound, RouteNotFound, EtagMismatch)
)
async def delete_route(slug: str, route_id: UUID, desk: OperatorDesk, if_match: IfMatch = None) -> None:
    """Delete a route; its paths take a shorter one, or the tenant's default destination."""
    async with desk.transaction() as session:
        await routing.delete_route(session, desk.actor, slug, route_id, if_match)


def _draft(document: RouteDocument) -> RouteDraft:
    return RouteDraft(document.prefix, document.destination, document.strip_prefix)


def _announce(response: Response, slug: str, route: Route) -> None:
    response.headers["Location"] = f"{ADMIN_PREFIX}/tenants/{slug}/routes/{route.id}"
    response.headers["ETag"] = etag_of(route)
