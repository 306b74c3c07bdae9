"""``/admin/v1/tenants/{slug}/destinations``: one function per verb. Credentials go in and never come out."""

from datetime import UTC, datetime
from typing import Any, Literal, Self
from urllib.parse import quote

from fastapi import Response
from pydantic import ConfigDict, Field

from relay.api.admin.operators import ALWAYS, WITH_DOCUMENT, OperatorDesk, operator_router
from relay.api.admin.payloads import Document, IfMatch, Listing, PageQuery, Payload, UtcTime
from relay.api.contract import TIME
from relay.api.openapi import ADMIN_PREFIX, MADE, SHOWN, declare
from relay.destinations.destination import DestinationSpec, Finding
from relay.destinations.registry import DestinationChange, DestinationDraft, etag_of
from relay.errors import (
    DestinationExists,
    DestinationInUse,
    DestinationMisconfigured,
    DestinationNotFound,
    EtagMismatch,
    TenantNotFound,
)
from relay.tenants import owned_destinations

Kind = Literal["http", "disk", "s3", "gcs", "azure"]

HTTP_EXAMPLE: dict[str, Any] = {
    "name": "main",
    "kind": "http",
    "config": {"base_url": "https://files.example.com/inbox"},
    "secrets": {"headers": {"Authorization": "Bearer 9f86d081"}},
}
SHOWN_EXAMPLE: dict[str, Any] = {
    "name": "main",
    "kind": "http",
    "config": {
        "base_url": "https://files.example.com/inbox",
        "connect_timeout_seconds": 5.0,
        "idle_timeout_seconds": 60.0,
        "total_timeout_seconds": None,
        "max_connections": 100,
    },
    "secret_names": ["Authorization"],
    "created_at": TIME,
    "updated_at": TIME,
}
TLS_EXAMPLE: dict[str, Any] = {
    "name": "internal",
    "kind": "http",
    "config": {
        "base_url": "https://files.example.com/in",
        "host": "uploads.example.com",
        "tls": {
            "ca": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
            "client_certificate": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
            "server_name": "internal.example.com",
        },
    },
    "secrets": {"tls": {"client_key": "-----BEGIN PRIVATE KEY-----\n…\n-----END PRIVATE KEY-----\n"}},
}
S3_EXAMPLE: dict[str, Any] = {
    "name": "bucket",
    "kind": "s3",
    "config": {"bucket": "acme-uploads", "region": "eu-central-1", "prefix": "in", "key_template": "{date:%Y/%m/%d}/{path}"},
    "secrets": {"access_key_id": "acme-relay", "secret_access_key": "9f86d081884c7d65"},
}
DISK_EXAMPLE: dict[str, Any] = {"name": "archive", "kind": "disk", "config": {"directory": "acme", "overwrite": "refuse"}}

AZURE_EXAMPLE: dict[str, Any] = {
    "name": "blobs",
    "kind": "azure",
    "config": {"account": "acmefiles", "container": "inbox", "prefix": "uploads"},
    "secrets": {"sas_token": "sv=2024-08-04&sr=c&sp=rcwd&se=2027-01-01T00%3A00%3A00Z&sig=c2lnbmF0dXJl"},
}


class DestinationDocument(Document):
    """A destination to be made. Which members `config` and `secrets` have depends on the kind."""

    model_config = ConfigDict(json_schema_extra={"examples": [HTTP_EXAMPLE, S3_EXAMPLE, DISK_EXAMPLE, TLS_EXAMPLE, AZURE_EXAMPLE]})

    name: str
    kind: Kind
    config: dict[str, Any]
    secrets: dict[str, Any] | None = Field(None, repr=False)


class DestinationPatch(Document):
    """Changes of a destination, as merge patch: absent members stay, null removes; `secrets: null` removes all credentials."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"config": {"idle_timeout_seconds": 30}}, {"secrets": None}]})

    config: dict[str, Any] = Field(default_factory=dict)
    secrets: dict[str, Any] | None = Field(None, repr=False)

    def members(self) -> dict[str, Any]:
        """Give the members that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class DestinationPayload(Payload):
    """A destination, with the names of its credentials."""

    model_config = ConfigDict(json_schema_extra={"examples": [SHOWN_EXAMPLE]})

    name: str
    kind: Kind
    config: dict[str, Any]
    secret_names: tuple[str, ...]
    created_at: UtcTime
    updated_at: UtcTime

    @classmethod
    def of(cls, spec: DestinationSpec) -> Self:
        """Show a destination."""
        return cls.model_validate(
            {
                "name": spec.name,
                "kind": spec.kind,
                "config": dict(spec.config),
                "secret_names": spec.secret_names,
                "created_at": spec.created_at,
                "updated_at": spec.version,
            }
        )


class FindingPayload(Payload):
    """What the check of a destination found."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ok": True, "code": None, "detail": "The destination answered 200.", "checked_at": TIME},
                {"ok": False, "code": "egress_denied", "detail": "The address is not permitted.", "checked_at": TIME},
            ]
        }
    )

    ok: bool
    code: str | None
    detail: str
    checked_at: UtcTime

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Show a finding of this moment."""
        return cls(ok=finding.ok, code=finding.code, detail=finding.detail, checked_at=datetime.now(UTC))


router = operator_router("/tenants/{slug}/destinations", "destinations")


@router.post(
    "",
    status_code=201,
    operation_id="create_destination",
    responses=MADE | declare(*WITH_DOCUMENT, TenantNotFound, DestinationExists),
)
async def create_destination(slug: str, document: DestinationDocument, desk: OperatorDesk, response: Response) -> DestinationPayload:
    """Make a destination; a tenant's first one becomes its default."""
    draft = DestinationDraft(document.name, document.kind, document.config, document.secrets)
    async with desk.transaction() as session:
        spec = await owned_destinations.create_destination(session, desk.actor, desk.parts.sealer, slug, draft)
    response.headers["Location"] = f"{ADMIN_PREFIX}/tenants/{slug}/destinations/{quote(spec.name, safe='')}"
    response.headers["ETag"] = etag_of(spec)
    return DestinationPayload.of(spec)


@router.get("", operation_id="list_destinations", responses=declare(*ALWAYS, TenantNotFound))
async def list_destinations(slug: str, page: PageQuery, desk: OperatorDesk) -> Listing[DestinationPayload]:
    """List a tenant's destinations by name."""
    async with desk.transaction() as session:
        return Listing.of(await owned_destinations.list_destinations(session, slug, page.limit, page.cursor), DestinationPayload.of)


@router.get("/{name}", operation_id="get_destination", responses=SHOWN | declare(*ALWAYS, TenantNotFound, DestinationNotFound))
async def get_destination(slug: str, name: str, desk: OperatorDesk, response: Response) -> DestinationPayload:
    """Get one destination."""
    async with desk.transaction() as session:
        spec = await owned_destinations.get_destination(session, slug, name)
    response.headers["ETag"] = etag_of(spec)
    return DestinationPayload.of(spec)


@router.patch(
    "/{name}",
    operation_id="change_destination",
    responses=SHOWN | declare(*WITH_DOCUMENT, TenantNotFound, DestinationNotFound, EtagMismatch, DestinationMisconfigured),
)
async def change_destination(
    slug: str, name: str, document: DestinationPatch, desk: OperatorDesk, response: Response, *, if_match: IfMatch = None
) -> DestinationPayload:
    """Change config and credentials of a destination (RFC 7396); uploads under way end as they began."""
    change = DestinationChange(document.members(), if_match)
    async with desk.transaction() as session:
        spec = await owned_destinations.change_destination(session, desk.actor, desk.parts.sealer, (slug, name), change)
    response.headers["ETag"] = etag_of(spec)
    return DestinationPayload.of(spec)


@router.delete(
    "/{name}",
    status_code=204,
    operation_id="delete_destination",
    responses=declare(*ALWAYS, TenantNotFound, DestinationNotFound, DestinationInUse, EtagMismatch),
)
async def delete_destination(slug: str, name: str, desk: OperatorDesk, if_match: IfMatch = None) -> None:
    """Delete a destination that no route leads to; a tenant whose default it was has none afterwards."""
    async with desk.transaction() as session:
        await owned_destinations.delete_destination(session, desk.actor, slug, name, if_match)


@router.post(
    "/{name}/check",
    operation_id="check_destination",
    responses=declare(*ALWAYS, TenantNotFound, DestinationNotFound),
)
async def check_destination(slug: str, name: str, desk: OperatorDesk) -> FindingPayload:
    """Say whether the destination is reachable, permitted and writable. Leaves nothing behind."""
    async with desk.transaction() as session:
        spec = await owned_destinations.get_destination(session, slug, name)
    # No connection is held while the destination is asked.
    try:
        finding = await desk.parts.destinations.open(spec).check()
    except DestinationMisconfigured as error:
        finding = Finding(ok=False, code=error.code, detail=error.detail)
    return FindingPayload.of(finding)
