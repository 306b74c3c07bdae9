"""A key's life over REST: its text is seen once."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

KEY = re.compile(r"rk_([a-z0-9]{16})_[A-Za-z0-9]{43}")


async def issue(admin: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    answer = await admin.post("/tenants/acme/keys", json=members)
    answer.raise_for_status()
    issued: dict[str, Any] = answer.json()
    return issued


async def test_a_new_key_shows_its_text_once(acme: httpx.AsyncClient) -> None:
    made = await acme.post("/tenants/acme/keys", json={"name": "laptop", "scopes": ["upload"], "expires_at": "2099-01-31T12:00:00+01:00"})
    assert made.status_code == 201
    issued = made.json()
    text = issued.pop("key")
    match = KEY.fullmatch(text)
    assert match is not None
    assert match[1] == issued["id"]
    created_at = issued.pop("created_at")
    assert created_at.endswith("Z")
    assert issued == {
        "id": match[1],
        "name": "laptop",
        "scopes": ["upload"],
        "status": "active",
        "expires_at": "2099-01-31T11:00:00Z",
        "last_used_at": None,
    }
    assert made.headers["location"] == f"/admin/v1/tenants/acme/keys/{match[1]}"
    assert made.headers["cache-control"] == "no-store"
    shown = await acme.get(f"/tenants/acme/keys/{match[1]}")
    assert shown.json() == {**issued, "created_at": created_at}
    assert shown.headers["etag"] == made.headers["etag"]
    secret = text.rpartition("_")[2]
    assert secret not in shown.text + (await acme.get("/tenants/acme/keys")).text


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
async def test_a_key_needs_no_members(still: httpx.AsyncClient, content: bytes) -> None:
    made = await still.post("/tenants/acme/keys", content=content)
    assert made.status_code == 201
    assert (made.json()["scopes"], made.json()["name"], made.json()["expires_at"]) == (["upload", "read"], None, None)


async def test_a_revoked_key_stays_in_the_listing(acme: httpx.AsyncClient) -> None:
    key_id = (await issue(acme))["id"]
    revoked = await acme.delete(f"/tenants/acme/keys/{key_id}")
    assert (revoked.status_code, revoked.content) == (204, b"")
    [listed] = (await acme.get("/tenants/acme/keys")).json()["items"]
    assert (listed["id"], listed["status"]) == (key_id, "revoked")
    assert (await acme.delete(f"/tenants/acme/keys/{key_id}")).status_code == 204


async def test_a_stale_etag_does_not_revoke(acme: httpx.AsyncClient) -> None:
    key_id = (await issue(acme))["id"]
    stale = await acme.delete(f"/tenants/acme/keys/{key_id}", headers={"If-Match": '"stale"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "etag_mismatch")
    shown = await acme.get(f"/tenants/acme/keys/{key_id}")
    assert shown.json()["status"] == "active"
    assert (await acme.delete(f"/tenants/acme/keys/{key_id}", headers={"If-Match": shown.headers["etag"]})).status_code == 204


async def test_rotation_issues_a_key_and_lets_the_old_one_expire(acme: httpx.AsyncClient) -> None:
    old = await issue(acme, name="laptop", scopes=["read"])
    made = await acme.post(f"/tenants/acme/keys/{old['id']}/rotate", json={"overlap_seconds": 60})
    assert made.status_code == 201
    new = made.json()
    assert KEY.fullmatch(new["key"])
    assert (new["replaces"], new["name"], new["scopes"], new["expires_at"]) == (old["id"], "laptop", ["read"], None)
    assert made.headers["location"] == f"/admin/v1/tenants/acme/keys/{new['id']}"
    expires_at = datetime.fromisoformat((await acme.get(f"/tenants/acme/keys/{old['id']}")).json()["expires_at"])
    assert timedelta(seconds=0) < expires_at - datetime.now(UTC) <= timedelta(seconds=60)


async def test_rotation_without_overlap_ends_the_old_key(acme: httpx.AsyncClient) -> None:
    old = await issue(acme)
    assert (await acme.post(f"/tenants/acme/keys/{old['id']}/rotate", json={"overlap_seconds": 0})).status_code == 201
    assert (await acme.get(f"/tenants/acme/keys/{old['id']}")).json()["status"] == "expired"
    again = await acme.post(f"/tenants/acme/keys/{old['id']}/rotate")
    assert (again.status_code, again.json()["code"]) == (422, "request_invalid")


async def test_keys_are_listed_oldest_first_page_by_page(acme: httpx.AsyncClient) -> None:
    issued = [(await issue(acme))["id"] for _ in range(3)]
    first = (await acme.get("/tenants/acme/keys?limit=2")).json()
    second = (await acme.get("/tenants/acme/keys", params={"limit": 2, "cursor": first["next"]})).json()
    assert [item["id"] for item in first["items"] + second["items"]] == issued
    assert second["next"] is None


@pytest.mark.parametrize("key_id", ["unknown", "k" * 16, "%F0%9F%98%80", "rk_x"])
async def test_an_unknown_key_is_404(still: httpx.AsyncClient, key_id: str) -> None:
    for answer in (
        await still.get(f"/tenants/acme/keys/{key_id}"),
        await still.delete(f"/tenants/acme/keys/{key_id}"),
        await still.post(f"/tenants/acme/keys/{key_id}/rotate"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "key_not_found")


async def test_another_tenants_key_is_404(acme: httpx.AsyncClient) -> None:
    key_id = (await issue(acme))["id"]
    await acme.post("/tenants", json={"slug": "other"})
    assert (await acme.get(f"/tenants/other/keys/{key_id}")).json()["code"] == "key_not_found"
    assert (await acme.delete(f"/tenants/other/keys/{key_id}")).json()["code"] == "key_not_found"
    assert (await acme.get(f"/tenants/acme/keys/{key_id}")).json()["status"] == "active"


async def test_a_key_of_no_tenant_is_404(admin: httpx.AsyncClient) -> None:
    for answer in (await admin.post("/tenants/acme/keys"), await admin.get("/tenants/acme/keys"), await admin.get("/tenants/acme/keys/x")):
        assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")


@pytest.mark.parametrize(
    ("member", "value", "location"),
    [
        ("expires_at", "2020-01-01T00:00:00Z", ["body", "expires_at"]),
        ("expires_at", "2099-01-01T00:00:00", ["body", "expires_at"]),
        ("expires_at", "2099-01-01", ["body", "expires_at"]),
        ("expires_at", "2099-02-30T00:00:00Z", ["body", "expires_at"]),
        ("expires_at", "9999-12-31T23:59:59-23:00", ["body", "expires_at"]),
        ("expires_at", 4_000_000_000, ["body", "expires_at"]),
        ("expires_at", "4000000000", ["body", "expires_at"]),
        ("scopes", [], ["body", "scopes"]),
        ("scopes", ["upload", "upload"], ["body", "scopes"]),
        ("scopes", ["admin"], ["body", "scopes", 0]),
        ("scopes", "upload", ["body", "scopes"]),
        ("name", "", ["body", "name"]),
        ("key", "rk_mine", ["body", "key"]),
    ],
)
async def test_a_wrong_member_is_422_by_its_location(still: httpx.AsyncClient, member: str, value: object, location: list[str]) -> None:
    answer = await still.post("/tenants/acme/keys", json={member: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == location


@pytest.mark.parametrize("seconds", [-1, 366 * 86_400 + 1, "60", 1.5, True, 2**62])
async def test_an_overlap_out_of_range_is_422(still: httpx.AsyncClient, seconds: object) -> None:
    key_id = (await issue(still))["id"]
    answer = await still.post(f"/tenants/acme/keys/{key_id}/rotate", json={"overlap_seconds": seconds})
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["body", "overlap_seconds"])
