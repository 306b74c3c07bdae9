"""Several operators: who a token stands for in the audit, and what one that may only read is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from relay.db.engine import Database
from relay.settings import DatabaseSettings, load_settings
from tests.support.admin_app import Parts, make_admin_app, open_admin

ENVIRON = {"RELAY_ADMIN_TOKEN": "plain-one,alice:token-of-alice,grüße", "RELAY_ADMIN_READ_TOKEN": "grafana:token-of-grafana"}


@asynccontextmanager
async def client_with(parts: Parts, token: str) -> AsyncIterator[httpx.AsyncClient]:
    async with open_admin(parts, token=None) as client:
        client.headers = httpx.Headers({"Authorization": f"Bearer {token}"}, encoding="utf-8")
        yield client


@pytest.fixture
def several(database: Database) -> Parts:
    return Parts(database, settings=load_settings(ENVIRON))


async def test_the_audit_names_the_operator_whose_token_it_was(several: Parts, database: Database) -> None:
    for slug, token in {"one": "plain-one", "two": "token-of-alice", "three": "grüße"}.items():
        async with client_with(several, token) as client:
            assert (await client.post("/tenants", json={"slug": slug})).status_code == 201
    async with database.transaction() as session:
        rows = (await session.execute(text("SELECT target, actor FROM audit"))).all()
    assert dict(map(tuple, rows)) == {"one": "operator", "two": "operator:alice", "three": "operator"}


async def test_a_token_that_may_only_read_reads_and_changes_nothing(several: Parts, database: Database) -> None:
    async with client_with(several, "token-of-alice") as client:
        await client.post("/tenants", json={"slug": "acme"})
    async with client_with(several, "token-of-grafana") as client:
        assert (await client.get("/tenants/acme")).status_code == 200
        for answer in (
            await client.post("/tenants", json={"slug": "other"}),
            await client.delete("/tenants/acme"),
            await client.patch("/tenants/acme", json={"status": "disabled"}),
            await client.post("/tenants/nobody/keys"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "operator_read_only")
        assert (await client.get("/tenants")).json()["items"][0]["status"] == "active"
    async with database.transaction() as session:
        assert (await session.execute(text("SELECT count(*) FROM audit"))).scalar_one() == 1


@pytest.mark.parametrize(
    "token",
    ["alice:token-of-alice", "alice", "plain-one,alice:token-of-alice", "grafana:token-of-grafana", "", "plain", "token-of-alic", "gr??e"],
)
async def test_what_is_written_around_a_token_is_no_token(token: str) -> None:
    parts = Parts(Database("postgresql://nobody@127.0.0.1:1/nothing", DatabaseSettings()), settings=load_settings(ENVIRON))
    async with client_with(parts, token) as client:
        assert (await client.get("/tenants")).status_code == 401


async def test_no_body_is_read_for_a_token_that_may_only_read() -> None:
    parts = Parts(Database("postgresql://nobody@127.0.0.1:1/nothing", DatabaseSettings()), settings=load_settings(ENVIRON))
    asked = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/admin/v1/tenants",
        "raw_path": b"/admin/v1/tenants",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer token-of-grafana"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await make_admin_app(parts)(scope, receive, send)
    assert (sent[0]["status"], asked) == (403, 0)
