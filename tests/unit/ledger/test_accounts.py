"""Reading the ledger: filters, order, pages, and the shape of an entry."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from relay.db.cursors import encode_cursor
from relay.db.engine import Database
from relay.errors import RequestInvalid
from relay.ledger.accounts import list_entries
from relay.ledger.entry import Entry, Outcome
from relay.ledger.reports import ReportFilter, list_reports
from relay.ledger.searches import EntryFilter
from relay.ledger.shipper import Shipper
from tests.support.entries import finished_entry, open_journal

START_US = 1_788_000_000_000_000
START = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_US)


def entry_at(second: int, **members: Any) -> Entry:
    started_us = START_US + second * 1_000_000
    return finished_entry(**{"started_us": started_us, "finished_us": started_us + 1, **members})


@pytest.fixture
async def entries(tmp_path: Path, database: Database) -> list[Entry]:
    """Ten entries, a second apart but for two of the same microsecond."""
    told = [
        *(entry_at(second, path=f"photos/{second}.jpg") for second in range(4)),
        entry_at(4, outcome=Outcome.REJECTED),
        entry_at(4, outcome=Outcome.REJECTED),
        entry_at(5, tenant="globex", path="photos/5.jpg"),
        entry_at(6, path="photo_/%.jpg"),
        entry_at(7, path="photo_/%/a"),
        entry_at(8, upload_id=None),
    ]
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    for entry in told:
        await journal.finish(entry)
    assert await shipper.drain(timedelta(seconds=10))
    shipper.close()
    journal.close()
    return told


async def listed(database: Database, limit: int = 50, cursor: str | None = None, **filters: Any) -> list[str]:
    async with database.transaction() as session:
        page = await list_entries(session, EntryFilter(**filters), limit, cursor)
    return [entry["request_id"] for entry in page.items]


def newest_first(entries: list[Entry]) -> list[str]:
    return [entry.request_id for entry in sorted(entries, key=lambda entry: (entry.started_us, UUID(entry.request_id)), reverse=True)]


async def test_all_filters_choose_their_entries_newest_first(database: Database, entries: list[Entry]) -> None:
    assert await listed(database) == newest_first(entries)
    assert await listed(database, tenant="globex") == newest_first([entries[6]])
    assert await listed(database, upload_id=UUID(entries[2].upload_id)) == newest_first([entries[2]])
    assert await listed(database, request_id=UUID(entries[9].request_id)) == newest_first([entries[9]])
    assert await listed(database, outcome=Outcome.REJECTED) == newest_first(entries[4:6])
    assert await listed(database, path_prefix="photos/") == newest_first([*entries[:6], entries[6], entries[9]])
    assert await listed(database, path_prefix="photo_/%") == newest_first(entries[7:9])
    assert await listed(database, since=START + timedelta(seconds=6)) == newest_first(entries[7:])
    assert await listed(database, until=START + timedelta(seconds=1)) == newest_first(entries[:1])
    assert await listed(database, tenant="acme", path_prefix="photos/5") == []


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10])
async def test_pages_follow_each_other_without_gap_or_repeat(database: Database, entries: list[Entry], limit: int) -> None:
    found: list[str] = []
    cursor = None
    while True:
        async with database.transaction() as session:
            page = await list_entries(session, EntryFilter(), limit, cursor)
        assert len(page.items) <= limit
        found += [entry["request_id"] for entry in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == newest_first(entries)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!!",
        "bnVsbA",
        encode_cursor("2026-01-01T00:00:00+00:00"),
        encode_cursor("2026-01-01T00:00:00+00:00", "none"),
        encode_cursor("2026-01-01T00:00:00", "01935a4f-0000-7000-8000-000000000000"),
        encode_cursor("0001-01-01T00:00:00+23:00", "01935a4f-0000-7000-8000-000000000000"),
    ],
)
async def test_a_broken_cursor_is_refused_by_name(database: Database, cursor: str) -> None:
    async with database.transaction() as session:
        with pytest.raises(RequestInvalid) as refusal:
            await list_entries(session, EntryFilter(), 10, cursor)
    assert [error.location for error in refusal.value.errors] == [("query", "cursor")]


@pytest.mark.parametrize("limit", [0, 501])
async def test_a_limit_out_of_range_is_refused(database: Database, limit: int) -> None:
    async with database.transaction() as session:
        with pytest.raises(RequestInvalid):
            await list_entries(session, EntryFilter(), limit)


@pytest.mark.parametrize("text", ["\x00", "\ud800"])
async def test_text_that_no_row_can_hold_matches_nothing(database: Database, entries: list[Entry], text: str) -> None:
    assert entries
    assert await listed(database, tenant=text) == await listed(database, path_prefix=text) == []


async def test_the_members_of_an_entry_are_those_of_the_contract_in_its_order(tmp_path: Path, database: Database) -> None:
    entry = finished_entry(
        started_us=1_788_000_000_000_000, first_byte_us=1_788_000_000_000_001, finished_us=1_788_000_001_500_000, digests={"sha256": "00"}
    )
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    await journal.finish(entry)
    assert await shipper.drain(timedelta(seconds=10))
    shipper.close()
    journal.close()
    async with database.transaction() as session:
        (members,) = (await list_entries(session, EntryFilter())).items
    assert " ".join(members) == (
        "request_id client_request_id upload_id tenant key_id destination method path protocol outcome code early client_left "
        "repeated status upstream_status bytes_in bytes_delivered bytes_out declared_length content_type filenames digests "
        "started_at first_byte_at body_complete_at finished_at upstream_wait_ms client_address user_agent trace_id version worker "
        "objects fields"
    )
    assert members["request_id"] == entry.request_id
    assert members["upload_id"] == entry.upload_id
    assert members["digests"] == {"sha256": "00"}
    assert members["early"] is False
    times = [members[name] for name in ("started_at", "first_byte_at", "body_complete_at", "finished_at")]
    assert times == ["2026-08-29T10:40:00.000000Z", "2026-08-29T10:40:00.000001Z", None, "2026-08-29T10:40:01.500000Z"]


async def test_a_page_of_large_entries_has_fewer_of_them_and_leads_on(tmp_path: Path, database: Database) -> None:
    sizes = (3, 3, 9, 3)  # of a million characters; 9 are more than a page
    told = [entry_at(second, path="large/a", objects=[{"key": "k" * size * 1_000_000}]) for second, size in enumerate(sizes)]
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    for entry in told:
        await journal.finish(entry)
    assert await shipper.drain(timedelta(seconds=10))
    shipper.close()
    journal.close()

    expected = [[1], [1], [2]]
    for prefix in (None, "large/"):
        pages: list[list[str]] = []
        cursor: str | None = None
        while len(pages) < 4 and (not pages or cursor is not None):
            async with database.transaction() as session:
                page = await list_entries(session, EntryFilter(path_prefix=prefix), 50, cursor)
            pages.append([entry["request_id"] for entry in page.items])
            cursor = page.next
        assert [[len(page)] for page in pages] == expected and [each for page in pages for each in page] == newest_first(told)

    reported: list[UUID] = []
    cursor = None
    for [count] in expected:
        async with database.transaction() as session:
            reports = await list_reports(session, ReportFilter(tenant="acme"), 50, cursor)
        assert len(reports.items) == count
        reported += [report.upload_id for report in reports.items]
        cursor = reports.next
    assert cursor is None and [str(each) for each in reported] == [entry.upload_id for entry in reversed(told)]
