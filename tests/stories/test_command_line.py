"""One operator's journey by command line alone: a tenant from its first key to its end."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import relay
from relay.cli.demo_file import new_state

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Run a command as a user would; each has an event loop of its own, so it runs in a thread."""
    environment = {
        "RELAY_DATABASE_URL": database_url,
        "RELAY_DATA_DIR": str(tmp_path),
        "RELAY_DISK_ROOT": str(tmp_path / "disk"),
        "RELAY_SECRET_KEY": new_state().secret_key,
    }

    def run_command(*arguments: str) -> Result:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(CliRunner(env=environment).invoke, relay, list(arguments)).result()

    return run_command


def shown(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_operator_sets_up_a_tenant_and_takes_it_down(run: Run, database_url: str) -> None:
    tenant = shown(run("tenant", "create", "acme", "--name", "Acme Ltd", "--content-type", "image/*", "--json"))
    assert list(tenant) == ["slug", "name", "status", "limits", "content_types", "default_destination", "created_at", "updated_at"]
    assert tenant["created_at"].endswith("Z")

    key = shown(run("key", "issue", "acme", "--scope", "upload", "--json"))
    assert key["key"].startswith(f"rk_{key['id']}_")
    assert key["scopes"] == ["upload"]

    disk = shown(run("destination", "set", "acme", "files", "--disk", "acme", "--overwrite", "replace", "--json"))
    assert disk["config"] == {"directory": "acme", "overwrite": "replace", "key_template": "{path}"}
    http = shown(
        run("destination", "set", "acme", "main", "--http", "https://example.com/in", "--header", "X-Token: hush", "--default", "--json")
    )
    assert http["secret_names"] == ["X-Token"]
    assert shown(run("tenant", "show", "acme", "--json"))["default_destination"] == "main"

    route = shown(run("route", "set", "acme", "/photos/", "files", "--strip-prefix", "--json"))
    assert (route["prefix"], route["strip_prefix"]) == ("photos", True)
    assert shown(run("route", "set", "acme", "photos", "main", "--json")) == {**route, "destination": "main", "strip_prefix": False}

    assert shown(run("tenant", "disable", "acme", "--json"))["status"] == "disabled"
    assert shown(run("tenant", "enable", "acme", "--json"))["status"] == "active"
    assert run("key", "revoke", "acme", key["id"]).exit_code == 0
    assert shown(run("key", "list", "acme", "--json"))["items"][0]["status"] == "revoked"

    assert run("destination", "delete", "acme", "main").exit_code == 3
    assert run("route", "delete", "acme", "photos").exit_code == 0
    assert run("destination", "delete", "acme", "main").exit_code == 0
    assert run("tenant", "delete", "acme").exit_code == 0
    assert run("tenant", "show", "acme").exit_code == 3
    assert run("tenant", "create", "acme").exit_code == 3

    connection = await asyncpg.connect(database_url)
    try:
        audit = await connection.fetch("SELECT actor, action FROM audit ORDER BY at, id")
    finally:
        await connection.close()
    assert {row["actor"].partition(":")[0] for row in audit} == {"cli"}
    assert all(row["actor"].partition(":")[2] for row in audit)
    assert {"tenant.create", "key.issue", "key.revoke", "tenant.delete"} <= {row["action"] for row in audit}


def test_headers_replace_those_of_before_and_stay_when_none_is_given(run: Run) -> None:
    run("tenant", "create", "acme")
    url = "https://example.com/in"
    shown(run("destination", "set", "acme", "main", "--http", url, "--header", "A: 1", "--header", "B: 2", "--json"))
    assert shown(run("destination", "set", "acme", "main", "--http", url, "--header", "C: 3", "--json"))["secret_names"] == ["C"]
    kept = shown(run("destination", "set", "acme", "main", "--http", f"{url}/2", "--json"))
    assert (kept["secret_names"], kept["config"]["base_url"]) == (["C"], f"{url}/2")


def test_check_of_a_disk_destination_succeeds_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    run("tenant", "create", "acme")
    run("destination", "set", "acme", "files", "--disk", "acme")
    finding = shown(run("destination", "check", "acme", "files", "--json"))
    assert list(finding) == ["ok", "code", "detail", "checked_at"]
    assert finding["ok"] is True
    assert [path for path in (tmp_path / "disk").rglob("*") if path.is_file()] == []


def test_check_that_finds_something_fails(run: Run) -> None:
    run("tenant", "create", "acme")
    run("destination", "set", "acme", "main", "--http", "http://127.0.0.1:9/in")
    result = run("destination", "check", "acme", "main", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["code"] == "egress_denied"


def test_kind_of_a_destination_cannot_be_changed(run: Run) -> None:
    run("tenant", "create", "acme")
    run("destination", "set", "acme", "main", "--disk", "acme")
    result = run("destination", "set", "acme", "main", "--http", "https://example.com/in")
    assert result.exit_code == 3
    assert "main is a destination of kind disk" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("destination", "set", "acme", "main"),
        ("destination", "set", "acme", "main", "--http", "https://example.com", "--disk", "acme"),
        ("destination", "set", "acme", "main", "--http", "https://example.com", "--overwrite", "replace"),
        ("destination", "set", "acme", "main", "--disk", "acme", "--header", "A: 1"),
        ("destination", "set", "acme", "main", "--http", "https://example.com", "--header", "no colon"),
        ("destination", "set", "acme", "main", "--http", "ftp://example.com"),
        ("destination", "set", "acme", "main", "--disk", "../elsewhere"),
        ("tenant", "create", "Not A Slug"),
        ("key", "issue", "acme", "--expires-at", "tomorrow"),
        ("ledger", "list", "--outcome", "splendid"),
        ("ledger", "list", "--cursor", "broken"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    run("tenant", "create", "acme")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


def test_lists_go_on_where_the_page_before_ended(run: Run) -> None:
    for slug in ("a", "b", "c"):
        run("tenant", "create", slug)
    first = shown(run("tenant", "list", "--limit", "2", "--json"))
    assert [item["slug"] for item in first["items"]] == ["a", "b"]
    second = shown(run("tenant", "list", "--limit", "2", "--cursor", first["next"], "--json"))
    assert ([item["slug"] for item in second["items"]], second["next"]) == (["c"], None)


def test_table_has_a_heading_and_a_line_for_each_item(run: Run) -> None:
    run("tenant", "create", "acme", "--name", "Acme Ltd")
    lines = run("tenant", "list").stdout.splitlines()
    assert lines[0].split() == ["SLUG", "NAME", "STATUS", "DEFAULT", "DESTINATION", "CREATED", "AT"]
    assert lines[1].startswith("acme  Acme Ltd  active")


def test_empty_ledger_is_an_empty_page(run: Run) -> None:
    assert shown(run("ledger", "list", "--tenant", "acme", "--json")) == {"items": [], "next": None}


def test_migrate_may_be_repeated(run: Run) -> None:
    first, second = run("migrate"), run("migrate")
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout


def test_without_a_database_the_command_says_how_to_name_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(relay, ["tenant", "list", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "Start 'relay demo' there" in result.stderr
    assert "RELAY_DATABASE_URL" in result.stderr
