"""The exit code of every command of an operator, found by walking: nobody's tenant is 3, a database that is away is 1."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from relay.cli import relay
from relay.cli.demo_file import new_state
from tests.support.processes import free_port
from tests.unit.cli.test_command_tree import COMMANDS

WORDS = {
    "slug": "nobody",
    "tenant": "nobody",
    "name": "main",
    "destination": "main",
    "prefix": "photos",
    "key_id": "k3a9x0q2m7b1c5d8",
}
ALSO = {"destination set": ["--http", "https://files.example.com"], "tenant create": ["--name", "Nobody"]}
ELSEWHERE = {"demo", "serve", "migrate", "health", "completion", "doctor", "upload", "live", "database"}
"""What asks no database, or asks it in a way of its own."""


def arguments(path: str) -> list[str]:
    """The words of a command that is written as it should be."""
    places = [each for each in COMMANDS[path].params if isinstance(each, click.Argument)]
    return [*path.split(), *(WORDS[str(each.name)] for each in places), *ALSO.get(path, [])]


AT_A_DESK = [path for path in COMMANDS if path.split()[0] not in ELSEWHERE]
OF_A_TENANT = [
    path for path in AT_A_DESK if {"slug", "tenant"} & {each.name for each in COMMANDS[path].params if isinstance(each, click.Argument)}
]


def run(words: list[str], environment: Mapping[str, str]) -> Result:
    """Run a command; each has an event loop of its own, so it runs in a thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CliRunner(env=dict(environment)).invoke, relay, words).result()


def check_told(result: Result, path: str) -> None:
    """One line that begins with ``error:``, says what to do, and nothing on standard output."""
    assert result.stdout == "", path
    assert result.stderr.startswith("error: "), (path, result.stderr)
    assert len(result.stderr.splitlines()) == 1, (path, result.stderr)
    assert "Traceback" not in result.stderr


async def test_what_is_of_nobody_is_not_found(database_url: str, tmp_path: Path) -> None:
    environment = {"RELAY_DATABASE_URL": database_url, "RELAY_DATA_DIR": str(tmp_path), "RELAY_SECRET_KEY": new_state().secret_key}
    assert len(OF_A_TENANT) >= 13
    for path in OF_A_TENANT:
        if path == "tenant create":
            continue
        result = run(arguments(path), environment)
        assert result.exit_code == 3, (path, result.output)
        check_told(result, path)


@pytest.mark.parametrize("path", AT_A_DESK)
def test_a_database_that_is_away_is_a_failure_that_says_so(path: str, tmp_path: Path) -> None:
    url = f"postgresql://relay:sesame@127.0.0.1:{free_port()}/relay"
    environment = {"RELAY_DATABASE_URL": url, "RELAY_DATA_DIR": str(tmp_path), "RELAY_SECRET_KEY": new_state().secret_key}
    result = run(arguments(path), environment)
    assert result.exit_code == 1, (path, result.output)
    check_told(result, path)
    assert "(database_unavailable)" in result.stderr
    assert "sesame" not in result.output
