"""Wires one process together: everything a request needs is made in the lifespan and closed in reverse.

Nothing here decides anything; nothing below here makes its own collaborators.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select
from starlette.types import Receive, Scope, Send
from uuid_utils.compat import uuid7

from relay.api import admin, health, openapi, problems, uploads
from relay.api.middleware import FramingGate, ListenerGate, RequestMiddleware
from relay.api.upload import DOOR, DoorSettings, UploadDoor
from relay.db.engine import Database
from relay.db.schema import check_schema
from relay.destinations.disk_file import sweep
from relay.destinations.egress import Egress
from relay.destinations.means import Means
from relay.destinations.opened import OpenDestinations
from relay.destinations.sealing import Sealer
from relay.errors import DatabaseUnavailable
from relay.ledger.adoption import Adoption
from relay.ledger.journal import Journal
from relay.ledger.refusals import Refusals
from relay.ledger.retention import Retention
from relay.ledger.rows import InstallationRow
from relay.ledger.shipper import Shipper
from relay.settings import DiskSettings, Settings, SettingsInvalid
from relay.telemetry import tell_metrics_on
from relay.tenants.admission import Admission
from relay.tenants.changes import Changes
from relay.tenants.cuts import Cuts
from relay.tenants.directory import Directory
from relay.uploads.live import Live
from relay.uploads.live_folder import LIVE_FOLDER, LiveFolder
from relay.uploads.live_socket import LiveSocket
from relay.uploads.relay import Relay
from relay.uploads.running import Running
from relay.uploads.siblings import Siblings
from relay.uploads.sweeper import StoreFinder, Sweeper
from relay.wire.client import Transport, make_client
from relay.wire.names import Names

START_RETRY_SECONDS = 0.1
POOL_SWEEP_SECONDS = 10.0
ENDING_SECONDS = 3.0
ENDING_POLL_SECONDS = 0.01
DRAIN_SHARE = timedelta(seconds=5)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running process that the edges use."""

    settings: Settings
    database: Database
    directory: Directory
    journal: Journal
    shipper: Shipper
    destinations: OpenDestinations
    sealer: Sealer
    relay: Relay
    live: Live
    door: UploadDoor
    installation_id: str

    @property
    def shutting_down(self) -> bool:
        """True once no new upload is taken."""
        return self.relay.shutting_down

    def begin_shutdown(self) -> None:
        """Refuse new uploads from now on; running ones go on."""
        self.relay.shutting_down = True


def create_app(settings: Settings) -> FastAPI:
    """Make the application; its parts come to life when its lifespan starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings) as services:
            app.state.services = services
            yield
            services.begin_shutdown()

    app = RelayApp(settings, lifespan)
    app.include_router(uploads.router)
    app.include_router(health.router)
    admin.install(app)
    openapi.install(app)
    problems.install(app)
    app.add_middleware(FramingGate)
    return app


class RelayApp(FastAPI):
    """The framework's application for everything but uploads: the door stands beside it, and what surrounds every request before both.

    An upload passes what surrounds every request, and nothing else: routing, exception handlers and exit stacks would
    cost a small one a tenth of its time, and the door has no use for them.
    """

    def __init__(self, settings: Settings, lifespan: Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]) -> None:
        super().__init__(title="Relay", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        gate = ListenerGate(self._lead, listen=settings.listen, admin_listen=settings.admin.listen)
        self._entrance = RequestMiddleware(gate, trusted=settings.trusted)
        self._door = problems.LastResort(self._take)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entrance(scope, receive, send)

    async def _lead(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(DOOR):
            await self._door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        services: Services = self.state.services
        await services.door(scope, receive, send)


@contextlib.asynccontextmanager
async def _services(settings: Settings) -> AsyncIterator[Services]:
    url = settings.database.url
    if url is None:
        raise SettingsInvalid("RELAY_DATABASE_URL is not set: give a postgresql:// URL, or 'embedded'.")
    listen_url = settings.database.listen_url or url
    egress = Egress(settings.egress)
    async with contextlib.AsyncExitStack() as stack:
        database = Database(url.get_secret_value(), settings.database)
        stack.push_async_callback(database.close)
        installation_id = await _wait_for_database(database, settings)
        names = Names(settings.dns)
        stack.callback(names.close)
        transport = Transport(names, egress.permit)
        client = await stack.enter_async_context(make_client(transport))
        sealer = Sealer(settings.secret.keys())
        destinations = OpenDestinations(sealer, means := Means.of(client, settings), kept=settings.directory.entries)
        stack.push_async_callback(destinations.close)
        await asyncio.to_thread(_prepare_disk, settings.disk)
        worker = str(uuid7())
        journals = settings.data.dir / "journal"
        journal = Journal.open(journals, worker, settings.journal)
        stack.callback(journal.close)
        shipper = Shipper(journal, database, journals)
        stack.callback(shipper.close)
        adoption = Adoption(journals, database)
        stack.callback(adoption.close)
        refusals = Refusals(journal, settings.ledger)
        changes = Changes(listen_url.get_secret_value(), settings.database)
        directory = Directory(database, settings.directory, changes)
        stack.push_async_callback(directory.close)
        running = Running()
        cuts = Cuts(database, changes, running.cut_all, is_idle=lambda: not running)
        admission = Admission(settings.upload)
        relay = Relay(destinations=destinations, admission=admission, journal=journal, refusals=refusals, running=running)
        live = await _open_live(stack, LiveFolder(settings.data.dir / LIVE_FOLDER), worker, running)
        door = UploadDoor(
            relay,
            directory,
            installation_id=installation_id,
            worker=worker,
            settings=DoorSettings(settings.upload, settings.refusal),
        )
        loops = {
            "changes": changes.run,
            "cuts": cuts.run,
            "rates": running.sample,
            "shipper": shipper.run,
            "adoption": adoption.run,
            "refusals": refusals.run,
            "retention": Retention(database, settings.ledger).run,
            "sweeper": Sweeper(means.stores.notes, StoreFinder(database, destinations)).run,
            "metrics": tell_metrics_on,
            "pools": lambda: _close_idle_pools(transport),
        }
        async with _running(loops):
            yield Services(settings, database, directory, journal, shipper, destinations, sealer, relay, live, door, installation_id)
            relay.shutting_down = True
            await _wait_for_endings(journal)
            await refusals.flush()
            await shipper.drain(DRAIN_SHARE)


async def _open_live(stack: contextlib.AsyncExitStack, folder: LiveFolder, worker: str, running: Running) -> Live:
    """Let the other workers of this host ask for what runs here, and be able to ask them."""
    live_socket = await LiveSocket.open(folder, worker, running)
    stack.push_async_callback(live_socket.close)
    return Live(Siblings(folder, worker), running)


async def _wait_for_endings(journal: Journal) -> None:
    """Wait until the uploads that the server has just cut have told how they ended: it cancels them and does not wait."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENDING_SECONDS):
            while journal.running:  # noqa: ASYNC110 - asked a few times, once in a life: the hot path need not set an event
                await asyncio.sleep(ENDING_POLL_SECONDS)


def _prepare_disk(disk: DiskSettings) -> None:
    """Make the root of the disk destinations, and remove what uploads left there that no process writes any more."""
    if disk.root is None:
        return
    try:
        disk.root.mkdir(parents=True, exist_ok=True)
        sweep(disk.root)
    except OSError as error:
        raise SettingsInvalid(f"RELAY_DISK_ROOT: {disk.root} cannot be used ({error.strerror}).") from None


@contextlib.asynccontextmanager
async def _running(loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]) -> AsyncIterator[None]:
    """Run the background loops for as long as the block lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(), name=name) for name, run in loops.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _close_idle_pools(transport: Transport) -> None:
    while True:
        await asyncio.sleep(POOL_SWEEP_SECONDS)
        await transport.close_idle()


async def _wait_for_database(database: Database, settings: Settings) -> str:
    """Wait until Postgres answers with a schema that fits; return the installation's id.

    Raises:
        DatabaseUnavailable: it did not answer within the start timeout.
        SchemaOutdated: the schema is older than this release.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.database.start_timeout.total_seconds()
    while True:
        try:
            await check_schema(database)
            async with database.transaction() as session:
                return (await session.execute(select(InstallationRow.id))).scalar_one()
        except DatabaseUnavailable:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(START_RETRY_SECONDS)
