"""``relay ledger export``: a stream for a pipe, or a file that is whole or absent."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli import relay
from relay.ledger.accounts import ENTRY_LISTING
from tests.support.many_entries import FIRST, fill_ledger

ROWS = 500
Export = Callable[..., Result]


@pytest.fixture
async def filled_url(database_url: str) -> str:
    """A ledger of some entries."""
    await fill_ledger(database_url, ROWS)
    return database_url


@pytest.fixture
def export(filled_url: str, tmp_path: Path) -> Export:
    """The command, in a thread: it has an event loop of its own."""
    environment = {"RELAY_DATABASE_URL": filled_url, "RELAY_DATA_DIR": str(tmp_path)}

    def run(*arguments: str) -> Result:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(CliRunner(env=environment).invoke, relay, ["ledger", "export", *arguments]).result()

    return run


def test_the_stream_has_what_is_asked_for(export: Export) -> None:
    streamed = export("--tenant", FIRST)
    assert (streamed.exit_code, streamed.stderr) == (0, "")
    told = [json.loads(line) for line in streamed.stdout_bytes.splitlines()]
    assert {entry["tenant"] for entry in told} == {FIRST}
    assert 0 < len(told) < ROWS
    assert export("--tenant", "nobody", "--format", "csv").stdout_bytes == f"{','.join(ENTRY_LISTING)}\r\n".encode()
    assert export("--limit", "5").exit_code == 2


async def test_a_file_appears_when_it_is_whole_and_stays_as_it_was_when_it_cannot_be(
    export: Export, tmp_path: Path, filled_url: str
) -> None:
    file = tmp_path / "ledger.csv"
    file.write_text("of yesterday")
    written = export("--format", "csv", "--output", str(file))
    assert (written.exit_code, written.output) == (0, "")
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    assert len(rows) == ROWS
    assert list(rows[0]) == list(ENTRY_LISTING)

    connection = await asyncpg.connect(filled_url)
    await connection.execute("ALTER TABLE ledger RENAME COLUMN worker TO absent")
    await connection.close()
    assert export("--format", "csv", "--output", str(file)).exit_code == 1
    assert len(file.read_bytes().splitlines()) == ROWS + 1, "what was there stays"
    assert export("--output", str(tmp_path / "absent" / "file")).exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.csv"]


def test_what_is_no_file_is_not_replaced_by_one(export: Export, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = export("--output", str(pipe))
    assert (refused.exit_code, pipe.is_fifo()) == (1, True)
    assert "is no file" in refused.stderr
    assert export("--output", str(tmp_path)).exit_code == 2


def test_it_is_quiet_when_nobody_reads(filled_url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "RELAY_DATABASE_URL": filled_url}
    command = (sys.executable, "-m", "relay", "ledger", "export")
    with os.fdopen(writing, "wb") as nobody:
        closed = subprocess.run(command, env=environment, stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (closed.returncode, closed.stderr) == (1, b"")
