"""How a failure looks to the client: RFC 9457 problem details, made here once for every route.

``problem`` turns one error into status, headers and body; ``install`` makes the application use it for
everything that can go wrong in it, the framework's own refusals included. What a client sent is never
repeated in an answer, beyond the names of the members that are wrong: it may hold a secret.

Not here: the framing of the answer (``Content-Length``, ``Connection``), which is the sender's business.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.errors import DigestUnsupported, FieldError, InternalError, MethodNotAllowed, NotFound, RelayError, RequestInvalid
from relay.protocols.digests import SUPPORTED, WISHES
from relay.telemetry import RequestContext

MEDIA_TYPE = "application/problem+json"
CHALLENGE = b'Bearer realm="relay"'
ERRORS_LIMIT = 50
NAME_LIMIT = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that reports a failure, ready to be sent by whatever means."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def context_of(scope: Scope) -> RequestContext:
    """Give the context of a request; make one where no middleware has."""
    state = scope.setdefault("state", {})
    if "context" not in state:
        state["context"] = RequestContext()
    context: RequestContext = state["context"]
    return context


def problem(error: RelayError, *, request_id: str) -> Problem:
    """Render an error as RFC 9457 problem details, section "Members of a Problem Details Object"."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors or isinstance(error, RequestInvalid):
        document["errors"] = [_member(wrong) for wrong in error.errors[:ERRORS_LIMIT]]
    if error.objects:
        document["objects"] = list(error.objects)
    # A lone surrogate in a member's name cannot be written as UTF-8.
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Problem(error.status, list(_headers(error)), body)


def install(app: FastAPI) -> None:
    """Make every failure inside ``app`` a problem. Call it before adding the middleware that sets the context."""
    app.add_exception_handler(RelayError, _answer_relay_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_framework_refusal)
    app.add_middleware(LastResort)


class LastResort:
    """Answer 500 for an error that nobody expected, and log it with its traceback, once.

    An answer that has begun cannot be replaced: the error goes on to the server, which cuts the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except Exception:
            context = context_of(scope)
            if context.status is not None:
                raise
            logger.exception("a request failed unexpectedly", extra={"fields": {"request_id": context.request_id}})
            await response_of(scope, InternalError())(scope, receive, send)


def _member(wrong: FieldError) -> dict[str, Any]:
    location = [part[:NAME_LIMIT] if isinstance(part, str) else part for part in wrong.location]
    return {"location": location, "code": wrong.code, "message": wrong.message}


def _headers(error: RelayError) -> Iterable[tuple[bytes, bytes]]:
    yield b"content-type", MEDIA_TYPE.encode()
    if error.retry_after_seconds is not None:
        yield b"retry-after", str(error.retry_after_seconds).encode()
    if error.status == HTTPStatus.UNAUTHORIZED:
        yield b"www-authenticate", CHALLENGE
    if isinstance(error, MethodNotAllowed):
        yield b"allow", ", ".join(error.allow).encode()
    if isinstance(error, DigestUnsupported):
        yield from ((wish, SUPPORTED) for wish in WISHES)


def response_of(scope: Scope, error: RelayError) -> Response:
    """Make the response that reports an error, for whoever answers outside a route."""
    context = context_of(scope)
    context.code = error.code
    rendered = problem(error, request_id=context.request_id)
    response = Response(rendered.body, rendered.status)
    response.raw_headers.extend(rendered.headers)
    return response


async def _answer_relay_error(request: Request, error: Exception) -> Response:
    return response_of(request.scope, error if isinstance(error, RelayError) else InternalError())


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    return response_of(
        request.scope, RequestInvalid(errors=[FieldError(tuple(wrong["loc"]), wrong["type"], wrong["msg"]) for wrong in found])
    )


async def _answer_framework_refusal(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    match status:
        case HTTPStatus.NOT_FOUND:
            return response_of(request.scope, NotFound())
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return response_of(request.scope, MethodNotAllowed(_allowed_methods(request)))
        case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return response_of(request.scope, RequestInvalid())
        case _:
            return response_of(request.scope, InternalError())


def _allowed_methods(request: Request) -> list[str]:
    """Name the methods of every route with this path: the framework names those of the first one only."""
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path is not None and compile_path(route.path)[0].match(request.scope["path"]):
            allowed.update(route.methods or ())
    return sorted(allowed)
