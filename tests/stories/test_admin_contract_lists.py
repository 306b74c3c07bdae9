"""The contract of listings, over a socket, of every listing that the route table has: pages, bounds, cursors, unknown members."""

from typing import Any

import pytest
from fastapi import FastAPI

from relay.app import create_app
from relay.settings import load_settings
from tests.stories.speech import client_of, wrong_members_of
from tests.support.live import begun_upload, until_running
from tests.support.route_table import Operation, admin_operations
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Upstream

SLUG = "listed"
APP: FastAPI = create_app(load_settings({}))
LISTINGS = [operation for operation in admin_operations(APP) if operation.id.startswith("list_")]
MORE_MEMBERS = {"/live": ["unreachable"]}
"""The workers that were asked and did not answer."""

ONE_OF_ONE = {"list_usage"}
"""Today is the only day that anything was sent on."""


def path_of(operation: Operation) -> str:
    return operation.target(slug=SLUG).removeprefix("/admin/v1")


async def items_of(relay: RunningRelay, path: str, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    """A page, its members checked."""
    answer = await relay.admin.get(path, params=query)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert list(page) == ["items", "next", *MORE_MEMBERS.get(path, [])]
    return page["items"], page["next"]


async def walk(relay: RunningRelay, path: str, limit: int) -> list[dict[str, Any]]:
    """Every item, page by page, ``next`` sent back as ``cursor``."""
    items, cursor = await items_of(relay, path, limit=limit)
    while cursor is not None:
        assert len(items) % limit == 0, "only the last page may be short"
        more, cursor = await items_of(relay, path, limit=limit, cursor=cursor)
        assert 0 < len(more) <= limit
        items += more
    return items


def identities(items: list[dict[str, Any]]) -> list[str]:
    """What tells items apart: what of them does not change from one second to the next."""
    names = ("id", "request_id", "upload_id", "slug", "name", "day", "tenant")
    return [str({name: item[name] for name in names if name in item}) for item in items]


def test_every_listing_is_known_here() -> None:
    names = {operation.id.removeprefix("list_") for operation in LISTINGS}
    assert names == {"tenants", "keys", "destinations", "routes", "live", "ledger", "usage", "audit"}


@pytest.mark.asyncio(loop_scope="module")
async def test_every_listing_has_the_same_pages_bounds_and_refusals(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant(SLUG)
        for number in range(3):
            await shared_relay.post("/tenants", {"slug": f"{SLUG}-{number}"})
            await shared_relay.post(f"/tenants/{SLUG}/keys", {})
            await shared_relay.http_destination(tenant, upstream.url, name=f"d{number}")
            await shared_relay.post(f"/tenants/{SLUG}/routes", {"prefix": f"r{number}", "destination": "d0"})
            assert (await client.put("/upload/a", content=b"x", headers=tenant.headers)).status_code == 200
        await shared_relay.every_entry()
        async with begun_upload(shared_relay, tenant), begun_upload(shared_relay, tenant):
            await until_running(shared_relay, count=2, tenant=SLUG)
            for operation in LISTINGS:
                path = path_of(operation)
                whole, cursor = await items_of(shared_relay, path, limit=500)
                assert cursor is None
                assert len(whole) >= (1 if operation.id in ONE_OF_ONE else 2), path
                for limit in (1, 2):
                    assert identities(await walk(shared_relay, path, limit)) == identities(whole), path
                for query, member in (
                    ("limit=0", "limit"),
                    ("limit=501", "limit"),
                    ("limit=-1", "limit"),
                    ("limit=ten", "limit"),
                    ("cursor=broken", "cursor"),
                    ("cursor=", "cursor"),
                    ("cursor=WyJhIiwiYiIsImMiLCJkIl0", "cursor"),
                    ("colour=red", "colour"),
                ):
                    refused = await admin.get(f"{path}?{query}")
                    assert wrong_members_of(refused) == [("query", member)], (path, query)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_has_fifty_items_unless_it_is_said(shared_relay: RunningRelay) -> None:
    await shared_relay.post("/tenants", {"slug": "fifty"})
    for number in range(51):
        await shared_relay.post("/tenants/fifty/keys", {"name": str(number)})
    items, cursor = await items_of(shared_relay, "/tenants/fifty/keys")
    assert len(items) == 50
    assert cursor is not None
    rest, end = await items_of(shared_relay, "/tenants/fifty/keys", cursor=cursor)
    assert ([item["name"] for item in items + rest], end) == ([str(number) for number in range(51)], None)
