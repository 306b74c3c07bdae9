"""The ledger as an operator reads it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from relay.api.admin.ledger import EntryPayload, LedgerParameters
from relay.db.engine import Database
from relay.ledger.accounts import ENTRY_LISTING
from relay.ledger.partitions import ensure_partition
from relay.ledger.rows import LedgerRow
from relay.ledger.searches import EntryFilter

NOW = datetime.now(UTC).replace(microsecond=250_000)


async def keep(database: Database, **members: Any) -> str:
    request_id = uuid7()
    row: dict[str, Any] = {
        "request_id": request_id,
        "started_at": NOW,
        "tenant": "acme",
        "method": "POST",
        "path": "photos/cat.jpg",
        "protocol": "plain",
        "outcome": "delivered",
        "early": False,
        "client_left": False,
        "bytes_in": 1,
        "bytes_delivered": 1,
        "bytes_out": 2,
        **members,
    }
    async with database.transaction() as session:
        await ensure_partition(session, row["started_at"])
        session.add(LedgerRow(**row))
    return str(request_id)


async def listed(admin: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await admin.get("/ledger", params=query)
    assert answer.status_code == 200, answer.text
    return [item["request_id"] for item in answer.json()["items"]]


async def test_an_entry_has_all_members_in_their_order(admin: httpx.AsyncClient, database: Database) -> None:
    upload_id = uuid7()
    kept = await keep(database, upload_id=upload_id, filenames=["a\ufffd"], digests={"sha256": "00"}, finished_at=NOW, upstream_wait_ms=1.5)
    answer = await admin.get("/ledger")
    assert (answer.status_code, answer.json()["next"]) == (200, None)
    [entry] = answer.json()["items"]
    assert list(entry) == list(ENTRY_LISTING)
    assert list(EntryPayload.model_fields) == list(ENTRY_LISTING)
    assert (entry["request_id"], entry["upload_id"], entry["filenames"]) == (kept, str(upload_id), ["a\ufffd"])
    assert entry["started_at"].endswith("Z")
    assert datetime.fromisoformat(entry["started_at"]) == NOW
    assert {entry[name] for name in ("client_request_id", "code", "repeated", "declared_length", "worker")} == {None}
    EntryPayload.model_validate(entry)


async def test_an_empty_ledger_is_an_empty_page(still: httpx.AsyncClient) -> None:
    assert (await still.get("/ledger")).json() == {"items": [], "next": None}


async def test_each_filter_leaves_out_what_does_not_match(admin: httpx.AsyncClient, database: Database) -> None:
    upload_id = uuid7()
    one = await keep(database, upload_id=upload_id, path="photos/100%_cat", outcome="rejected", started_at=NOW - timedelta(seconds=1))
    two = await keep(database, tenant="other", path="photos/100x_cat", started_at=NOW)
    assert await listed(admin) == [two, one]
    assert await listed(admin, tenant="acme") == [one]
    assert await listed(admin, upload_id=str(upload_id)) == [one]
    assert await listed(admin, request_id=two) == [two]
    assert await listed(admin, outcome="rejected") == [one]
    assert await listed(admin, path_prefix="photos/100%") == [one]
    assert await listed(admin, since=NOW.isoformat()) == [two]
    assert await listed(admin, until=NOW.isoformat()) == [one]
    assert await listed(admin, tenant="acme", outcome="delivered") == []
    assert await listed(admin, tenant="nobody") == []
    assert await listed(admin, format="json") == [two, one]


async def test_a_walk_by_cursor_shows_each_entry_once_newest_first(admin: httpx.AsyncClient, database: Database) -> None:
    # Two of them started in the same microsecond: the request id decides.
    kept = [await keep(database, started_at=NOW + timedelta(microseconds=moment)) for moment in (0, 1, 1, 2, 3)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while query:
        page = (await admin.get("/ledger", params=query)).json()
        seen += [item["request_id"] for item in page["items"]]
        query = {"limit": 2, "cursor": page["next"]} if page["next"] else {}
    assert seen == list(reversed(kept))


@pytest.mark.parametrize(
    ("query", "member"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=broken", "cursor"),
        ("outcome=unknown", "outcome"),
        ("upload_id=seven", "upload_id"),
        ("request_id=", "request_id"),
        ("since=2026-01-01", "since"),
        ("since=0001-01-01T00:00:00%2B14:00", "since"),
        ("until=1767225600", "until"),
        ("format=xml", "format"),
        ("format=csv&limit=50", "limit"),
        ("format=ndjson&cursor=x", "cursor"),
        ("tennant=acme", "tennant"),
        ("tenant=%00", "tenant"),
        ("path_prefix=%00", "path_prefix"),
    ],
)
async def test_a_wrong_filter_is_422_by_its_name(still: httpx.AsyncClient, query: str, member: str) -> None:
    answer = await still.get(f"/ledger?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == ["query", member]


@pytest.mark.parametrize(
    "query", ["since=0001-01-01T00:00:00Z", "until=9999-12-31T23:59:59.999999Z", "path_prefix=%ff", "tenant=%F0%9F%98%80"]
)
async def test_an_odd_filter_finds_nothing_or_all_and_never_fails(still: httpx.AsyncClient, query: str) -> None:
    assert (await still.get(f"/ledger?{query}")).status_code == 200


def test_every_filter_of_the_ledger_can_be_asked_for() -> None:
    assert set(EntryFilter.__slots__) == set(LedgerParameters.model_fields) - {"limit", "cursor", "format"}
    assert LedgerParameters(upload_id=UUID(int=1)).filters() == EntryFilter(upload_id=UUID(int=1))


async def test_the_ledger_is_not_shown_without_the_token(still: httpx.AsyncClient) -> None:
    assert (await still.get("/ledger", headers={"Authorization": "Bearer other"})).status_code == 401
