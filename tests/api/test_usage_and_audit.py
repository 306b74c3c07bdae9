"""Usage and audit as an operator reads them: filters, pages, and what is refused by name."""

from datetime import UTC, date, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from relay.api.admin.audit import AuditParameters
from relay.api.admin.usage import UsageParameters
from relay.db.engine import Database
from relay.ledger.audit import AuditFilter, list_audit
from relay.ledger.rows import UsageRow
from relay.ledger.usage import UsageFilter, list_usage

MEMBERS = ["tenant", "day", "uploads", "delivered", "rejected", "refused", "failed", "bytes_in", "bytes_delivered"]
DAYS = {
    ("acme", date(2026, 1, 30)): 1,
    ("acme", date(2026, 1, 31)): 2,
    ("Zulu", date(2026, 1, 31)): 3,
    ("beta", date(2026, 1, 31)): 4,
    ("acme", date(2026, 2, 1)): 5,
}
NEWEST_FIRST = [5, 3, 2, 4, 1]
"""Of one day in the order of bytes, whatever the collation."""


async def keep_days(database: Database) -> None:
    async with database.transaction() as session:
        for (tenant, day), uploads in DAYS.items():
            session.add(UsageRow(tenant=tenant, day=day, uploads=uploads, delivered=1, bytes_in=1 << 62))


async def listed(admin: httpx.AsyncClient, **query: Any) -> list[int]:
    answer = await admin.get("/usage", params=query)
    assert answer.status_code == 200, answer.text
    return [item["uploads"] for item in answer.json()["items"]]


async def test_a_day_has_all_members_in_their_order(admin: httpx.AsyncClient, database: Database) -> None:
    await keep_days(database)
    first = (await admin.get("/usage")).json()["items"][0]
    assert list(first) == MEMBERS
    assert list(first.values()) == ["acme", "2026-02-01", 5, 1, 0, 0, 0, 1 << 62, 0]


async def test_each_filter_leaves_out_what_does_not_match(admin: httpx.AsyncClient, database: Database) -> None:
    await keep_days(database)
    assert await listed(admin) == NEWEST_FIRST
    assert await listed(admin, tenant="acme") == [5, 2, 1]
    assert await listed(admin, since="2026-01-31") == [5, 3, 2, 4]
    assert await listed(admin, until="2026-01-31") == [1]
    assert await listed(admin, tenant="acme", since="2026-01-01", until="2026-02-01") == [2, 1]
    assert await listed(admin, since="2026-01-31", until="2026-01-31") == []
    assert await listed(admin, tenant="nobody") == []
    assert await listed(admin, since="0001-01-01", until="9999-12-31") == NEWEST_FIRST


async def test_a_walk_by_cursor_shows_each_day_once_newest_first(admin: httpx.AsyncClient, database: Database) -> None:
    await keep_days(database)
    for limit in (1, 2, 3, 5):
        seen: list[int] = []
        query: dict[str, Any] = {"limit": limit}
        while query:
            page = (await admin.get("/usage", params=query)).json()
            seen += [item["uploads"] for item in page["items"]]
            query = {"limit": limit, "cursor": page["next"]} if page["next"] else {}
        assert seen == NEWEST_FIRST


@pytest.mark.parametrize(
    ("query", "member"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("cursor=broken", "cursor"),
        ("cursor=WyIyMDI2LTEzLTAxIiwiYSJd", "cursor"),
        ("tennant=acme", "tennant"),
        ("tenant=%00", "tenant"),
        ("format=csv", "format"),
    ],
)
@pytest.mark.parametrize("listing", ["/usage", "/audit"])
async def test_a_wrong_filter_is_422_by_its_name(still: httpx.AsyncClient, listing: str, query: str, member: str) -> None:
    answer = await still.get(f"{listing}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["location"] == ["query", member]


@pytest.mark.parametrize(
    "day",
    [
        "2026-02-30",
        "2026-1-1",
        "20260101",
        "1767225600",
        "2026-01-01T00:00:00Z",
        "0000-01-01",
        "",
        "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0660\u0661",
    ],
)
async def test_only_a_day_that_exists_is_a_day(still: httpx.AsyncClient, day: str) -> None:
    answer = await still.get("/usage", params={"since": day})
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["query", "since"])


@pytest.mark.parametrize("time", ["2026-01-01", "yesterday", "2026-01-01T00:00:00"])
async def test_a_change_is_asked_for_by_times(still: httpx.AsyncClient, time: str) -> None:
    answer = await still.get("/audit", params={"until": time})
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["query", "until"])


async def test_text_that_no_row_can_hold_finds_nothing(database: Database) -> None:
    await keep_days(database)
    async with database.transaction() as session:
        for odd in ("\0", "\ud800", "a" * 5_000):
            assert (await list_usage(session, UsageFilter(tenant=odd), 10, None)).items == ()
            for filters in (AuditFilter(tenant=odd), AuditFilter(actor=odd), AuditFilter(action=odd)):
                assert (await list_audit(session, filters, 10, None)).items == ()


def test_every_filter_can_be_asked_for() -> None:
    for filters, parameters in ((UsageFilter, UsageParameters), (AuditFilter, AuditParameters)):
        assert set(filters.__slots__) == set(parameters.model_fields) - {"limit", "cursor"}
    now = datetime.now(UTC)
    assert AuditParameters(actor="cli:me", since=now).filters() == AuditFilter(actor="cli:me", since=now)


async def test_the_newest_changes_and_days_are_read_from_an_index(database: Database) -> None:
    """Whatever the planner would choose of few rows: it can, so the listings stay quick when there are many."""
    statements = {
        "SELECT * FROM audit ORDER BY at DESC, id DESC LIMIT 51": "ix_audit_at_id",
        "SELECT * FROM audit WHERE tenant = 'acme' ORDER BY at DESC, id DESC LIMIT 51": "ix_audit_tenant_at",
        'SELECT * FROM usage_daily ORDER BY day DESC, tenant COLLATE "C" LIMIT 51': "ix_usage_daily_day_tenant",
        "SELECT * FROM usage_daily WHERE tenant = 'acme' ORDER BY day DESC, tenant COLLATE \"C\" LIMIT 51": "pk_usage_daily",
    }
    async with database.transaction() as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, index in statements.items():
            plan = "\n".join((await session.execute(text(f"EXPLAIN {statement}"))).scalars())
            assert index in plan, plan
