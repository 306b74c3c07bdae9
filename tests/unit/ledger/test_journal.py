"""The journal in one process: what it keeps, for how long, and what it refuses."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import DiskBroke, JournalFull, ShuttingDown
from relay.ledger.entry import Entry, Outcome, now_us
from relay.ledger.folders import claim_folder, list_segments
from relay.ledger.journal import Journal
from relay.ledger.records import RECORD_MEMBERS
from relay.ledger.segments import End, Record, read_segment
from tests.support.entries import finished_entry, make_entry, open_journal
from tests.support.waiting import until


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = open_journal(tmp_path / "journal")
    yield journal
    journal.close()


def read_records(folder: Path) -> list[Record]:
    records: list[Record] = []
    for segment in list_segments(folder):
        reading = read_segment(segment, most_finished=1_000_000)
        assert reading.end is End.WHOLE
        records += reading.records
    return records


def ids(folder: Path, *, is_finished: bool) -> list[str]:
    return [record.entry()["request_id"] for record in read_records(folder) if record.is_finished == is_finished]


def record_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, calls: list[str] | None = None) -> list[str]:
    """Note each call of a function in ``calls`` before it runs."""
    noted: list[str] = [] if calls is None else calls
    function = getattr(owner, name)

    def noting(*values: Any) -> Any:
        noted.append(name)
        return function(*values)

    monkeypatch.setattr(owner, name, noting)
    return noted


def ship_everything(journal: Journal) -> list[str]:
    shipped = []
    while (span := journal.next_span()) is not None:
        reading = read_segment(span.path, span.start, RECORD_MEMBERS, stop=span.stop)
        shipped += [record.entry()["request_id"] for record in reading.finished]
        journal.advance(span, reading.offset, len(reading.finished))
    return shipped


async def upload(journal: Journal, entry: Entry | None = None) -> str:
    entry = entry or make_entry()
    journal.begin(entry)
    entry.outcome, entry.finished_us = Outcome.DELIVERED, now_us()
    await journal.finish(entry)
    return entry.request_id


async def test_an_entry_is_on_disk_as_soon_as_it_was_told(journal: Journal) -> None:
    entry = make_entry()
    journal.begin(entry)
    assert ids(journal.folder, is_finished=False) == [entry.request_id]
    assert (journal.running, journal.entries) == (1, 0)
    await journal.finish(entry)
    assert ids(journal.folder, is_finished=True) == [entry.request_id]
    assert (journal.running, journal.entries) == (0, 1)


async def test_a_caller_that_is_cancelled_has_told_its_entry(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, sync="group")
    entry = make_entry()
    journal.begin(entry)
    finishing = asyncio.create_task(journal.finish(entry))
    await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert ids(journal.folder, is_finished=True) == [entry.request_id]
    await upload(journal)
    journal.close()


async def test_entries_come_back_in_the_order_they_were_finished(journal: Journal) -> None:
    told = [await upload(journal) for _ in range(50)]
    assert ship_everything(journal) == told
    assert (journal.entries, journal.oldest_seconds, journal.state) == (0, 0.0, "ok")


async def test_a_new_segment_begins_with_what_is_open_and_the_old_one_goes(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_bytes=64 << 10)
    long = make_entry()
    journal.begin(long)
    told = []
    while len(list_segments(journal.folder)) < 4:
        told.append(await upload(journal))
    assert ids(journal.folder, is_finished=False).count(long.request_id) == 4
    assert ship_everything(journal) == told
    await until(lambda: len(list_segments(journal.folder)) == 1)
    assert ids(journal.folder, is_finished=False).count(long.request_id) == 1
    await journal.finish(long)
    assert ship_everything(journal) == [long.request_id]
    journal.close()


async def test_an_entry_that_finished_is_not_carried_forward(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_bytes=64 << 10)
    first = await upload(journal)
    while len(list_segments(journal.folder)) < 3:
        await upload(journal)
    assert ids(journal.folder, is_finished=False).count(first) == 1
    journal.close()


async def test_a_full_journal_refuses_beginnings_and_takes_endings(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_bytes=32 << 10)
    running = make_entry()
    journal.begin(running)
    told = []
    while not journal.is_full:
        told.append(await upload(journal))
    with pytest.raises(JournalFull):
        journal.begin(make_entry())
    assert (journal.is_full, journal.state) == (True, "full")
    await journal.finish(running)
    assert ship_everything(journal) == [*told, running.request_id]
    assert not journal.is_full
    await upload(journal)
    journal.close()


async def test_many_open_entries_do_not_open_a_segment_each(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_bytes=64 << 10)
    for _ in range(100):
        journal.begin(make_entry())
    before = len(list_segments(journal.folder))
    for _ in range(10):
        await journal.finish(finished_entry())
    assert len(list_segments(journal.folder)) <= before + 1
    journal.close()


async def test_a_journal_lags_when_its_oldest_entry_waits_for_more_than_ten_seconds(journal: Journal) -> None:
    await upload(journal)
    states: list[str] = [journal.state]
    journal.note_oldest(now_us() - 11_000_000)
    states.append(journal.state)
    assert journal.oldest_seconds >= 11
    ship_everything(journal)
    states.append(journal.state)
    assert states == ["ok", "lagging", "ok"]


async def test_a_journal_with_nothing_left_is_removed_when_it_is_closed(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    await upload(journal)
    ship_everything(journal)
    journal.close()
    assert not journal.folder.exists()


@pytest.mark.parametrize("is_finished", [True, False])
async def test_a_journal_with_something_left_stays_and_may_be_adopted(tmp_path: Path, is_finished: bool) -> None:
    journal = open_journal(tmp_path)
    entry = make_entry()
    journal.begin(entry)
    if is_finished:
        await journal.finish(entry)
    assert claim_folder(journal.folder) is None
    journal.close()
    with claim_folder(journal.folder) or pytest.fail("the lock was not given up"):
        assert ids(journal.folder, is_finished=is_finished) == [entry.request_id]


async def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(ShuttingDown):
        journal.begin(make_entry())
    with pytest.raises(ShuttingDown):
        await journal.finish(make_entry())


async def test_many_who_finish_at_once_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, sync="group")
    synced = record_calls(monkeypatch, os, "fsync")
    entries = [make_entry() for _ in range(200)]
    for entry in entries:
        journal.begin(entry)
    await asyncio.gather(*(journal.finish(entry) for entry in entries))
    assert 2 <= len(synced) <= 8
    journal.close()


async def test_nobody_is_told_before_an_fsync_that_began_after_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, sync="group")
    fsync, held = os.fsync, asyncio.Event()
    loop = asyncio.get_running_loop()
    sizes: list[int] = []

    def slow_fsync(file: int) -> None:
        sizes.append(os.fstat(file).st_size)
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result(10)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    first = asyncio.create_task(upload(journal))
    await until(lambda: sizes)
    second = asyncio.create_task(upload(journal))
    await asyncio.sleep(0)
    held.set()
    await first
    seen_by_first = len(sizes)
    await second
    assert len(sizes) > seen_by_first, "the second was written while the first fsync ran: it needs another one"
    monkeypatch.undo()
    journal.close()


async def test_in_group_mode_every_segment_that_was_written_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, sync="group", max_bytes=64 << 10)
    fsync, synced = os.fsync, set[int]()

    def noting_fsync(file: int) -> None:
        fsync(file)
        synced.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    await asyncio.gather(*(upload(journal) for _ in range(40)))
    segments = list_segments(journal.folder)
    assert len(segments) > 2
    assert {segment.stat().st_ino for segment in segments} <= synced
    journal.close()


async def test_in_group_mode_a_segment_goes_only_when_its_successor_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, sync="group", max_bytes=64 << 10)
    running = make_entry()
    journal.begin(running)
    while len(list_segments(journal.folder)) < 2:
        await upload(journal)
    await upload(journal)
    order: list[str] = []
    record_calls(monkeypatch, os, "fsync", order)
    record_calls(monkeypatch, Path, "unlink", order)
    ship_everything(journal)
    await until(lambda: "unlink" in order)
    assert order[: order.index("unlink")].count("fsync") == 2
    journal.close()


async def test_a_failed_fsync_fails_all_who_waited_and_the_next_segment_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, sync="group")
    with monkeypatch.context() as patch:

        def broken_fsync(_file: int) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fsync", broken_fsync)
        results = await asyncio.gather(upload(journal), upload(journal), return_exceptions=True)
    assert [type(result) for result in results] == [DiskBroke, DiskBroke]
    await upload(journal)
    assert len(list_segments(journal.folder)) == 2
    journal.close()
