"""The admin side in one process, over a real database and destinations written by hand."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from fastapi import FastAPI

from relay.api import admin, openapi, problems
from relay.api.middleware import RequestMiddleware
from relay.db.engine import Database
from relay.destinations.destination import Destination, DestinationSpec, Finding
from relay.destinations.sealing import Sealer
from relay.errors import DestinationMisconfigured
from relay.settings import Settings, load_settings
from relay.uploads.live import Live
from relay.uploads.live_folder import LiveFolder
from relay.uploads.siblings import Siblings

TOKEN = "operator-token-of-the-tests"
SECRET_KEY = "k1:" + base64.b64encode(bytes(range(32))).decode()


class CheckedDestinations:
    """Opens nothing: a check finds what the test has put into ``findings`` under the destination's name."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}

    def open(self, spec: DestinationSpec) -> Destination:
        if spec.name not in self.findings:
            raise DestinationMisconfigured
        return _Checked(self.findings[spec.name])  # type: ignore[return-value] # it is only ever checked


@dataclass
class _Checked:
    finding: Finding

    async def check(self) -> Finding:
        return self.finding


class ForgottenTenants(list[str]):
    """The slugs of tenants that were changed, in order."""

    def forget_changed(self, slug: str) -> None:
        self.append(slug)


@dataclass
class Parts:
    database: Database
    settings: Settings = field(default_factory=lambda: load_settings({"RELAY_ADMIN_TOKEN": TOKEN, "RELAY_SECRET_KEY": SECRET_KEY}))
    destinations: CheckedDestinations = field(default_factory=CheckedDestinations)
    directory: ForgottenTenants = field(default_factory=ForgottenTenants)
    live: Live = field(default_factory=lambda: Live(Siblings(LiveFolder(Path("nowhere")))))

    @property
    def sealer(self) -> Sealer:
        return Sealer(self.settings.secret.keys())


def make_admin_app(parts: Parts) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    admin.install(app)
    openapi.install(app)
    app.add_middleware(RequestMiddleware, trusted=parts.settings.trusted)
    app.state.services = parts
    return app


@asynccontextmanager
async def open_admin(parts: Parts, *, token: str | None = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(make_admin_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.test/admin/v1", headers=headers) as client:
        yield client
