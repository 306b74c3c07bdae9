"""Directories with their listeners, as a process would run them, and a tenant for them to find."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from relay.db.engine import Database
from relay.destinations.registry import DestinationDraft
from relay.destinations.sealing import Sealer
from relay.ledger.audit import Actor
from relay.settings import DatabaseSettings, DirectorySettings
from relay.tenants import issued_keys, owned_destinations, registry
from relay.tenants.changes import Changes
from relay.tenants.directory import Directory
from relay.tenants.issued_keys import KeyDraft
from relay.tenants.registry import TenantDraft
from relay.tenants.tenant import Grant
from tests.support.waiting import until

ACTOR = Actor("cli:test")
PROMISED_SECONDS = 1.0
"""How soon a change is seen while Postgres answers."""


@dataclass(frozen=True, slots=True)
class Running:
    """A directory whose listener runs."""

    directory: Directory
    changes: Changes

    async def get(self, key_id: str) -> Grant:
        """Find the grant of a key that must be known."""
        grant = await self.directory.find_grant(key_id)
        assert grant is not None
        return grant


@asynccontextmanager
async def run_directory(url: str, listen_url: str | None = None, settings: DirectorySettings | None = None) -> AsyncIterator[Running]:
    """Run a directory over a pool of its own, once its listener listens."""
    database = Database(url, DatabaseSettings(connect_timeout=timedelta(seconds=1)))
    changes = Changes(listen_url or url, DatabaseSettings(connect_timeout=timedelta(seconds=1)))
    directory = Directory(database, settings or DirectorySettings(), changes)
    listening = asyncio.create_task(changes.run())
    try:
        await until(lambda: directory.state == "ok")
        yield Running(directory, changes)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await directory.close()
        await database.close()


async def make_tenant(database: Database, slug: str = "acme") -> str:
    """Make a tenant with a disk destination and a key; returns the key's id."""
    async with database.transaction() as session:
        await registry.create_tenant(session, ACTOR, TenantDraft(slug))
        await owned_destinations.create_destination(session, ACTOR, Sealer({}), slug, DestinationDraft("disk", "disk", {"directory": slug}))
        return (await issued_keys.issue_key(session, ACTOR, slug, KeyDraft())).key.id
