"""What the third revision does to the indexes of paths, and to whom it keeps waiting meanwhile."""

import asyncio
from pathlib import Path

import asyncpg

from tests.schema.test_migrations import fetch, run_alembic
from tests.support.postgres import execute

OLD_MONTHS = (
    "CREATE TABLE ledger_y2024m01 PARTITION OF ledger FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')",
    """CREATE TABLE "Somebody's" PARTITION OF ledger FOR VALUES FROM ('2023-01-01 00:00:00+00') TO ('2024-01-01 00:00:00+00')""",
)
INSERT = """
    INSERT INTO {table} (
        started_at, request_id, tenant, method, path, protocol, outcome, early, client_left, bytes_in, bytes_delivered, bytes_out
    )
    VALUES ({at}, gen_random_uuid(), 'acme', 'POST', 'a', 'plain', 'delivered', false, false, 1, 1, 2)
"""
INDEXES = """
    SELECT indexrelid::regclass::text AS name, indisvalid AND indisready AS usable, pg_get_indexdef(indexrelid) AS definition,
           (SELECT count(*) FROM pg_inherits WHERE inhparent = indexrelid) AS children
    FROM pg_index WHERE indrelid = 'ledger'::regclass
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def paths_of(url: str) -> dict[str, tuple[bool, int]]:
    """The usable indexes of paths and how many partitions each has."""
    return {row["name"]: (row["usable"], row["children"]) for row in await fetch(url, INDEXES) if "path" in row["definition"]}


async def migrate(url: str, *step: str, folder: Path) -> None:
    code, said = await run_alembic(url, *step, folder=folder)
    assert code == 0, said


async def test_every_partition_gets_its_indexes_and_the_current_month_waits_for_no_other(empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url
    await migrate(url, "upgrade", "0002", folder=tmp_path)
    await execute(url, *OLD_MONTHS)
    holder, writer = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.execute(INSERT.format(table="ledger_y2024m01", at="timestamptz '2024-01-02 00:00:00+00'"))
            migration = asyncio.create_task(migrate(url, "upgrade", "head", folder=tmp_path))
            while not await writer.fetchval(WAITING):
                assert not migration.done(), "it does not wait"
                await asyncio.sleep(0.02)
            await writer.execute(INSERT.format(table="ledger", at="now()"), timeout=2)
        await migration
    finally:
        await holder.close()
        await writer.close()
    assert await paths_of(url) == dict.fromkeys(("ix_ledger_day_path", "ix_ledger_tenant_day_path"), (True, 6))
    await migrate(url, "downgrade", "0002", folder=tmp_path)
    assert await paths_of(url) == dict.fromkeys(("ix_ledger_path", "ix_ledger_tenant_path"), (True, 6))
