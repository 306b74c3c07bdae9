"""``/admin/v1/tenants``: one function per verb, in the order of a tenant's life."""

from typing import Any, Literal, Self

from fastapi import Response
from pydantic import ConfigDict, Field

from relay.api.admin.operators import ALWAYS, WITH_DOCUMENT, OperatorDesk, operator_router
from relay.api.admin.payloads import Document, IfMatch, Listing, PageQuery, Payload, UtcTime, WhatRuns
from relay.api.contract import TIME
from relay.api.openapi import ADMIN_PREFIX, MADE, SHOWN, declare
from relay.errors import EtagMismatch, TenantExists, TenantNotFound
from relay.tenants import registry
from relay.tenants.cuts import RunningUploads
from relay.tenants.registry import TenantDraft, etag_of
from relay.tenants.tenant import Limits, Tenant

EXAMPLE: dict[str, Any] = {
    "slug": "acme",
    "name": "Acme Ltd",
    "status": "active",
    "limits": {"max_upload_bytes": None},
    "content_types": ["image/*"],
    "default_destination": "main",
    "created_at": TIME,
    "updated_at": TIME,
}


class LimitsDocument(Document):
    """What a tenant may send; null is no limit but the global one."""

    max_upload_bytes: int | None = None


class TenantDocument(Document):
    """A tenant to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"slug": "acme", "name": "Acme Ltd", "content_types": ["image/*"]}]})

    slug: str
    name: str | None = None
    limits: LimitsDocument = LimitsDocument()
    content_types: list[str] = Field(default_factory=list)
    default_destination: str | None = None


class TenantPatch(Document):
    """Changes of a tenant, as merge patch: absent members stay, null puts a member back to its default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "disabled"}, {"limits": {"max_upload_bytes": None}}]})

    name: str | None = None
    status: Literal["active", "disabled"] = "active"
    limits: LimitsDocument | None = None
    content_types: list[str] | None = None
    default_destination: str | None = None

    def members(self) -> dict[str, Any]:
        """Give the members that were sent."""
        return self.model_dump(exclude_unset=True)


class LimitsPayload(Payload):
    """What a tenant may send; null is no limit but the global one."""

    max_upload_bytes: int | None


class TenantPayload(Payload):
    """A tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    slug: str
    name: str | None
    status: Literal["active", "disabled"]
    limits: LimitsPayload
    content_types: tuple[str, ...]
    default_destination: str | None
    created_at: UtcTime
    updated_at: UtcTime

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """Show a tenant."""
        return cls(
            slug=tenant.slug,
            name=tenant.name,
            status=tenant.status.value,
            limits=LimitsPayload(max_upload_bytes=tenant.limits.max_upload_bytes),
            content_types=tenant.content_types,
            default_destination=tenant.default_destination,
            created_at=tenant.created_at,
            updated_at=tenant.updated_at,
        )


router = operator_router("/tenants", "tenants")


@router.post("", status_code=201, operation_id="create_tenant", responses=MADE | declare(*WITH_DOCUMENT, TenantExists))
async def create_tenant(document: TenantDocument, desk: OperatorDesk, response: Response) -> TenantPayload:
    """Make a tenant."""
    draft = TenantDraft(
        slug=document.slug,
        name=document.name,
        limits=Limits(document.limits.max_upload_bytes),
        content_types=tuple(document.content_types),
        default_destination=document.default_destination,
    )
    async with desk.transaction() as session:
        tenant = await registry.create_tenant(session, desk.actor, draft)
    response.headers["Location"] = f"{ADMIN_PREFIX}/tenants/{tenant.slug}"
    response.headers["ETag"] = etag_of(tenant)
    return TenantPayload.of(tenant)


@router.get("", operation_id="list_tenants", responses=declare(*ALWAYS))
async def list_tenants(page: PageQuery, desk: OperatorDesk) -> Listing[TenantPayload]:
    """List tenants by slug."""
    async with desk.transaction() as session:
        return Listing.of(await registry.list_tenants(session, page.limit, page.cursor), TenantPayload.of)


@router.get("/{slug}", operation_id="get_tenant", responses=SHOWN | declare(*ALWAYS, TenantNotFound))
async def get_tenant(slug: str, desk: OperatorDesk, response: Response) -> TenantPayload:
    """Get one tenant."""
    async with desk.transaction() as session:
        tenant = await registry.get_tenant(session, slug)
    response.headers["ETag"] = etag_of(tenant)
    return TenantPayload.of(tenant)


@router.patch("/{slug}", operation_id="change_tenant", responses=SHOWN | declare(*WITH_DOCUMENT, TenantNotFound, EtagMismatch))
async def change_tenant(
    slug: str,
    document: TenantPatch,
    desk: OperatorDesk,
    response: Response,
    if_match: IfMatch = None,
    running_uploads: WhatRuns = RunningUploads.FINISH,
) -> TenantPayload:
    """Change a tenant (RFC 7396); `{"status": "disabled"}` shuts its door at once."""
    async with desk.transaction() as session:
        tenant = await registry.change_tenant(session, desk.actor, slug, document.members(), if_match, running_uploads)
    response.headers["ETag"] = etag_of(tenant)
    return TenantPayload.of(tenant)


@router.delete("/{slug}", status_code=204, operation_id="delete_tenant", responses=declare(*ALWAYS, TenantNotFound, EtagMismatch))
async def delete_tenant(slug: str, desk: OperatorDesk, if_match: IfMatch = None, running_uploads: WhatRuns = RunningUploads.FINISH) -> None:
    """Delete a tenant for good: its keys stop, its slug stays taken, its ledger stays."""
    async with desk.transaction() as session:
        await registry.delete_tenant(session, desk.actor, slug, if_match, running_uploads)
