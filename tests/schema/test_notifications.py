"""What the triggers tell on ``relay_directory``, heard by a real LISTEN."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from relay.db.engine import connect_listener
from relay.settings import DatabaseSettings
from tests.support.postgres import execute

ACME = "00000000-0000-7000-8000-00000000000a"
OTHER = "00000000-0000-7000-8000-00000000000b"
DESTINATION = "00000000-0000-7000-8000-0000000000d1"

BOTH_TENANTS = f"INSERT INTO tenants (id, slug) VALUES ('{ACME}', 'acme'), ('{OTHER}', 'other')"
ITS_DESTINATION = f"INSERT INTO destinations (id, tenant_id, name, kind, config) VALUES ('{DESTINATION}', '{ACME}', 'main', 'disk', '{{}}')"
ITS_ROUTE = f"INSERT INTO routes (id, tenant_id, prefix, destination_id) VALUES (gen_random_uuid(), '{ACME}', 'photos', '{DESTINATION}')"
ITS_KEY = f"INSERT INTO api_keys (id, tenant_id, secret_hash) VALUES ('abc', '{ACME}', '')"


@asynccontextmanager
async def listening(url: str) -> AsyncIterator["asyncio.Queue[str]"]:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def hear(_connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        heard.put_nowait(payload)

    connection = await connect_listener(url, DatabaseSettings())
    try:
        await connection.add_listener("relay_directory", hear)
        yield heard
    finally:
        await connection.close()


async def told(url: str, *statements: str) -> set[str]:
    """Run the statements in one transaction; every tenant that was told of."""
    async with listening(url) as heard:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
            await connection.execute("NOTIFY relay_directory, 'end'")
        finally:
            await connection.close()
        payloads = []
        while (payload := await asyncio.wait_for(heard.get(), 5)) != "end":
            payloads.append(payload)
    assert len(payloads) == len(set(payloads))
    return set(payloads)


@pytest.fixture
async def url(database_url: str) -> str:
    await execute(database_url, BOTH_TENANTS, ITS_DESTINATION, ITS_ROUTE, ITS_KEY)
    return database_url


@pytest.mark.parametrize(
    ("statement", "tenants"),
    [
        ("UPDATE tenants SET status = 'disabled' WHERE slug = 'acme'", {ACME}),
        ("UPDATE tenants SET name = 'x'", {ACME, OTHER}),
        ("DELETE FROM tenants WHERE slug = 'other'", {OTHER}),
        (f"INSERT INTO api_keys (id, tenant_id, secret_hash) VALUES ('new', '{OTHER}', '')", {OTHER}),
        ("UPDATE api_keys SET revoked_at = now()", {ACME}),
        ("UPDATE api_keys SET revoked_at = now(), last_used_at = now()", {ACME}),
        (f"UPDATE api_keys SET tenant_id = '{OTHER}'", {ACME, OTHER}),
        ("DELETE FROM api_keys", {ACME}),
        ("UPDATE destinations SET config = '{\"a\": 1}'", {ACME}),
        ("UPDATE routes SET prefix = 'other'", {ACME}),
        ("DELETE FROM routes", {ACME}),
        ("TRUNCATE routes", {"*"}),
        ("TRUNCATE api_keys", {"*"}),
        ("TRUNCATE tenants CASCADE", {"*"}),
    ],
)
async def test_change_is_told(url: str, statement: str, tenants: set[str]) -> None:
    assert await told(url, statement) == tenants


async def test_change_of_last_used_at_alone_is_not_told(url: str) -> None:
    assert await told(url, "UPDATE api_keys SET last_used_at = now()") == set()


async def test_many_changes_of_one_tenant_are_told_once(url: str) -> None:
    assert await told(url, "UPDATE api_keys SET name = 'a'", "UPDATE routes SET prefix = 'a'", "UPDATE tenants SET name = 'b'") == {
        ACME,
        OTHER,
    }


async def test_column_that_does_not_exist_yet_is_told(url: str) -> None:
    await execute(url, "ALTER TABLE api_keys ADD COLUMN later text")
    assert await told(url, "UPDATE api_keys SET later = 'x'") == {ACME}


async def test_deleting_a_default_destination_is_told_of_its_tenant(url: str) -> None:
    await execute(url, f"UPDATE tenants SET default_destination_id = '{DESTINATION}' WHERE slug = 'acme'", "DELETE FROM routes")
    assert await told(url, "DELETE FROM destinations") == {ACME}


async def test_change_that_is_rolled_back_is_not_told(url: str) -> None:
    async with listening(url) as heard:
        await execute(url, "BEGIN; UPDATE tenants SET name = 'x'; ROLLBACK", "NOTIFY relay_directory, 'end'")
        assert await asyncio.wait_for(heard.get(), 5) == "end"
