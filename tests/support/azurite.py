"""Azurite, Microsoft's own server that speaks the blob interface of Azure Storage, on a free port of loopback.

It is a program of Node.js and lies outside the tree: ``make azurite`` installs it once. What it keeps, it keeps in memory.
"""

import contextlib
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient, ContainerSasPermissions, generate_container_sas

from relay.destinations.azure_blob import AzureStore
from relay.destinations.azure_config import AzureConfig
from relay.destinations.azure_signing import SharedKey, Signer
from relay.destinations.part_digests import DigestThreads
from relay.destinations.parts import PartMemory
from relay.settings import DnsSettings
from relay.wire.client import Account, Client, Transport, make_client
from relay.wire.names import Names
from tests.support.objects import SHORT

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
# The one account that every Azurite has, with the key that its documentation tells.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
API_VERSION = "2025-11-05"  # the newest that it knows
START_SECONDS = 25.0
MIB = 1 << 20
BLOCK = MIB

_LISTENING = re.compile(r"listens on (http://\S+)")


def program() -> Path | None:
    """Where Azurite was installed, if it was."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "relay" / f"azurite-{VERSION}" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    return path if path.is_file() and shutil.which("node") else None


class Azurite:
    """A server that runs, and the maker's own client of it."""

    def __init__(self, url: str) -> None:
        self.service = BlobServiceClient(f"{url}/{ACCOUNT}", credential=KEY, api_version=API_VERSION, retry_total=0)

    def make_container(self) -> ContainerClient:
        """A container of the test's own."""
        return self.service.create_container(f"test-{uuid4().hex[:12]}")


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    """Start Azurite; it ends with the block."""
    main = program()
    if main is None:
        pytest.skip("Azurite is not installed: `make azurite` installs it (needs npm and Node.js)")
    options = ["--blobPort", "0", "--disableTelemetry", "--disableProductStyleUrl", "--inMemoryPersistence", "--silent"]
    process = subprocess.Popen(
        ["node", str(main), *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        server = Azurite(_wait_for_url(process))
        with server.service:
            yield server
    finally:
        process.kill()
        process.wait()


def _wait_for_url(process: "subprocess.Popen[str]") -> str:
    """Read on until it says where it listens, and beyond: a pipe that nobody reads would stop it."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    told = ""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            told += lines.get(timeout=0.1)
        if found := _LISTENING.search(told):
            return found[1]
        assert process.poll() is None, f"Azurite ended at once: {told}"
    pytest.fail(f"Azurite did not start: {told}")


@dataclass(frozen=True)
class Tools:
    """What all stores of a process share, as far as containers need it."""

    memory: PartMemory
    digests: DigestThreads
    parallel: int


@dataclass
class AzureStores:
    """What a process shares, and containers opened on it."""

    client: Client
    tools: Tools

    def open(self, container: ContainerClient, *, url: str | None = None, signer: Signer | None = None, **members: object) -> AzureStore:
        """A container as Relay opens it; ``url`` where it is not asked itself, but what stands in front of it."""
        endpoint = container.url.removesuffix(f"/{container.container_name}")
        config = AzureConfig.model_validate(
            {
                "account": ACCOUNT,
                "container": container.container_name,
                "endpoint_url": endpoint if url is None else f"{url}/{ACCOUNT}",
                "block_bytes": BLOCK,
                **members,
            }
        )
        store = AzureStore.open(self.client, Account("acme", "main"), config, signer or SharedKey(ACCOUNT, KEY), self.tools)
        store.place.patience = SHORT
        return store


@contextlib.asynccontextmanager
async def opened_azure(memory_bytes: int = 64 * MIB) -> AsyncIterator[AzureStores]:
    """Containers that share one client; whatever was held must be given back."""
    names = Names(DnsSettings())
    client = make_client(Transport(names, lambda _host, _address: True))
    tools = Tools(PartMemory(memory_bytes), DigestThreads(), 3)
    try:
        yield AzureStores(client, tools)
        assert tools.memory.held_bytes == tools.memory.open_objects == 0, "everything that was held is given back"
    finally:
        tools.digests.shutdown()
        await client.aclose()
        names.close()


def names_in(container: ContainerClient) -> list[str]:
    """The blobs that are visible."""
    return sorted(blob.name for blob in container.list_blobs())


def read_blob(container: ContainerClient, key: str) -> bytes:
    """A blob, whole."""
    return container.download_blob(key).readall()


def sas(container: ContainerClient, permissions: str, *, seconds: float = 3600) -> str:
    """A token that permits so much in a container, as the maker's own library issues it."""
    return generate_container_sas(
        ACCOUNT,
        str(container.container_name),
        account_key=KEY,
        permission=ContainerSasPermissions.from_string(permissions),
        expiry=datetime.now(UTC) + timedelta(seconds=seconds),
    )
