"""Exports: what is written, in which pages, and what is held meanwhile."""

import csv
import io
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from relay.db.engine import Database
from relay.ledger import exports
from relay.ledger.accounts import ENTRY_LISTING, list_entries
from relay.ledger.exports import FORMS, export_entries
from relay.ledger.partitions import ensure_partition
from relay.ledger.rows import LedgerRow
from relay.ledger.searches import EntryFilter
from relay.settings import DatabaseSettings

AT = datetime(2026, 1, 31, 23, 59, 59, 250_000, tzinfo=UTC)
AWKWARD = 'a "quoted" \\ back, comma;\ttab\r\nnew\x01line \u2028 \ufffd üß 😀'
EVERYTHING: dict[str, Any] = {
    "client_request_id": AWKWARD,
    "upload_id": uuid7(),
    "key_id": "abc",
    "destination": "main",
    "code": "",
    "early": True,
    "repeated": 3,
    "status": 201,
    "upstream_status": 200,
    "declared_length": 2**62,
    "content_type": AWKWARD,
    "filenames": [AWKWARD, "", "b"],
    "digests": {"sha256": "00", "crc32c": AWKWARD},
    "first_byte_at": AT,
    "body_complete_at": AT + timedelta(microseconds=1),
    "finished_at": AT + timedelta(seconds=1),
    "upstream_wait_ms": 0.1,
    "client_address": "2001:db8::1",
    "user_agent": AWKWARD,
    "trace_id": "0af7",
    "version": "0.1.0",
    "worker": "w",
    "objects": [{"key": AWKWARD, "size": 1}],
    "fields": [{"name": AWKWARD, "value": ""}],
}


async def keep(database: Database, count: int = 1, /, **members: Any) -> None:
    """Entries a second apart, over the end of a month."""
    row = {
        "tenant": "acme",
        "method": "POST",
        "path": "a",
        "protocol": "plain",
        "outcome": "delivered",
        "early": False,
        "client_left": False,
    }
    row |= {"bytes_in": 1, "bytes_delivered": 1, "bytes_out": 2, **members}
    async with database.transaction() as session:
        for number in range(count):
            at = AT + timedelta(seconds=number)
            await ensure_partition(session, at)
            session.add(LedgerRow(started_at=at, request_id=uuid7(), **row))


async def export(database: Database, form: str, filters: EntryFilter | None = None) -> list[bytes]:
    return [page async for page in export_entries(database, filters or EntryFilter(), FORMS[form])]


async def listed(database: Database) -> list[dict[str, Any]]:
    async with database.transaction() as session:
        return list((await list_entries(session, EntryFilter(), 500)).items)


async def test_ndjson_is_the_listing_to_the_letter(database: Database) -> None:
    await keep(database)
    await keep(database, **EVERYTHING)
    lines = b"".join(await export(database, "ndjson")).decode().split("\n")
    assert lines.pop() == ""
    told = [json.loads(line) for line in lines]
    assert told == await listed(database)
    assert [list(entry) for entry in told] == [list(ENTRY_LISTING)] * 2


async def test_csv_is_read_back_member_by_member(database: Database) -> None:
    await keep(database)
    await keep(database, **EVERYTHING)
    text = b"".join(await export(database, "csv")).decode()
    told = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    for shown, entry in zip(told, await listed(database), strict=True):
        assert list(shown) == list(ENTRY_LISTING)
        for name, value in entry.items():
            match value:
                case None | str():
                    assert shown[name] == (value or "")
                case _:
                    assert json.loads(shown[name]) == value
    assert ',"",' in text, "empty text is told from null"
    assert text.startswith(f"{','.join(ENTRY_LISTING)}\r\n")
    assert text.endswith("\r\n")


async def test_text_that_a_spreadsheet_would_compute_is_guarded(database: Database) -> None:
    names = ("path", "user_agent", "content_type", "client_request_id")
    formulas = [f'{start}HYPERLINK("http://evil.example";"x")' for start in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"]
    for formula in (*formulas, "'quoted", "a=1"):
        await keep(database, 1, **dict.fromkeys(names, formula))
    lines = io.StringIO(b"".join(await export(database, "csv")).decode(), newline="")
    shown = [{entry[name] for name in names} for entry in csv.DictReader(lines)]
    assert shown == [{"a=1"}, {"'quoted"}, *({f"'{formula}"} for formula in reversed(formulas))]
    told = [{json.loads(line)[name] for name in names} for line in b"".join(await export(database, "ndjson")).splitlines()]
    assert told == [{"a=1"}, {"'quoted"}, *({formula} for formula in reversed(formulas))]


async def test_an_empty_export_has_its_head(database: Database) -> None:
    assert await export(database, "ndjson") == []
    assert await export(database, "csv", EntryFilter(tenant="nobody")) == [f"{','.join(ENTRY_LISTING)}\r\n".encode()]
    assert await export(database, "csv", EntryFilter(path_prefix="\0")) == await export(database, "csv", EntryFilter(path_prefix="no"))


async def test_pages_join_up_whatever_bounds_them(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(database, 10, path="a" * 500)
    entries = await listed(database)
    bounds = ((1, 1 << 20), (4, 1 << 20), (10, 1 << 20), (100, 3_000), (100, 1))
    for (most, most_bytes), prefix in itertools.product(bounds, (None, "a")):
        monkeypatch.setattr(exports, "PAGE_ENTRIES", most)
        monkeypatch.setattr(exports, "PAGE_BYTES", most_bytes)
        pages = await export(database, "ndjson", EntryFilter(path_prefix=prefix))
        lines = b"".join(pages).splitlines(keepends=True)
        assert [json.loads(line) for line in lines] == entries
        assert all(len(page) < most_bytes + max(map(len, lines)) for page in pages)
        assert all(page.count(b"\n") <= most for page in pages)


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Database]:
    """A pool of one connection."""
    database = Database(database_url, DatabaseSettings(pool_size=1, pool_overflow=0))
    yield database
    await database.close()


async def test_no_connection_is_held_between_pages(narrow: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(narrow, 4)
    monkeypatch.setattr(exports, "PAGE_ENTRIES", 1)
    seen = 0
    async for page in export_entries(narrow, EntryFilter(), FORMS["ndjson"]):
        seen += page.count(b"\n")
        assert len(await listed(narrow)) == 4, "the only connection is free"
    assert seen == 4


async def test_what_is_entered_meanwhile_is_not_in_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(database, 4)
    monkeypatch.setattr(exports, "PAGE_ENTRIES", 2)
    pages = export_entries(database, EntryFilter(), FORMS["ndjson"])
    lines = (await anext(pages)).splitlines()
    await keep(database, 8)  # four of them are older than what comes next would be, and were shipped late
    lines += [line async for page in pages for line in page.splitlines()]
    times = [json.loads(line)["started_at"] for line in lines]
    assert times == sorted(times, reverse=True)
    assert len({json.loads(line)["request_id"] for line in lines}) == len(lines) >= 4
