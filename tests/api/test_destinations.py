"""A destination's life over REST: credentials go in and never come out."""

from typing import Any

import httpx
import pytest

from relay.db.engine import Database
from relay.destinations.destination import Finding
from relay.settings import load_settings
from tests.support.admin_app import TOKEN, Parts, open_admin

SECRET = "hunter2-of-the-tests"
HTTP = {"name": "inbox", "kind": "http", "config": {"base_url": "https://files.example.com/inbox"}}
DISK = {"name": "archive", "kind": "disk", "config": {"directory": "acme/in"}}


async def test_an_http_destination_is_shown_with_its_defaults(acme: httpx.AsyncClient) -> None:
    made = await acme.post("/tenants/acme/destinations", json=HTTP)
    assert made.status_code == 201
    assert made.headers["location"] == "/admin/v1/tenants/acme/destinations/inbox"
    shown = made.json()
    assert shown.pop("created_at").endswith("Z")
    assert shown.pop("updated_at").endswith("Z")
    assert shown == {
        "name": "inbox",
        "kind": "http",
        "config": {
            "base_url": "https://files.example.com/inbox",
            "connect_timeout_seconds": 5,
            "idle_timeout_seconds": 60,
            "total_timeout_seconds": None,
            "max_connections": 100,
        },
        "secret_names": [],
    }
    again = await acme.get("/tenants/acme/destinations/inbox")
    assert (again.json(), again.headers["etag"]) == (made.json(), made.headers["etag"])


async def test_a_disk_destination_is_shown_with_its_defaults(acme: httpx.AsyncClient) -> None:
    made = await acme.post("/tenants/acme/destinations", json=DISK)
    assert made.status_code == 201
    assert made.json()["config"] == {"directory": "acme/in", "overwrite": "refuse", "key_template": "{path}"}


async def test_credentials_are_named_and_never_shown(acme: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    document = {**HTTP, "secrets": {"headers": {"Authorization": f"Bearer {SECRET}", "X-Tenant": "t"}}}
    made = await acme.post("/tenants/acme/destinations", json=document)
    assert made.json()["secret_names"] == ["Authorization", "X-Tenant"]
    answers = [
        made,
        await acme.get("/tenants/acme/destinations"),
        await acme.get("/tenants/acme/destinations/inbox"),
        await acme.patch("/tenants/acme/destinations/inbox", json={"config": {"max_connections": 7}}),
        await acme.post("/tenants/acme/destinations", json=document),
        await acme.post("/tenants/acme/destinations", json={**document, "name": "b", "secrets": {"headers": {"Host": SECRET}}}),
        await acme.post("/tenants/acme/destinations", json={**document, "name": "c", "secrets": {"headers": {"X": f"{SECRET}\n"}}}),
        await acme.post("/tenants/acme/destinations", json={**document, "name": "d", "secrets": [SECRET]}),
        await acme.post("/tenants/acme/destinations", json={**document, "name": "e", "secrets": {"header": {"X": SECRET}}}),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 409, 422, 422, 422, 422]
    for answer in answers:
        assert SECRET not in answer.text
        assert "secrets" not in answer.json()
    assert SECRET not in caplog.text


async def test_merge_patch_of_credentials_adds_keeps_and_removes(acme: httpx.AsyncClient) -> None:
    await acme.post("/tenants/acme/destinations", json={**HTTP, "secrets": {"headers": {"X-One": "1", "X-Two": "2"}}})
    path = "/tenants/acme/destinations/inbox"
    assert (await acme.patch(path, json={})).json()["secret_names"] == ["X-One", "X-Two"]
    changed = await acme.patch(path, json={"secrets": {"headers": {"X-One": None, "X-Three": "3"}}})
    assert (changed.status_code, changed.json()["secret_names"]) == (200, ["X-Two", "X-Three"])
    assert (await acme.patch(path, json={"secrets": None})).json()["secret_names"] == []


async def test_merge_patch_of_config_puts_null_back_to_the_default(acme: httpx.AsyncClient) -> None:
    path = "/tenants/acme/destinations/main"
    changed = await acme.patch(path, json={"config": {"idle_timeout_seconds": 7, "total_timeout_seconds": 9.5}})
    assert (changed.json()["config"]["idle_timeout_seconds"], changed.json()["config"]["total_timeout_seconds"]) == (7, 9.5)
    restored = await acme.patch(path, json={"config": {"idle_timeout_seconds": None, "total_timeout_seconds": None}})
    assert restored.json()["config"]["idle_timeout_seconds"] == 60
    assert restored.json()["config"]["total_timeout_seconds"] is None
    refused = await acme.patch(path, json={"config": {"base_url": None}})
    assert (refused.status_code, refused.json()["errors"][0]["location"]) == (422, ["body", "config", "base_url"])


async def test_without_a_sealing_key_credentials_are_refused_and_nothing_is_kept(database: Database) -> None:
    async with open_admin(Parts(database, settings=load_settings({"RELAY_ADMIN_TOKEN": TOKEN}))) as admin:
        await admin.post("/tenants", json={"slug": "acme"})
        refused = await admin.post("/tenants/acme/destinations", json={**HTTP, "secrets": {"headers": {"X-Key": SECRET}}})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "secret_key_missing")
        assert "RELAY_SECRET_KEY" in refused.json()["detail"]
        assert (await admin.get("/tenants/acme/destinations")).json()["items"] == []


async def test_a_name_is_unique_within_its_tenant_only(acme: httpx.AsyncClient) -> None:
    taken = await acme.post("/tenants/acme/destinations", json={**HTTP, "name": "main"})
    assert (taken.status_code, taken.json()["code"]) == (409, "destination_exists")
    await acme.post("/tenants", json={"slug": "other"})
    assert (await acme.post("/tenants/other/destinations", json={**HTTP, "name": "main"})).status_code == 201


async def test_a_name_of_any_script_has_an_address_that_works(acme: httpx.AsyncClient) -> None:
    made = await acme.post("/tenants/acme/destinations", json={**HTTP, "name": "Büro 50% #1?"})
    assert made.status_code == 201
    location = made.headers["location"].removeprefix("/admin/v1")
    assert (await acme.get(location)).json()["name"] == "Büro 50% #1?"


async def test_a_destination_that_a_route_needs_cannot_be_deleted(acme: httpx.AsyncClient) -> None:
    route = (await acme.post("/tenants/acme/routes", json={"prefix": "photos", "destination": "main"})).json()
    refused = await acme.delete("/tenants/acme/destinations/main")
    assert (refused.status_code, refused.json()["code"]) == (409, "destination_in_use")
    await acme.delete(f"/tenants/acme/routes/{route['id']}")
    assert (await acme.delete("/tenants/acme/destinations/main")).status_code == 204
    assert (await acme.get("/tenants/acme")).json()["default_destination"] is None


async def test_a_stale_etag_is_412_and_changes_nothing(acme: httpx.AsyncClient) -> None:
    path = "/tenants/acme/destinations/main"
    stale = (await acme.get(path)).headers["etag"]
    fresh = (await acme.patch(path, json={"config": {"max_connections": 7}}, headers={"If-Match": stale})).headers["etag"]
    assert fresh != stale
    for answer in (
        await acme.patch(path, json={"config": {"max_connections": 8}}, headers={"If-Match": stale}),
        await acme.delete(path, headers={"If-Match": stale}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "etag_mismatch")
    assert (await acme.get(path)).json()["config"]["max_connections"] == 7
    assert (await acme.delete(path, headers={"If-Match": fresh})).status_code == 204


async def test_destinations_are_listed_by_name_page_by_page(acme: httpx.AsyncClient) -> None:
    for name in ("b", "a"):
        await acme.post("/tenants/acme/destinations", json={**HTTP, "name": name})
    first = (await acme.get("/tenants/acme/destinations?limit=2")).json()
    second = (await acme.get("/tenants/acme/destinations", params={"limit": 2, "cursor": first["next"]})).json()
    assert [item["name"] for item in first["items"] + second["items"]] == ["a", "b", "main"]
    assert second["next"] is None


@pytest.mark.parametrize("finding", [Finding(ok=True, code=None, detail="Fine."), Finding(ok=False, code="egress_denied", detail="No.")])
async def test_a_check_tells_what_was_found_and_when(acme: httpx.AsyncClient, parts: Parts, finding: Finding) -> None:
    parts.destinations.findings["main"] = finding
    answer = await acme.post("/tenants/acme/destinations/main/check")
    assert answer.status_code == 200
    told = answer.json()
    assert told.pop("checked_at").endswith("Z")
    assert told == {"ok": finding.ok, "code": finding.code, "detail": finding.detail}


async def test_a_check_of_a_destination_that_cannot_be_opened_says_so(acme: httpx.AsyncClient) -> None:
    answer = await acme.post("/tenants/acme/destinations/main/check")
    assert (answer.status_code, answer.json()["ok"], answer.json()["code"]) == (200, False, "destination_misconfigured")


async def test_what_does_not_exist_is_404(still: httpx.AsyncClient) -> None:
    for answer in (
        await still.get("/tenants/acme/destinations/none"),
        await still.patch("/tenants/acme/destinations/none", json={}),
        await still.delete("/tenants/acme/destinations/none"),
        await still.post("/tenants/acme/destinations/none/check"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "destination_not_found")
    for answer in (await still.post("/tenants/none/destinations", json=HTTP), await still.get("/tenants/none/destinations")):
        assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"kind": "ftp"}, ["body", "kind"]),
        ({"name": "a/b"}, ["body", "name"]),
        ({"name": ""}, ["body", "name"]),
        ({"name": 7}, ["body", "name"]),
        ({"config": []}, ["body", "config"]),
        ({"config": None}, ["body", "config"]),
        ({"config": {}}, ["body", "config", "base_url"]),
        ({"config": {"base_url": "ftp://x"}}, ["body", "config", "base_url"]),
        ({"config": {"base_url": "http://u:p@x"}}, ["body", "config", "base_url"]),
        ({"config": {"base_url": "http://x/?q"}}, ["body", "config", "base_url"]),
        ({"config": {"base_url": "http://x", "idle_timeout_seconds": "60"}}, ["body", "config", "idle_timeout_seconds"]),
        ({"config": {"base_url": "http://x", "max_connections": True}}, ["body", "config", "max_connections"]),
        ({"config": {"base_url": "http://x", "colour": "red"}}, ["body", "config", "colour"]),
        ({"secrets": {"headers": {"Content-Length": "1"}}}, ["body", "secrets", "headers"]),
        ({"secrets": {"token": "t"}}, ["body", "secrets", "token"]),
        ({"colour": "red"}, ["body", "colour"]),
    ],
)
async def test_a_wrong_member_is_422_by_its_location(still: httpx.AsyncClient, change: dict[str, Any], location: list[str]) -> None:
    answer = await still.post("/tenants/acme/destinations", json={**HTTP, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == location


@pytest.mark.parametrize(
    "patch", [{"name": "other"}, {"kind": "disk"}, {"config": None}, {"config": []}, {"secrets": []}, {"config": {"x": 1}}]
)
async def test_a_wrong_change_is_422(still: httpx.AsyncClient, patch: dict[str, Any]) -> None:
    answer = await still.patch("/tenants/acme/destinations/main", json=patch)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


@pytest.mark.parametrize("directory", ["/etc", "../up", "a/../b", "a\u0000b", ".", "a//b", "a\\b"])
async def test_a_folder_outside_the_root_is_422(still: httpx.AsyncClient, directory: str) -> None:
    answer = await still.post("/tenants/acme/destinations", json={**DISK, "config": {"directory": directory}})
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["body", "config", "directory"])
