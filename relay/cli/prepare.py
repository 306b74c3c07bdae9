"""What the first worker does before it serves from an embedded database.

It migrates only where the schema is older, and for the demo makes what is missing of the tenant ``demo``:
a second start changes nothing.
"""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from typing import NoReturn

from sqlalchemy.ext.asyncio import AsyncSession

from relay.cli.demo_file import DemoFile, DemoState
from relay.cli.example_bucket import ExampleBucket
from relay.cli.parents import follow_parent
from relay.cli.processes import REFUSED
from relay.cli.refusal import DemoGone, say_refusal
from relay.db.engine import Database
from relay.db.schema import migrate
from relay.destinations.registry import DestinationChange, DestinationDraft
from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured, DestinationNotFound, KeyInvalid, KeyNotFound, RouteExists, TenantExists, TenantNotFound
from relay.ledger.audit import Actor
from relay.settings import Settings
from relay.tenants import issued_keys, owned_destinations, registry, routing
from relay.tenants.issued_keys import KeyDraft
from relay.tenants.keys import parse_key
from relay.tenants.registry import TenantDraft
from relay.tenants.routing import RouteDraft

TENANT = "demo"
ACTOR = Actor("cli:demo")


class Preparation:
    """A fork of this process that prepares the database while this one goes on importing.

    A fork, because it has everything imported already; made while there is one thread and no event loop.
    """

    def __init__(self, purpose: str, settings: Settings) -> None:
        """Begin."""
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _prepare_and_exit(parent, purpose, settings)

    def wait(self) -> bool:
        """Wait for its end; false when it failed, and has said why."""
        return os.waitpid(self._pid, 0)[1] == 0


def _prepare_and_exit(parent: int, purpose: str, settings: Settings) -> NoReturn:
    code = REFUSED
    try:
        follow_parent(parent, signal.SIGKILL)
        prepare(purpose, settings)
        code = 0
    except BaseException as error:  # noqa: BLE001 - nothing of the parent's may run here
        say_refusal(error)
    finally:
        sys.stderr.flush()
        os._exit(code)


def prepare(purpose: str, settings: Settings) -> None:
    """Bring the database into the state that ``serve`` or ``demo`` needs.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
        DemoGone: the demo's tenant was deleted.
    """
    url = settings.database.url.get_secret_value() if settings.database.url else ""
    migrate(url)
    if purpose == "demo":
        upstream_url = f"http://{settings.demo.upstream_listen}/upload"
        file = DemoFile.of(settings.data.dir)
        asyncio.run(make_demo(url, settings, file, upstream_url, ExampleBucket.find(settings, file.load())))


async def make_demo(url: str, settings: Settings, file: DemoFile, upstream_url: str, bucket: ExampleBucket | None) -> None:
    """Make what is missing of the demo's tenant and write down its key. Without a bucket, what there is of it stays.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
        DemoGone: the demo's tenant was deleted.
    """
    state = file.load()
    sealer = Sealer(settings.secret.keys())
    database = Database(url, settings.database)
    try:
        async with database.transaction() as session:
            await _ensure_tenant(session)
            await _ensure_echo(session, sealer, state, upstream_url)
            await _ensure_disk(session, sealer)
            if bucket is not None:
                await _ensure_bucket(session, sealer, state, bucket)
            key = await _ensure_key(session, state)
    finally:
        await database.close()
    told = replace(state, key=key, upstream_url=upstream_url)
    if bucket is not None:
        told = replace(told, bucket_url=bucket.url, bucket_key=bucket.key)
    if told != state:
        file.save(told)


async def _ensure_tenant(session: AsyncSession) -> None:
    try:
        await registry.get_tenant(session, TENANT)
    except TenantNotFound:
        try:
            await registry.create_tenant(session, ACTOR, TenantDraft(TENANT, "Demo"))
        except TenantExists:
            raise DemoGone("The tenant 'demo' was deleted, and slugs are unique for ever. Start with another RELAY_DATA_DIR.") from None


async def _ensure_echo(session: AsyncSession, sealer: Sealer, state: DemoState, upstream_url: str) -> None:
    echo = {"base_url": upstream_url}
    try:
        await owned_destinations.get_destination(session, TENANT, "echo")
        if state.upstream_url not in {None, upstream_url}:  # the example upstream moved; what the user changed stays
            change = DestinationChange({"config": echo})
            await owned_destinations.change_destination(session, ACTOR, sealer, (TENANT, "echo"), change)
    except DestinationNotFound:
        await owned_destinations.create_destination(session, ACTOR, sealer, TENANT, DestinationDraft("echo", "http", echo))


async def _ensure_disk(session: AsyncSession, sealer: Sealer) -> None:
    try:
        await owned_destinations.get_destination(session, TENANT, "disk")
    except DestinationNotFound:
        # The demo's line may be pasted twice: the second file replaces the first.
        disk = DestinationDraft("disk", "disk", {"directory": TENANT, "overwrite": "replace"})
        await owned_destinations.create_destination(session, ACTOR, sealer, TENANT, disk)
        await _ensure_route(session, "disk")


async def _ensure_bucket(session: AsyncSession, sealer: Sealer, state: DemoState, bucket: ExampleBucket) -> None:
    try:
        spec = await owned_destinations.get_destination(session, TENANT, "bucket")
    except DestinationNotFound:
        draft = DestinationDraft("bucket", "s3", bucket.config(), bucket.secrets())
        await owned_destinations.create_destination(session, ACTOR, sealer, TENANT, draft)
        await _ensure_route(session, "bucket")
        return
    has_news = (bucket.url, bucket.key) != (state.bucket_url, state.bucket_key)
    is_ours = spec.kind == "s3" and spec.config["endpoint_url"] in {bucket.url, state.bucket_url}
    if has_news and is_ours:  # it moved, or has another key; what the user changed stays
        change = DestinationChange({"config": {"endpoint_url": bucket.url}, "secrets": bucket.secrets()})
        with contextlib.suppress(DestinationMisconfigured):  # what sealed the key of before is lost, and so is this destination
            await owned_destinations.change_destination(session, ACTOR, sealer, (TENANT, "bucket"), change)


async def _ensure_route(session: AsyncSession, name: str) -> None:
    with contextlib.suppress(RouteExists):  # the user leads these paths elsewhere
        await routing.create_route(session, ACTOR, TENANT, RouteDraft(name, name, strip_prefix=True))


async def _ensure_key(session: AsyncSession, state: DemoState) -> str:
    """Keep the key of the last start while it works; else issue one."""
    try:
        key = await issued_keys.get_key(session, TENANT, parse_key(state.key or "").id)
        if state.key is not None and key.revoked_at is None:
            return state.key
    except (KeyInvalid, KeyNotFound):
        pass  # the first start, or the database is another one
    return (await issued_keys.issue_key(session, ACTOR, TENANT, KeyDraft("demo"))).text
