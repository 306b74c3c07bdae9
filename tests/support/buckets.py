"""Buckets as destinations, on the shared client, without the rest of the relay."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from relay.destinations.destination import DestinationSpec
from relay.destinations.object_store import NewObject, ObjectWriter, Published
from relay.destinations.parts import PartMemory
from relay.destinations.s3 import S3Store
from relay.destinations.s3_config import GcsConfig, GcsSecrets, S3Config, S3Secrets
from relay.destinations.store_requests import Patience
from relay.destinations.store_tools import StoreTools
from relay.destinations.tls_config import make_terms
from relay.destinations.upload_notes import UploadNotes
from relay.settings import DnsSettings, MemorySettings, StoreSettings
from relay.wire.client import Client, Transport, make_client
from relay.wire.names import Names
from tests.support.stores import ACCESS_KEY, SECRET_KEY, TestBucket

MIB = 1 << 20
PART = 128 << 10
"""Smaller than a tenant may set it."""
SHORT = Patience(tries=4, first_pause=0.02, longest_pause=0.1, total=10)


def store_spec(identity: UUID | None = None, *, tenant: str = "acme", kind: str = "s3") -> DestinationSpec:
    now = datetime.now(UTC)
    return DestinationSpec(identity or uuid4(), tenant, "main", kind, {}, None, (), now, now)


def secrets_of(**members: Any) -> S3Secrets:
    return S3Secrets.model_validate({"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, **members})


@dataclass
class Stores:
    """What a process shares, and stores opened on it."""

    client: Client
    tools: StoreTools

    def open(self, bucket: TestBucket, *, url: str | None = None, tenant: str = "acme", **members: Any) -> S3Store:
        told = {"bucket": bucket.name, "endpoint_url": url or bucket.server.url} | members
        config = S3Config.model_validate(told).model_copy(update={"part_bytes": PART})
        store = S3Store.open(self.client, store_spec(tenant=tenant), config, secrets_of(), self.tools, make_terms(config.tls, None))
        store.place.requests.patience = SHORT
        return store

    def open_google(self, bucket: TestBucket) -> S3Store:
        """The same server, spoken to as Google's; it must ask for no signature."""
        config = GcsConfig(bucket=bucket.name, endpoint_url=bucket.server.url).model_copy(update={"part_bytes": PART})
        secrets = GcsSecrets.model_validate({"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY})
        return S3Store.open(self.client, store_spec(kind="gcs"), config, secrets, self.tools)


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


async def store_object(store: S3Store, new: NewObject, pieces: Sequence[bytes]) -> tuple[Published, ObjectWriter]:
    """Write an object as an upload does."""
    writer = store.begin(new)
    try:
        await writer.open()
        for piece in pieces:
            await writer.write([piece])
        await writer.seal()
        return await writer.publish(), writer
    finally:
        await writer.discard()
