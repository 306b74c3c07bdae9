"""What became of my upload: a tenant's own view, and what of it nobody else sees."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.ledger.entry import Outcome
from relay.ledger.reports import STATES
from tests.stories.speech import client_of, head, problem_of, raw_problem_of
from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.live import begun_upload, until_running
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

MEMBERS = [
    "upload_id",
    "state",
    "outcome",
    "received_bytes",
    "length",
    "destination",
    "objects",
    "fields",
    "digests",
    "destination_status",
    "started_at",
    "finished_at",
]
OBJECT = ["key", "size", "content_type", "filename", "field", "sha256", "etag", "version"]
UNKNOWN = "01920000-0000-7000-8000-000000000000"
NO_IDS = ["x", UNKNOWN.upper().replace("0", "A"), UNKNOWN.replace("-", ""), f"{{{UNKNOWN}}}", f"urn:uuid:{UNKNOWN}", f"{UNKNOWN}%0A"]
NO_IDS += ["%00", "%ff", "a" * 5_000, f" {UNKNOWN}", "' OR 1=1 --"]


async def upload(client: httpx.AsyncClient, tenant: TestTenant, path: str = "a", content: Any = b"hello", **fields: str) -> httpx.Response:
    return await client.put(f"/upload/{path}", content=content, headers={**tenant.headers, **fields})


async def told(relay: RunningRelay, client: httpx.AsyncClient, tenant: TestTenant, upload_id: str) -> dict[str, Any]:
    """What the tenant is told of an upload, once it is known."""
    await relay.every_entry()
    answer = await client.get(f"/uploads/{upload_id}", headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["relay-upload-id"] == upload_id
    assert answer.headers["relay-request-id"] != upload_id
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    report: dict[str, Any] = answer.json()
    assert list(report) == MEMBERS
    assert next(iter(report["digests"])) == "sha256"
    assert report["upload_id"] == upload_id
    return report


async def listed(client: httpx.AsyncClient, tenant: TestTenant, **query: Any) -> list[str]:
    answer = await client.get("/uploads", headers=tenant.headers, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "relay-upload-id" not in answer.headers
    assert list(answer.json()) == ["items", "next"]
    return [item["upload_id"] for item in answer.json()["items"]]


def nameless(answer: httpx.Response) -> tuple[int, str, dict[str, str]]:
    """An answer without what names the request."""
    fields = {name: value for name, value in answer.headers.items() if name not in {"relay-request-id", "relay-upload-id", "date"}}
    return answer.status_code, answer.text.replace(answer.headers["relay-request-id"], ""), fields


def test_every_outcome_comes_to_a_state() -> None:
    assert set(STATES) == set(Outcome)


async def test_a_file_in_a_folder_is_told_with_what_proves_it(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.disk_destination(tenant)
        before = datetime.now(UTC)
        answer = await upload(client, tenant, "photos/a%20cat.png", b"x" * 1000, **{"Content-Type": "image/png"})
        assert answer.status_code == 201
        report = await told(relay, client, tenant, answer.json()["upload_id"])
        objects = answer.json()["objects"]
        assert report["objects"] == objects
        assert list(report["objects"][0]) == list(objects[0]) == OBJECT
        assert report["digests"] == {"sha256": objects[0]["sha256"], "crc32c": "617154c9"}
        assert [report[name] for name in MEMBERS[1:6]] == ["delivered", "delivered", 1000, 1000, "disk"]
        assert report["destination_status"] == 201
        began, ended = (datetime.fromisoformat(report[name]) for name in ("started_at", "finished_at"))
        assert before - timedelta(seconds=1) <= began <= ended <= datetime.now(UTC)
        assert report["started_at"].endswith("Z")
        page = (await client.get("/uploads", headers={"X-API-Key": tenant.key})).json()
        assert (page["items"], page["next"]) == ([report], None)


async def test_each_way_to_end_is_told_by_its_state(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant(limits={"max_upload_bytes": 100_000})
        await relay.http_destination(tenant, upstream.url)
        ids: dict[str, tuple[str, dict[str, Any]]] = {}

        def note(name: str, answer: httpx.Response, **members: Any) -> None:
            ids[name] = (answer.headers["relay-upload-id"], members)

        async def pieces() -> Any:
            for _ in range(3):
                yield b"12345"

        note("known length", await upload(client, tenant), state="delivered", outcome="delivered", length=5, destination_status=200)
        note("unknown length", await upload(client, tenant, content=pieces()), state="delivered", length=15, received_bytes=15)
        note("too large", await upload(client, tenant, content=b"x" * 100_001), state="failed", outcome="refused", received_bytes=0)
        note("bad path", await upload(client, tenant, "%2e%2e"), state="failed", outcome="refused", destination=None)
        upstream.conduct = Conduct(status=422)
        note("rejected", await upload(client, tenant), state="failed", outcome="rejected", destination_status=422, destination="main")
        upstream.conduct = Conduct(close_after=1)
        note("broke", await upload(client, tenant), state="failed", outcome="destination_failed", destination_status=None)
        upstream.conduct = Conduct()
        async with begun_upload(relay, tenant) as left:
            [running] = await until_running(relay, bytes_in=5)
            early = await client.get(f"/uploads/{running['upload_id']}", headers=tenant.headers)
            problem_of(early, 404, "upload_not_found")
            assert early.headers["retry-after"] == "1", "it is known when it has ended"
            left.reset()
        ids["left"] = (running["upload_id"], {"state": "failed", "outcome": "client_gone", "received_bytes": 5, "length": 1000})
        await until_running(relay, 0)
        async with begun_upload(relay, tenant):
            [running] = await until_running(relay)
            assert (await relay.admin.delete(f"/live/{running['upload_id']}")).status_code == 204
        ids["ended"] = (running["upload_id"], {"state": "cancelled", "outcome": "cancelled", "destination_status": None})

        for name, (upload_id, members) in ids.items():
            report = await told(relay, client, tenant, upload_id)
            assert {member: report[member] for member in members} == members, name
            assert report["objects"] is None
            assert upstream.url.partition("://")[2] not in json.dumps(report)
        assert await listed(client, tenant) == [upload_id for upload_id, _ in reversed(ids.values())]


async def test_what_is_not_mine_is_as_absent_as_what_never_was(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        mine, other = await relay.tenant(), await relay.tenant("other")
        for tenant in (mine, other):
            await relay.http_destination(tenant, upstream.url)
        theirs = (await upload(client, other)).headers["relay-upload-id"]
        await relay.every_entry()
        assert (await client.get(f"/uploads/{theirs}", headers=other.headers)).status_code == 200
        answers = [await client.get(f"/uploads/{upload_id}", headers=mine.headers) for upload_id in (theirs, UNKNOWN, *NO_IDS)]
        for answer in answers:
            problem_of(answer, 404, "upload_not_found")
            assert answer.headers["retry-after"] == "1"
            assert "relay-upload-id" not in answer.headers
            assert nameless(answer) == nameless(answers[0])
        assert await listed(client, mine) == []
        assert await listed(client, other) == [theirs]
        second = (await upload(client, other)).headers["relay-upload-id"]
        await relay.every_entry()
        page = (await client.get("/uploads", headers=other.headers, params={"limit": 1})).json()
        assert [item["upload_id"] for item in page["items"]] == [second]
        assert await listed(client, other, cursor=page["next"]) == [theirs]
        assert await listed(client, mine, cursor=page["next"]) == [], "a cursor is a place, and opens nothing"


async def test_only_a_key_that_may_read_reads(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant, other, disabled = await relay.tenant(), await relay.tenant("other"), await relay.tenant("disabled")
        assert (await relay.admin.patch("/tenants/disabled", json={"status": "disabled"})).status_code == 200
        uploader = (await relay.post("/tenants/acme/keys", {"scopes": ["upload"]}))["key"]
        reader = (await relay.post("/tenants/acme/keys", {"scopes": ["read"]}))["key"]
        revoked = await relay.post("/tenants/acme/keys", {})
        assert (await relay.admin.delete(f"/tenants/acme/keys/{revoked['id']}")).status_code == 204
        soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
        expired = (await relay.post("/tenants/acme/keys", {"expires_at": soon}))["key"]
        await until(lambda: datetime.now(UTC).isoformat() > soon)
        for path in ("/uploads", f"/uploads/{UNKNOWN}", "/uploads?limit=0", "/uploads/x?a=b"):
            for fields, status, code in (
                ({}, 401, "key_missing"),
                ({"Authorization": f"Bearer {tenant.key}x"}, 401, "key_invalid"),
                ({"Authorization": f"Bearer {tenant.key[:-1]}{'A' if tenant.key[-1] != 'A' else 'B'}"}, 401, "key_invalid"),
                ({**tenant.headers, "X-API-Key": other.key}, 400, "credentials_ambiguous"),
                ({"X-API-Key": revoked["key"]}, 401, "key_revoked"),
                ({"X-API-Key": expired}, 401, "key_expired"),
                ({"X-API-Key": uploader}, 403, "scope_missing"),
                (disabled.headers, 403, "tenant_disabled"),
                (dict(relay.admin.headers), 401, "key_invalid"),
            ):
                answer = await client.get(path, headers=fields)
                problem_of(answer, status, code)
                assert answer.headers.get("www-authenticate") == ('Bearer realm="relay"' if status == 401 else None)
                assert answer.headers["cache-control"] == "no-store"
        assert await listed(client, TestTenant("acme", reader)) == []


async def test_other_methods_are_405_and_say_which_there_are(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        for path in ("/uploads", f"/uploads/{UNKNOWN}"):
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                answer = await client.request(method, path, headers=tenant.headers)
                problem_of(answer, 405, "method_not_allowed")
                assert answer.headers["allow"] == "GET"
            answer = await client.head(path, headers=tenant.headers)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        for path in ("/uploads/", f"/uploads/{UNKNOWN}/", f"/uploads/{UNKNOWN}/a"):
            problem_of(await client.get(path, headers=tenant.headers), 404, "not_found")
        async with RawClient(*relay.address) as raw:
            lines = [f"X-API-Key: {tenant.key}", "X-API-Key: rk_other"]
            await raw.send(head("/uploads", *lines, method="GET"))
            raw_problem_of(await raw.final_answer("GET"), 400, "credentials_ambiguous")


async def test_my_uploads_are_walked_newest_first_by_page_and_time(database_url: str, tmp_path: Path) -> None:
    limited = running_relay(database_url, tmp_path, RELAY_LEDGER_REFUSALS_PER_SECOND="1")
    async with Upstream() as upstream, limited as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        sent = [(await upload(client, tenant)).headers["relay-upload-id"] for _ in range(5)]
        await relay.every_entry()
        newest_first = list(reversed(sent))
        walked: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while query:
            page = (await client.get("/uploads", headers=tenant.headers, params=query)).json()
            assert len(page["items"]) <= 2
            walked += [item["upload_id"] for item in page["items"]]
            query = {"limit": 2, "cursor": page["next"]} if page["next"] else {}
        assert walked == newest_first == await listed(client, tenant, limit=5) == await listed(client, tenant, limit=500)
        middle = (await told(relay, client, tenant, sent[2]))["started_at"]
        assert await listed(client, tenant, since=middle) == newest_first[:3]
        assert await listed(client, tenant, until=middle) == newest_first[3:]
        assert await listed(client, tenant, since=middle, until=middle) == []

        await asyncio.gather(*(upload(client, tenant, "%2e%2e") for _ in range(12)))
        await relay.services.relay.refusals.flush()
        entries = await relay.every_entry(outcome="refused")
        assert sum(entry["repeated"] or 1 for entry in entries) == 12
        summed_up = [entry for entry in entries if entry["upload_id"] is None]
        assert summed_up, "some were summed up"
        own = {entry["upload_id"] for entry in entries} - {None}
        assert set(await listed(client, tenant)) == own | set(sent), "what has no upload id has no report"

        for wrong in (
            "limit=0",
            "limit=501",
            "limit=x",
            "cursor=broken",
            "cursor=WyJhIiwiYiJd",
            "since=2026-01-01",
            "until=now",
            "tenant=other",
            "outcome=delivered",
        ):
            answer = await client.get(f"/uploads?{wrong}", headers=tenant.headers)
            assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), wrong
            assert answer.json()["errors"][0]["location"] == ["query", wrong.partition("=")[0]]


@pytest.mark.parametrize("is_known", [True, False])
async def test_without_postgres_it_is_503_and_says_when_to_come_back(database_url: str, tmp_path: Path, *, is_known: bool) -> None:
    async with (
        FaultProxy(address_of_postgres(database_url)) as proxy,
        running_relay(url_through(proxy, database_url), tmp_path) as relay,
        client_of(relay) as client,
    ):
        tenant = await relay.tenant()
        if is_known:
            assert await listed(client, tenant) == []
        proxy.refuse()
        for path in ("/uploads", f"/uploads/{UNKNOWN}"):
            answer = await client.get(path, headers=tenant.headers)
            problem_of(answer, 503, "database_unavailable" if is_known else "directory_unavailable")
            assert answer.headers["retry-after"] == "2"
        proxy.allow()
