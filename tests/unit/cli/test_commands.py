"""The command line as a whole: its list, its laziness, its exit codes."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from relay import errors
from relay.cli import COMMANDS, HIDDEN, describe, exit_code_of, relay
from relay.errors import FieldError, RelayError, RequestInvalid

HEAVY = ("fastapi", "starlette", "sqlalchemy", "alembic", "asyncpg", "httpx", "uvicorn", "cryptography")


def command(name: str) -> click.Command:
    found = relay.get_command(click.Context(relay), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_what_each_command_says_of_itself(name: str) -> None:
    help_text = command(name).help
    assert help_text is not None
    assert help_text.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_commands_are_hidden(name: str) -> None:
    assert command(name).hidden


@pytest.mark.parametrize("module", ["relay.cli", "relay.cli.serve", "relay.cli.demo"])
def test_supervisor_stays_light(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(relay, ["frobnicate"]).exit_code == 2


def test_version_is_printed() -> None:
    result = CliRunner().invoke(relay, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("relay ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TenantNotFound(), 3),
        (errors.TenantExists(), 3),
        (errors.DestinationInUse(), 3),
        (errors.EtagMismatch(), 3),
        (errors.RequestInvalid(), 2),
        (errors.DatabaseUnavailable(), 1),
        (errors.InternalError(), 1),
    ],
)
def test_exit_code_follows_from_the_error(error: RelayError, code: int) -> None:
    assert exit_code_of(error) == code


def test_failure_names_the_member_what_to_do_and_the_code() -> None:
    error = RequestInvalid(errors=[FieldError(("body", "limits", "max_upload_bytes"), "limit_invalid", "Use 1 or more.")])
    assert describe(error) == "limits.max_upload_bytes: Use 1 or more. (request_invalid)"
    assert describe(errors.TenantNotFound()) == f"{errors.TenantNotFound.advice} (tenant_not_found)"


def test_bad_setting_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_LISTN", "x")
    result = CliRunner().invoke(relay, ["serve"])
    assert result.exit_code == 1
    assert result.output == "error: RELAY_LISTN is not a setting; the nearest is RELAY_LISTEN. Unset or rename it.\n"
