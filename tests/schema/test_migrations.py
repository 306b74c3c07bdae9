"""From nothing to the newest schema, by the commands that operators and contributors use."""

import asyncio
import logging
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint

import relay.destinations.rows
import relay.ledger.rows
import relay.tenants.rows  # noqa: F401 - importing the rows fills the metadata
from relay.db import schema
from relay.db.engine import Database
from relay.db.schema import HEAD, MIGRATIONS, REVISIONS, SchemaBusy, SchemaOutdated, check_schema
from relay.db.tables import Row
from relay.settings import DatabaseSettings
from tests.support.postgres import execute, migrate_apart

ALEMBIC_INI = MIGRATIONS.parent / "alembic.ini"


async def run_alembic(url: str, *arguments: str, folder: Path) -> tuple[int, str]:
    """Run the real command elsewhere than in the checkout; its exit code and everything it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "-c", str(ALEMBIC_INI), *arguments),
        env=os.environ | {"RELAY_DATABASE_URL": url},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def fetch(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query)
    finally:
        await connection.close()
    return rows


def test_known_revisions_are_those_of_alembic() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    assert [revision.revision for revision in script.walk_revisions()] == list(reversed(REVISIONS))
    assert script.get_current_head() == HEAD


async def test_alembic_command_migrates_from_nothing(empty_database_url: str, tmp_path: Path) -> None:
    code, said = await run_alembic(empty_database_url, "upgrade", "head", folder=tmp_path)
    assert code == 0, said
    tables = await fetch(
        empty_database_url, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    names = {row["relname"] for row in tables if not row["relname"].startswith("ledger_y")}
    assert names == {*Row.metadata.tables, "alembic_version"}


async def test_migrate_needs_no_working_folder(empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    migrate_apart(empty_database_url)
    migrate_apart(empty_database_url)
    rows = await fetch(empty_database_url, "SELECT version_num FROM alembic_version")
    assert [row["version_num"] for row in rows] == [HEAD]


async def test_two_migrations_at_once_both_succeed(empty_database_url: str, tmp_path: Path) -> None:
    runs = await asyncio.gather(*(run_alembic(empty_database_url, "upgrade", "head", folder=tmp_path) for _ in range(2)))
    assert [code for code, _ in runs] == [0, 0], runs
    assert len(await fetch(empty_database_url, "SELECT * FROM installation")) == 1


async def test_alembic_check_finds_no_difference(database_url: str, tmp_path: Path) -> None:
    code, said = await run_alembic(database_url, "check", folder=tmp_path)
    assert code == 0, said


async def test_alembic_check_finds_a_column_too_many(database_url: str, tmp_path: Path) -> None:
    await execute(database_url, "ALTER TABLE tenants ADD COLUMN extra text")
    code, said = await run_alembic(database_url, "check", folder=tmp_path)
    assert code != 0
    assert "extra" in said


async def test_migration_gives_up_on_a_lock_instead_of_queueing(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", timedelta(milliseconds=200))
    await execute(empty_database_url, "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    holder = await asyncpg.connect(empty_database_url)
    try:
        await holder.execute("BEGIN; LOCK TABLE alembic_version IN SHARE MODE")
        with pytest.raises(SchemaBusy):
            await asyncio.to_thread(schema.migrate, empty_database_url)
    finally:
        await holder.close()
    tables = await fetch(empty_database_url, "SELECT relname FROM pg_class WHERE relname = 'tenants'")
    assert tables == []


async def test_constraints_that_alembic_does_not_compare_are_those_of_the_rows(database_url: str) -> None:
    wanted = {
        (table.name, str(constraint.name))
        for table in Row.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    found = await fetch(
        database_url,
        "SELECT conrelid::regclass::text AS place, conname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid "
        "WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND NOT relispartition",
    )
    assert {(row["place"], row["conname"]) for row in found} == wanted


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tenants (id, slug) VALUES (gen_random_uuid(), 'Not-A-Slug')",
        "INSERT INTO tenants (id, slug) VALUES (gen_random_uuid(), 'ends-with-')",
        "INSERT INTO tenants (id, slug) VALUES (gen_random_uuid(), repeat('a', 64))",
        "INSERT INTO tenants (id, slug, status) VALUES (gen_random_uuid(), 'acme', 'asleep')",
        "INSERT INTO destinations (id, tenant_id, name, kind, config) VALUES (gen_random_uuid(), gen_random_uuid(), 'd', 'ftp', '{}')",
        "INSERT INTO installation (singleton, id) VALUES (false, 'another')",
    ],
)
async def test_database_itself_refuses(database_url: str, statement: str) -> None:
    with pytest.raises(asyncpg.exceptions.CheckViolationError):
        await execute(database_url, statement)


async def test_installation_has_one_random_id(database_url: str) -> None:
    rows = await fetch(database_url, "SELECT id FROM installation")
    assert len(rows) == 1
    assert re.fullmatch("[0-9a-f]{16}", rows[0]["id"])


async def test_start_on_an_empty_database_names_the_command(empty_database_url: str) -> None:
    database = Database(empty_database_url, DatabaseSettings())
    with pytest.raises(SchemaOutdated, match="relay migrate"):
        await check_schema(database)
    await database.close()


async def test_start_on_an_older_schema_names_the_command(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "REVISIONS", ("0000", HEAD))
    await execute(database_url, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaOutdated, match=r"revision 0000.*relay migrate"):
        await check_schema(database)


async def test_start_on_a_newer_schema_warns(database: Database, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    await execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with caplog.at_level(logging.WARNING):
        await check_schema(database)
        migrate_apart(database_url)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "9999" in caplog.text


async def test_start_on_the_right_schema_says_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await check_schema(database)
    assert caplog.records == []


def test_comparing_revisions_imports_no_alembic() -> None:
    program = "import sys, relay.db.schema; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
