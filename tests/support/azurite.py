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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient, ContainerSasPermissions, generate_container_sas

from relay.destinations.azure_blob import AzureStore
from relay.destinations.azure_config import AzureConfig
from relay.destinations.azure_place import BlockTools
from relay.destinations.azure_signing import SasToken, SharedKey, Signer
from relay.destinations.keys import KeyTemplate
from relay.destinations.part_digests import DigestThreads
from relay.destinations.parts import PartMemory
from relay.destinations.store import StoreDestination
from relay.settings import FormSettings
from relay.wire.client import Account

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
# The one account that every Azurite has, with the key that its documentation tells.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
API_VERSION = "2025-11-05"  # the newest that it knows
START_SECONDS = 25.0

_LISTENING = re.compile(r"listens on (http://\S+)")


def program() -> Path | None:
    """Where Azurite was installed, if it was."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "relay" / f"azurite-{VERSION}" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    return path if path.is_file() and shutil.which("node") else None


@dataclass(frozen=True)
class Azurite:
    """A server that runs."""

    url: str

    @property
    def endpoint(self) -> str:
        return f"{self.url}/{ACCOUNT}"

    def make_container(self) -> ContainerClient:
        """A container of the test's own, as the maker's own client sees it."""
        service = BlobServiceClient(self.endpoint, credential=KEY, api_version=API_VERSION, retry_total=0)
        return service.create_container(f"test-{uuid4().hex[:12]}")


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
        yield Azurite(_wait_for_url(process))
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


@dataclass
class Tools:
    """What the stores of a process share."""

    memory: PartMemory
    digests: DigestThreads
    parallel: int


def azure_config(endpoint: str, container: str, **members: object) -> AzureConfig:
    """A destination's configuration."""
    return AzureConfig.model_validate({"account": ACCOUNT, "container": container, "endpoint_url": endpoint, **members})


def open_store(client: httpx.AsyncClient, config: AzureConfig, signer: Signer | None = None, tools: BlockTools | None = None) -> AzureStore:
    """A container as Relay opens it."""
    tools = tools or Tools(PartMemory(64 << 20), DigestThreads(), 3)
    return AzureStore.open(client, Account("acme", "main"), config, signer or SharedKey(ACCOUNT, KEY), tools)


def open_destination(client: httpx.AsyncClient, config: AzureConfig) -> StoreDestination:
    """A destination of kind azure."""
    return StoreDestination(open_store(client, config), KeyTemplate(config.key_template), FormSettings())


def sas(container: str, permissions: str, *, expires_in_seconds: float = 3600) -> SasToken:
    """A token that permits so much in a container, as the maker's own library issues it."""
    return SasToken(sas_text(container, permissions, expires_in_seconds=expires_in_seconds))


def sas_text(container: str, permissions: str, *, expires_in_seconds: float = 3600) -> str:
    """The text of such a token."""
    return generate_container_sas(
        ACCOUNT,
        container,
        account_key=KEY,
        permission=ContainerSasPermissions.from_string(permissions),
        expiry=datetime.now(UTC) + timedelta(seconds=expires_in_seconds),
    )
