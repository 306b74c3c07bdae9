"""Who may use the admin side, and what a request of theirs works with.

``OperatorRoute`` is the class of every admin route. It checks the operator's token first, then what the
address says, and only then reads the body: nobody without a token makes Relay read or parse anything, and
nobody whose token may only read makes it read a body.
"""

import hmac
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from relay.api.admin.documents import check_storable, read_document
from relay.api.openapi import ADMIN_PREFIX
from relay.api.problems import context_of
from relay.db.engine import Database
from relay.destinations.destination import Destination, DestinationSpec
from relay.destinations.sealing import Sealer
from relay.errors import (
    ContentTypeRefused,
    DatabaseUnavailable,
    OperatorReadOnly,
    OperatorTokenInvalid,
    RelayError,
    RequestInvalid,
    UploadTooLarge,
)
from relay.ledger.audit import Actor
from relay.settings import OperatorToken, Settings, digest_token
from relay.uploads.live import Live

ALWAYS: tuple[type[RelayError], ...] = (OperatorTokenInvalid, RequestInvalid, DatabaseUnavailable)
"""What every operation may answer; to be declared with it. What changes something answers ``OperatorReadOnly``, too."""

WITH_DOCUMENT: tuple[type[RelayError], ...] = (*ALWAYS, ContentTypeRefused, UploadTooLarge)
"""The same for one that reads a document."""

READING_METHODS = ("GET", "HEAD")


class OpenDestinations(Protocol):
    """Destinations ready for use."""

    def open(self, spec: DestinationSpec) -> Destination: ...


class Directory(Protocol):
    """What this process holds in memory of its tenants."""

    def forget_changed(self, slug: str) -> None: ...


class Parts(Protocol):
    """The parts of a running process that the admin side uses; ``app.state.services`` has them."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def sealer(self) -> Sealer: ...
    @property
    def destinations(self) -> OpenDestinations: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def live(self) -> Live: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What one request of an operator works with: who acts, and the parts of the process."""

    actor: Actor
    parts: Parts

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open the transaction of this request."""
        return self.parts.database.transaction()

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open the transaction of a request that may read much: each operator has one at a time."""
        return self.parts.database.reading(self.actor.name)


async def open_desk(request: Request) -> Desk:
    """Give an endpoint its desk. The operator was authenticated by ``OperatorRoute`` before."""
    operator: OperatorToken = request.state.operator
    return Desk(Actor(operator.actor, context_of(request.scope).request_id), request.app.state.services)


OperatorDesk = Annotated[Desk, Depends(open_desk)]


def authenticate_operator(request: Request, operators: Sequence[OperatorToken]) -> OperatorToken:
    """Compare the request's token with all that are configured, in a time that tells nothing of which it was.

    Raises:
        OperatorTokenInvalid: missing, wrong, ambiguous, or none is configured.
        OperatorReadOnly: it is one that may only read, and the request may change something.
    """
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    digest = digest_token(token.strip(" \t").encode("latin-1"))  # the bytes as they were sent
    found: OperatorToken | None = None
    for operator in operators:  # to the end, whichever fits
        if hmac.compare_digest(digest, operator.digest):
            found = operator
    if scheme.lower() != "bearer" or found is None:
        raise OperatorTokenInvalid
    if found.is_read_only and request.method not in READING_METHODS:
        raise OperatorReadOnly
    return found


class DocumentRequest(Request):
    """A request whose body was read and parsed by ``read_document``."""

    def __init__(self, request: Request, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._document = document

    async def body(self) -> bytes:
        """Say only whether there is a body: the framework asks for its JSON next."""
        return b"" if self._document is None else b"null"

    async def json(self) -> Any:
        """Give the document that was parsed."""
        return self._document


class OperatorRoute(APIRoute):
    """A route of the admin side: the token, then the address, then the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def authenticate_then_answer(request: Request) -> Response:
            parts: Parts = request.app.state.services
            request.state.operator = authenticate_operator(request, parts.settings.admin.operators())
            check_storable(dict(request.path_params), ("path",))
            check_storable(dict(request.query_params), ("query",))
            document = await read_document(request) if self.body_field is not None else None
            response = await answer(DocumentRequest(request, document))
            if request.method != "GET" and "slug" in request.path_params:
                parts.directory.forget_changed(request.path_params["slug"])
            return response

        return authenticate_then_answer


def operator_router(path: str, tag: str) -> APIRouter:
    """Make the router of one noun below the admin prefix."""
    return APIRouter(prefix=ADMIN_PREFIX + path, tags=[tag], route_class=OperatorRoute, strict_content_type=False)
