"""``/uploads``: a tenant's own view of what became of its uploads. Its key needs the scope ``read``.

``ClientRoute`` is the class of these routes: the key first, then everything else of the request. Another tenant's upload,
an unknown id and what is no id at all get the same answer by the same way, but that what is no id needs no query.
Answers are about one tenant and may change within a second: nobody may keep them.
"""

import re
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Protocol, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from relay import errors
from relay.api.admin.payloads import GivenTime, Listing, PageParameters, Payload, UtcTime
from relay.api.authentication import authenticate, check_grant
from relay.api.contract import CRC32C, SHA256, STORED_OBJECT, TIME, UPLOAD_ID, headers
from relay.api.openapi import Responses, declare
from relay.api.problems import context_of, response_of
from relay.errors import RelayError, UploadNotFound
from relay.ledger.entry import Outcome
from relay.ledger.reports import Report, ReportFilter, State, find_report, list_reports
from relay.tenants.directory import Directory
from relay.tenants.tenant import Grant, Scope

ALWAYS: tuple[type[RelayError], ...] = (
    errors.CredentialsAmbiguous,
    errors.KeyMissing,
    errors.KeyInvalid,
    errors.KeyExpired,
    errors.KeyRevoked,
    errors.TenantDisabled,
    errors.ScopeMissing,
    errors.DirectoryUnavailable,
    errors.DatabaseUnavailable,
    errors.SearchTooSlow,
)
"""What both operations may answer."""

EITHER_KEY: dict[str, Any] = {"security": [{"bearerKey": []}, {"apiKey": []}]}
KNOWN: Responses = {200: {"headers": headers("Relay-Upload-Id")}}
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXAMPLE: dict[str, Any] = {
    "upload_id": UPLOAD_ID,
    "state": "delivered",
    "outcome": "delivered",
    "received_bytes": 48_213,
    "length": 48_213,
    "destination": "archive",
    "objects": [STORED_OBJECT],
    "fields": None,
    "digests": {"sha256": SHA256, "crc32c": CRC32C},
    "destination_status": 201,
    "started_at": TIME,
    "finished_at": TIME,
}


class _Database(Protocol):
    def reading(self, owner: str) -> AbstractAsyncContextManager[AsyncSession]: ...


class Parts(Protocol):
    """The parts of a running process that these routes use."""

    @property
    def database(self) -> _Database: ...
    @property
    def directory(self) -> Directory: ...


class ClientRoute(APIRoute):
    """A route of a tenant's clients: the key before everything else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def authenticate_then_answer(request: Request) -> Response:
            parts: Parts = request.app.state.services
            try:
                grant = await authenticate(request.scope["headers"], parts.directory)
                context_of(request.scope).tenant = grant.tenant.slug
                check_grant(grant, Scope.READ)
                request.state.grant = grant
                response = await answer(request)
            except RelayError as error:
                response = response_of(request.scope, error)
            # A cache between knows no X-API-Key: it would give one tenant's answer to another.
            response.headers["Cache-Control"] = "no-store"
            return response

        return authenticate_then_answer


async def _open_grant(request: Request) -> Grant:
    grant: Grant = request.state.grant
    return grant


async def _open_reading(request: Request) -> AbstractAsyncContextManager[AsyncSession]:
    parts: Parts = request.app.state.services
    return parts.database.reading(f"tenant {request.state.grant.tenant.slug}")


ClientGrant = Annotated[Grant, Depends(_open_grant)]
Reading = Annotated[AbstractAsyncContextManager[AsyncSession], Depends(_open_reading)]


class StoredPayload(Payload):
    """An object that a store made of an upload, as the answer to the upload showed it."""

    key: str
    size: int
    content_type: str | None = None
    filename: str | None = None
    field: str | None = None
    sha256: str | None = None
    etag: str | None = None
    version: str | None = None


class FieldPayload(Payload):
    """A plain field of a form."""

    name: str
    value: str


class UploadPayload(Payload):
    """What became of one upload. Sizes are in bytes; a member is null where it is unknown."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    upload_id: UUID
    state: State = Field(description="`delivered`; `failed`: it has to be sent again; `cancelled`: an operator ended it.")
    outcome: Outcome
    received_bytes: int
    length: int | None = Field(description="Length of the whole body.")
    destination: str | None
    objects: tuple[StoredPayload, ...] | None = Field(description="What a store holds of it; null for an HTTP destination.")
    fields: tuple[FieldPayload, ...] | None = Field(
        description="The plain fields of a form that went to a store; null where there was none."
    )
    digests: dict[str, str | None] = Field(
        description="Of the whole body, in hex: `sha256`, null where it was not taken, and what else was: `crc32c`, `sha512`, `md5`."
    )
    destination_status: int | None = Field(description="What the destination answered; 201 for a store.")
    started_at: UtcTime
    finished_at: UtcTime | None

    @classmethod
    def of(cls, report: Report) -> Self:
        """Show a report."""
        members = {name: getattr(report, name) for name in cls.model_fields if name != "digests"}
        return cls.model_validate({**members, "digests": {"sha256": None} | report.digests})


class UploadParameters(PageParameters):
    """Uploads of which time, and which page of them."""

    since: GivenTime | None = Field(None, description="Uploads that began at this time or later.")
    until: GivenTime | None = Field(None, description="Uploads that began before this time.")


router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=ClientRoute)


@router.get(
    "",
    operation_id="list_uploads",
    response_model=Listing[UploadPayload],
    responses=declare(*ALWAYS, errors.RequestInvalid),
    openapi_extra=EITHER_KEY,
)
async def list_uploads(query: Annotated[UploadParameters, Query()], grant: ClientGrant, reading: Reading) -> Any:
    """List what became of your tenant's uploads, newest first."""
    filters = ReportFilter(tenant=grant.tenant.slug, since=query.since, until=query.until)
    async with reading as session:
        listing = Listing.of(await list_reports(session, filters, query.limit, query.cursor), UploadPayload.of)
    # As it is: to let the framework check five hundred payloads again would hold up everybody's uploads.
    return JSONResponse(listing.model_dump(mode="json"))


@router.get(
    "/{upload_id}",
    operation_id="get_upload",
    responses=KNOWN | declare(*ALWAYS, UploadNotFound),
    openapi_extra=EITHER_KEY,
)
async def get_upload(upload_id: str, grant: ClientGrant, reading: Reading, request: Request) -> UploadPayload:
    """See what became of one upload. It is known within a second of its end; until then this is 404."""
    report = None
    if _ID.fullmatch(upload_id):
        async with reading as session:
            report = await find_report(session, grant.tenant.slug, UUID(upload_id))
    if report is None:
        raise UploadNotFound
    context_of(request.scope).upload_id = upload_id
    return UploadPayload.of(report)
