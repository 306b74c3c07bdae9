"""The ledger at a million entries: exports and searches over HTTP, from a real ``relay serve``.

    python -m tests.schema.million_entries --rows 1000000

Postgres makes the entries; see ``tests/support/many_entries.py`` for how they are spread. Then

- both exports of all of them: entries a second, what the client counted, and by how much the worker's peak of memory grew over the one
  after an export of ten thousand;
- forty first pages and forty pages after the first of every search of ``ledger_searches``, and the plans that they were found by.

At a million every page must take 50 ms at most (95th percentile), an export give at least 20,000 entries a second and take 16 MiB at
most. Ends with ``PASS``, or with ``FAIL n violations`` and exit code 1.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from relay.db.engine import Database
from relay.ledger.exports import FORMS
from relay.ledger.searches import EntryFilter
from relay.settings import DatabaseSettings
from tests.schema.ledger_searches import explain_search, judge_plans, searches_of
from tests.support.bulk import peak_of
from tests.support.many_entries import DAYS, fill_ledger
from tests.support.postgres import OwnPostgres
from tests.support.serving import ServedRelay, serve_relay

REPEATS: Final = 40
SLOWEST_P95_SECONDS: Final = 0.050
SLOWEST_ROWS_A_SECOND: Final = 20_000
LARGEST_GROWTH_BYTES: Final = 16 << 20
WARM_UP_ROWS: Final = 10_000
WALKED_SHARE: Final = DAYS
"""One in so many entries of the ledger may be walked past and thrown away: those of a day."""


async def export_all(admin: httpx.AsyncClient, form: str, **query: str) -> int:
    """Take a whole export and count its entries; a cut one raises."""
    lines = 0
    async with admin.stream("GET", "/ledger", params={"format": form, **query}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for chunk in answer.aiter_raw():
            lines += chunk.count(b"\n")
    return lines - FORMS[form].head.count(b"\n")


async def measure_exports(relay: ServedRelay, rows: int, since: str) -> list[str]:
    """Export everything in both forms."""
    violations = []
    (worker,) = await relay.wait_for_workers(1)
    async with relay.admin() as admin:
        for form in FORMS:
            print(f"export {form}: {await export_all(admin, form, since=since)} entries to warm up", flush=True)
        before = peak_of(worker)
        for form in FORMS:
            began = time.monotonic()
            count = await export_all(admin, form)
            rate = count / (time.monotonic() - began)
            growth = peak_of(worker) - before
            print(f"export {form}: {count} entries, {rate:,.0f} a second; peak of the worker {growth / (1 << 20):+.1f} MiB", flush=True)
            violations += [f"{form}: {count} entries of {rows}"] if count != rows else []
            violations += [f"{form}: {rate:,.0f} entries a second"] if rate < SLOWEST_ROWS_A_SECOND else []
            violations += [f"{form}: grew by {growth} bytes"] if growth > LARGEST_GROWTH_BYTES else []
    return violations


def parameters_of(filters: EntryFilter) -> dict[str, str]:
    """A search as a query."""
    given = {name: getattr(filters, name) for name in EntryFilter.__slots__ if getattr(filters, name) is not None}
    return {name: value.isoformat() if name in {"since", "until"} else str(value) for name, value in given.items()}


async def time_pages(admin: httpx.AsyncClient, query: dict[str, str]) -> tuple[list[float], dict[str, Any]]:
    """Ask for a page again and again; how long each took, shortest first, and the page."""
    times: list[float] = []
    page: dict[str, Any] = {}
    for _ in range(REPEATS):
        began = time.monotonic()
        answer = await admin.get("/ledger", params=query)
        times.append(time.monotonic() - began)
        assert answer.status_code == 200, answer.text
        page = answer.json()
    return sorted(times), page


async def measure_searches(relay: ServedRelay, url: str, asked: dict[str, EntryFilter], rows: int) -> list[str]:
    """Time the first page and the one after it, and judge the plans."""
    violations = []
    database = Database(url, DatabaseSettings())
    print(f"{'search':36} {'found':>5} {'p50':>8} {'p95':>8} {'next p95':>8}  statements")
    async with relay.admin() as admin:
        for name, filters in asked.items():
            query = parameters_of(filters)
            times, page = await time_pages(admin, query)
            p50, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
            later = (await time_pages(admin, {**query, "cursor": page["next"]}))[0] if page["next"] else [0.0]
            next_p95 = later[len(later) * 95 // 100]
            plans = await explain_search(database, filters)
            wrong = judge_plans(plans, filters, rows // WALKED_SHARE)
            figures = f"{len(page['items']):5} {p50 * 1e3:6.1f}ms {p95 * 1e3:6.1f}ms {next_p95 * 1e3:6.1f}ms  {len(plans)}"
            print(f"{name:36} {figures} {' '.join(wrong)}", flush=True)
            violations += [f"{name}: {fault}" for fault in wrong]
            violations += [f"{name}: p95 {seconds * 1e3:.1f} ms" for seconds in (p95, next_p95) if seconds > SLOWEST_P95_SECONDS]
    await database.close()
    return violations


async def measure(folder: Path, url: str, rows: int) -> list[str]:
    """Fill the ledger and measure it; print what was found and return the violations."""
    began = time.monotonic()
    first, last = await fill_ledger(url, rows)
    print(f"{rows} entries made in {time.monotonic() - began:.0f} s", flush=True)
    asked = await searches_of(url, first, last)
    async with serve_relay(folder, workers=1, RELAY_DATABASE_URL=url) as relay:
        since = (last - (last - first) * min(1.0, WARM_UP_ROWS / rows)).isoformat()
        violations = await measure_exports(relay, rows, since)
        violations += await measure_searches(relay, url, asked, rows)
    for violation in violations:
        print(f"  {violation}")
    return violations


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-million-") as folder, OwnPostgres() as postgres:
        violations = asyncio.run(measure(Path(folder), postgres.url, arguments.rows))
    print("PASS" if not violations else f"FAIL {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
