"""Journals whose processes are gone: every entry once, whoever adopts them and however often."""

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from relay.db.engine import Database
from relay.ledger.adoption import Adoption
from relay.ledger.folders import TEMPORARY_PREFIX, create_folder
from relay.ledger.segments import frame_payload
from relay.settings import DatabaseSettings
from tests.support.entries import finished_entry, leave_journal, make_entry, open_journal, read_ledger, read_usage
from tests.support.postgres import OwnPostgres
from tests.support.waiting import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def adopt(root: Path, database: Database) -> None:
    adoption = Adoption(root, database)
    await adoption.adopt_all()
    adoption.close()


async def test_finished_entries_are_shipped_and_begun_ones_are_interrupted(root: Path, database: Database) -> None:
    done, open_one = finished_entry(), make_entry(declared_length=5)
    folder = leave_journal(root, finished=[done], begun=[open_one])
    await adopt(root, database)
    found = {
        str(request_id): (outcome, finished_at)
        for request_id, outcome, finished_at in await read_ledger(database, "request_id, outcome, finished_at")
    }
    assert found[done.request_id][0] == "delivered"
    assert found[open_one.request_id] == ("interrupted", None)
    assert not folder.exists()
    assert [(day["uploads"], day["delivered"], day["failed"]) for day in await read_usage(database)] == [(2, 1, 1)]


async def test_a_journal_that_somebody_owns_is_never_touched(root: Path, database: Database) -> None:
    journal = open_journal(root)
    entry = make_entry()
    journal.begin(entry)
    await adopt(root, database)
    assert await read_ledger(database) == []
    await journal.finish(entry)
    journal.close()


async def test_two_adopters_at_once_ship_every_entry_once(root: Path, database: Database) -> None:
    for _ in range(10):
        leave_journal(root, finished=[finished_entry() for _ in range(50)], begun=[make_entry() for _ in range(5)])
    await asyncio.gather(*(adopt(root, database) for _ in range(4)))
    while any(root.iterdir()):  # an adopter passes over what another one holds
        await adopt(root, database)
    assert len(await read_ledger(database)) == 550
    assert [(day["uploads"], day["delivered"], day["failed"]) for day in await read_usage(database)] == [(550, 500, 50)]


async def test_the_same_journal_replayed_adds_no_row_and_no_usage(root: Path, database: Database) -> None:
    folder = leave_journal(root, finished=[finished_entry() for _ in range(600)], begun=[make_entry()])
    shutil.copytree(folder, copy := root.parent / "copy")
    await adopt(root, database)
    rows, sums = await read_ledger(database, "*"), await read_usage(database)
    shutil.copytree(copy, folder)
    await adopt(root, database)
    assert (await read_ledger(database, "*"), await read_usage(database)) == (rows, sums)
    assert len(rows) == 601


async def test_an_adopter_that_dies_midway_leaves_the_rest_to_the_next(root: Path, database: Database) -> None:
    folder = leave_journal(root, finished=[finished_entry() for _ in range(3_000)], begun=[make_entry() for _ in range(3)])
    adopting = asyncio.create_task(adopt(root, database))

    async def some_have_landed() -> bool:
        return bool(await read_ledger(database, "1"))

    await until(some_have_landed)
    adopting.cancel()
    await asyncio.wait([adopting])
    await adopt(root, database)
    assert not folder.exists()
    assert len(await read_ledger(database)) == 3_003
    assert [(day["uploads"], day["failed"]) for day in await read_usage(database)] == [(3_003, 3)]


async def test_a_torn_tail_is_dropped_and_its_entry_is_interrupted(root: Path, database: Database) -> None:
    done, torn = finished_entry(), finished_entry()
    folder = leave_journal(root, finished=[done, torn])
    segment = next(folder.iterdir())
    segment.write_bytes(segment.read_bytes()[:-7])
    await adopt(root, database)
    outcomes = {str(request_id): outcome for request_id, outcome in await read_ledger(database)}
    assert outcomes == {done.request_id: "delivered", torn.request_id: "interrupted"}
    assert not folder.exists()


async def test_a_corrupt_segment_is_kept_aside_and_costs_no_other_segment(
    root: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    before, lost, after = finished_entry(), finished_entry(), finished_entry()
    folder = leave_journal(root, finished=[before, lost])
    other = leave_journal(root, finished=[after])
    first = folder / "00000001.segment"
    next(other.iterdir()).rename(folder / "00000002.segment")
    data = bytearray(first.read_bytes())
    data[-5] ^= 0xFF
    first.write_bytes(data)
    with caplog.at_level(logging.ERROR, "relay.ledger"):
        await adopt(root, database)
    outcomes = {str(request_id): outcome for request_id, outcome in await read_ledger(database)}
    assert outcomes == {before.request_id: "delivered", lost.request_id: "interrupted", after.request_id: "delivered"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert not folder.exists()
    assert (root / "corrupt" / f"{folder.name}-00000001.segment").read_bytes() == data


async def test_a_folder_whose_maker_died_before_naming_it_is_removed(root: Path, database: Database) -> None:
    lock = create_folder(root, "11111111-1111-1111-1111-111111111111")
    lock.release()
    lock.path.rename(abandoned := root / f"{TEMPORARY_PREFIX}{lock.path.name}")
    await adopt(root, database)
    assert not abandoned.exists()


async def test_a_folder_that_cannot_be_removed_is_shipped_once_and_left_alone(root: Path, database: Database) -> None:
    folder = leave_journal(root, finished=[finished_entry()])
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    adoption = Adoption(root, database)
    with pytest.raises(OSError, match="not empty"):
        await adoption.adopt_all()
    await adoption.adopt_all()
    adoption.close()
    assert (folder / "notes.txt").exists()
    assert len(await read_ledger(database)) == 1


async def test_a_journal_of_records_that_are_no_entries_is_settled(root: Path, database: Database) -> None:
    good = finished_entry()
    folder = leave_journal(root, finished=[good], raw=frame_payload(b'["begun",{"not":"an id"}]') + frame_payload(b'["begun",'))
    await adopt(root, database)
    assert [outcome for _, outcome in await read_ledger(database)] == ["delivered"]
    assert not folder.exists()
    assert len((root / "rejected.ndjson").read_text(encoding="ascii").splitlines()) == 2


async def test_an_adopted_journal_waits_for_postgres_and_is_removed_only_then(root: Path) -> None:
    with OwnPostgres() as postgres:
        database = Database(postgres.url, DatabaseSettings())
        postgres.stop()
        folder = leave_journal(root, finished=[finished_entry()], begun=[make_entry()])
        adoption = Adoption(root, database)
        adopting = asyncio.create_task(adoption.adopt_all())
        await until(lambda: adoption._waiting == 2)
        assert folder.exists()
        postgres.start()
        await adopting
        assert not folder.exists()
        assert len(await read_ledger(database)) == 2
        adoption.close()
        await database.close()
