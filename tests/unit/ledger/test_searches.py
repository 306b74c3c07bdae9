"""Searches find, page by page, what Postgres finds when it is asked plainly and has all the time in the world."""

import random
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from relay.db.cursors import encode_cursor
from relay.db.engine import Database
from relay.errors import DatabaseUnavailable, SearchTooSlow
from relay.ledger import exports, searches
from relay.ledger.accounts import list_entries
from relay.ledger.entry import Outcome
from relay.ledger.exports import FORMS, export_entries
from relay.ledger.partitions import ensure_partition, partition_of
from relay.ledger.searches import EntryFilter, find_entries
from relay.settings import DatabaseSettings
from tests.schema.ledger_searches import ExplainingSession, months_of

START: Final = datetime(2025, 11, 20, tzinfo=UTC)
DAYS: Final = 100
BUSY: Final = (3, 11, 12, 41, 99)
"""Days with many entries; between the 50th and the 90th, which are a whole month and more, there is none."""

LONG: Final = "a/" + "long/" * 30
PATHS: Final = ("a/1", "a/2", "a/%", "a/_", "a/\\", "a%", "A/1", "b/1", "b/2", "ä/1", "/a", f"{LONG}one", f"{LONG}two", "")
STARTS: Final = ("a", "a/", "/a/1", "a/%", "a%", "a/_", "a/\\", "A", "b", "ä", "//a", LONG, f"{LONG}o", f"{LONG}no", "old/", "old/2", "no")
TENANTS: Final = ("t0", "t1", "t2", "nobody")
COLUMNS: Final = "started_at, request_id, tenant, path, outcome, method, protocol, early, client_left, bytes_in, bytes_delivered, bytes_out"

PLAIN: Final = """
    SELECT request_id FROM ledger
    WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR outcome = $2) AND starts_with(path, $3)
      AND started_at >= $4 AND started_at < $5 AND (started_at, request_id) < ($6, $7)
    ORDER BY started_at DESC, request_id DESC
"""
FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2199, 1, 1, tzinfo=UTC)

Entry = tuple[datetime, UUID, str, str, str]


def make_entries(chance: random.Random) -> list[Entry]:
    """Skewed as a ledger is: busy days and empty ones, many at one time, an hour of one path long ago, one from a broken clock."""
    entries: list[Entry] = []

    def enter(at: datetime, path: str, tenant: str = "t0") -> None:
        outcome = chance.choices(("delivered", "rejected", "interrupted"), (20, 4, 1))[0]
        entries.append((at, UUID(int=chance.getrandbits(128)), tenant, path, outcome))

    for day in range(DAYS):
        for _ in range(0 if 50 <= day < 90 else 80 if day in BUSY else chance.randrange(5)):
            at = START + timedelta(days=day, seconds=chance.choice((0, 86_399, chance.randrange(86_400))))
            enter(at, chance.choices(PATHS, range(len(PATHS), 0, -1))[0], chance.choices(TENANTS[:3], (6, 3, 1))[0])
    for number in range(60):
        enter(START + timedelta(days=BUSY[0], seconds=number // 4), f"old/{number % 3}")
    enter(LAST - timedelta(days=40), "a/1")
    return entries


@pytest.fixture
async def entries(database: Database, database_url: str) -> list[Entry]:
    """A ledger of some six hundred entries; the partition of its busiest month has a name of its own."""
    made = make_entries(random.Random("entries"))
    async with database.transaction() as session:
        for month in {(at.year, at.month): at for at, *_ in made}.values():
            await ensure_partition(session, month)
    connection = await asyncpg.connect(database_url)
    try:
        rows = [(*entry, "POST", "plain", False, False, 1, 1, 2) for entry in made]
        await connection.copy_records_to_table("ledger", records=rows, columns=COLUMNS.split(", "))
        await connection.execute(f"ALTER TABLE {partition_of(START + timedelta(days=BUSY[1]))} RENAME TO somebodys_own")
    finally:
        await connection.close()
    return made


def draw_filter(chance: random.Random, entries: list[Entry]) -> EntryFilter:
    """Any filters, of which most find something; times lie within days, at their ends, and at those of entries."""

    def draw_time() -> datetime:
        day = START + timedelta(days=chance.choice((*BUSY, chance.randrange(DAYS))))
        return chance.choice((day, day + timedelta(seconds=chance.randrange(86_400)), chance.choice(entries)[0]))

    since, until = sorted((draw_time(), draw_time()))
    return EntryFilter(
        tenant=chance.choice((None, None, *TENANTS)),
        outcome=chance.choice((None, None, None, *(Outcome(name) for name in ("delivered", "rejected", "interrupted")))),
        path_prefix=chance.choice(STARTS if chance.random() < 0.6 else STARTS[:2]),
        since=since if chance.random() < 0.3 else None,
        until=until if chance.random() < 0.3 else None,
    )


async def ask_plainly(url: str, filters: EntryFilter, after: tuple[datetime, UUID] | None = None) -> list[str]:
    """All that Postgres finds by comparing every entry."""
    connection = await asyncpg.connect(url)
    try:
        span = (filters.since or FIRST, filters.until or LAST)
        known = (filters.tenant, filters.outcome, filters.path_start, *span, *(after or (LAST, UUID(int=0))))
        return [str(row["request_id"]) for row in await connection.fetch(PLAIN, *known)]
    finally:
        await connection.close()


async def take_pages(database: Database, filters: EntryFilter, limit: int, cursor: str | None = None) -> list[list[str]]:
    """The pages of a listing behind a cursor."""
    pages = []
    while True:
        async with database.transaction() as session:
            page = await list_entries(session, filters, limit, cursor)
        pages.append([item["request_id"] for item in page.items])
        cursor = page.next
        if cursor is None:
            return pages


def cut(found: list[str], limit: int) -> list[list[str]]:
    return [found[first : first + limit] for first in range(0, len(found), limit)] or [[]]


async def compare(database: Database, url: str, chance: random.Random, entries: list[Entry], times: int) -> None:
    """Draw searches, the cursor they begin behind and the size of their pages, and compare every page."""
    found_most = 0
    for _ in range(times):
        filters = draw_filter(chance, entries)
        after = chance.choice(entries)[:2] if chance.random() < 0.3 else None
        cursor = encode_cursor(after[0].isoformat(), str(after[1])) if after else None
        found = await ask_plainly(url, filters, after)
        limit = max(chance.choice((1, 4, 40)), len(found) // 5)
        assert await take_pages(database, filters, limit, cursor) == cut(found, limit), (filters, after, limit)
        found_most = max(found_most, len(found))
    assert found_most > 50


def bound(monkeypatch: pytest.MonkeyPatch, *bounds: int) -> None:
    for name, value in zip(("GLANCE", "FEW", "RARE", "MONTHS_AT_ONCE"), bounds, strict=True):
        monkeypatch.setattr(searches, name, value)


@pytest.mark.parametrize("bounds", [(1, 0, 0, 1), (3, 8, 1, 2), (3, 500, 5, 6), (1, 500, 20, 3)])
async def test_every_page_is_what_a_plain_search_finds(
    database: Database, database_url: str, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, bounds: tuple[int, int, int, int]
) -> None:
    bound(monkeypatch, *bounds)
    await compare(database, database_url, random.Random(f"{bounds}"), entries, 20)


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("few", [0, 1, 8, 30, 500])
@pytest.mark.parametrize("glance", [1, 10, 250])
async def test_every_page_of_many_searches_is_what_a_plain_search_finds(
    database: Database, database_url: str, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, glance: int, few: int
) -> None:
    bound(monkeypatch, glance, few, few // 8, 1 + few % 3)
    await compare(database, database_url, random.Random(f"{glance} {few}"), entries, 150)


@pytest.mark.parametrize(("few", "months"), [(0, 1), (8, 2), (30, 3)])
async def test_an_export_by_path_has_what_a_plain_search_finds(
    database: Database, database_url: str, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, few: int, months: int
) -> None:
    bound(monkeypatch, 3, few, few // 2, months)
    monkeypatch.setattr(exports, "PAGE_ENTRIES", 50)
    for start in ("a/", "old/", f"{LONG}t"):
        filters = EntryFilter(path_prefix=start)
        lines = b"".join([page async for page in export_entries(database, filters, FORMS["csv"])]).decode().splitlines()[1:]
        assert [line.split(",")[0] for line in lines] == await ask_plainly(database_url, filters) != []


async def test_a_path_that_nothing_has_takes_two_statements(
    database: Database, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "GLANCE", 3)
    async with ExplainingSession(database) as session:
        assert [rows async for rows in find_entries(session, EntryFilter(path_prefix="no"), None, 2)] == []
        assert len(session.plans) == 2


async def test_only_months_that_have_a_candidate_are_searched(
    database: Database, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "GLANCE", 3)
    async with ExplainingSession(database) as session:
        found = [row async for rows in find_entries(session, EntryFilter(path_prefix="old/"), None, 60) for row in rows]
        assert len(found) == 60
        assert len(session.plans) == 3
        assert months_of(session.plans[2]) == {partition_of(START)}


async def test_what_is_rare_in_every_month_is_taken_by_one_statement(
    database: Database, database_url: str, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "GLANCE", 3)
    filters = EntryFilter(path_prefix=f"{LONG}o", until=LAST - timedelta(days=300))
    async with ExplainingSession(database) as session:
        found = [str(row.request_id) async for rows in find_entries(session, filters, None, 50) for row in rows]
        assert found == await ask_plainly(database_url, filters)
        assert len({(day.year, day.month) for day, _, _, path, _ in entries if path == f"{LONG}one"}) > 2
        assert len(session.plans) == 3


async def test_times_at_the_ends_of_the_calendar_are_searched(database: Database, database_url: str, entries: list[Entry]) -> None:
    since, until = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    found = await ask_plainly(database_url, EntryFilter(path_prefix="b"))
    for after in (None, encode_cursor(until.isoformat(), str(UUID(int=0)))):
        assert await take_pages(database, EntryFilter(path_prefix="b", since=since, until=until), 500, after) == [found] != [[]]
    assert await take_pages(database, EntryFilter(path_prefix="b"), 500, encode_cursor(since.isoformat(), str(UUID(int=0)))) == [[]]


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
