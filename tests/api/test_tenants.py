"""A tenant's life over REST."""

from datetime import datetime
from typing import Any

import httpx
import pytest


def without_times(tenant: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tenant.items() if name not in {"created_at", "updated_at"}}


async def test_a_new_tenant_is_shown_whole_and_has_an_address(admin: httpx.AsyncClient) -> None:
    document = {"slug": "acme", "name": "Acme", "limits": {"max_upload_bytes": 10}, "content_types": ["image/*"]}
    made = await admin.post("/tenants", json=document)
    assert made.status_code == 201
    assert made.headers["location"] == "/admin/v1/tenants/acme"
    assert without_times(made.json()) == {**document, "status": "active", "default_destination": None}
    assert made.json()["created_at"].endswith("Z")
    assert datetime.fromisoformat(made.json()["created_at"]).tzinfo is not None
    shown = await admin.get("/tenants/acme")
    assert shown.status_code == 200
    assert shown.json() == made.json()
    assert shown.headers["etag"] == made.headers["etag"]
    assert shown.headers["etag"].startswith('"')


async def test_a_slug_is_all_that_a_tenant_needs(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/tenants", json={"slug": "acme"})
    assert without_times(made.json()) == {
        "slug": "acme",
        "name": None,
        "status": "active",
        "limits": {"max_upload_bytes": None},
        "content_types": [],
        "default_destination": None,
    }


async def test_a_taken_slug_is_409_even_after_deletion(admin: httpx.AsyncClient) -> None:
    await admin.post("/tenants", json={"slug": "acme"})
    again = await admin.post("/tenants", json={"slug": "acme"})
    assert (again.status_code, again.json()["code"]) == (409, "tenant_exists")
    assert (await admin.delete("/tenants/acme")).status_code == 204
    once_more = await admin.post("/tenants", json={"slug": "acme"})
    assert (once_more.status_code, once_more.json()["code"]) == (409, "tenant_exists")


async def test_a_deleted_tenant_is_gone_from_every_answer(acme: httpx.AsyncClient) -> None:
    deleted = await acme.delete("/tenants/acme")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await acme.get("/tenants")).json() == {"items": [], "next": None}
    for path in (
        "/tenants/acme",
        "/tenants/acme/keys",
        "/tenants/acme/destinations",
        "/tenants/acme/routes",
        "/tenants/acme/destinations/main",
    ):
        answer = await acme.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")
    assert (await acme.delete("/tenants/acme")).status_code == 404
    assert (await acme.patch("/tenants/acme", json={})).status_code == 404


async def test_a_tenant_is_disabled_and_enabled_by_patch(acme: httpx.AsyncClient) -> None:
    disabled = await acme.patch("/tenants/acme", json={"status": "disabled"})
    assert (disabled.status_code, disabled.json()["status"]) == (200, "disabled")
    assert (await acme.get("/tenants/acme")).json()["status"] == "disabled"
    assert (await acme.patch("/tenants/acme", json={"status": "active"})).json()["status"] == "active"


async def test_merge_patch_leaves_what_is_absent_and_null_removes(admin: httpx.AsyncClient) -> None:
    document = {"slug": "acme", "name": "Acme", "limits": {"max_upload_bytes": 10}, "content_types": ["image/*"]}
    before = (await admin.post("/tenants", json=document)).json()
    merge_patch = {"content-type": "application/merge-patch+json"}
    empty = await admin.patch("/tenants/acme", content=b"{}", headers=merge_patch)
    assert without_times(empty.json()) == without_times(before)
    named = await admin.patch("/tenants/acme", content=b'{"name": null, "limits": {}}', headers=merge_patch)
    assert without_times(named.json()) == {**without_times(before), "name": None}
    limited = await admin.patch("/tenants/acme", json={"limits": {"max_upload_bytes": None}, "content_types": ["text/plain"]})
    assert limited.json()["limits"] == {"max_upload_bytes": None}
    assert limited.json()["content_types"] == ["text/plain"]
    removed = await admin.patch("/tenants/acme", json={"limits": None, "content_types": None})
    assert (removed.json()["limits"], removed.json()["content_types"]) == ({"max_upload_bytes": None}, [])


async def test_the_default_destination_is_one_of_the_tenants_own(acme: httpx.AsyncClient) -> None:
    assert (await acme.get("/tenants/acme")).json()["default_destination"] == "main"
    refused = await acme.patch("/tenants/acme", json={"default_destination": "other"})
    assert (refused.status_code, refused.json()["errors"][0]["location"]) == (422, ["body", "default_destination"])
    assert (await acme.patch("/tenants/acme", json={"default_destination": None})).json()["default_destination"] is None
    assert (await acme.patch("/tenants/acme", json={"default_destination": "main"})).json()["default_destination"] == "main"


async def test_a_stale_etag_is_412_and_changes_nothing(acme: httpx.AsyncClient) -> None:
    stale = (await acme.get("/tenants/acme")).headers["etag"]
    changed = await acme.patch("/tenants/acme", json={"name": "first"}, headers={"If-Match": stale})
    assert changed.status_code == 200
    fresh = changed.headers["etag"]
    assert fresh != stale
    for answer in (
        await acme.patch("/tenants/acme", json={"name": "second"}, headers={"If-Match": stale}),
        await acme.patch("/tenants/acme", json={"name": "second"}, headers={"If-Match": f"W/{fresh}"}),
        await acme.delete("/tenants/acme", headers={"If-Match": stale}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "etag_mismatch")
    shown = await acme.get("/tenants/acme")
    assert (shown.json()["name"], shown.headers["etag"]) == ("first", fresh)
    assert (await acme.patch("/tenants/acme", json={"name": "third"}, headers={"If-Match": "*"})).status_code == 200
    now = (await acme.get("/tenants/acme")).headers["etag"]
    assert (await acme.delete("/tenants/acme", headers={"If-Match": f'"other", {now}'})).status_code == 204


async def test_a_listing_is_walked_by_its_cursor(admin: httpx.AsyncClient) -> None:
    slugs = ["a", "b", "c-1", "c0", "d"]
    for slug in reversed(slugs):
        await admin.post("/tenants", json={"slug": slug})
    seen: list[str] = []
    cursor: str | None = None
    pages = 0
    while pages == 0 or cursor is not None:
        page = (await admin.get("/tenants", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        assert set(page) == {"items", "next"}
        seen += [item["slug"] for item in page["items"]]
        cursor = page["next"]
        pages += 1
    assert (seen, pages) == (slugs, 3)


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("limit=0", ["query", "limit"]),
        ("limit=501", ["query", "limit"]),
        ("limit=ten", ["query", "limit"]),
        ("limit=1e2", ["query", "limit"]),
        ("limit=", ["query", "limit"]),
        ("cursor=broken", ["query", "cursor"]),
        ("cursor=WyJhIiwiYiJd", ["query", "cursor"]),
        ("cursor=", ["query", "cursor"]),
        ("tenant=acme", ["query", "tenant"]),
    ],
)
async def test_a_broken_page_is_422(still: httpx.AsyncClient, query: str, location: list[str]) -> None:
    answer = await still.get(f"/tenants?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == location


@pytest.mark.parametrize(
    ("member", "value", "location"),
    [
        ("slug", "Acme", ["body", "slug"]),
        ("slug", "-acme", ["body", "slug"]),
        ("slug", "a" * 64, ["body", "slug"]),
        ("slug", "", ["body", "slug"]),
        ("slug", "acme\n", ["body", "slug"]),
        ("slug", 7, ["body", "slug"]),
        ("slug", None, ["body", "slug"]),
        ("name", "a\u0000b", ["body", "name"]),
        ("name", "a\nb", ["body", "name"]),
        ("name", "", ["body", "name"]),
        ("name", "n" * 201, ["body", "name"]),
        ("name", 7, ["body", "name"]),
        ("limits", {"max_upload_bytes": "10"}, ["body", "limits", "max_upload_bytes"]),
        ("limits", {"max_upload_bytes": True}, ["body", "limits", "max_upload_bytes"]),
        ("limits", {"max_upload_bytes": 1.0}, ["body", "limits", "max_upload_bytes"]),
        ("limits", {"max_upload_bytes": 0}, ["body", "limits", "max_upload_bytes"]),
        ("limits", {"max_upload_bytes": 2**63}, ["body", "limits", "max_upload_bytes"]),
        ("limits", {"max_uploads": 1}, ["body", "limits", "max_uploads"]),
        ("limits", [], ["body", "limits"]),
        ("content_types", ["image"], ["body", "content_types", 0]),
        ("content_types", ["text/plain", 7], ["body", "content_types", 1]),
        ("content_types", "image/*", ["body", "content_types"]),
        ("default_destination", "main", ["body", "default_destination"]),
        ("status", "active", ["body", "status"]),
        ("colour", "red", ["body", "colour"]),
    ],
)
async def test_a_wrong_member_is_422_by_its_location(still: httpx.AsyncClient, member: str, value: object, location: list[str]) -> None:
    answer = await still.post("/tenants", json={"slug": "new", member: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert location in [error["location"] for error in answer.json()["errors"]]
    assert [tenant["slug"] for tenant in (await still.get("/tenants")).json()["items"]] == ["acme"]


@pytest.mark.parametrize(
    ("patch", "location"),
    [
        ({"status": "deleted"}, ["body", "status"]),
        ({"status": None}, ["body", "status"]),
        ({"slug": "other"}, ["body", "slug"]),
        ({"created_at": "2026-01-01T00:00:00Z"}, ["body", "created_at"]),
        ({"limits": {"max_upload_bytes": -1}}, ["body", "limits", "max_upload_bytes"]),
        ({"name": ""}, ["body", "name"]),
    ],
)
async def test_a_wrong_change_is_422_and_changes_nothing(still: httpx.AsyncClient, patch: dict[str, Any], location: list[str]) -> None:
    before = await still.get("/tenants/acme")
    answer = await still.patch("/tenants/acme", json=patch)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == location
    assert (await still.get("/tenants/acme")).headers["etag"] == before.headers["etag"]


async def test_other_methods_are_405_with_those_that_are_allowed(still: httpx.AsyncClient) -> None:
    answer = await still.put("/tenants/acme")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method_not_allowed", "DELETE, GET, PATCH")
    assert (await still.delete("/tenants")).headers["allow"] == "GET, POST"


@pytest.mark.parametrize("path", ["/tenants/", "/tenant", "/tenants/acme/"])
async def test_a_path_is_taken_as_it_is_written(still: httpx.AsyncClient, path: str) -> None:
    answer = await still.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
