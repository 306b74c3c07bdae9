"""Take Postgres away under load, and hold the ledger against what the clients saw.

    python -m tests.faults.postgres_away --seconds 30

Once Postgres is stopped cleanly and started again, once every process of it is frozen. Clients of a known tenant upload
to an HTTP service and to a disk all the time:

1. no upload fails;
2. ``/readyz``, asked every 200 ms, is 200 all the time, and says meanwhile that the database is away;
3. afterwards every upload that a client made has exactly one row, ``delivered``, and there is no other row.

Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.support.postgres import OwnPostgres
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Upstream

CLIENTS = 6
UPLOADS_PER_SECOND = 100
LEAST_PER_SECOND = 10
"""What must at least go on while Postgres is away, for "no upload fails" to say anything."""

CONTENT = b"x" * 2_000
CALM_SECONDS = 1.0
READY_PAUSE_SECONDS = 0.2
COMPLETE_SECONDS = 60.0

Way = Literal["stopped", "frozen"]


@dataclass(slots=True)
class Seen:
    """What the clients and the probe of readiness saw. Written by the load's thread, read when it has ended."""

    uploads: list[tuple[int, str | None, float]] = field(default_factory=list)
    ready: list[tuple[int, dict[str, str]]] = field(default_factory=list)


class Load:
    """Clients in a thread of their own: starting Postgres blocks the main one."""

    def __init__(self, relay: ServedRelay) -> None:
        self._relay = relay
        self._is_over = threading.Event()
        self.seen = Seen()

    def run(self) -> None:
        """Upload and ask until it is over."""
        asyncio.run(self._run())

    def end(self) -> None:
        """Say that it is over; uploads under way end first."""
        self._is_over.set()

    async def _run(self) -> None:
        async with Upstream() as upstream:
            await self._relay.set_up(http_base_url=upstream.url)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                for number in range(CLIENTS):
                    group.create_task(self._upload(number))

    async def _upload(self, number: int) -> None:
        pause = CLIENTS / UPLOADS_PER_SECOND
        async with self._client() as client:
            count = 0
            while not self._is_over.is_set():
                began, count = time.monotonic(), count + 1
                try:
                    answer = await client.post(f"/upload/{('http', 'disk')[count % 2]}/{number}/{count}", content=CONTENT)
                    status, upload_id = answer.status_code, answer.headers.get("relay-upload-id")
                except httpx.TransportError:
                    status, upload_id = 0, None
                took = time.monotonic() - began
                self.seen.uploads.append((status, upload_id, took))
                await asyncio.sleep(max(0.0, pause - took))

    async def _watch(self) -> None:
        async with self._client() as client:
            while not self._is_over.is_set():
                try:
                    answer = await client.get("/readyz")
                    self.seen.ready.append((answer.status_code, answer.json()["checks"]))
                except httpx.TransportError:
                    self.seen.ready.append((0, {}))
                await asyncio.sleep(READY_PAUSE_SECONDS)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._relay.url, headers={"X-API-Key": self._relay.key}, timeout=60, trust_env=False)


async def run_under_load(relay: ServedRelay, postgres: OwnPostgres, way: Way, seconds: float) -> tuple[Seen, int]:
    """Take Postgres away under load; return what was seen, and how many uploads ended meanwhile."""
    load = Load(relay)
    running = asyncio.create_task(asyncio.to_thread(load.run))
    try:
        await asyncio.sleep(CALM_SECONDS)
        while len(load.seen.uploads) < UPLOADS_PER_SECOND // 2 and not running.done():
            await asyncio.sleep(0.05)
        before = len(load.seen.uploads)
        if way == "stopped":
            postgres.stop()
        else:
            postgres.freeze()
        await asyncio.sleep(seconds)
        meanwhile = len(load.seen.uploads) - before
        if way == "stopped":
            postgres.start()
        else:
            postgres.thaw()
        await asyncio.sleep(CALM_SECONDS)
    finally:
        load.end()
        await running
    return load.seen, meanwhile


async def read_complete_ledger(relay: ServedRelay, count: int) -> tuple[list[dict[str, Any]], float]:
    """Read the ledger until so many rows are there, or it is clear that they will not be; say how long that took."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    while len(rows) < count and time.monotonic() - began < COMPLETE_SECONDS:
        rows = await relay.ledger()
    return rows, time.monotonic() - began


def judge(seen: Seen, rows: list[dict[str, Any]], *, least: float, meanwhile: int) -> list[str]:
    """Say what does not fit."""
    violations = [
        f"an upload ended with status {status} after {took:.1f} s" for status, _, took in seen.uploads if status not in {200, 201}
    ]
    violations += [f"readyz was {status}: {checks}" for status, checks in seen.ready if status != 200]
    if not any(checks.get("database") == "away" for _, checks in seen.ready):
        violations.append("readyz never said that the database is away")
    if meanwhile < least:
        violations.append(f"only {meanwhile} uploads ended while Postgres was away")
    outcomes: dict[str, list[str]] = {}
    for row in rows:
        outcomes.setdefault(row["upload_id"], []).append(row["outcome"])
    known = {upload_id for _, upload_id, _ in seen.uploads if upload_id is not None}
    violations += [f"{upload_id} has rows {outcomes.get(upload_id, [])}" for upload_id in known if outcomes.get(upload_id) != ["delivered"]]
    violations += [f"{upload_id} has a row, and no client" for upload_id in outcomes.keys() - known]
    return violations


async def take_away(folder: Path, way: Way, seconds: float) -> list[str]:
    """Run it one way; print the counts and return the violations."""
    with OwnPostgres() as postgres:
        async with serve_relay(folder, workers=1, RELAY_DATABASE_URL=postgres.url) as relay:
            seen, meanwhile = await run_under_load(relay, postgres, way, seconds)
            rows, complete_after = await read_complete_ledger(relay, len(seen.uploads))
    violations = judge(seen, rows, least=LEAST_PER_SECOND * seconds, meanwhile=meanwhile)
    latencies = sorted(took for _, _, took in seen.uploads)
    states = Counter(f"{checks.get('directory')}/{checks.get('database')}/{checks.get('journal')}" for _, checks in seen.ready)
    print(f"{way} {seconds:.0f} s: uploads {len(seen.uploads)} ({meanwhile} meanwhile)  rows {len(rows)}, all {complete_after:.1f} s later")
    print(f"  statuses {dict(Counter(status for status, _, _ in seen.uploads))}  outcomes {dict(Counter(row['outcome'] for row in rows))}")
    print(f"  readyz {dict(Counter(status for status, _ in seen.ready))}  directory/database/journal {dict(states)}")
    median, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(
        f"  latency of an upload: median {median * 1000:.0f} ms  p99 {p99 * 1000:.0f} ms  longest {latencies[-1] * 1000:.0f} ms", flush=True
    )
    for violation in violations[:20]:
        print(f"  {violation}")
    return violations


async def take_away_each_way(folder: Path, seconds: float) -> int:
    """Run it both ways; return the number of violations."""
    violations = [violation for way in ("stopped", "frozen") for violation in await take_away(folder / way, way, seconds)]
    print("PASS" if not violations else f"FAIL {len(violations)} violations")
    return len(violations)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-away-") as folder:
        sys.exit(1 if asyncio.run(take_away_each_way(Path(folder), arguments.seconds)) else 0)


if __name__ == "__main__":
    main()
