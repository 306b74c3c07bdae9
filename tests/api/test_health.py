"""What an orchestrator is told, and what Prometheus reads."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from relay.api import health

METRICS = {
    "relay_requests",
    "relay_received_bytes",
    "relay_delivered_bytes",
    "relay_uploads_running",
    "relay_request_seconds",
    "relay_upstream_wait_seconds",
    "relay_journal_entries",
    "relay_journal_oldest_seconds",
    "relay_ledger_shipped",
    "relay_ledger_rejected",
    "relay_tls_handshakes",
}

COUNT_IN_ANOTHER_PROCESS = """
from relay.telemetry import RECEIVED_BYTES, REQUEST_SECONDS, REQUESTS, UPLOADS_RUNNING, tell_metrics
RECEIVED_BYTES.inc(600)
RECEIVED_BYTES.inc(400)
REQUESTS.inc(1, "delivered")
REQUEST_SECONDS.observe(0.05)
REQUEST_SECONDS.observe(2000.0)
UPLOADS_RUNNING.inc(2)
UPLOADS_RUNNING.inc(-1)
tell_metrics()
tell_metrics()  # what was told is not told again
"""

PRINT_JOINED = """
import asyncio
from relay.api.health import show_metrics
print(asyncio.run(show_metrics()).body.decode())
"""


@dataclass
class Vitals:
    directory: Any = field(default_factory=lambda: SimpleNamespace(state="ok"))
    shipper: Any = field(default_factory=lambda: SimpleNamespace(database_state="ok"))
    journal: Any = field(default_factory=lambda: SimpleNamespace(state="ok"))
    shutting_down: bool = False


async def ask(path: str, vitals: Vitals) -> httpx.Response:
    app = FastAPI(openapi_url=None)
    app.include_router(health.router)
    app.state.services = vitals
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay.test") as client:
        return await client.get(path)


async def test_a_process_that_answers_is_live() -> None:
    answer = await ask("/livez", Vitals(shutting_down=True))
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_ready_says_what_it_looked_at() -> None:
    answer = await ask("/readyz", Vitals())
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"directory": "ok", "database": "ok", "journal": "ok", "shutdown": "no"}}


@pytest.mark.parametrize(
    ("vitals", "check", "state"),
    [
        (Vitals(directory=SimpleNamespace(state="never_loaded")), "directory", "never_loaded"),
        (Vitals(journal=SimpleNamespace(state="full")), "journal", "full"),
        (Vitals(shutting_down=True), "shutdown", "yes"),
    ],
)
async def test_not_ready_is_503_where_another_process_would_do_better(vitals: Vitals, check: str, state: str) -> None:
    answer = await ask("/readyz", vitals)
    assert (answer.status_code, answer.json()["status"], answer.json()["checks"][check]) == (503, "not_ready", state)


async def test_postgres_away_with_a_stale_directory_and_a_lagging_journal_stays_ready() -> None:
    stale, away, lagging = SimpleNamespace(state="stale"), SimpleNamespace(database_state="away"), SimpleNamespace(state="lagging")
    answer = await ask("/readyz", Vitals(directory=stale, shipper=away, journal=lagging))
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert answer.json()["checks"] == {"directory": "stale", "database": "away", "journal": "lagging", "shutdown": "no"}


async def test_metrics_are_the_ten_that_are_promised() -> None:
    answer = await ask("/metrics", Vitals())
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert {family.name for family in text_string_to_metric_families(answer.text)} == METRICS


def test_metrics_of_several_workers_are_joined(tmp_path: Path) -> None:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for script in (COUNT_IN_ANOTHER_PROCESS, COUNT_IN_ANOTHER_PROCESS):
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    printed = subprocess.run([sys.executable, "-c", PRINT_JOINED], env=environment, check=True, capture_output=True, text=True).stdout
    families = {family.name: family for family in text_string_to_metric_families(printed)}
    assert [sample.value for sample in families["relay_received_bytes"].samples] == [2000.0]
    assert [(sample.labels, sample.value) for sample in families["relay_requests"].samples] == [({"outcome": "delivered"}, 2.0)]
    seconds = {(sample.name, sample.labels.get("le")): sample.value for sample in families["relay_request_seconds"].samples}
    assert (seconds["relay_request_seconds_sum", None], seconds["relay_request_seconds_count", None]) == (4000.1, 4.0)
    assert [seconds["relay_request_seconds_bucket", le] for le in ("0.025", "0.05", "1800.0", "+Inf")] == [0.0, 2.0, 2.0, 4.0]
