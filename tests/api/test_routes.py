"""A route's life over REST."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest


async def make(admin: httpx.AsyncClient, prefix: str) -> dict[str, Any]:
    answer = await admin.post("/tenants/acme/routes", json={"prefix": prefix, "destination": "main"})
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


async def test_a_new_route_is_shown_whole_and_has_an_address(acme: httpx.AsyncClient) -> None:
    made = await acme.post("/tenants/acme/routes", json={"prefix": "/photos/", "destination": "main"})
    assert made.status_code == 201
    route_id = made.json()["id"]
    assert UUID(route_id).version == 7
    assert made.json() == {"id": route_id, "prefix": "photos", "destination": "main", "strip_prefix": False}
    assert made.headers["location"] == f"/admin/v1/tenants/acme/routes/{route_id}"
    shown = await acme.get(f"/tenants/acme/routes/{route_id}")
    assert (shown.json(), shown.headers["etag"]) == (made.json(), made.headers["etag"])


async def test_put_makes_a_route_and_then_replaces_it(acme: httpx.AsyncClient) -> None:
    path = f"/tenants/acme/routes/{uuid4()}"
    made = await acme.put(path, json={"prefix": "a", "destination": "main", "strip_prefix": True})
    assert (made.status_code, made.json()["strip_prefix"]) == (201, True)
    assert made.headers["location"] == f"/admin/v1{path}"
    replaced = await acme.put(path, json={"prefix": "b", "destination": "main"})
    assert (replaced.status_code, replaced.json()["prefix"], replaced.json()["strip_prefix"]) == (200, "b", False)
    assert "location" not in replaced.headers
    assert replaced.headers["etag"] != made.headers["etag"]
    assert [item["prefix"] for item in (await acme.get("/tenants/acme/routes")).json()["items"]] == ["b"]


async def test_two_spellings_of_one_prefix_are_one_route(acme: httpx.AsyncClient) -> None:
    await make(acme, "a b")
    again = await acme.post("/tenants/acme/routes", json={"prefix": "a%20b", "destination": "main"})
    assert (again.status_code, again.json()["code"]) == (409, "route_exists")
    other = await make(acme, "c")
    moved = await acme.put(f"/tenants/acme/routes/{other['id']}", json={"prefix": "a b", "destination": "main"})
    assert (moved.status_code, moved.json()["code"]) == (409, "route_exists")


async def test_another_tenants_route_is_neither_seen_nor_taken(acme: httpx.AsyncClient) -> None:
    route = await make(acme, "photos")
    await acme.post("/tenants", json={"slug": "other"})
    destination = {"name": "main", "kind": "http", "config": {"base_url": "https://other.example.com"}}
    await acme.post("/tenants/other/destinations", json=destination)
    path = f"/tenants/other/routes/{route['id']}"
    assert (await acme.get(path)).status_code == 404
    assert (await acme.delete(path)).status_code == 404
    taken = await acme.put(path, json={"prefix": "x", "destination": "main"})
    assert (taken.status_code, taken.json()["code"]) == (409, "route_exists")
    assert (await acme.get(f"/tenants/acme/routes/{route['id']}")).json() == route


async def test_a_deleted_route_is_gone(acme: httpx.AsyncClient) -> None:
    path = f"/tenants/acme/routes/{(await make(acme, 'photos'))['id']}"
    assert (await acme.delete(path)).status_code == 204
    for answer in (await acme.get(path), await acme.delete(path)):
        assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


async def test_a_stale_etag_is_412_and_changes_nothing(acme: httpx.AsyncClient) -> None:
    path = f"/tenants/acme/routes/{(await make(acme, 'photos'))['id']}"
    fresh = (await acme.get(path)).headers["etag"]
    stale = {"If-Match": '"stale"'}
    document = {"prefix": "x", "destination": "main"}
    for answer in (
        await acme.put(path, json=document, headers=stale),
        await acme.delete(path, headers=stale),
        await acme.put(f"/tenants/acme/routes/{uuid4()}", json=document, headers={"If-Match": "*"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "etag_mismatch")
    assert (await acme.put(path, json=document, headers={"If-Match": fresh})).status_code == 200


async def test_routes_are_listed_oldest_first_page_by_page(acme: httpx.AsyncClient) -> None:
    prefixes = ["c", "a", "b"]
    for prefix in prefixes:
        await make(acme, prefix)
    first = (await acme.get("/tenants/acme/routes?limit=2")).json()
    second = (await acme.get("/tenants/acme/routes", params={"limit": 2, "cursor": first["next"]})).json()
    assert [item["prefix"] for item in first["items"] + second["items"]] == prefixes
    assert second["next"] is None


async def test_a_route_of_no_tenant_is_404(admin: httpx.AsyncClient) -> None:
    document = {"prefix": "x", "destination": "main"}
    path = f"/tenants/acme/routes/{uuid4()}"
    for answer in (
        await admin.post("/tenants/acme/routes", json=document),
        await admin.put(path, json=document),
        await admin.get(path),
        await admin.delete(path),
        await admin.get("/tenants/acme/routes"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"prefix": ""}, ["body", "prefix"]),
        ({"prefix": "a/../b"}, ["body", "prefix"]),
        ({"prefix": "a//b"}, ["body", "prefix"]),
        ({"prefix": "a%2Fb"}, ["body", "prefix"]),
        ({"prefix": "a%00b"}, ["body", "prefix"]),
        ({"prefix": "%ff"}, ["body", "prefix"]),
        ({"prefix": "p" * 2_000}, ["body", "prefix"]),
        ({"prefix": None}, ["body", "prefix"]),
        ({"destination": "none"}, ["body", "destination"]),
        ({"destination": 7}, ["body", "destination"]),
        ({"strip_prefix": "true"}, ["body", "strip_prefix"]),
        ({"strip_prefix": 1}, ["body", "strip_prefix"]),
        ({"id": str(uuid4())}, ["body", "id"]),
    ],
)
async def test_a_wrong_member_is_422_by_its_location(still: httpx.AsyncClient, change: dict[str, Any], location: list[str]) -> None:
    document = {"prefix": "x", "destination": "main", **change}
    for answer in (
        await still.post("/tenants/acme/routes", json=document),
        await still.put(f"/tenants/acme/routes/{uuid4()}", json=document),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
        assert answer.json()["errors"][0]["location"] == location


async def test_an_id_that_is_no_uuid_is_422(still: httpx.AsyncClient) -> None:
    answer = await still.get("/tenants/acme/routes/seven")
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["path", "route_id"])
