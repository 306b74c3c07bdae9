"""Whatever is in an entry, the shipper goes on: a row at fault is kept aside, and only that row."""

import json
import math
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from relay.db.engine import Database
from relay.ledger.entry import FILENAME_LIMIT, PATH_LIMIT, Outcome, clean_text
from relay.ledger.journal import Journal
from relay.ledger.shipper import Shipper
from relay.telemetry import LEDGER_REJECTED, LEDGER_SHIPPED
from tests.support.entries import finished_entry, ledger_ids, open_journal, read_ledger, read_usage

SECONDS = timedelta(seconds=10)


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def journal(root: Path) -> AsyncIterator[Journal]:
    journal = open_journal(root)
    yield journal
    journal.close()


@pytest.fixture
async def shipper(journal: Journal, database: Database, root: Path) -> AsyncIterator[Shipper]:
    shipper = Shipper(journal, database, root)
    yield shipper
    shipper.close()


def rejected(root: Path) -> list[dict[str, Any]]:
    path = root / "rejected.ndjson"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


HOSTILE = {
    "a NUL": ({"path": "a\x00b"}, "22P05"),
    "a lone surrogate": ({"path": "a\ud800b"}, "22"),
    "a NUL in a digest": ({"digests": {"sha256": "\x00"}}, "22P05"),
    "a tenant too long for an index": ({"tenant": "".join(chr(0x4E00 + n) for n in range(20_000))}, "54000"),
    "an id that is none": ({"request_id": "none"}, "22P02"),
    "a number too large": ({"bytes_in": 1 << 63}, "22003"),
    "a number too large for any integer": ({"bytes_in": 1 << 80}, "22"),
    "an unknown outcome": ({"outcome": "lost"}, "23514"),
    "no outcome": ({"outcome": None}, "23502"),
    "no tenant": ({"tenant": None}, "23502"),
    "an object for a list": ({"filenames": {"a": 1}}, "22P02"),
    "a start before time": ({"started_us": -(1 << 62)}, "not_an_entry"),
    "a start in another age": ({"started_us": 32_503_680_000_000_000}, "started_at_implausible"),
    "a start that is text": ({"started_us": "now"}, "not_an_entry"),
    "no start": ({"started_us": None}, "started_at_implausible"),
}


@pytest.mark.parametrize("members", [pytest.param(members, id=name) for name, members in HOSTILE.items()])
async def test_a_row_at_fault_is_kept_aside_and_the_rest_lands(
    journal: Journal, shipper: Shipper, database: Database, root: Path, members: tuple[dict[str, Any], str]
) -> None:
    hostile, code = members
    before = LEDGER_REJECTED._value.get()
    good = [finished_entry() for _ in range(9)]
    for entry in (*good[:4], finished_entry(**hostile), *good[4:]):
        await journal.finish(entry)
    assert await shipper.drain(SECONDS)
    assert sorted(await ledger_ids(database)) == sorted(entry.request_id for entry in good)
    assert [line["code"][: len(code)] for line in rejected(root)] == [code]
    for name, value in hostile.items():
        if value is not None:
            assert rejected(root)[0]["entry"][name] == value
    assert LEDGER_REJECTED._value.get() == before + 1
    assert [day["uploads"] for day in await read_usage(database)] == [9]


async def test_a_number_that_is_none_is_null_and_its_row_lands(journal: Journal, shipper: Shipper, database: Database, root: Path) -> None:
    entry = finished_entry(upstream_wait_ms=math.nan)
    await journal.finish(entry)
    assert await shipper.drain(SECONDS)
    assert await read_ledger(database, "request_id::text, upstream_wait_ms") == [(entry.request_id, None)]
    assert rejected(root) == []


async def test_many_rows_at_fault_among_many_leave_every_other_row(
    journal: Journal, shipper: Shipper, database: Database, root: Path
) -> None:
    good: list[str] = []
    bad: list[str] = []
    shipped = LEDGER_SHIPPED._value.get()
    for number in range(700):
        is_bad = number % 97 == 0
        entry = finished_entry(path="\x00" if is_bad else f"{number}")
        (bad if is_bad else good).append(entry.request_id)
        await journal.finish(entry)
    assert await shipper.drain(SECONDS)
    assert sorted(await ledger_ids(database)) == sorted(good)
    assert sorted(line["entry"]["request_id"] for line in rejected(root)) == sorted(bad)
    assert [day["uploads"] for day in await read_usage(database)] == [len(good)]
    assert LEDGER_SHIPPED._value.get() == shipped + len(good)


async def test_a_rejected_row_is_durable_before_it_is_given_up(
    journal: Journal, shipper: Shipper, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, lines_and_entries = os.fsync, list[tuple[int, int]]()

    def noting_fsync(file: int) -> None:
        fsync(file)
        lines_and_entries.append((len(rejected(root)), journal.entries))

    monkeypatch.setattr(os, "fsync", noting_fsync)
    await journal.finish(finished_entry(path="\x00"))
    assert await shipper.drain(SECONDS)
    assert lines_and_entries == [(1, 1)]


async def test_hostile_text_that_was_cleaned_lands(journal: Journal, shipper: Shipper, database: Database, root: Path) -> None:
    for value in ("\x00", "\ud800\udfff", "n" * (1 << 20), b"\xff\xfe\x00" * 1_000, "\U0010ffff" * 5_000, "\u2028\\u0000'\"{}"):
        name = clean_text(value, FILENAME_LIMIT)
        assert name is not None
        await journal.finish(finished_entry(path=clean_text(value, PATH_LIMIT), filenames=[name, name], user_agent=name))
    assert await shipper.drain(SECONDS)
    rows = await read_ledger(database, "path, filenames, user_agent")
    assert len(rows) == 6
    assert rows[-1] == ("\u2028\\u0000'\"{}", ["\u2028\\u0000'\"{}"] * 2, "\u2028\\u0000'\"{}")
    assert rejected(root) == []


async def test_a_megabyte_that_nobody_cleaned_lands_too(journal: Journal, shipper: Shipper, database: Database) -> None:
    await journal.finish(finished_entry(path="p" * (3 << 20)))
    await journal.finish(finished_entry())
    assert await shipper.drain(SECONDS)
    assert [length for (length,) in await read_ledger(database, "length(path)")] == [3 << 20, len("photos/cat.jpg")]


async def test_every_member_arrives_as_it_was_told(journal: Journal, shipper: Shipper, database: Database) -> None:
    entry = finished_entry(
        started_us=1_700_000_000_123_457,
        first_byte_us=1_700_000_000_123_458,
        body_complete_us=1_700_000_001_000_001,
        finished_us=1_700_000_002_999_999,
        declared_length=0,
        filenames=["a,b", 'c"d', "{e}", ""],
        digests={"sha256": "00", "sha512": "11"},
        early=True,
        upstream_wait_ms=0.125,
        repeated=2,
    )
    await journal.finish(entry)
    assert await shipper.drain(SECONDS)
    told = await read_ledger(
        database,
        "(extract(epoch FROM started_at) * 1000000)::bigint, (extract(epoch FROM first_byte_at) * 1000000)::bigint,"
        "(extract(epoch FROM body_complete_at) * 1000000)::bigint, (extract(epoch FROM finished_at) * 1000000)::bigint,"
        "declared_length, filenames, digests, early, client_left, upstream_wait_ms, repeated, content_type",
    )
    assert told == [
        (
            entry.started_us,
            entry.first_byte_us,
            entry.body_complete_us,
            entry.finished_us,
            0,
            entry.filenames,
            entry.digests,
            True,
            False,
            0.125,
            2,
            None,
        )
    ]


async def test_a_month_without_a_partition_gets_one(journal: Journal, shipper: Shipper, database: Database, root: Path) -> None:
    months = [1_500_000_000_000_000, 1_600_000_000_000_000, 4_000_000_000_000_000]
    for started_us in months:
        await journal.finish(finished_entry(started_us=started_us, finished_us=started_us))
    await journal.finish(finished_entry())
    assert await shipper.drain(SECONDS)
    partitions = [name for (name,) in await read_ledger(database, "tableoid::regclass::text")]
    assert [partitions[0], partitions[1], partitions[3]] == ["ledger_y2017m07", "ledger_y2020m09", "ledger_y2096m10"]
    assert rejected(root) == []


async def test_a_partition_that_was_detached_and_kept_stops_nothing(
    journal: Journal, shipper: Shipper, database: Database, root: Path
) -> None:
    old = 1_500_000_000_000_000
    await journal.finish(finished_entry(started_us=old))
    assert await shipper.drain(SECONDS)
    async with database.transaction() as session:
        await session.execute(text("ALTER TABLE ledger DETACH PARTITION ledger_y2017m07"))
    late, good = finished_entry(started_us=old), finished_entry()
    await journal.finish(late)
    await journal.finish(good)
    assert await shipper.drain(SECONDS)
    assert await ledger_ids(database) == [good.request_id]
    assert [line["entry"]["request_id"] for line in rejected(root)] == [late.request_id]


async def test_entries_of_a_deleted_tenant_land(journal: Journal, shipper: Shipper, database: Database) -> None:
    await journal.finish(finished_entry(tenant="long-gone"))
    assert await shipper.drain(SECONDS)
    assert [day["tenant"] for day in await read_usage(database)] == ["long-gone"]


async def test_every_outcome_is_counted_where_it_belongs(journal: Journal, shipper: Shipper, database: Database) -> None:
    midnight = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
    for outcome in Outcome:
        await journal.finish(finished_entry(outcome=outcome, started_us=midnight - 1, finished_us=midnight, bytes_in=10, bytes_delivered=0))
    await journal.finish(finished_entry(started_us=midnight - 1, finished_us=midnight - 1, bytes_in=7, bytes_delivered=5))
    await journal.finish(
        finished_entry(outcome=Outcome.REFUSED, repeated=40, started_us=midnight, finished_us=None, bytes_in=1, tenant="zeta")
    )
    assert await shipper.drain(SECONDS)
    names = ("tenant", "day", "uploads", "delivered", "rejected", "refused", "failed", "bytes_in", "bytes_delivered")
    assert [tuple(str(day[name]) for name in names) for day in await read_usage(database)] == [
        ("acme", "2025-12-31", "1", "1", "0", "0", "0", "7", "5"),
        ("acme", "2026-01-01", "10", "1", "1", "1", "5", "100", "0"),
        ("zeta", "2026-01-01", "40", "0", "0", "40", "0", "1", "1000"),
    ]


async def test_an_error_that_is_no_rows_fault_gives_no_row_up(journal: Journal, shipper: Shipper, database: Database, root: Path) -> None:
    async with database.transaction() as session:
        await session.execute(text("ALTER TABLE ledger RENAME COLUMN worker TO hidden"))
    entry = finished_entry()
    await journal.finish(entry)
    assert not await shipper.drain(timedelta(seconds=0.5))
    assert (rejected(root), journal.entries) == ([], 1)
    async with database.transaction() as session:
        await session.execute(text("ALTER TABLE ledger RENAME COLUMN hidden TO worker"))
    assert await shipper.drain(SECONDS)
    assert await ledger_ids(database) == [entry.request_id]


async def test_a_rejected_row_that_cannot_be_kept_is_not_given_up(
    journal: Journal, shipper: Shipper, database: Database, root: Path
) -> None:
    (root / "rejected.ndjson").mkdir()
    await journal.finish(finished_entry(path="\x00"))
    assert not await shipper.drain(timedelta(seconds=0.5))
    assert journal.entries == 1
    (root / "rejected.ndjson").rmdir()
    assert await shipper.drain(SECONDS)
    assert len(rejected(root)) == 1
    assert await read_ledger(database) == []
