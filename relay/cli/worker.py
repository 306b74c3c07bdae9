"""One worker process: the app on a uvicorn server, on sockets that the supervisor bound.

The database's part is imported here at the top, while Postgres starts; then come the settings (``parents``);
the app is imported while a fork prepares the database. A worker that cannot start says why in one line and
ends with ``REFUSED``.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

import click
import uvicorn
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope

from relay.cli.parents import Parent
from relay.cli.prepare import Preparation
from relay.cli.processes import REFUSED
from relay.cli.refusal import say_refusal
from relay.settings import Settings, SettingsInvalid, load_settings
from relay.telemetry import configure_logging

BROKE = 1
GARBAGE_THRESHOLD = 10_000
"""So many objects more than were let go make a collection; an upload makes some hundreds and lets them go by itself."""

logger = logging.getLogger(__name__)


class WatchedApp:
    """The app, with an eye on its lifespan: why it did not start, and that its background work still runs."""

    def __init__(self, app: ASGI3Application) -> None:
        self._app = app
        self.on_failed: Callable[[], None] | None = None
        self.failure: BaseException | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_without_trace(message: ASGISendEvent) -> None:
            if message["type"] == "lifespan.startup.failed":
                message = {"type": "lifespan.startup.failed", "message": ""}
            await send(message)

        try:
            await self._app(scope, receive, send_without_trace)
        except Exception as error:
            self.failure = error
            if self.on_failed is not None:
                self.on_failed()
            raise


class Server(uvicorn.Server):
    """A uvicorn server that tells the supervisor when it serves."""

    def __init__(self, config: uvicorn.Config, parent: Parent, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._parent = parent
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            settle_garbage_collector()
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
            self._parent.say_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Stop as on SIGTERM."""
        self.should_exit = True


@click.command(hidden=True)
@click.option("--parent", type=int, required=True, help="Process id of the supervisor.")
@click.option("--socket", "inherited", multiple=True, metavar="NAME=FD", help="An inherited listening socket.")
@click.option("--app", "factory", default="relay.app:create_app", show_default=True, help="What makes the app from the settings.")
@click.option("--prepare", "purpose", type=click.Choice(["serve", "demo"]), help="Bring the embedded database up to date first.")
def worker(parent: int, inherited: tuple[str, ...], factory: str, purpose: str | None) -> None:
    """One worker process; the supervisor starts it."""
    supervisor = Parent(parent)
    raise_file_limit()
    try:
        supervisor.wait_for_settings()
        settings = load_settings()
        configure_logging(settings.log)
        preparation = Preparation(purpose, settings) if purpose is not None else None
        module, _, attribute = factory.partition(":")
        app = getattr(import_module(module), attribute)(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, this worker cannot start and says so
        say_refusal(error)
        sys.exit(REFUSED)
    if preparation is not None and not preparation.wait():
        sys.exit(REFUSED)
    sockets = [socket.socket(fileno=int(item.partition("=")[2])) for item in inherited]
    sys.exit(serve(app, settings, sockets, supervisor))


def settle_garbage_collector() -> None:
    """Never look again at what was imported: a full collection would stop the loop for longer than any upload may wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: an upload takes two descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(app: Any, settings: Settings, sockets: list[socket.socket], supervisor: Parent) -> int:
    """Serve until told to stop; return the exit code."""
    # uvicorn raises the signal that stopped it again when it has finished: that is the end we want.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def begin_shutdown() -> None:
        services = getattr(app.state, "services", None)
        if services is not None:
            services.begin_shutdown()

    watched = WatchedApp(app)
    configure_server = import_module("relay.cli.http_server").configure_server
    try:
        server = Server(configure_server(watched, settings), supervisor, begin_shutdown)
    except SettingsInvalid as error:
        say_refusal(error)
        return REFUSED
    watched.on_failed = server.stop
    try:
        server.run(sockets)
    except SystemExit:
        if server.started:
            raise
    if not server.started:
        say_refusal(watched.failure)
        return REFUSED
    if watched.failure is not None:
        logger.error("the background work of worker %d failed", os.getpid(), exc_info=watched.failure)
        return BROKE
    return 0
