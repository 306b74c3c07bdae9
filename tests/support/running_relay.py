"""A relay on a real socket, in the test's own loop, and the few things that every journey begins with."""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import uvicorn
from fastapi import FastAPI

from relay.app import Services, create_app
from relay.cli.http_server import configure_server
from relay.settings import Settings, load_settings
from relay.tenants import directory
from tests.support.waiting import until

ADMIN_TOKEN = "operator-token-of-the-tests"
SECRET_KEY = "k1:" + base64.b64encode(bytes(32)).decode()
PATIENCE = timedelta(seconds=10)
"""How long a key may take to be read from Postgres here: a machine that stands still for a second must not refuse one."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(slots=True)
class TestTenant:
    """A tenant and a key of it."""

    __test__ = False

    slug: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


class RunningRelay:
    """A started relay. ``url`` is its door; ``admin`` speaks to its admin side."""

    def __init__(self, app: FastAPI, url: str, admin: httpx.AsyncClient, settings: Settings) -> None:
        self.app = app
        self.url = url
        self.admin = admin
        self.settings = settings
        host, _, port = url.partition("://")[2].partition(":")
        self.address = (host, int(port))

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    async def tenant(self, slug: str = "acme", **members: Any) -> TestTenant:
        """Create a tenant with a key."""
        await self.post("/tenants", {"slug": slug, **members})
        issued = await self.post(f"/tenants/{slug}/keys", {})
        return TestTenant(slug, issued["key"])

    async def http_destination(self, tenant: TestTenant, base_url: str, name: str = "main", **config: Any) -> None:
        """Give the tenant an HTTP destination; the first one becomes its default."""
        document = {"name": name, "kind": "http", "config": {"base_url": base_url, **config}}
        await self.post(f"/tenants/{tenant.slug}/destinations", document)

    async def disk_destination(self, tenant: TestTenant, directory: str = "acme", name: str = "disk", **config: Any) -> Path:
        """Give the tenant a disk destination and return its folder."""
        document = {"name": name, "kind": "disk", "config": {"directory": directory, **config}}
        await self.post(f"/tenants/{tenant.slug}/destinations", document)
        assert self.settings.disk.root is not None
        return self.settings.disk.root / directory

    async def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Create something over the admin side."""
        answer = await self.admin.post(path, json=document)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def entries(self, **filters: str) -> list[dict[str, Any]]:
        """The ledger, newest first."""
        answer = await self.admin.get("/ledger", params={"limit": 500, **filters})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def every_entry(self, **filters: str) -> list[dict[str, Any]]:
        """The same, once everything that is finished has been shipped: what is not in it is nowhere."""
        assert await self.services.shipper.drain(timedelta(seconds=5))
        return await self.entries(**filters)

    async def entry(self, **filters: str) -> dict[str, Any]:
        """The one entry that these filters find, once it has been shipped."""
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            found[:] = await self.entries(**filters)
            return bool(found)

        await until(look)
        assert len(found) == 1, json.dumps(found, indent=1)
        return found[0]


@contextlib.asynccontextmanager
async def running_relay(
    database_url: str, folder: Path, *, http: str | None = None, certificate: str | None = None, **variables: str
) -> AsyncIterator[RunningRelay]:
    """Run a relay on a free port with its data below ``folder``; ``variables`` are more ``RELAY_*`` settings.

    ``http`` names another protocol class of uvicorn's than our own. With ``RELAY_TLS_CERTIFICATE``, or a ``certificate`` (a file of both
    parts), its URL is ``https://``: TLS is made by our own means, or by uvicorn's under another class.
    """
    is_front = http is None
    settings = load_settings(
        {
            "RELAY_DATABASE_URL": database_url,
            "RELAY_ADMIN_TOKEN": ADMIN_TOKEN,
            "RELAY_SECRET_KEY": SECRET_KEY,
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_DISK_ROOT": str(folder / "disk"),
            "RELAY_EGRESS_ALLOW": "127.0.0.0/8",
            "RELAY_SHUTDOWN_TIMEOUT": "2",
            **({"RELAY_TLS_CERTIFICATE": certificate, "RELAY_TLS_KEY": certificate} if certificate is not None and is_front else {}),
            **variables,
        }
    )
    app = create_app(settings)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio sets TCP_NODELAY
    listening.bind(("127.0.0.1", 0))
    config = configure_server(app, settings)
    if http is not None:
        config.http = http
    if not is_front:
        config.ssl_certfile = certificate
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await until(lambda: server.started or serving.done())
        assert server.started, "the relay did not start; its log says why"
        is_tls = certificate is not None or settings.tls.is_on
        url = f"{'https' if is_tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        trust = ssl.create_default_context(cafile=certificate or settings.tls.certificate) if is_tls else False  # what there is none of
        async with httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, trust_env=False, verify=trust) as admin:
            with patch.object(directory, "READING_DEADLINE", PATIENCE):
                yield RunningRelay(app, url, admin, settings)
    finally:
        server.should_exit = True
        with contextlib.suppress(SystemExit):
            await serving
        listening.close()
