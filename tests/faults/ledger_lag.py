"""Finish entries at a steady rate and measure when each can be seen by SQL.

    python -m tests.faults.ledger_lag --rate 500 --seconds 20

A real journal and its shipper, a real Postgres; each entry begins and finishes as an upload's does. Another connection
asks all the time how many rows there are. One shipper sends entries in the order in which they finished, so the n-th
is visible once n rows are; the time of asking is part of what is measured.

99 of 100 entries must be visible within a second, and at the end every entry must be there once. Ends with ``PASS``, or
with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg

from relay.db.engine import Database
from relay.ledger.journal import Journal
from relay.ledger.shipper import Shipper
from relay.settings import DatabaseSettings
from tests.support.entries import finished_entry, ledger_ids, open_journal
from tests.support.postgres import OwnPostgres

LONGEST_P99_SECONDS = 1.0
PACE_SECONDS = 0.002
ASK_SECONDS = 0.005
COMPLETE_SECONDS = 20.0
PAUSE_SECONDS = 0.05

Clock = Callable[[], float]


class LivedClock:
    """Time as this process lived it: of a pause in which it did not work, for the machine stood still, a little counts."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last, self._last_cpu = time.monotonic(), time.process_time()

    def __call__(self) -> float:
        """The seconds up to now."""
        now, cpu = time.monotonic(), time.process_time()
        self._seconds += min(now - self._last, max(PAUSE_SECONDS, cpu - self._last_cpu))
        self._last, self._last_cpu = now, cpu
        return self._seconds

    async def run(self) -> None:
        """Look often enough that what the loop waits for counts in full; until cancelled."""
        while True:
            self()
            await asyncio.sleep(PAUSE_SECONDS / 5)


async def finish_steadily(journal: Journal, rate: int, seconds: float, clock: Clock) -> tuple[list[str], list[float]]:
    """Begin and finish entries at this rate; return their ids and when each had finished."""
    ids: list[str] = []
    finished_at: list[float] = []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        while len(ids) < passed * rate:
            entry = finished_entry()
            journal.begin(entry)
            await journal.finish(entry)
            ids.append(entry.request_id)
            finished_at.append(clock())
        await asyncio.sleep(PACE_SECONDS)
    return ids, finished_at


async def watch_rows(url: str, seen_at: list[float], clock: Clock) -> None:
    """Note for each row when it was first seen, until cancelled."""
    connection = await asyncpg.connect(url)
    try:
        while True:
            count = await connection.fetchval("SELECT count(*) FROM ledger")
            now = clock()
            seen_at += [now] * (count - len(seen_at))
            await asyncio.sleep(ASK_SECONDS)
    finally:
        connection.terminate()


async def measure(folder: Path, url: str, rate: int, seconds: float, clock: Clock = time.monotonic) -> list[str]:
    """Measure it; print the times and return the violations."""
    database = Database(url, DatabaseSettings())
    journal = open_journal(folder)
    shipper = Shipper(journal, database, folder)
    seen_at: list[float] = []
    tasks = [asyncio.create_task(shipper.run()), asyncio.create_task(watch_rows(url, seen_at, clock))]
    try:
        ids, finished_at = await finish_steadily(journal, rate, seconds, clock)
        deadline = time.monotonic() + COMPLETE_SECONDS
        while len(seen_at) < len(ids) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        stored = await ledger_ids(database)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shipper.close()
        journal.close()
        await database.close()
    lags = sorted(seen - finished for seen, finished in zip(seen_at, finished_at, strict=False))
    violations = judge(ids, stored, lags)
    for violation in violations:
        print(f"  {violation}")
    return violations


def judge(ids: list[str], stored: list[str], lags: list[float]) -> list[str]:
    """Print what was measured and say what does not fit."""
    violations = [] if sorted(ids) == sorted(stored) else [f"{len(ids)} entries finished, {len(stored)} rows"]
    if not lags:
        return [*violations, "no row was seen"]
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    print(f"entries {len(ids)}  rows {len(stored)}  finished to visible: p50 {p50:.3f} s  p99 {p99:.3f} s  longest {lags[-1]:.3f} s")
    if p99 > LONGEST_P99_SECONDS:
        violations.append(f"p99 is {p99:.3f} s")
    return violations


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-lag-") as folder, OwnPostgres() as postgres:
        violations = asyncio.run(measure(Path(folder), postgres.url, arguments.rate, arguments.seconds))
    print("PASS" if not violations else f"FAIL {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
