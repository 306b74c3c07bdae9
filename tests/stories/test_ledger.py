"""What happened, told afterwards: one entry a request, all its members, and every way to find it again."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from tests.stories.speech import client_of, head, problem_of, say
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

MEMBERS = [
    *("request_id", "client_request_id", "upload_id", "tenant", "key_id", "destination", "method"),
    *("path", "protocol", "outcome", "code", "early", "client_left", "repeated"),
    *("status", "upstream_status", "bytes_in", "bytes_delivered", "bytes_out"),
    *("declared_length", "content_type", "filenames", "digests"),
    *("started_at", "first_byte_at", "body_complete_at", "finished_at", "upstream_wait_ms"),
    *("client_address", "user_agent", "trace_id", "version", "worker", "objects", "fields"),
]
RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def told(relay: RunningRelay, upload_id: str) -> dict[str, Any]:
    """The one entry of an upload, over the admin side, its shape checked."""
    found: list[dict[str, Any]] = []

    async def look() -> bool:
        answer = await relay.admin.get("/ledger", params={"upload_id": upload_id})
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["items", "next"]
        found[:] = answer.json()["items"]
        return bool(found)

    await until(look, seconds=5)
    (entry,) = found
    assert list(entry) == MEMBERS
    for name in ("started_at", "first_byte_at", "body_complete_at", "finished_at"):
        assert entry[name] is None or RFC3339_UTC.fullmatch(entry[name]), (name, entry[name])
    return entry


def check_members(entry: dict[str, Any], **expected: Any) -> None:
    assert {name: entry[name] for name in expected} == expected


async def test_an_entry_tells_what_happened_whatever_happened(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant(limits={"max_upload_bytes": 1_000_000})
        await relay.http_destination(tenant, upstream.url)
        body = b"some content"

        before = datetime.now(UTC)
        headers = {**tenant.headers, "Content-Type": "text/x; a=b", "User-Agent": "probe/1", "X-Request-ID": "mine"}
        answer = await client.put("/upload/a%20b/c?secret=1", content=body, headers=headers)
        entry = await told(relay, answer.headers["relay-upload-id"])
        check_members(
            entry,
            request_id=answer.headers["relay-request-id"],
            client_request_id="mine",
            upload_id=answer.headers["relay-upload-id"],
            tenant="acme",
            key_id=tenant.key.split("_")[1],
            destination="main",
            method="PUT",
            path="a%20b/c",
            protocol="plain",
            outcome="delivered",
            code=None,
            early=False,
            client_left=False,
            repeated=None,
            status=200,
            upstream_status=200,
            bytes_in=len(body),
            bytes_delivered=len(body),
            bytes_out=len(b"taken"),
            declared_length=len(body),
            content_type="text/x; a=b",
            filenames=None,
            client_address="127.0.0.1",
            user_agent="probe/1",
        )
        assert UUID(entry["upload_id"]).version == UUID(entry["request_id"]).version == 7
        times = [datetime.fromisoformat(entry[f"{name}_at"]) for name in ("started", "first_byte", "body_complete", "finished")]
        assert before <= times[0]
        assert times == sorted(times)
        assert times[-1] <= datetime.now(UTC)
        assert entry["upstream_wait_ms"] >= 0
        assert re.fullmatch("[0-9a-f]{32}", entry["trace_id"])
        assert entry["version"]
        assert entry["worker"]

        upstream.conduct = Conduct(status=422, answer=b"not this")
        answer = await client.post("/upload/r", content=body, headers=tenant.headers)
        rejected = await told(relay, answer.headers["relay-upload-id"])
        check_members(rejected, outcome="rejected", code=None, status=422, upstream_status=422, bytes_in=12, bytes_delivered=0, bytes_out=8)

        answer = await client.post("/upload/%2e%2e", content=body, headers=tenant.headers)
        refused = await told(relay, answer.headers["relay-upload-id"])
        check_members(refused, outcome="refused", code="path_invalid", status=400, upstream_status=None, bytes_in=0, destination=None)
        check_members(refused, first_byte_at=None, body_complete_at=None, digests=None, upstream_wait_ms=None, declared_length=12)

        async with RawClient(*relay.address) as raw:
            await raw.send(head("/upload/gone", f"X-API-Key: {tenant.key}", "Transfer-Encoding: chunked") + b"6\r\nsix by\r\n")
            request = await upstream.received(6, 2)
            raw.close()
        gone = await told(relay, request.values("relay-upload-id")[0].decode())
        check_members(gone, outcome="client_gone", code="client_gone", status=499, upstream_status=None, bytes_in=6, bytes_delivered=0)
        check_members(gone, declared_length=None, client_left=False, body_complete_at=None, bytes_out=0)
        assert gone["first_byte_at"] is not None

        disk = await relay.tenant("disk")
        await relay.disk_destination(disk)
        answer = await client.post("/upload/x", content=body, headers=disk.headers)
        stored = await told(relay, answer.headers["relay-upload-id"])
        check_members(stored, outcome="delivered", status=201, upstream_status=201, bytes_delivered=12, bytes_out=len(answer.content))
        assert stored["digests"]["sha256"] == hashlib.sha256(body).hexdigest()

        await check_hostile_values(relay, upstream, tenant)
        await check_usage(relay)


async def check_hostile_values(relay: RunningRelay, upstream: Upstream, tenant: TestTenant) -> None:
    """What no honest client sends is cleaned, cut to its bound, and loses nobody's entry."""
    upstream.conduct = Conduct()
    lines = (f"X-API-Key: {tenant.key}", f"User-Agent: {'u' * 5000}", "X-Request-ID: caf\xe9\xff", "Content-Type: \xff\xfe")
    answer = await say(relay, head(f"/upload/{'p' * 5000}", *lines, "Content-Length: 0"))
    assert answer.status == 200
    entry = await told(relay, answer.value("relay-upload-id") or "")
    assert (len(entry["path"]), len(entry["user_agent"])) == (2048, 512)
    assert entry["content_type"] == "\ufffd\ufffd"


async def check_usage(relay: RunningRelay) -> None:
    """The daily sums are those of the entries."""
    entries = await relay.entries()
    async with relay.services.database.transaction() as session:
        rows = (await session.execute(text("SELECT * FROM usage_daily"))).mappings().all()
    days = {entry["finished_at"][:10] for entry in entries}
    assert {str(row["day"]) for row in rows} == days
    for slug in ("acme", "disk"):
        own = [entry for entry in entries if entry["tenant"] == slug]
        outcomes = [entry["outcome"] for entry in own]
        sums = {name: sum(row[name] for row in rows if row["tenant"] == slug) for name in rows[0] if name not in {"tenant", "day"}}
        assert sums == {
            "uploads": len(own),
            "delivered": outcomes.count("delivered"),
            "rejected": outcomes.count("rejected"),
            "refused": outcomes.count("refused"),
            "failed": outcomes.count("client_gone"),
            "bytes_in": sum(entry["bytes_in"] for entry in own),
            "bytes_delivered": sum(entry["bytes_delivered"] for entry in own),
        }


async def test_every_filter_finds_its_entries_and_pages_join_up(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        acme, other = await relay.tenant("acme"), await relay.tenant("other")
        await relay.http_destination(acme, upstream.url)
        paths = [(f"photos/{index}", acme) for index in range(5)]
        paths += [("100%25_a", acme), ("photos/0", other)]  # the other one has no destination: 404
        answers = [await client.post(f"/upload/{path}", content=b"x", headers=tenant.headers) for path, tenant in paths]
        for answer in answers:
            await told(relay, answer.headers["relay-upload-id"])
        ids = [answer.headers["relay-request-id"] for answer in answers]

        async def find(**filters: str) -> list[str]:
            answer = await relay.admin.get("/ledger", params=filters)
            assert answer.status_code == 200, answer.text
            return [item["request_id"] for item in answer.json()["items"]]

        newest_first = ids[::-1]
        assert await find() == newest_first
        assert await find(tenant="acme") == newest_first[1:]
        assert await find(tenant="nobody") == []
        assert await find(tenant="other") == [ids[6]]
        assert await find(upload_id=answers[2].headers["relay-upload-id"]) == [ids[2]]
        assert await find(request_id=ids[3]) == [ids[3]]
        assert await find(outcome="refused") == [ids[6]]
        assert await find(outcome="delivered", tenant="other") == []
        assert await find(path_prefix="/photos/") == [ids[6], *ids[4::-1]]
        assert await find(path_prefix="/100%25_") == [ids[5]]
        assert await find(path_prefix="/100%25%") == [], "a prefix is text, not a pattern"
        assert await find(path_prefix="/100_25") == []

        items = (await relay.admin.get("/ledger")).json()["items"]
        middle = items[3]["started_at"]
        assert await find(since=middle) == newest_first[:4]
        assert await find(until=middle) == newest_first[4:]
        with_offset = datetime.fromisoformat(middle).astimezone(tz=None) + timedelta(0)
        assert await find(since=with_offset.isoformat(), until=items[0]["started_at"]) == newest_first[1:4]

        for limit in (1, 3, 7, 500):
            pages: list[str] = []
            cursor: str | None = None
            while True:
                page = (await relay.admin.get("/ledger", params={"limit": limit, **({"cursor": cursor} if cursor else {})})).json()
                assert len(page["items"]) <= limit
                pages += [item["request_id"] for item in page["items"]]
                cursor = page["next"]
                if cursor is None:
                    break
            assert pages == newest_first
        for query in ("limit=0", "limit=501", "cursor=broken", "cursor=", "outcome=fine", "since=yesterday", "upload_id=1", "nothing=1"):
            answer = await relay.admin.get(f"/ledger?{query}")
            assert answer.status_code == 422, query
            assert answer.json()["code"] == "request_invalid"
            assert all(list(error) == ["location", "code", "message"] for error in answer.json()["errors"])
        assert (await relay.admin.delete("/tenants/acme")).status_code == 204
        assert await find(tenant="acme") == newest_first[1:], "the ledger stays"


async def test_a_storm_of_refusals_is_summed_up(database_url: str, tmp_path: Path) -> None:
    most = 3  # the default is 20, which a busy machine may not exceed
    async with running_relay(database_url, tmp_path, RELAY_LEDGER_REFUSALS_PER_SECOND=str(most)) as relay:
        tenant = await relay.tenant()
        sent = 40
        async with RawClient(*relay.address) as client:
            for _ in range(sent):
                await client.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 4", "X-Request-ID: same") + b"body")
                assert (await client.answer()).status == 404
        entries: list[dict[str, Any]] = []

        async def are_all_told() -> bool:
            entries[:] = await relay.entries()
            return sum(entry["repeated"] or 1 for entry in entries) >= sent

        await until(are_all_told)
        assert sum(entry["repeated"] or 1 for entry in entries) == sent
        summed = [entry for entry in entries if entry["repeated"] is not None]
        assert all((entry["repeated"] == 1) == (entry["upload_id"] is not None) for entry in summed), "null where they differ"
        times = sorted(datetime.fromisoformat(entry["started_at"]) for entry in entries)
        seconds = int((times[-1] - times[0]).total_seconds()) + 2
        assert len(entries) - len(summed) <= most * seconds
        assert 0 < len(summed) <= seconds
        check_members(
            max(summed, key=lambda entry: int(entry["repeated"])),
            tenant="acme",
            outcome="refused",
            code="route_not_found",
            status=404,
            client_request_id="same",
        )
        async with relay.services.database.transaction() as session:
            rows = (await session.execute(text("SELECT sum(uploads), sum(refused) FROM usage_daily"))).one()
        assert tuple(rows) == (sent, sent)


@pytest.mark.parametrize("sync", ["process", "group"])
async def test_an_entry_is_shipped_while_nothing_follows_it(database_url: str, tmp_path: Path, sync: str) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path, RELAY_JOURNAL_SYNC=sync) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        for name in ("first", quote("späte")):
            answer = await client.post(f"/upload/{name}", content=b"x", headers=tenant.headers)

            async def is_there(answer: httpx.Response = answer) -> bool:
                found = await relay.admin.get("/ledger", params={"request_id": answer.headers["relay-request-id"]})
                return bool(found.json()["items"])

            await until(is_there)
        problem_of(await client.post("/upload/%00", headers=tenant.headers), 400, "path_invalid")
