"""The main door, ``POST``/``PUT /upload/{path}``: a plain ASGI endpoint, because it is the hot path.

The order of the checks is part of the contract: framing, then who is asking, then whether they may, then
where it goes. Nothing of the body is asked for before the last of them has passed.
"""

from dataclasses import dataclass

from starlette.types import Receive, Scope, Send
from uuid_utils import uuid7

from relay.api.authentication import authenticate, check_grant
from relay.api.incoming import Head, Incoming
from relay.api.outgoing import Outgoing
from relay.errors import ClientGone, FramingInvalid, HeadTooLarge, MethodNotAllowed, NotFound, RelayError, ShuttingDown
from relay.ledger.entry import PATH_LIMIT, USER_AGENT_LIMIT, Entry, clean_text, now_us
from relay.protocols.digests import read_claims
from relay.protocols.header_rules import (
    Framing,
    Passage,
    Trace,
    check_no_loop,
    continue_trace,
    find_value,
    request_fields,
)
from relay.settings import RefusalSettings, UploadSettings
from relay.telemetry import VERSION, RequestContext
from relay.tenants import tenant
from relay.tenants.directory import Directory
from relay.tenants.tenant import Grant
from relay.uploads.body import RequestBody
from relay.uploads.relay import Order, Relay

METHODS = ("POST", "PUT")
DOOR = "/upload/"
PREFIX = DOOR.encode("ascii")


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """The groups of settings that the door reads."""

    upload: UploadSettings
    refusal: RefusalSettings


class UploadDoor:
    """Takes one upload a call."""

    def __init__(self, relay: Relay, directory: Directory, *, installation_id: str, worker: str, settings: DoorSettings) -> None:
        self._relay = relay
        self._directory = directory
        self._pseudonym = installation_id.encode("ascii")
        self._worker = worker
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever it is; an answer that cannot be finished is cut."""
        context: RequestContext = scope["state"]["context"]
        head = Head.of(scope)
        fault: RelayError | None = None
        try:
            framing = head.framing()
        except (FramingInvalid, HeadTooLarge) as error:
            framing, fault = Framing(None, expects_continue=False), error
        incoming = Incoming(receive, framing, head.exchange)
        outgoing = Outgoing(send, incoming, context, self._settings.refusal)
        try:
            if fault is not None:
                raise fault
            await self._take(scope, head, incoming, outgoing)
        except ClientGone as error:
            if incoming.fault is not None:
                await outgoing.refuse(incoming.fault)
            context.code = error.code
        except RelayError as error:
            await outgoing.refuse(error)

    async def _take(self, scope: Scope, head: Head, incoming: Incoming, outgoing: Outgoing) -> None:
        context: RequestContext = scope["state"]["context"]
        if head.method not in METHODS:
            raise MethodNotAllowed(METHODS)
        if not head.raw_path.startswith(PREFIX):
            raise NotFound
        if self._relay.shutting_down:
            raise ShuttingDown
        grant = await authenticate(head.headers, self._directory)
        upload_id = str(uuid7())
        context.tenant, context.upload_id = grant.tenant.slug, upload_id
        trace = continue_trace(head.headers)
        entry = self._open_entry(head, context, grant, incoming.framing, trace)
        body = RequestBody(
            incoming,
            declared_bytes=incoming.framing.length,
            limit_bytes=self._relay.admission.byte_limit(grant.tenant),
            settings=self._settings.upload,
        )
        try:
            async with self._relay.attempt(entry) as attempt:
                if incoming.exchange is not None:
                    incoming.exchange.on_departure = attempt.abandon
                check_grant(grant, tenant.Scope.UPLOAD)
                check_no_loop(head.headers, b"relay-" + self._pseudonym)
                if (claims := read_claims(head.headers)) is not None:
                    body.expect(claims)
                passage = Passage(self._pseudonym, scope["state"]["peer"], trace, context.request_id, upload_id, head.http_version)
                order = self._order(head, grant, upload_id, incoming.framing, passage)
                await attempt.upload(order, body, outgoing)
        finally:
            context.bytes_in = body.received_bytes
            context.outcome, context.code = entry.outcome, entry.code

    def _open_entry(self, head: Head, context: RequestContext, grant: Grant, framing: Framing, trace: Trace) -> Entry:
        return Entry(
            request_id=context.request_id,
            client_request_id=clean_text(find_value(head.headers, b"x-request-id")),
            upload_id=context.upload_id,
            tenant=grant.tenant.slug,
            key_id=grant.key.id,
            method=head.method,
            path=clean_text(head.raw_path[len(PREFIX) :], PATH_LIMIT) or "",
            declared_length=framing.length,
            content_type=clean_text(find_value(head.headers, b"content-type")),
            started_us=now_us(),
            client_address=context.client_address,
            user_agent=clean_text(find_value(head.headers, b"user-agent"), USER_AGENT_LIMIT),
            trace_id=trace.trace_id,
            version=VERSION,
            worker=self._worker,
        )

    def _order(self, head: Head, grant: Grant, upload_id: str, framing: Framing, passage: Passage) -> Order:
        content_type = find_value(head.headers, b"content-type")
        return Order(
            grant=grant,
            upload_id=upload_id,
            method=head.method,
            raw_path=head.raw_path[len(PREFIX) :],
            query=head.query,
            headers=request_fields(head.headers, passage),
            declared_bytes=framing.length,
            content_type=content_type.decode("latin-1") if content_type is not None else None,
        )
