"""Postgres restarted, stopped, frozen, slow, full: what a transaction makes of it, and what it leaves behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from relay.db.engine import Database, connect_listener
from relay.errors import DatabaseUnavailable
from relay.settings import DatabaseSettings, SettingsInvalid
from tests.support.postgres import OwnPostgres, execute
from tests.support.waiting import until

IMPATIENT = DatabaseSettings(
    pool_size=2,
    pool_overflow=0,
    pool_timeout=timedelta(milliseconds=300),
    connect_timeout=timedelta(milliseconds=700),
    statement_timeout=timedelta(milliseconds=400),
)


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    with OwnPostgres(is_migrated=False) as server:
        yield server


@asynccontextmanager
async def opened(url: str, settings: DatabaseSettings = IMPATIENT) -> AsyncIterator[Database]:
    database = Database(url, settings)
    try:
        yield database
    finally:
        await database.close()


async def ask(database: Database, query: str = "SELECT 1") -> object:
    async with database.transaction() as session:
        return await session.scalar(text(query))


async def count_sessions(url: str) -> int:
    """Sessions of Relay on the server, without the one that asks."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay' AND datname = current_database()"
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def test_restart_between_two_transactions_goes_unnoticed(postgres: OwnPostgres) -> None:
    async with opened(postgres.url, DatabaseSettings()) as database:
        await asyncio.gather(*(ask(database, "SELECT pg_sleep(0.05)") for _ in range(3)))  # three connections lie in the pool
        postgres.stop()
        postgres.start()
        assert await asyncio.gather(*(ask(database) for _ in range(6))) == [1] * 6


async def test_stopped_postgres_is_unavailable_and_comes_back(postgres: OwnPostgres) -> None:
    async with opened(postgres.url) as database:
        assert await ask(database) == 1
        postgres.stop()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await ask(database)
        with pytest.raises(DatabaseUnavailable):
            await connect_listener(postgres.url, IMPATIENT)
        postgres.start()
        assert await ask(database) == 1


async def test_frozen_postgres_is_unavailable_within_the_timeouts_and_comes_back(postgres: OwnPostgres) -> None:
    async with opened(postgres.url) as database:
        assert await ask(database) == 1
        postgres.freeze()
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await ask(database)
            assert time.monotonic() - begun < 6  # begin (1 s), then at most 2 s to let go of the connection, and slack
        with pytest.raises(DatabaseUnavailable):
            await connect_listener(postgres.url, IMPATIENT)
        postgres.thaw()
        assert await ask(database) == 1


async def test_freeze_within_a_statement_ends_the_transaction(postgres: OwnPostgres) -> None:
    async with opened(postgres.url) as database:

        async def freeze_within() -> None:
            async with database.transaction() as session:
                postgres.freeze()
                await session.execute(text("SELECT 1"))

        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await freeze_within()
        assert time.monotonic() - begun < 6
        postgres.thaw()
        assert await ask(database) == 1


async def test_server_that_dies_within_a_transaction_is_unavailable(postgres: OwnPostgres) -> None:
    async with opened(postgres.url) as database:

        async def kill_within() -> None:
            async with database.transaction() as session:
                await session.execute(text("SELECT 1"))
                postgres.kill()
                await session.execute(text("SELECT pg_sleep(0.3)"))

        with pytest.raises(DatabaseUnavailable):
            await kill_within()
        postgres.start()
        assert await ask(database) == 1


async def test_session_that_is_terminated_before_the_commit_is_unavailable(database_url: str) -> None:
    async with opened(database_url) as database:

        async def terminate_within() -> None:
            async with database.transaction() as session:
                victim = await session.scalar(text("SELECT pg_backend_pid()"))
                await ask(database, f"SELECT pg_terminate_backend({victim}, 1000)")

        with pytest.raises(DatabaseUnavailable):
            await terminate_within()
        assert await ask(database) == 1


async def test_statement_that_takes_too_long_is_unavailable_and_is_ended_on_the_server(database_url: str) -> None:
    async with opened(database_url) as database:
        with pytest.raises(DatabaseUnavailable):
            await ask(database, "SELECT pg_sleep(60)")
        assert (
            await ask(database, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") == 0
        )


async def test_exhausted_pool_is_unavailable(database_url: str) -> None:
    async with opened(database_url) as database, database.transaction(), database.transaction():
        with pytest.raises(DatabaseUnavailable):
            await ask(database)


async def test_database_that_does_not_exist_or_refuses_is_unavailable(postgres: OwnPostgres) -> None:
    for url in (
        postgres.url.replace("/postgres?", "/nothing?"),
        postgres.url.replace("relay:", "relay:wrong"),
        "postgresql://a:b@127.0.0.1:1/x",
    ):
        async with opened(url) as database:
            with pytest.raises(DatabaseUnavailable):
                await ask(database)


def test_url_of_something_else_is_a_wrong_setting_not_an_absent_database() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Database("mysql://root:s3cr3t@localhost/x", IMPATIENT)
    assert "s3cr3t" not in str(caught.value)


async def test_errors_of_the_block_itself_pass_as_they_are_and_roll_back(database: Database) -> None:
    async def fail_within(error: OSError) -> None:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO usage_daily (tenant, day) VALUES ('acme', now())"))
            raise error

    for error in (TimeoutError("mine"), ConnectionResetError("mine"), FileNotFoundError("mine")):
        with pytest.raises(type(error), match="mine"):
            await fail_within(error)
    assert await ask(database, "SELECT count(*) FROM usage_daily") == 0


async def test_errors_of_the_data_pass_as_they_are(database: Database) -> None:
    with pytest.raises(IntegrityError):
        await ask(database, "INSERT INTO installation (id) VALUES ('second')")
    with pytest.raises(ProgrammingError):
        await ask(database, "SELECT nonsense")


async def test_errors_do_not_tell_parameters(database: Database) -> None:
    with pytest.raises(ProgrammingError) as caught:
        async with database.transaction() as session:
            await session.execute(text("SELECT nonsense, :secret"), {"secret": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)


async def test_cancelled_transaction_leaves_nothing_and_gives_its_connection_back(database_url: str) -> None:
    async with opened(database_url) as database:

        async def wait_long() -> None:
            async with database.transaction() as session:
                await session.execute(text("INSERT INTO usage_daily (tenant, day) VALUES ('acme', now())"))
                await session.execute(text("SELECT pg_sleep(0.3)"))

        for _ in range(4):  # more often than the pool is large
            task = asyncio.create_task(wait_long())
            await until(lambda: ask(database, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await ask(database, "SELECT count(*) FROM usage_daily") == 0


async def test_nothing_of_a_session_outlives_its_transaction(database_url: str) -> None:
    """What a pooler in transaction mode needs: no setting, no prepared statement stays on the connection."""
    async with opened(database_url) as database:
        for _ in range(3):
            assert await ask(database, "SHOW statement_timeout") == "400ms"
            assert await ask(database, "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        watcher = await connect_listener(database_url, IMPATIENT)
        try:
            assert await watcher.fetchval("SHOW statement_timeout") == "0"
        finally:
            await watcher.close()


async def test_change_of_a_table_under_a_running_process_goes_unnoticed(database: Database, database_url: str) -> None:
    for column in ("a", "b", "c"):
        await execute(database_url, f"ALTER TABLE usage_daily ADD COLUMN {column} text")
        async with database.transaction() as session:
            columns = list((await session.execute(text("SELECT * FROM usage_daily"))).keys())
        assert columns[-1] == column


async def test_statements_within_a_streamed_answer_do_not_disturb_it(database: Database) -> None:
    async with database.transaction() as session:
        numbers = []
        stream = await session.stream_scalars(text("SELECT * FROM generate_series(1, 300)"), execution_options={"yield_per": 20})
        async for number in stream:
            numbers.append(number)
            if number % 100 == 0:
                assert await session.scalar(text("SELECT :n"), {"n": str(number)}) == str(number)
    assert numbers == list(range(1, 301))


async def test_close_leaves_no_session_on_the_server(database_url: str) -> None:
    async with opened(database_url, DatabaseSettings()) as database:
        await asyncio.gather(*(ask(database, "SELECT pg_sleep(0.05)") for _ in range(4)))
        assert await count_sessions(database_url) == 4

    async def is_empty() -> bool:
        return await count_sessions(database_url) == 0

    await until(is_empty)
