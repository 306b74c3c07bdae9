"""What the second revision adds, under the feet of the release before it."""

from pathlib import Path

from tests.schema.test_migrations import fetch, run_alembic
from tests.support.postgres import execute

ENTRY_OF_THE_RELEASE_BEFORE = """
    INSERT INTO ledger (
        started_at, request_id, tenant, method, path, protocol, outcome, early, client_left, bytes_in, bytes_delivered, bytes_out
    )
    SELECT now(), gen_random_uuid(), 'acme', 'POST', repeat('ü', 2048), 'plain', 'delivered', false, false, 1, 1, 2
"""


async def test_the_release_before_writes_and_reads_on(empty_database_url: str, tmp_path: Path) -> None:
    for revision in ("0001", "head"):
        code, said = await run_alembic(empty_database_url, "upgrade", revision, folder=tmp_path)
        assert code == 0, said
        await execute(empty_database_url, ENTRY_OF_THE_RELEASE_BEFORE)
    rows = await fetch(empty_database_url, "SELECT objects FROM ledger")
    assert [row["objects"] for row in rows] == [None, None]
    code, said = await run_alembic(empty_database_url, "downgrade", "0001", folder=tmp_path)
    assert code == 0, said
    assert len(await fetch(empty_database_url, "SELECT path FROM ledger")) == 2


async def test_a_path_as_long_as_any_is_indexed(database_url: str) -> None:
    # Random text cannot be compressed: this one is three times as long as an entry of an index may be.
    longest = "(SELECT string_agg(chr(20000 + (random() * 20000)::int), '') FROM generate_series(1, 2048))"
    await execute(database_url, ENTRY_OF_THE_RELEASE_BEFORE.replace("repeat('ü', 2048)", longest))
    assert [row["n"] for row in await fetch(database_url, "SELECT length(path) AS n FROM ledger")] == [2048]
