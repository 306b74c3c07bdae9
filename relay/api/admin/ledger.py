"""``/admin/v1/ledger``: what happened to every upload, newest first. Entries are read and never changed.

A page of them, or all in one stream. The stream's head is sent when its first page is there, so that what goes wrong
at once is a problem as any other; what goes wrong later cuts the answer, whose end the client then never sees.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field
from starlette.types import Receive, Scope, Send

from relay.api.admin.operators import ALWAYS, OperatorDesk, operator_router
from relay.api.admin.payloads import GivenTime, Listing, PageParameters, Payload, UtcTime
from relay.api.contract import CRC32C, REQUEST_ID, SHA256, STORED_OBJECT, TIME, UPLOAD_ID
from relay.api.incoming import Incoming
from relay.api.openapi import Responses, declare
from relay.api.outgoing import SEND_SECONDS
from relay.api.problems import context_of
from relay.errors import ClientGone, FieldError, RelayError, RequestInvalid, SearchTooSlow
from relay.ledger.accounts import list_entries
from relay.ledger.entry import Outcome
from relay.ledger.exports import FORMS, Form, export_entries
from relay.ledger.searches import EntryFilter
from relay.protocols.header_rules import Framing
from relay.wire.exchange import EXTENSION

PIECE_BYTES = 64 << 10

logger = logging.getLogger(__name__)

EXAMPLE: dict[str, Any] = {
    "request_id": REQUEST_ID,
    "client_request_id": None,
    "upload_id": UPLOAD_ID,
    "tenant": "acme",
    "key_id": "k3a9x0q2m7b1c5d8",
    "destination": "main",
    "method": "PUT",
    "path": "reports/2026/january.pdf",
    "protocol": "plain",
    "outcome": "delivered",
    "code": None,
    "early": False,
    "client_left": False,
    "repeated": None,
    "status": 201,
    "upstream_status": None,
    "bytes_in": 48_213,
    "bytes_delivered": 48_213,
    "bytes_out": 268,
    "declared_length": 48_213,
    "content_type": "application/pdf",
    "filenames": None,
    "digests": {"sha256": SHA256, "crc32c": CRC32C},
    "started_at": TIME,
    "first_byte_at": TIME,
    "body_complete_at": TIME,
    "finished_at": TIME,
    "upstream_wait_ms": 3.5,
    "client_address": "203.0.113.7",
    "user_agent": "curl/8.5.0",
    "trace_id": None,
    "version": "0.1.0",
    "worker": UPLOAD_ID,
    "objects": [STORED_OBJECT],
    "fields": None,
}


class LedgerParameters(PageParameters):
    """Which entries, and which page of them."""

    tenant: str | None = Field(None, description="Slug of the tenant, be it deleted or not.")
    upload_id: UUID | None = None
    request_id: UUID | None = None
    outcome: Outcome | None = None
    path_prefix: str | None = Field(None, description="What the path after /upload/ begins with, as it was sent.")
    since: GivenTime | None = Field(None, description="Entries that started at this time or later.")
    until: GivenTime | None = Field(None, description="Entries that started before this time.")
    format: Literal["json", "ndjson", "csv"] = Field(
        "json", description="`json`: one page. `ndjson`, `csv`: all matches in one stream, without `limit` and `cursor`."
    )

    def filters(self) -> EntryFilter:
        """Give the filter without the page."""
        return EntryFilter(**{name: getattr(self, name) for name in EntryFilter.__slots__})


class EntryPayload(Payload):
    """One request's account. A member is null where it is unknown."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

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
    objects: list[dict[str, Any]] | None = Field(
        description="What a store made of it, as the answer showed it; null where nothing was stored."
    )
    fields: list[dict[str, Any]] | None = Field(description="The plain fields of a form that went to a store; null where there was none.")


class Download(Response):
    """A stream of unknown length, as a file. What was not ended is cut: the client can see that it is not whole."""

    def __init__(self, form: Form, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["content-type"] = form.media_type
        self.headers["content-disposition"] = f'attachment; filename="{form.file_name}"'
        self.headers["x-content-type-options"] = "nosniff"
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream page by page, for as long as the client takes it."""
        client = Incoming(receive, Framing(0, expects_continue=False), scope.get("extensions", {}).get(EXTENSION))
        context = context_of(scope)
        async with aclosing(self._rest) as pages:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _send(send, self._first)
                async for page in pages:
                    if await client.has_left():
                        raise ClientGone
                    await _send(send, page)
            except TimeoutError:
                context.code = ClientGone.code
            except RelayError as error:
                context.code = error.code
                logger.log(error.level, "an export was cut", extra={"fields": {"code": error.code, "request_id": context.request_id}})
            else:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, page: bytes) -> None:
    """Send a page in pieces, of which the server holds no more than one or two.

    Raises:
        TimeoutError: the client does not take it.
    """
    for start in range(0, len(page), PIECE_BYTES):
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": page[start : start + PIECE_BYTES], "more_body": True})


EXPORTED: Responses = {
    200: {
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": f"{json.dumps(EXAMPLE)}\n"},
            "text/csv": {"schema": {"type": "string"}, "example": FORMS["csv"].head.decode()},
        }
    }
}

router = operator_router("/ledger", "ledger")


@router.get("", operation_id="list_ledger", response_model=Listing[EntryPayload], responses=EXPORTED | declare(*ALWAYS, SearchTooSlow))
async def list_ledger(query: Annotated[LedgerParameters, Query()], desk: OperatorDesk) -> Any:
    """List entries, newest first."""
    if query.format != "json":
        _check_whole(query)
        pages = export_entries(desk.parts.database, query.filters(), FORMS[query.format])
        return Download(FORMS[query.format], await anext(pages, b""), pages)
    async with desk.reading() as session:
        page = await list_entries(session, query.filters(), query.limit, query.cursor)
    # The members are JSON as they are: building five hundred payloads to take them apart again would only cost time.
    return JSONResponse({"items": page.items, "next": page.next})


def _check_whole(query: LedgerParameters) -> None:
    """Raise ``RequestInvalid`` if only a page of a stream is asked for."""
    given = sorted(query.model_fields_set & set(PageParameters.model_fields))
    if given:
        message = "A stream has all matches: leave this out, or ask for format=json."
        raise RequestInvalid(errors=[FieldError(("query", name), "not_with_stream", message) for name in given])
