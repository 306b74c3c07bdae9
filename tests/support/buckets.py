"""Buckets as destinations, on the shared client, without the rest of the relay."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from relay.destinations.destination import DestinationSpec
from relay.destinations.parts import PartMemory
from relay.destinations.s3 import S3Store
from relay.destinations.s3_config import GcsConfig, GcsSecrets, S3Config, S3Secrets
from relay.destinations.store_tools import StoreTools
from relay.destinations.tls_config import make_terms
from relay.destinations.upload_notes import UploadNotes
from relay.settings import DnsSettings, MemorySettings, StoreSettings
from relay.wire.client import Client, Transport, make_client
from relay.wire.names import Names
from tests.support.objects import SHORT
from tests.support.stores import ACCESS_KEY, SECRET_KEY, TestBucket

MIB = 1 << 20
OWN_KEY = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
PART = 128 << 10
"""Smaller than a tenant may set it."""


def store_spec(identity: UUID | None = None, *, tenant: str = "acme", kind: str = "s3") -> DestinationSpec:
    now = datetime.now(UTC)
    return DestinationSpec(identity or uuid4(), tenant, "main", kind, {}, None, (), now, now)


def secrets_of(**members: Any) -> S3Secrets:
    return S3Secrets.model_validate(OWN_KEY | members)


@dataclass
class Stores:
    """What a process shares, and stores opened on it."""

    client: Client
    tools: StoreTools

    def open(self, bucket: TestBucket, *, url: str | None = None, tenant: str = "acme", is_google: bool = False, **members: Any) -> S3Store:
        """A bucket as Relay opens it; spoken to as Google's, it must lie at a server that asks for no signature."""
        part_bytes = members.pop("part_bytes", PART)
        told = {"bucket": bucket.name, "endpoint_url": url or bucket.server.url} | members
        config = (GcsConfig if is_google else S3Config).model_validate(told).model_copy(update={"part_bytes": part_bytes})
        spec = store_spec(tenant=tenant, kind="gcs" if is_google else "s3")
        secrets = GcsSecrets.model_validate(OWN_KEY) if is_google else secrets_of()
        store = S3Store.open(self.client, spec, config, secrets, self.tools, make_terms(config.tls, None))
        store.place.requests.patience = SHORT
        return store


@contextlib.asynccontextmanager
async def opened_stores(folder: Path, **settings: int) -> AsyncIterator[Stores]:
    """Stores that share one client; ``settings`` are those of memory."""
    names = Names(DnsSettings())
    client = make_client(Transport(names, lambda _host, _address: True))
    tools = StoreTools(
        PartMemory(MemorySettings.model_validate(settings).parts), StoreSettings().parts_parallel, UploadNotes(folder / "multipart")
    )
    try:
        yield Stores(client, tools)
    finally:
        tools.close()
        await client.aclose()
        names.close()
