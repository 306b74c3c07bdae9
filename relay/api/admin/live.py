"""``/admin/v1/live``: the uploads that run on this host at this moment, in whichever worker; see them and end them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import ConfigDict, Field

from relay.api.admin.operators import ALWAYS, OperatorDesk, operator_router
from relay.api.admin.payloads import Listing, PageParameters, Payload, UtcTime
from relay.api.openapi import declare
from relay.errors import UploadNotRunning, WorkerUnreachable
from relay.uploads.live import TOLD_TO_END, LivePage, cancel_upload
from relay.uploads.running import RunningUpload

_EXAMPLE: dict[str, Any] = {
    "upload_id": "01920000-0000-7000-8000-000000000001",
    "request_id": "01920000-0000-7000-8000-000000000000",
    "tenant": "acme",
    "key_id": "ba1f357bcmwh12vl",
    "destination": "main",
    "method": "POST",
    "path": "reports/2026/january.pdf",
    "bytes_in": 734003200,
    "declared_length": 5000000000,
    "rate_bytes_per_second": 41943040,
    "age_seconds": 17.5,
    "started_at": "2026-01-31T12:00:00.000000Z",
    "client_address": "203.0.113.7",
    "worker": "01920000-0000-7000-8000-00000000000a",
}


class LiveParameters(PageParameters):
    """Whose running uploads, and which page of them."""

    tenant: str | None = Field(None, description="Slug of the tenant.")


class LivePayload(Payload):
    """An upload that runs. Its rate is that of the last one to two seconds."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    upload_id: UUID
    request_id: UUID
    tenant: str
    key_id: str | None
    destination: str | None
    method: str
    path: str
    bytes_in: int
    declared_length: int | None
    rate_bytes_per_second: int
    age_seconds: float
    started_at: UtcTime
    client_address: str | None
    worker: str | None

    @classmethod
    def of(cls, upload: RunningUpload) -> "LivePayload":
        """Show a running upload."""
        return cls.model_validate(upload.show())


class LiveListing(Listing[LivePayload]):
    """One page of the uploads that run, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_EXAMPLE], "next": None, "unreachable": 0}]})

    unreachable: int = Field(description="Workers of this host that did not answer within a second: what runs there is missing.")

    @classmethod
    def of_live(cls, found: LivePage) -> "LiveListing":
        """Show a page, and how many workers are missing in it."""
        items = tuple(LivePayload.of(upload) for upload in found.page.items)
        return cls(items=items, next=found.page.next, unreachable=found.unreachable)


router = operator_router("/live", "live")


@router.get("", operation_id="list_live", responses=declare(*ALWAYS))
async def list_live(query: Annotated[LiveParameters, Query()], desk: OperatorDesk) -> LiveListing:
    """List the uploads that run on this host, newest first. It needs no database."""
    return LiveListing.of_live(await desk.parts.live.list_uploads(query.tenant, query.limit, query.cursor))


@router.delete(
    "/{upload_id}",
    status_code=204,
    operation_id="cancel_upload",
    responses=declare(*ALWAYS, UploadNotRunning, WorkerUnreachable),
)
async def cancel_live(upload_id: UUID, desk: OperatorDesk) -> None:
    """End an upload that runs on this host. When this answers 204 it has ended, as `cancelled`, and nothing is delivered."""
    async with desk.transaction() as session:
        has_ended = await cancel_upload(session, desk.actor, desk.parts.live, upload_id)
    if not has_ended:
        raise WorkerUnreachable(TOLD_TO_END)
