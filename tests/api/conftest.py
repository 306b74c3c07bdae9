"""Fixtures of the admin side."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from relay.db.engine import Database
from relay.settings import DatabaseSettings
from tests.support.admin_app import Parts, open_admin
from tests.support.postgres import TemplateServer


@pytest.fixture
def parts(database: Database) -> Parts:
    """The parts of a process, as the admin side needs them."""
    return Parts(database)


@pytest.fixture
async def admin(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client of the admin side, over a fresh database."""
    async with open_admin(parts) as client:
        yield client


@pytest.fixture
async def acme(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same, with a tenant ``acme`` that has an HTTP destination ``main``."""
    await make_acme(admin)
    return admin


@pytest.fixture(scope="module")
def still_url(postgres_server: TemplateServer) -> Iterator[str]:
    """A database with ``acme`` for all tests of a module, whose requests change nothing that another one looks at."""
    with asyncio.Runner() as runner:
        opened = postgres_server.database()
        url = runner.run(opened.__aenter__())
        runner.run(_fill(url))
        yield url
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
async def still(still_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client of that database: for requests that are refused, at the tenth of the cost of a fresh one."""
    database = Database(still_url, DatabaseSettings())
    async with open_admin(Parts(database)) as client:
        yield client
    await database.close()


async def make_acme(admin: httpx.AsyncClient) -> None:
    (await admin.post("/tenants", json={"slug": "acme"})).raise_for_status()
    document = {"name": "main", "kind": "http", "config": {"base_url": "https://files.example.com"}}
    (await admin.post("/tenants/acme/destinations", json=document)).raise_for_status()


async def _fill(url: str) -> None:
    database = Database(url, DatabaseSettings())
    async with open_admin(Parts(database)) as admin:
        await make_acme(admin)
    await database.close()
