"""What surrounds every request: its context, the ids in its answer, one access line, its duration.

Where the admin side listens at an address of its own, it is found there and nowhere else.
"""

import functools
import logging
import time
from email.utils import formatdate

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.api.problems import response_of
from relay.errors import ClientGone, FramingInvalid, HeadTooLarge, NotFound
from relay.protocols.header_rules import Field, Networks, Peer, check_size, client_address, is_within, parse_framing
from relay.settings import SettingsInvalid, TrustedSettings, parse_listen
from relay.telemetry import REQUEST_SECONDS, RequestContext, tell

ADMIN_SIDE = ("/admin", "/metrics", "/openapi.json", "/docs")
BOTH_SIDES = ("/livez", "/readyz")
PROBES = (*BOTH_SIDES, "/metrics")
_IDS = frozenset([b"relay-request-id", b"relay-upload-id"])
access = logging.getLogger("relay.access")


class RequestMiddleware:
    """Outermost: makes the context, finds out who the peer is, and tells what became of the request when it has ended."""

    def __init__(self, app: ASGIApp, trusted: TrustedSettings) -> None:
        self._app = app
        self._trusted = trusted.proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext()
        peer = _peer_of(scope, self._trusted)
        context.client_address = client_address(scope["headers"], peer, self._trusted)
        scope.setdefault("state", {}).update(context=context, peer=peer)
        told = _Told(context, send)
        began = time.perf_counter()
        try:
            await self._app(scope, receive, told.send)
        finally:
            seconds = time.perf_counter() - began
            REQUEST_SECONDS.observe(seconds)
            _log(scope, context, told, seconds)


class ListenerGate:
    """Keeps the admin side and the main door to their own addresses. ``/livez`` and ``/readyz`` answer at both."""

    def __init__(self, app: ASGIApp, listen: str, admin_listen: str | None) -> None:
        self._app = app
        self._admin_port: int | None = None
        if admin_listen is not None and admin_listen != listen:
            self._admin_port = parse_listen(admin_listen)[1]
            if self._admin_port == parse_listen(listen)[1]:
                raise SettingsInvalid("RELAY_ADMIN_LISTEN: give the admin side a port of its own, or the address of RELAY_LISTEN")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._admin_port is not None and self._is_misplaced(scope):
            await response_of(scope, NotFound())(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_misplaced(self, scope: Scope) -> bool:
        server = scope.get("server")
        is_at_admin = server is not None and server[1] == self._admin_port
        return scope["path"] not in BOTH_SIDES and scope["path"].startswith(ADMIN_SIDE) != is_at_admin


class FramingGate:
    """Refuses a request that could be framed in two ways, wherever it goes but to the door, and closes the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_size(scope["headers"])
                parse_framing(scope["headers"], scope["http_version"])
            except (FramingInvalid, HeadTooLarge) as error:
                response = response_of(scope, error)
                response.raw_headers.append((b"connection", b"close"))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _peer_of(scope: Scope, trusted: Networks) -> Peer:
    """Who is at the other end of the connection."""
    client = scope.get("client")
    address = client[0] if client else None
    return Peer(address, scope["scheme"], is_within(address, trusted))


class _Told:
    """Puts the ids into the answer and remembers what was told."""

    def __init__(self, context: RequestContext, send: Send) -> None:
        self._context = context
        self._send = send
        self.bytes_out = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._context.status = int(message["status"])
            message = {**message, "headers": self._with_ids(message.get("headers", []))}
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)

    def _with_ids(self, headers: list[Field]) -> list[Field]:
        fields = [(b"relay-request-id", self._context.request_id.encode())]
        if self._context.upload_id is not None:
            fields.append((b"relay-upload-id", self._context.upload_id.encode()))
        is_dated = False
        for field in headers:
            if field[0] == b"date":
                is_dated = True
            elif field[0] in _IDS:
                continue
            fields.append(field)
        if not is_dated:  # RFC 9110 "Date": whoever passes an answer on without one adds it
            fields.append((b"date", _date_of(int(time.time()))))
        return fields


@functools.lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    """The value of ``Date`` in this second; it is made once, however many answers need it."""
    return formatdate(second, usegmt=True).encode()


def _log(scope: Scope, context: RequestContext, told: _Told, seconds: float) -> None:
    level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
    fields = {
        "method": scope["method"],
        "path": scope["path"][:2048],
        "status": ClientGone.status if context.code == ClientGone.code else context.status,  # as in the ledger: 499, read or not
        "outcome": context.outcome,
        "code": context.code,
        "request_id": context.request_id,
        "upload_id": context.upload_id,
        "tenant": context.tenant,
        "bytes_in": context.bytes_in,
        "bytes_out": told.bytes_out,
        "seconds": round(seconds, 6),
        "client": context.client_address,
    }
    tell(access, level, fields)
