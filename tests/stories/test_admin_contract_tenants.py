"""The contract of tenants, word by word, over a socket; and what the door makes of each change."""

import re
from typing import Any

import httpx
import pytest

from tests.stories.conftest import READ_TOKEN
from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = ["slug", "name", "status", "limits", "content_types", "default_destination", "created_at", "updated_at"]
RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
STRONG = re.compile(r'"[^"]+"')
MERGE_PATCH = {"content-type": "application/merge-patch+json"}
LONGEST = "a" + "-" * 61 + "z"


def settable(tenant: dict[str, Any]) -> dict[str, Any]:
    """A tenant without its times, all its members checked."""
    assert list(tenant) == MEMBERS
    assert list(tenant["limits"]) == ["max_upload_bytes"]
    assert RFC3339_UTC.fullmatch(tenant["created_at"])
    assert RFC3339_UTC.fullmatch(tenant["updated_at"])
    return {name: tenant[name] for name in MEMBERS[:-2]}


async def test_a_tenant_is_shown_whole_from_its_making_on(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    document = {"slug": "whole", "name": "Whole", "limits": {"max_upload_bytes": 10}, "content_types": ["image/*", "text/plain"]}
    made = await admin.post("/tenants", json=document)
    assert made.status_code == 201
    assert settable(made.json()) == {**document, "status": "active", "default_destination": None}
    assert made.headers["location"] == "/admin/v1/tenants/whole"
    assert STRONG.fullmatch(made.headers["etag"])
    shown = await admin.get("/tenants/whole")
    assert (shown.status_code, shown.text, shown.headers["etag"]) == (200, made.text, made.headers["etag"])

    for slug in ("w", "0", LONGEST):
        least = await admin.post("/tenants", json={"slug": slug})
        assert least.status_code == 201, slug
        assert settable(least.json()) == {
            "slug": slug,
            "name": None,
            "status": "active",
            "limits": {"max_upload_bytes": None},
            "content_types": [],
            "default_destination": None,
        }
        problem_of(await admin.post("/tenants", json={"slug": slug}), 409, "tenant_exists")
    for slug in ("", "-w", "w-", "W", "w_w", "w.w", f"{LONGEST}z", "ü"):
        assert wrong_members_of(await admin.post("/tenants", json={"slug": slug})) == [("body", "slug")], slug
    wrong = {"slug": "wrong", "limits": {"max_upload_bytes": 0}, "content_types": ["image"], "name": ""}
    assert set(wrong_members_of(await admin.post("/tenants", json=wrong))) == {
        ("body", "name"),
        ("body", "limits", "max_upload_bytes"),
        ("body", "content_types", 0),
    }
    unknown = {"slug": "wrong", "colour": "red", "limits": {"most": 1}}
    assert set(wrong_members_of(await admin.post("/tenants", json=unknown))) == {("body", "colour"), ("body", "limits", "most")}
    assert wrong_members_of(await admin.post("/tenants", json={"slug": "wrong", "default_destination": "main"})) == [
        ("body", "default_destination")
    ]
    problem_of(await admin.get("/tenants/wrong"), 404, "tenant_not_found")


async def test_a_merge_patch_changes_what_it_names_and_null_removes(shared_relay: RunningRelay) -> None:
    admin, path = shared_relay.admin, "/tenants/patched"
    document = {"slug": "patched", "name": "Patched", "limits": {"max_upload_bytes": 10}, "content_types": ["image/*"]}
    made = await admin.post("/tenants", json=document)
    expected = settable(made.json())
    etags = [made.headers["etag"]]
    for content, changed in (
        ('{"name": null}', {"name": None}),
        ('{"limits": {}}', {}),
        ('{"limits": {"max_upload_bytes": 20}}', {"limits": {"max_upload_bytes": 20}}),
        ('{"limits": {"max_upload_bytes": null}}', {"limits": {"max_upload_bytes": None}}),
        (
            '{"limits": {"max_upload_bytes": 30}, "content_types": ["a/b", "*/*"]}',
            {"limits": {"max_upload_bytes": 30}, "content_types": ["a/b", "*/*"]},
        ),
        ('{"limits": null, "content_types": null}', {"limits": {"max_upload_bytes": None}, "content_types": []}),
        ('{"status": "disabled"}', {"status": "disabled"}),
        ('{"status": "active", "name": "Again"}', {"status": "active", "name": "Again"}),
    ):
        answer = await admin.patch(path, content=content, headers={**MERGE_PATCH, "If-Match": etags[-1]})
        assert answer.status_code == 200, answer.text
        expected = {**expected, **changed}
        assert settable(answer.json()) == expected, content
        assert answer.json()["created_at"] == made.json()["created_at"]
        assert STRONG.fullmatch(answer.headers["etag"])
        etags.append(answer.headers["etag"])
    assert len(set(etags)) == len(etags)

    for stale in (etags[0], f"W/{etags[-1]}", '"no such"', "no tag"):
        problem_of(await admin.patch(path, json={"name": "stale"}, headers={"If-Match": stale}), 412, "etag_mismatch")
        problem_of(await admin.delete(path, headers={"If-Match": stale}), 412, "etag_mismatch")
    for wrong, location in (
        ({"colour": "red"}, ("body", "colour")),
        ({"slug": "other"}, ("body", "slug")),
        ({"limits": {"most": 1}}, ("body", "limits", "most")),
        ({"limits": {"max_upload_bytes": -1}}, ("body", "limits", "max_upload_bytes")),
        ({"status": "deleted"}, ("body", "status")),
        ({"default_destination": "none"}, ("body", "default_destination")),
    ):
        assert wrong_members_of(await admin.patch(path, json=wrong)) == [location]
    shown = await admin.get(path)
    assert (settable(shown.json()), shown.headers["etag"]) == (expected, etags[-1])
    assert (await admin.patch(path, json={}, headers={"If-Match": f'"other", {etags[-1]}'})).status_code == 200
    assert (await admin.patch(path, json={}, headers={"If-Match": "*"})).status_code == 200


async def test_the_door_keeps_to_a_change_within_a_second(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("changing")
        await shared_relay.http_destination(tenant, upstream.url)

        async def change(document: dict[str, Any], status: int) -> httpx.Response:
            assert (await shared_relay.admin.patch("/tenants/changing", json=document)).status_code == 200
            answers: list[httpx.Response] = []

            async def is_kept() -> bool:
                headers = {**tenant.headers, "Content-Type": "image/png"}
                answers.append(await client.put("/upload/a", content=b"12345", headers=headers))
                return answers[-1].status_code == status

            await until(is_kept, seconds=1)
            return answers[-1]

        problem_of(await change({"limits": {"max_upload_bytes": 4}}, 413), 413, "upload_too_large")
        await change({"limits": {"max_upload_bytes": None}}, 200)
        problem_of(await change({"content_types": ["text/*"]}, 415), 415, "content_type_refused")
        await change({"content_types": ["text/*", "image/*"]}, 200)
        problem_of(await change({"status": "disabled"}, 403), 403, "tenant_disabled")
        await change({"status": "active"}, 200)
        problem_of(await change({"default_destination": None}, 404), 404, "route_not_found")
        await change({"default_destination": "main"}, 200)


async def test_deletion_is_soft_and_the_slug_is_taken_for_ever(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("gone")
        await shared_relay.http_destination(tenant, upstream.url)
        route = await shared_relay.post("/tenants/gone/routes", {"prefix": "a", "destination": "main"})
        sent = await client.put("/upload/a", content=b"12345", headers=tenant.headers)
        await shared_relay.entry(upload_id=sent.headers["relay-upload-id"])
        deleted = await admin.delete("/tenants/gone", headers={"If-Match": (await admin.get("/tenants/gone")).headers["etag"]})
        assert (deleted.status_code, deleted.content) == (204, b"")

        async def is_unknown() -> bool:
            return (await client.put("/upload/a", content=b"1", headers=tenant.headers)).status_code == 401

        await until(is_unknown, seconds=1)
        problem_of(await client.put("/upload/a", content=b"1", headers=tenant.headers), 401, "key_invalid")
        problem_of(await client.get("/uploads", headers=tenant.headers), 401, "key_invalid")
        problem_of(await admin.post("/tenants", json={"slug": "gone"}), 409, "tenant_exists")
        key_id = tenant.key.split("_")[1]
        nouns = ("", "/keys", f"/keys/{key_id}", "/destinations", "/destinations/main", "/routes", f"/routes/{route['id']}")
        for path in nouns:
            problem_of(await admin.get(f"/tenants/gone{path}"), 404, "tenant_not_found")
        problem_of(await admin.patch("/tenants/gone", json={}), 404, "tenant_not_found")
        problem_of(await admin.delete("/tenants/gone"), 404, "tenant_not_found")
        problem_of(await admin.post("/tenants/gone/keys", json={}), 404, "tenant_not_found")
        assert "gone" not in [item["slug"] for item in (await admin.get("/tenants?limit=500")).json()["items"]]
        kept = await shared_relay.every_entry(tenant="gone")
        assert [entry["upload_id"] for entry in kept] == [sent.headers["relay-upload-id"]], "the ledger stays"
        assert (await admin.get("/usage?tenant=gone")).json()["items"], "so does what it used"
        assert (await admin.get("/audit?tenant=gone")).json()["items"][0]["action"] == "tenant.delete"


async def test_who_may_only_read_changes_nothing_whatever_is_sent(shared_relay: RunningRelay) -> None:
    await shared_relay.tenant("read")
    reader = {"Authorization": f"Bearer {READ_TOKEN}"}
    admin = shared_relay.admin
    assert (await admin.get("/tenants/read", headers=reader)).status_code == 200
    for method, path in (("POST", "/tenants"), ("PATCH", "/tenants/read"), ("DELETE", "/tenants/read"), ("POST", "/tenants/read/keys")):
        problem_of(await admin.request(method, path, headers=reader, content=b"{"), 403, "operator_read_only")
    assert (await admin.get("/tenants/read")).json()["status"] == "active"
    problem_of(await admin.get("/tenant"), 404, "not_found")
    problem_of(await admin.post("/tenants", content=b"slug=a", headers={"Content-Type": "text/plain"}), 415, "content_type_refused")
