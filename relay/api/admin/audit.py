"""``/admin/v1/audit``: who changed what, newest first. Nothing is ever changed here."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Query
from pydantic import ConfigDict, Field

from relay.api.admin.operators import ALWAYS, OperatorDesk, operator_router
from relay.api.admin.payloads import GivenTime, Listing, PageParameters, Payload, UtcTime
from relay.api.contract import REQUEST_ID, TIME
from relay.api.openapi import declare
from relay.errors import SearchTooSlow
from relay.ledger.audit import AuditFilter, AuditRecord, list_audit

_EXAMPLE: dict[str, Any] = {
    "id": "01920000-0000-7000-8000-000000000002",
    "at": TIME,
    "actor": "operator:alice",
    "action": "route.change",
    "target": "01920000-0000-7000-8000-000000000003",
    "before": {"prefix": "photos", "destination": "main", "strip_prefix": False},
    "after": {"prefix": "photos", "destination": "archive", "strip_prefix": False},
    "request_id": REQUEST_ID,
}


class AuditParameters(PageParameters):
    """Which changes, and which page of them."""

    tenant: str | None = Field(None, description="Slug of the tenant, be it deleted or not.")
    actor: str | None = Field(None, description="Who changed it.", examples=["operator:alice"])
    action: str | None = Field(None, description="What was done.", examples=["key.revoke"])
    since: GivenTime | None = None
    until: GivenTime | None = None

    def filters(self) -> AuditFilter:
        """Give the filter without the page."""
        return AuditFilter(**{name: getattr(self, name) for name in AuditFilter.__slots__})


class AuditPayload(Payload):
    """One change. `before` is null where something was made, `after` where it was taken away; neither holds a secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    at: UtcTime
    actor: str = Field(description="`operator` or `operator:<name>` by a token, `cli:<user>` by a command.")
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None = Field(description="`Relay-Request-Id` of the request that asked for it; null for a command.")

    @classmethod
    def of(cls, change: AuditRecord) -> Self:
        """Show a change."""
        return cls(**{name: getattr(change, name) for name in cls.model_fields})


router = operator_router("/audit", "audit")


@router.get("", operation_id="list_audit", responses=declare(*ALWAYS, SearchTooSlow))
async def show_audit(query: Annotated[AuditParameters, Query()], desk: OperatorDesk) -> Listing[AuditPayload]:
    """List the changes that operators made, newest first."""
    async with desk.reading() as session:
        return Listing.of(await list_audit(session, query.filters(), query.limit, query.cursor), AuditPayload.of)
