"""The journal's disk refuses: nobody is told a lie, and no record hides another."""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.errors import DiskBroke, JournalFull, RelayFault
from relay.ledger.folders import list_segments
from relay.ledger.segments import End, read_segment
from tests.support.entries import finished_entry, make_entry, open_journal


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Let the kernel cut every write of this process at ``size`` bytes of its file: a real short write, then an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signals)


def finished_ids(folder: Path) -> list[str]:
    found = []
    for segment in list_segments(folder):
        reading = read_segment(segment)
        assert reading.end is End.WHOLE, segment
        found += [record.entry()["request_id"] for record in reading.finished]
    return found


async def test_a_short_write_is_cut_back_and_later_records_are_readable(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    first, second = finished_entry(), finished_entry()
    journal.begin(first)
    await journal.finish(first)
    segment = list_segments(journal.folder)[0]
    size = segment.stat().st_size
    with files_no_longer_than(size + 100), pytest.raises(DiskBroke):
        journal.begin(second)
    assert segment.stat().st_size == size
    journal.begin(second)
    await journal.finish(second)
    assert finished_ids(journal.folder) == [first.request_id, second.request_id]
    journal.close()


async def test_a_short_write_that_goes_on_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:100]))
    entry = finished_entry()
    journal.begin(entry)
    await journal.finish(entry)
    assert finished_ids(journal.folder) == [entry.request_id]
    journal.close()


async def test_a_segment_that_cannot_be_cut_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    done, first, second = finished_entry(), finished_entry(), finished_entry()
    await journal.finish(done)
    journal.begin(first)
    segment = list_segments(journal.folder)[0]

    def broken_truncate(_file: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, files_no_longer_than(segment.stat().st_size + 100):
        patch.setattr(os, "ftruncate", broken_truncate)
        with pytest.raises(DiskBroke):
            journal.begin(second)
    journal.begin(second)
    await journal.finish(second)
    await journal.finish(first)
    torn, whole = list_segments(journal.folder)
    assert read_segment(torn).end is End.TORN
    assert [record.entry()["request_id"] for record in read_segment(torn).finished] == [done.request_id]
    assert [record.entry()["request_id"] for record in read_segment(whole).finished] == [second.request_id, first.request_id]
    journal.close()


@pytest.mark.parametrize(("number", "fault"), [(errno.ENOSPC, JournalFull), (errno.EDQUOT, JournalFull), (errno.EIO, DiskBroke)])
async def test_nothing_begins_on_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fault: type[RelayFault]
) -> None:
    journal = open_journal(tmp_path)

    def refuse(_file: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(fault):
            journal.begin(make_entry())
    assert journal.running == 0
    journal.close()


async def test_a_finished_record_that_the_disk_refused_is_owed_and_written_first(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    first, second = finished_entry(), finished_entry()
    journal.begin(first)
    journal.begin(second)
    with files_no_longer_than(list_segments(journal.folder)[0].stat().st_size):
        with pytest.raises(DiskBroke):
            await journal.finish(first)
        with pytest.raises(DiskBroke):
            journal.begin(make_entry())
        assert (journal.entries, journal.running) == (1, 2)
    await journal.finish(second)
    assert finished_ids(journal.folder) == [first.request_id, second.request_id]
    assert (journal.entries, journal.running) == (2, 0)
    journal.close()


async def test_what_is_owed_is_paid_without_another_upload(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    entry = finished_entry()
    journal.begin(entry)
    with files_no_longer_than(list_segments(journal.folder)[0].stat().st_size):
        with pytest.raises(DiskBroke):
            await journal.finish(entry)
        journal.pay_owed()
        assert finished_ids(journal.folder) == []
    assert journal.next_span() is not None
    assert finished_ids(journal.folder) == [entry.request_id]
    journal.close()


async def test_a_new_segment_that_cannot_be_opened_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_bytes=64 << 10)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        for _ in range(30):
            entry = finished_entry()
            journal.begin(entry)
            await journal.finish(entry)
            told.append(entry.request_id)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert finished_ids(journal.folder) == told
    assert len(list_segments(journal.folder)) == 1
    entry = finished_entry()
    journal.begin(entry)
    assert len(list_segments(journal.folder)) == 2
    journal.close()
