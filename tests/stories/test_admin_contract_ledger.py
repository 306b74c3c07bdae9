"""The contract of the ledger's three forms, and of what the audit and the usage tell of the same hour, over a socket."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.stories.speech import client_of, problem_of, wrong_members_of
from tests.stories.test_ledger import MEMBERS
from tests.support.running_relay import RunningRelay
from tests.support.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def as_csv(value: Any) -> str:
    """A member as a line of CSV shows it."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return value
        case _:
            return json.dumps(value)


async def test_the_three_forms_tell_the_same_of_the_same_entries(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("forms")
        await shared_relay.disk_destination(tenant, "forms")
        await shared_relay.http_destination(tenant, upstream.url)
        await shared_relay.post("/tenants/forms/routes", {"prefix": "http", "destination": "main"})
        fields = {**tenant.headers, "X-Request-ID": "theirs-1", "Content-Type": 'text/plain; note="a,b"'}
        answers = [
            await client.put("/upload/a,b", content=b"12345", headers=fields),
            await client.put("/upload/a,b", content=b"12345", headers=fields),
            await client.post("/upload/http/%22x%22", content=b"", headers=tenant.headers),
        ]
        assert [answer.status_code for answer in answers] == [201, 409, 200]
        await shared_relay.every_entry()
    entries = await shared_relay.entries(tenant="forms")
    assert [entry["request_id"] for entry in entries] == [answer.headers["relay-request-id"] for answer in reversed(answers)]
    assert [entry["upload_id"] for entry in entries] == [answer.headers["relay-upload-id"] for answer in reversed(answers)]
    assert [entry["client_request_id"] for entry in entries] == [None, "theirs-1", "theirs-1"]
    assert all(list(entry) == MEMBERS for entry in entries)

    query = {"tenant": "forms"}
    lines = (await shared_relay.admin.get("/ledger", params={**query, "format": "ndjson"})).text.splitlines()
    assert [json.loads(line) for line in lines] == entries
    assert all(list(json.loads(line)) == MEMBERS for line in lines)
    table = (await shared_relay.admin.get("/ledger", params={**query, "format": "csv"})).text
    header, *rows = csv.reader(io.StringIO(table, newline=""), strict=True)
    assert header == MEMBERS
    compared = [name for name in MEMBERS if name not in {"digests", "upstream_wait_ms"}]
    for row, entry in zip(rows, entries, strict=True):
        told = dict(zip(header, row, strict=True))
        assert {name: told[name] for name in compared} == {name: as_csv(entry[name]) for name in compared}
        assert json.loads(told["digests"] or "null") == entry["digests"]
        assert float(told["upstream_wait_ms"] or -1) == (-1 if entry["upstream_wait_ms"] is None else entry["upstream_wait_ms"])

    for wrong, locations in (
        ({"format": "xml"}, {"format"}),
        ({"format": "csv", "limit": "1"}, {"limit"}),
        ({"format": "ndjson", "limit": "1", "cursor": "x"}, {"limit", "cursor"}),
        ({"outcome": "lost"}, {"outcome"}),
        ({"upload_id": "7"}, {"upload_id"}),
        ({"request_id": "7"}, {"request_id"}),
        ({"since": "2026-01-31"}, {"since"}),
        ({"until": "now"}, {"until"}),
        ({"status": "200"}, {"status"}),
    ):
        refused = await shared_relay.admin.get("/ledger", params=wrong)
        assert set(wrong_members_of(refused)) == {("query", name) for name in locations}
    problem_of(await shared_relay.admin.get(f"/ledger/{entries[0]['request_id']}"), 404, "not_found")


async def test_usage_is_told_of_whole_days_that_exist(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("days")
        await shared_relay.http_destination(tenant, upstream.url)
        for size in (3, 5):
            assert (await client.put("/upload/a", content=b"x" * size, headers=tenant.headers)).status_code == 200
        assert (await client.put("/upload/%00", content=b"x", headers=tenant.headers)).status_code == 400
        entries = await shared_relay.every_entry(tenant="days")
    items = (await shared_relay.admin.get("/usage?tenant=days")).json()["items"]
    names = ["tenant", "day", "uploads", "delivered", "rejected", "refused", "failed", "bytes_in", "bytes_delivered"]
    assert all(list(item) == names for item in items)
    assert {item["day"] for item in items} == {entry["finished_at"][:10] for entry in entries}
    assert [sum(item[name] for item in items) for name in names[2:6]] == [3, 2, 0, 1]
    for name in ("bytes_in", "bytes_delivered"):
        assert sum(item[name] for item in items) == sum(entry[name] for entry in entries)
    day = datetime.fromisoformat(items[0]["day"]).date()
    for query, is_in in (
        ({"since": str(day)}, True),
        ({"since": str(day + timedelta(days=1))}, False),
        ({"since": str(day), "until": str(day)}, False),
        ({"since": str(day), "until": str(day + timedelta(days=1))}, True),
    ):
        shown = (await shared_relay.admin.get("/usage", params={"tenant": "days", **query})).json()["items"]
        assert (items[0] in shown) == is_in, query
    for wrong in ("2026-02-30", "2026-1-1", "2026-01-01T00:00:00Z", "yesterday"):
        for name in ("since", "until"):
            assert wrong_members_of(await shared_relay.admin.get("/usage", params={name: wrong})) == [("query", name)]


async def test_a_change_is_in_the_audit_with_what_was_before_and_after(shared_relay: RunningRelay) -> None:
    began = datetime.now(UTC)
    made = await shared_relay.admin.post("/tenants", json={"slug": "audited", "name": "Before"})
    changed = await shared_relay.admin.patch("/tenants/audited", json={"name": "After", "limits": {"max_upload_bytes": 7}})
    key = await shared_relay.post("/tenants/audited/keys", {})
    revoked = await shared_relay.admin.delete(f"/tenants/audited/keys/{key['id']}")
    (await shared_relay.admin.patch("/tenants/audited", json={}, headers={"If-Match": '"stale"'}))
    answer = await shared_relay.admin.get("/audit?tenant=audited")
    assert key["key"].rpartition("_")[2] not in answer.text
    items = answer.json()["items"]
    assert all(list(item) == ["id", "at", "actor", "action", "target", "before", "after", "request_id"] for item in items)
    assert [item["action"] for item in items] == ["key.revoke", "key.issue", "tenant.change", "tenant.create"], "newest first, no refusal"
    assert [items[index]["request_id"] for index in (0, 2, 3)] == [each.headers["relay-request-id"] for each in (revoked, changed, made)]
    assert {item["actor"] for item in items} == {"operator"}
    before = {name: value for name, value in made.json().items() if not name.endswith("_at")}
    after = {name: value for name, value in changed.json().items() if not name.endswith("_at")}
    assert (items[3]["target"], items[3]["before"], items[3]["after"]) == ("audited", None, before)
    assert (items[2]["target"], items[2]["before"], items[2]["after"]) == ("audited", before, after)
    assert (items[0]["target"], items[0]["before"]["revoked_at"], items[1]["before"]) == (key["id"], None, None)
    assert {name for name, value in items[0]["after"].items() if value != items[0]["before"][name]} == {"revoked_at"}
    for item in items:
        assert item["at"].endswith("Z")
        assert timedelta(seconds=-1) < datetime.fromisoformat(item["at"]) - began < timedelta(minutes=1)
