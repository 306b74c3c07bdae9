"""The contract of keys, word by word, over a socket: each is used at the door for what it says of itself."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = ["id", "name", "scopes", "status", "created_at", "expires_at", "last_used_at"]
TEXT = re.compile(r"rk_([a-z0-9]{16})_[A-Za-z0-9]{43}")


def check_issued(answer: httpx.Response, slug: str, *more: str) -> dict[str, Any]:
    """A key that was just made, with everything that is promised of the answer."""
    assert answer.status_code == 201, answer.text
    issued: dict[str, Any] = answer.json()
    assert list(issued) == [*MEMBERS, "key", *more]
    text = TEXT.fullmatch(issued["key"])
    assert text is not None
    assert text[1] == issued["id"]
    assert answer.headers["location"] == f"/admin/v1/tenants/{slug}/keys/{issued['id']}"
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["cache-control"] == "no-store"
    return issued


async def put(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.put("/upload/a", content=b"x", headers={"X-API-Key": key})


async def until_status(client: httpx.AsyncClient, key: str, status: int, *, seconds: float = 1) -> httpx.Response:
    """Upload until the answer has this status."""
    answers: list[httpx.Response] = []

    async def has_changed() -> bool:
        answers.append(await put(client, key))
        return answers[-1].status_code == status

    await until(has_changed, seconds=seconds)
    return answers[-1]


async def test_the_text_of_a_key_is_shown_when_it_is_made_and_never_again(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    await shared_relay.post("/tenants", {"slug": "issued"})
    plain = check_issued(await admin.post("/tenants/issued/keys"), "issued")
    told = {name: plain[name] for name in MEMBERS[1:] if name != "created_at"}
    assert told == {"name": None, "scopes": ["upload", "read"], "status": "active", "expires_at": None, "last_used_at": None}
    document = {"name": "laptop", "scopes": ["read"], "expires_at": "2099-01-31T12:00:00+02:00"}
    answer = await admin.post("/tenants/issued/keys", json=document)
    named = check_issued(answer, "issued")
    assert (named["name"], named["scopes"], named["expires_at"]) == ("laptop", ["read"], "2099-01-31T10:00:00Z")
    both = [{name: key[name] for name in MEMBERS} for key in (plain, named)]
    listed = await admin.get("/tenants/issued/keys")
    assert listed.json() == {"items": both, "next": None}
    shown = await admin.get(f"/tenants/issued/keys/{named['id']}")
    assert (list(shown.json()), shown.json(), shown.headers["etag"]) == (MEMBERS, both[1], answer.headers["etag"])
    for key in (plain, named):
        assert key["key"].rpartition("_")[2] not in listed.text + shown.text

    for wrong, location in (
        ({"colour": "red"}, ("body", "colour")),
        ({"key": plain["key"]}, ("body", "key")),
        ({"scopes": []}, ("body", "scopes")),
        ({"scopes": ["upload", "admin"]}, ("body", "scopes", 1)),
        ({"expires_at": "2020-01-01T00:00:00Z"}, ("body", "expires_at")),
        ({"expires_at": "2099-01-01T00:00:00"}, ("body", "expires_at")),
        ({"name": ""}, ("body", "name")),
    ):
        assert wrong_members_of(await admin.post("/tenants/issued/keys", json=wrong)) == [location]
    for overlap in (-1, 1.5, "60", 366 * 86_400 + 1):
        answer = await admin.post(f"/tenants/issued/keys/{plain['id']}/rotate", json={"overlap_seconds": overlap})
        assert wrong_members_of(answer) == [("body", "overlap_seconds")]
    unknown = f"/tenants/issued/keys/{'0' * 16}"
    for method, path in (("GET", unknown), ("DELETE", unknown), ("POST", f"{unknown}/rotate")):
        problem_of(await admin.request(method, path), 404, "key_not_found")


async def test_a_key_ends_when_it_says_and_rotation_leaves_both_for_the_overlap(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    async with Upstream() as upstream, client_of(shared_relay) as client:
        old = await shared_relay.tenant("rotated")
        await shared_relay.http_destination(old, upstream.url)
        old_id = old.key.split("_")[1]
        new = check_issued(await admin.post(f"/tenants/rotated/keys/{old_id}/rotate", json={"overlap_seconds": 3}), "rotated", "replaces")
        assert (new["replaces"], new["expires_at"], new["status"]) == (old_id, None, "active")
        ends = (datetime.now(UTC) + timedelta(seconds=2.5)).isoformat()
        ending = check_issued(await admin.post("/tenants/rotated/keys", json={"expires_at": ends, "name": "short"}), "rotated")
        await asyncio.gather(*(until_status(client, key, 200) for key in (old.key, new["key"], ending["key"])))

        await asyncio.gather(*(until_status(client, key, 401, seconds=10) for key in (old.key, ending["key"])))
        for key in (old.key, ending["key"]):
            expired = await put(client, key)
            problem_of(expired, 401, "key_expired")
            assert expired.headers["www-authenticate"] == 'Bearer realm="relay"'
        for key_id in (old_id, ending["id"]):
            shown = (await admin.get(f"/tenants/rotated/keys/{key_id}")).json()
            assert shown["status"] == "expired"
            assert datetime.fromisoformat(shown["expires_at"]) <= datetime.now(UTC)
            again = await admin.post(f"/tenants/rotated/keys/{key_id}/rotate", json={})
            assert wrong_members_of(again) == [("path", "key_id")], "what has ended is not rotated"
        assert (await put(client, new["key"])).status_code == 200

        at_once = check_issued(
            await admin.post(f"/tenants/rotated/keys/{new['id']}/rotate", json={"overlap_seconds": 0}), "rotated", "replaces"
        )
        problem_of(await until_status(client, new["key"], 401), 401, "key_expired")
        by_default = check_issued(await admin.post(f"/tenants/rotated/keys/{at_once['id']}/rotate"), "rotated", "replaces")
        hour = datetime.fromisoformat((await admin.get(f"/tenants/rotated/keys/{at_once['id']}")).json()["expires_at"])
        assert timedelta(minutes=59) < hour - datetime.now(UTC) <= timedelta(hours=1)
        assert (await until_status(client, by_default["key"], 200)).status_code == 200


async def test_a_key_does_what_its_scopes_say_and_stops_at_once(shared_relay: RunningRelay) -> None:
    admin = shared_relay.admin
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("scoped")
        await shared_relay.http_destination(tenant, upstream.url)
        keys = {scope: await shared_relay.post("/tenants/scoped/keys", {"scopes": [scope]}) for scope in ("upload", "read")}
        for scope, upload_status, read_status in (("upload", 200, 403), ("read", 403, 200)):
            uploaded = await put(client, keys[scope]["key"])
            read = await client.get("/uploads", headers={"X-API-Key": keys[scope]["key"]})
            assert (uploaded.status_code, read.status_code) == (upload_status, read_status)
            problem_of(uploaded if upload_status == 403 else read, 403, "scope_missing")
        assert len(upstream.requests) == 1

        key, path = keys["upload"]["key"], f"/tenants/scoped/keys/{keys['upload']['id']}"
        problem_of(await admin.delete(path, headers={"If-Match": '"stale"'}), 412, "etag_mismatch")
        assert (await put(client, key)).status_code == 200
        fresh = (await admin.get(path)).headers["etag"]
        revoked = await admin.delete(path, headers={"If-Match": fresh})
        assert (revoked.status_code, revoked.content) == (204, b"")
        refused = await put(client, key)
        problem_of(refused, 401, "key_revoked")
        shown = await admin.get(path)
        assert shown.json()["status"] == "revoked"
        assert shown.headers["etag"] != fresh
        assert keys["upload"]["id"] in [item["id"] for item in (await admin.get("/tenants/scoped/keys")).json()["items"]]
        assert (await admin.delete(path)).status_code == 204, "revoking twice is no failure"
        assert wrong_members_of(await admin.post(f"{path}/rotate")) == [("path", "key_id")]
