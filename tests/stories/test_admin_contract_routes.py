"""The contract of routes, word by word, over a socket; where a path leads is told by what arrives."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = ["id", "prefix", "destination", "strip_prefix"]


async def make_tenant(relay: RunningRelay, slug: str) -> str:
    """A tenant with a destination; the address of its routes."""
    await relay.post("/tenants", {"slug": slug})
    await relay.post(f"/tenants/{slug}/destinations", {"name": "main", "kind": "http", "config": {"base_url": "https://files.example.com"}})
    return f"/tenants/{slug}/routes"


def check_made(answer: httpx.Response, path: str, document: dict[str, Any]) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    route: dict[str, Any] = answer.json()
    assert list(route) == MEMBERS
    assert route == {"id": route["id"], **document}
    assert answer.headers["location"] == f"/admin/v1{path}/{route['id']}"
    assert answer.headers["etag"].startswith('"')
    return route


async def test_a_route_is_made_by_post_or_put_and_replaced_by_put(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, await make_tenant(shared_relay, "routed")
    posted = await admin.post(path, json={"prefix": "/photos/", "destination": "main"})
    route = check_made(posted, path, {"prefix": "photos", "destination": "main", "strip_prefix": False})
    assert UUID(route["id"]).version == 7
    chosen = str(uuid4())
    document = {"prefix": "a/b", "destination": "main", "strip_prefix": True}
    put = await admin.put(f"{path}/{chosen}", json=document)
    assert check_made(put, path, document)["id"] == chosen
    for made in (posted, put):
        shown = await admin.get(f"{path}/{made.json()['id']}")
        assert (shown.json(), shown.headers["etag"]) == (made.json(), made.headers["etag"])
    assert (await admin.get(path)).json() == {"items": [posted.json(), put.json()], "next": None}

    replaced = await admin.put(f"{path}/{chosen}", json={"prefix": "c", "destination": "main"}, headers={"If-Match": put.headers["etag"]})
    assert (replaced.status_code, "location" in replaced.headers) == (200, False)
    assert replaced.json() == {"id": chosen, "prefix": "c", "destination": "main", "strip_prefix": False}
    stale = {"If-Match": put.headers["etag"]}
    problem_of(await admin.put(f"{path}/{chosen}", json=document, headers=stale), 412, "etag_mismatch")
    problem_of(await admin.delete(f"{path}/{chosen}", headers=stale), 412, "etag_mismatch")
    problem_of(await admin.put(f"{path}/{uuid4()}", json=document, headers={"If-Match": "*"}), 412, "etag_mismatch")
    for taken in ("photos", "phot%6Fs", "/photos"):
        problem_of(await admin.post(path, json={"prefix": taken, "destination": "main"}), 409, "route_exists")
        problem_of(await admin.put(f"{path}/{chosen}", json={"prefix": taken, "destination": "main"}), 409, "route_exists")
    other = await make_tenant(shared_relay, "routed-too")
    problem_of(await admin.put(f"{other}/{chosen}", json=document), 409, "route_exists")
    problem_of(await admin.get(f"{other}/{chosen}"), 404, "route_not_found")

    deleted = await admin.delete(f"{path}/{chosen}", headers={"If-Match": replaced.headers["etag"]})
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("GET", "DELETE"):
        problem_of(await admin.request(method, f"{path}/{chosen}"), 404, "route_not_found")
    assert (await admin.get(path)).json()["items"] == [posted.json()]


async def test_what_a_route_cannot_be_is_422_by_its_member(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, await make_tenant(shared_relay, "misrouted")
    for change, location in (
        ({"colour": "red"}, ("body", "colour")),
        ({"id": str(uuid4())}, ("body", "id")),
        ({"prefix": ""}, ("body", "prefix")),
        ({"prefix": "a/../b"}, ("body", "prefix")),
        ({"prefix": "a%2Fb"}, ("body", "prefix")),
        ({"destination": "none"}, ("body", "destination")),
        ({"strip_prefix": "yes"}, ("body", "strip_prefix")),
    ):
        document = {"prefix": "a", "destination": "main", **change}
        assert wrong_members_of(await admin.post(path, json=document)) == [location]
        assert wrong_members_of(await admin.put(f"{path}/{uuid4()}", json=document)) == [location]
    assert wrong_members_of(await admin.put(f"{path}/seven", json={"prefix": "a", "destination": "main"})) == [("path", "route_id")]
    assert set(wrong_members_of(await admin.post(path, json={}))) == {("body", "prefix"), ("body", "destination")}
    assert (await admin.get(path)).json() == {"items": [], "next": None}


async def test_paths_follow_a_route_that_changes_within_a_second(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("moving")
        for name in ("main", "short", "long"):
            await shared_relay.http_destination(tenant, f"{upstream.url}/{name}", name=name)
        path = "/tenants/moving/routes"

        async def leads_to(target: str) -> None:
            async def is_there() -> bool:
                answer = await client.put("/upload/photos/raw/a", content=b"x", headers=tenant.headers)
                assert answer.status_code == 200, answer.text
                return (await upstream.ended(len(upstream.requests) - 1)).target == target

            await until(is_there, seconds=1)

        await leads_to("/main/photos/raw/a")
        short = await shared_relay.post(path, {"prefix": "photos", "destination": "short"})
        await leads_to("/short/photos/raw/a")
        await shared_relay.post(path, {"prefix": "photos/ra", "destination": "long"})
        await leads_to("/short/photos/raw/a")
        longest = await shared_relay.post(path, {"prefix": "photos/raw", "destination": "long"})
        await leads_to("/long/photos/raw/a")
        document = {"prefix": "photos/raw", "destination": "long", "strip_prefix": True}
        assert (await shared_relay.admin.put(f"{path}/{longest['id']}", json=document)).status_code == 200
        await leads_to("/long/a")
        assert (await shared_relay.admin.delete(f"{path}/{longest['id']}")).status_code == 204
        document = {"prefix": "photos", "destination": "short", "strip_prefix": True}
        assert (await shared_relay.admin.put(f"{path}/{short['id']}", json=document)).status_code == 200
        await leads_to("/short/raw/a")
        assert (await shared_relay.admin.delete(f"{path}/{short['id']}")).status_code == 204
        await leads_to("/main/photos/raw/a")
