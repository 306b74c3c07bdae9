"""Fixtures of the admin side."""

from collections.abc import AsyncIterator

import httpx
import pytest

from relay.db.engine import Database
from tests.support.admin_app import Parts, open_admin


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
    (await admin.post("/tenants", json={"slug": "acme"})).raise_for_status()
    document = {"name": "main", "kind": "http", "config": {"base_url": "https://files.example.com"}}
    (await admin.post("/tenants/acme/destinations", json=document)).raise_for_status()
    return admin
