"""How uvicorn serves Relay: with a protocol class of our own, and with everything off that is not ours to decide.

TLS is made before that class gets a connection (``wire/front.py``), on every listener: the admin side's tokens are no less
secret than a tenant's keys.
"""

import functools
from email.utils import formatdate
from typing import Any

import uvicorn
from uuid_utils.compat import uuid7

from relay.api.problems import problem
from relay.cli.heap import Heap
from relay.cli.listening import BACKLOG
from relay.errors import RelayError
from relay.settings import Settings
from relay.wire.front import LOOK_SECONDS, FrontCertificate, Handshakes
from relay.wire.intake import Intake
from relay.wire.server import Connection
from relay.wire.surroundings import Surroundings

KEEP_ALIVE_SECONDS = 75


def protocol_class(settings: Settings, front: FrontCertificate | None) -> Any:
    """Make the protocol class of this process; uvicorn calls it for each connection."""
    surroundings = Surroundings(intake=Intake(settings.memory), refuse=refusal_of, head_timeout=settings.head.timeout)
    connection = functools.partial(Connection, surroundings)
    if front is None:
        return connection
    return Handshakes(front, settings.tls.handshake_timeout.total_seconds(), connection)


def refusal_of(error: RelayError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Render what the server itself has to refuse: there is no request that the app could see."""
    request_id = str(uuid7())
    refusal = problem(error, request_id=request_id)
    fields = [*refusal.headers, (b"relay-request-id", request_id.encode()), (b"date", formatdate(usegmt=True).encode())]
    return refusal.status, fields, refusal.body


def configure_server(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves Relay; tests that need a socket serve it the same way.

    Raises:
        SettingsInvalid: the certificate in front cannot be used.
    """
    front = FrontCertificate.of(settings.tls)
    heap = Heap()

    async def look() -> None:
        await heap.look()
        if front is not None:
            await front.look()

    return uvicorn.Config(
        app,
        http=protocol_class(settings, front),
        loop="auto",
        ws="none",
        interface="asgi3",
        lifespan="on",
        backlog=BACKLOG,
        proxy_headers=False,  # the middleware believes the proxies that the settings name, and no other
        server_header=False,
        date_header=False,  # an upstream's answer carries its own
        access_log=False,
        log_config=None,
        log_level="critical",  # until it serves: why it does not is ours to say
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        callback_notify=look,
        timeout_notify=LOOK_SECONDS,
        timeout_graceful_shutdown=round(settings.shutdown.timeout.total_seconds()),
    )
