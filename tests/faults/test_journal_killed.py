"""kill -9 of a process that writes its journal: what it said was safe is in the ledger, once."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relay.db.engine import Database
from relay.ledger.adoption import Adoption
from tests.support.entries import read_ledger, read_usage

PROJECT = Path(__file__).parents[2]
RUNS = 3


def write_until_killed(root: Path, sync: str, lines: int) -> list[str]:
    """Let a real process write, kill it after it printed that many lines, and return all that it printed."""
    command = [sys.executable, "-m", "tests.faults.journal_writer", str(root), sync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as writer:
        assert writer.stdout is not None
        watchdog = threading.Timer(20, writer.kill)
        watchdog.start()
        printed = [writer.stdout.readline().strip() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
        printed += writer.stdout.read().splitlines()
        watchdog.cancel()
    return [line for line in printed if len(line.split()) == 2 and len(line.split()[1]) == 36]


@pytest.mark.parametrize("sync", ["process", "group"])
async def test_what_was_said_to_be_safe_is_in_the_ledger_once(tmp_path: Path, database: Database, sync: str) -> None:
    printed: list[str] = []
    for _ in range(RUNS):
        printed += write_until_killed(tmp_path / "journal", sync, random.randint(20, 1_000))
    adoption = Adoption(tmp_path / "journal", database)
    await adoption.adopt_all()
    adoption.close()
    begun = {line.split()[1] for line in printed if line.startswith("begun")}
    finished = {line.split()[1] for line in printed if line.startswith("finished")}
    rows = [(str(request_id), outcome) for request_id, outcome in await read_ledger(database)]
    outcomes = dict(rows)
    assert len(rows) == len(outcomes)
    assert {outcomes[request_id] for request_id in finished} == {"delivered"}
    assert begun <= set(outcomes)
    # Between the record and its line the process may die: at most the five that were under way.
    assert len(set(outcomes) - begun) <= 5 * RUNS
    assert len([outcome for _, outcome in rows if outcome == "delivered"]) - len(finished) <= 5 * RUNS
    assert len([outcome for _, outcome in rows if outcome == "interrupted"]) <= 5 * RUNS
    assert [day["uploads"] for day in await read_usage(database)] == [len(rows)]
