"""``/admin/v1/ledger``: what happened to every upload, newest first. Entries are read and never changed."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from fastapi.responses import JSONResponse
from pydantic import Field

from relay.api.admin.operators import ALWAYS, OperatorDesk, operator_router
from relay.api.admin.payloads import GivenTime, Listing, PageParameters, Payload, UtcTime
from relay.api.openapi import declare
from relay.ledger.accounts import EntryFilter, list_entries
from relay.ledger.entry import Outcome


class LedgerParameters(PageParameters):
    """Which entries, and which page of them."""

    tenant: str | None = Field(None, description="Slug of the tenant, be it deleted or not.")
    upload_id: UUID | None = None
    request_id: UUID | None = None
    outcome: Outcome | None = None
    path_prefix: str | None = Field(None, description="What the path after /upload/ begins with, as it was sent.")
    since: GivenTime | None = Field(None, description="Entries that started at this time or later.")
    until: GivenTime | None = Field(None, description="Entries that started before this time.")
    format: Literal["json"] = "json"

    def filters(self) -> EntryFilter:
        """Give the filter without the page."""
        return EntryFilter(**{name: getattr(self, name) for name in EntryFilter.__slots__})


class EntryPayload(Payload):
    """One request's account. A member is null where it is unknown."""

    request_id: UUID
    client_request_id: str | None
    upload_id: UUID | None
    tenant: str
    key_id: str | None
    destination: str | None
    method: str
    path: str
    protocol: str
    outcome: Outcome
    code: str | None
    early: bool
    client_left: bool
    repeated: int | None
    status: int | None
    upstream_status: int | None
    bytes_in: int
    bytes_delivered: int
    bytes_out: int
    declared_length: int | None
    content_type: str | None
    filenames: list[str] | None
    digests: dict[str, str] | None
    started_at: UtcTime
    first_byte_at: UtcTime | None
    body_complete_at: UtcTime | None
    finished_at: UtcTime | None
    upstream_wait_ms: float | None
    client_address: str | None
    user_agent: str | None
    trace_id: str | None
    version: str | None
    worker: str | None


router = operator_router("/ledger", "ledger")


@router.get("", operation_id="list_ledger", response_model=Listing[EntryPayload], responses=declare(*ALWAYS))
async def list_ledger(query: Annotated[LedgerParameters, Query()], desk: OperatorDesk) -> Any:
    """List entries, newest first."""
    async with desk.transaction() as session:
        page = await list_entries(session, query.filters(), query.limit, query.cursor)
    # The members are JSON as they are: building five hundred payloads to take them apart again would only cost time.
    return JSONResponse({"items": page.items, "next": page.next})
