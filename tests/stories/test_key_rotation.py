"""The rotation of a sealing key by command line, and what the doctor says at every step of it."""

import base64
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import relay
from tests.support.processes import free_port

OLD = "old:" + base64.b64encode(b"o" * 32).decode()
NEW = "new:" + base64.b64encode(b"n" * 32).decode()
HUSH = "hush-hush"

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Run a command as a user would, with the settings that are given beside the usual ones."""
    usual = {
        "RELAY_DATABASE_URL": database_url,
        "RELAY_DATA_DIR": str(tmp_path),
        "RELAY_LISTEN": f"127.0.0.1:{free_port()}",
        "RELAY_ADMIN_TOKEN": "token-of-the-tests",
    }

    def run_command(*arguments: str, **settings: str) -> Result:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(CliRunner(env={**usual, **settings}).invoke, relay, list(arguments)).result()

    return run_command


def findings(result: Result) -> dict[str, Mapping[str, Any]]:
    document = json.loads(result.stdout)
    checks = {finding["check"]: finding for finding in document["checks"]}
    assert document["ok"] == (result.exit_code == 0) == all(each["state"] != "fail" for each in checks.values())
    assert all((each["state"] == "ok") == (each["advice"] is None) for each in checks.values())
    assert HUSH not in result.stdout
    assert "token-of-the-tests" not in result.stdout
    return checks


async def audit_of(database_url: str) -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(
            await connection.fetch("SELECT tenant, target, before, after FROM audit WHERE action = 'destination.reseal' ORDER BY id")
        )
    finally:
        await connection.close()


async def test_a_sealing_key_is_rotated_and_the_old_one_is_taken_away(run: Run, database_url: str) -> None:
    for tenant in ("acme", "globex"):
        run("tenant", "create", tenant, RELAY_SECRET_KEY=OLD)
        told = ["destination", "set", tenant, "main", "--http", "https://files.example.com", "--header", f"X-Token: {HUSH}"]
        assert run(*told, RELAY_SECRET_KEY=OLD).exit_code == 0
    run("destination", "set", "acme", "open", "--http", "https://files.example.com", RELAY_SECRET_KEY=OLD)
    assert findings(run("doctor", "--json", RELAY_SECRET_KEY=OLD))["sealed credentials"]["detail"] == "2 by old"

    # The new key alone opens nothing; resealing says so, and leaves everything as it is.
    lost = findings(run("doctor", "--json", RELAY_SECRET_KEY=NEW))["sealed credentials"]
    assert (lost["state"], lost["detail"]) == ("fail", "2 by old; 2 cannot be opened")
    assert "acme/main, globex/main" in lost["advice"]
    refused = run("destination", "reseal", "--json", RELAY_SECRET_KEY=NEW)
    assert (refused.exit_code, json.loads(refused.stdout)["unopened"]) == (1, ["acme/main", "globex/main"])
    assert await audit_of(database_url) == []

    both = f"{NEW},{OLD}"
    unfinished = findings(run("doctor", "--json", RELAY_SECRET_KEY=both))["sealed credentials"]
    assert (unfinished["state"], unfinished["detail"]) == ("warn", "2 by old")
    assert "relay destination reseal" in unfinished["advice"]

    before = json.loads(run("destination", "list", "acme", "--json", RELAY_SECRET_KEY=both).stdout)
    done = run("destination", "reseal", "--json", RELAY_SECRET_KEY=both)
    assert json.loads(done.stdout) == {"key_id": "new", "resealed": 2, "current": 0, "unopened": []}
    again = run("destination", "reseal", "--json", RELAY_SECRET_KEY=both)
    assert json.loads(again.stdout) == {"key_id": "new", "resealed": 0, "current": 2, "unopened": []}
    assert json.loads(run("destination", "list", "acme", "--json", RELAY_SECRET_KEY=both).stdout) == before

    assert findings(run("doctor", "--json", RELAY_SECRET_KEY=NEW))["sealed credentials"]["state"] == "ok"
    rows = await audit_of(database_url)
    assert [(row["tenant"], row["target"]) for row in rows] == [("acme", "main"), ("globex", "main")]
    assert [json.loads(row["after"]) for row in rows] == [{"sealed_by": "new"}] * 2
    assert HUSH not in str(rows)

    refused = run("destination", "reseal")
    assert refused.exit_code == 2
    assert "Set RELAY_SECRET_KEY" in refused.stderr


async def test_doctor_looks_at_everything_and_says_what_to_do(run: Run, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    well = findings(run("doctor", "--json", RELAY_SECRET_KEY=NEW, RELAY_DISK_ROOT=str(tmp_path / "disk")))
    assert set(well) >= {
        "settings",
        "data directory",
        "disk root",
        "sealing key",
        "egress",
        "operator token",
        "open files",
        "RELAY_LISTEN",
        "postgres",
        "clock",
        "notifications",
        "schema",
        "sealed credentials",
    }
    on_a_disk = {name: each for name, each in well.items() if name not in {"data directory", "open files"}}
    assert {each["state"] for each in on_a_disk.values()} == {"ok"}, on_a_disk
    assert list((tmp_path / "disk").iterdir()) == []

    port = free_port()
    ill = findings(
        run(
            "doctor",
            "--json",
            RELAY_DISK_ROOT=str(tmp_path / "nowhere"),
            RELAY_SECRET_KEY="k:short",
            RELAY_EGRESS_ALLOW="0.0.0.0/0",
            RELAY_DATABASE_LISTEN_URL=f"postgresql://u:{HUSH}@127.0.0.1:{port}/x",
        )
    )
    states = {name: ill[name]["state"] for name in ("disk root", "sealing key", "egress", "notifications", "schema")}
    assert states == {"disk root": "fail", "sealing key": "fail", "egress": "warn", "notifications": "fail", "schema": "ok"}
    assert "nothing listens there" in ill["notifications"]["detail"]

    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert "Run 'relay migrate'." in findings(run("doctor", "--json"))["schema"]["advice"]
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert findings(run("doctor", "--json"))["schema"]["state"] == "warn"
    await connection.close()


def test_doctor_goes_on_without_postgres_and_stops_at_settings_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    away = findings(run("doctor", "--json", RELAY_DATABASE_URL=f"postgresql://u:{HUSH}@127.0.0.1:{free_port()}/x"))
    assert away["postgres"]["state"] == "fail"
    assert "schema" not in away
    assert findings(run("doctor", "--json", RELAY_DATABASE_URL="embedded"))["postgres"]["state"] == "warn"
    assert set(findings(run("doctor", "--json", RELAY_LISTN="x"))) == {"settings"}
    told = run("doctor", RELAY_DATA_DIR=str(tmp_path / "not" / "yet"), RELAY_DATABASE_URL="embedded")
    assert "can be made" in told.stdout
    assert not (tmp_path / "not").exists()
    assert told.stdout.splitlines()[-1].endswith("failed")
