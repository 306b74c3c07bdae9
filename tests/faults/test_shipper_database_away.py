"""Postgres stops, freezes, cuts: entries wait in the files, in order, and arrive once."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable
from relay.ledger.adoption import Adoption
from relay.ledger.journal import Journal
from relay.ledger.shipper import LINGER_SECONDS, Shipper
from relay.settings import DatabaseSettings
from relay.telemetry import JOURNAL_ENTRIES, JOURNAL_OLDEST_SECONDS
from tests.support.entries import finished_entry, ledger_ids, make_entry, open_journal, read_usage
from tests.support.postgres import OwnPostgres
from tests.support.waiting import until

SECONDS = timedelta(seconds=10)
IMPATIENT = DatabaseSettings(
    pool_timeout=timedelta(seconds=0.5), connect_timeout=timedelta(seconds=0.5), statement_timeout=timedelta(seconds=0.5)
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with OwnPostgres() as postgres:
        yield postgres


@asynccontextmanager
async def shipping(root: Path, url: str) -> AsyncIterator[tuple[Journal, Shipper, Database]]:
    """A journal whose shipper runs."""
    database = Database(url, IMPATIENT)
    journal = open_journal(root, max_bytes=64 << 20)
    shipper = Shipper(journal, database, root)
    running = asyncio.create_task(shipper.run())
    try:
        yield journal, shipper, database
    finally:
        running.cancel()
        await asyncio.wait([running])
        shipper.close()
        journal.close()
        await database.close()


async def tell(journal: Journal, count: int) -> list[str]:
    told = []
    for _ in range(count):
        entry = finished_entry()
        journal.begin(entry)
        await journal.finish(entry)
        told.append(entry.request_id)
    return told


async def arrived(database: Database, told: list[str]) -> bool:
    try:
        found = await ledger_ids(database)
    except DatabaseUnavailable:  # it is impatient, and a busy machine may not be quick enough
        return False
    assert len(found) == len(set(found))
    return set(told) <= set(found)


async def test_an_entry_arrives_by_itself(tmp_path: Path, postgres: OwnPostgres) -> None:
    async with shipping(tmp_path, postgres.url) as (journal, shipper, database):
        told = await tell(journal, 1)
        await until(lambda: arrived(database, told))
        await until(lambda: journal.entries == 0)
        assert shipper.database_state == "ok"


async def test_a_batch_begins_behind_an_upload_that_ends(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ledger.shipper.GAP_SECONDS", 30.0)
    async with shipping(tmp_path, database_url) as (journal, _shipper, database):
        told = await tell(journal, 1)
        await asyncio.sleep(LINGER_SECONDS * 6)
        assert not await ledger_ids(database)
        told += await tell(journal, 1)
        await until(lambda: arrived(database, told))


@pytest.mark.parametrize("fault", ["stop", "kill", "freeze"])
async def test_entries_told_while_postgres_is_away_arrive_once_when_it_is_back(tmp_path: Path, postgres: OwnPostgres, fault: str) -> None:
    async with shipping(tmp_path, postgres.url) as (journal, shipper, database):
        told = await tell(journal, 10)
        await until(lambda: arrived(database, told))
        getattr(postgres, fault)()
        try:
            await until(lambda: shipper.database_state == "away")
            told += await tell(journal, 1_200)
            assert journal.entries >= 1_200
            await until(lambda: JOURNAL_ENTRIES._value.get() >= 1_200)
        finally:
            postgres.thaw() if fault == "freeze" else postgres.start()
        await until(lambda: journal.entries == 0)
        await until(lambda: arrived(database, told))
        assert shipper.database_state == "ok"


async def test_the_oldest_entry_tells_how_long_it_waits(tmp_path: Path, postgres: OwnPostgres) -> None:
    async with shipping(tmp_path, postgres.url) as (journal, _, _):
        postgres.stop()
        try:
            await tell(journal, 3)
            await until(lambda: JOURNAL_OLDEST_SECONDS._value.get() > 0.5)
        finally:
            postgres.start()
        await until(lambda: JOURNAL_OLDEST_SECONDS._value.get() == 0)


async def test_an_hour_without_postgres_costs_disk_and_no_memory(tmp_path: Path) -> None:
    nobody = f"postgresql://relay@/postgres?host={tmp_path}"
    async with shipping(tmp_path / "journal", nobody) as (journal, shipper, _):
        await tell(journal, 2_000)
        await until(lambda: shipper.database_state == "away")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(4):
                await tell(journal, 1_000)
                await asyncio.sleep(0)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert journal.entries == 6_000
        on_disk = sum(path.stat().st_size for path in journal.folder.iterdir())
        assert grown < on_disk / 8, (grown, on_disk)


async def test_a_drain_ends_at_its_deadline_and_the_next_process_takes_what_is_left(tmp_path: Path, postgres: OwnPostgres) -> None:
    database = Database(postgres.url, IMPATIENT)
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    told = await tell(journal, 600)
    running = make_entry()
    journal.begin(running)
    postgres.stop()
    try:
        assert not await shipper.drain(timedelta(seconds=0.3))
    finally:
        postgres.start()
    shipper.close()
    journal.close()
    assert journal.folder.exists()
    adoption = Adoption(tmp_path, database)
    await adoption.adopt_all()
    adoption.close()
    assert not journal.folder.exists()
    await until(lambda: arrived(database, [*told, running.request_id]))
    await database.close()


async def test_a_drain_beside_a_running_shipper_ships_everything_once(tmp_path: Path, database_url: str) -> None:
    async with shipping(tmp_path, database_url) as (journal, shipper, database):
        told = await tell(journal, 2_000)
        assert await shipper.drain(SECONDS)
        assert sorted(await ledger_ids(database)) == sorted(told)
        assert [day["uploads"] for day in await read_usage(database)] == [2_000]
    assert not journal.folder.exists()


async def test_a_shipper_that_is_cancelled_again_and_again_loses_and_doubles_nothing(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url, DatabaseSettings())
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    told = await tell(journal, 4_000)
    for turn in range(30):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(turn / 300):
                await shipper.run()
    assert await shipper.drain(SECONDS)
    assert sorted(await ledger_ids(database)) == sorted(told)
    assert [day["uploads"] for day in await read_usage(database)] == [4_000]
    shipper.close()
    journal.close()
    await database.close()


async def test_a_segment_of_the_own_journal_that_went_bad_is_passed_over(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url, DatabaseSettings())
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    running = finished_entry()
    journal.begin(running)
    told = await tell(journal, 3)
    segment = next(journal.folder.iterdir())
    data = bytearray(segment.read_bytes())
    data[-5] ^= 0xFF
    segment.write_bytes(data)
    assert await shipper.drain(SECONDS)
    await journal.finish(running)
    told = [*told[:2], *(await tell(journal, 1)), running.request_id]
    assert await shipper.drain(SECONDS)
    assert sorted(await ledger_ids(database)) == sorted(told)
    assert len(list((tmp_path / "corrupt").iterdir())) == 1
    assert journal.entries == 0
    shipper.close()
    journal.close()
    await database.close()


async def test_a_segment_that_somebody_deleted_stops_nothing(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url, DatabaseSettings())
    journal = open_journal(tmp_path)
    shipper = Shipper(journal, database, tmp_path)
    await tell(journal, 3)
    next(journal.folder.iterdir()).unlink()
    assert await shipper.drain(SECONDS)
    told = await tell(journal, 2)
    assert await shipper.drain(SECONDS)
    assert await ledger_ids(database) == told
    shipper.close()
    journal.close()
    await database.close()
