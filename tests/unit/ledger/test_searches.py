"""Searches by the beginning of a path find what a reader with all the time in the world would find."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable, SearchTooSlow
from relay.ledger import searches
from relay.ledger.accounts import list_entries
from relay.ledger.entry import Outcome
from relay.ledger.partitions import ensure_partition
from relay.ledger.rows import LedgerRow
from relay.ledger.searches import EntryFilter, find_entries
from relay.settings import DatabaseSettings

START = datetime(2026, 1, 30, tzinfo=UTC)
LONG = "a/" + "long/" * 30
PATHS = ("a/1", "a/2", "a/2%", "b/1", "A/1", f"{LONG}one", f"{LONG}two", "")


@pytest.fixture
async def entries(database: Database) -> list[dict[str, Any]]:
    """Entries of three months, twice a day: ``a/2`` in January only, the first and the last at the edges of months."""
    rows: list[dict[str, Any]] = []
    known = {
        "method": "POST",
        "protocol": "plain",
        "early": False,
        "client_left": False,
        "bytes_in": 1,
        "bytes_delivered": 1,
        "bytes_out": 2,
    }
    async with database.transaction() as session:
        for number in range(70):
            at = START + timedelta(hours=12 * number)
            path = PATHS[number % len(PATHS)]
            path = "a/1" if path == "a/2" and at.month > 1 else path
            outcome = "rejected" if number % 5 == 0 else "delivered"
            rows.append({"started_at": at, "request_id": uuid7(), "tenant": f"t{number % 3}", "path": path, "outcome": outcome, **known})
            await ensure_partition(session, at)
            session.add(LedgerRow(**rows[-1]))
        await ensure_partition(session, START + timedelta(days=365))  # one that is empty
    return rows[::-1]


def chosen(entries: list[dict[str, Any]], filters: EntryFilter) -> list[str]:
    """What a reader finds who looks at every entry."""
    return [
        str(entry["request_id"])
        for entry in entries
        if entry["path"].startswith(filters.path_start)
        and filters.tenant in {None, entry["tenant"]}
        and filters.outcome in {None, entry["outcome"]}
        and (filters.since is None or entry["started_at"] >= filters.since)
        and (filters.until is None or entry["started_at"] < filters.until)
    ]


async def walked(database: Database, filters: EntryFilter, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        async with database.transaction() as session:
            page = await list_entries(session, filters, limit, cursor)
        assert len(page.items) <= limit
        found += [item["request_id"] for item in page.items]
        cursor = page.next
        if cursor is None:
            return found


@pytest.mark.parametrize("few", [0, 4, 1_000])
async def test_few_or_many_candidates_make_no_difference(
    database: Database, entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(searches, "FEW", few)
    times = (None, START + timedelta(days=2), START + timedelta(days=13, hours=6))
    for start, tenant, since in itertools.product(("a/", "a/2", f"{LONG}t", "nothing"), (None, "t1"), times):
        for until in (None, START + timedelta(days=30), datetime(2026, 2, 1, tzinfo=UTC)):
            filters = EntryFilter(path_prefix=start, tenant=tenant, since=since, until=until)
            assert await walked(database, filters, 11) == chosen(entries, filters), filters


@pytest.mark.parametrize("few", [1, 1_000])
@pytest.mark.parametrize("limit", [2, 7])
async def test_pages_by_path_follow_each_other_over_the_months(
    database: Database, entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, few: int, limit: int
) -> None:
    monkeypatch.setattr(searches, "FEW", few)
    for filters in (EntryFilter(path_prefix="/a/"), EntryFilter(path_prefix="b", outcome=Outcome.DELIVERED)):
        assert await walked(database, filters, limit) == chosen(entries, filters) != []


async def test_times_at_the_ends_of_the_calendar_are_searched(database: Database, entries: list[dict[str, Any]]) -> None:
    since, until = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert await walked(database, EntryFilter(path_prefix="b/", since=since, until=until), 50) == chosen(
        entries, EntryFilter(path_prefix="b/")
    )


async def test_a_partition_of_another_name_is_searched_too(
    database: Database, database_url: str, entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "FEW", 0)
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE ledger_y2026m02 RENAME TO february")
    await connection.close()
    assert await walked(database, EntryFilter(path_prefix="a/"), 7) == chosen(entries, EntryFilter(path_prefix="a/"))


async def test_what_takes_too_long_says_so(database_url: str) -> None:
    impatient = Database(database_url, DatabaseSettings(statement_timeout=timedelta(milliseconds=200)))
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE ledger")
            for filters in (EntryFilter(), EntryFilter(path_prefix="a")):
                with pytest.raises(SearchTooSlow):
                    async with impatient.transaction() as session:
                        await anext(find_entries(session, filters, None, 1))
    finally:
        await holder.close()
    await impatient.close()


async def test_a_database_that_is_gone_is_not_called_slow(database_url: str) -> None:
    database = Database(database_url.replace("test_", "absent_"), DatabaseSettings())
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as session:
            await anext(find_entries(session, EntryFilter(), None, 1))
    await database.close()
