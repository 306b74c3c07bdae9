"""What an operator sees of a running relay: health, metrics, one access line a request."""

import logging
from pathlib import Path

import httpx
import pytest

from tests.stories.speech import client_of, head
from tests.support.raw_client import RawClient
from tests.support.running_relay import running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

METRICS = {
    "relay_requests_total": "counter",
    "relay_received_bytes_total": "counter",
    "relay_delivered_bytes_total": "counter",
    "relay_uploads_running": "gauge",
    "relay_request_seconds": "histogram",
    "relay_upstream_wait_seconds": "histogram",
    "relay_journal_entries": "gauge",
    "relay_journal_oldest_seconds": "gauge",
    "relay_ledger_shipped_total": "counter",
    "relay_ledger_rejected_total": "counter",
    "relay_tls_handshakes_total": "counter",
}


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    """Every series and its value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    types = dict(line.split(" ")[2:] for line in answer.text.splitlines() if line.startswith("# TYPE"))
    for name, kind in METRICS.items():
        assert kind in {types.get(name), types.get(name.removesuffix("_total"))}, name
    assert {name.removesuffix("_total") for name in types} == {name.removesuffix("_total") for name in METRICS}
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_health_and_metrics_say_what_happened(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        live = await client.get("/livez")
        assert (live.status_code, live.text) == (200, '{"status":"ok"}')

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(is_ready)
        ready = await client.get("/readyz")
        assert ready.text == '{"status":"ready","checks":{"directory":"ok","database":"ok","journal":"ok","shutdown":"no"}}'

        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        before = await scrape(client)
        for _ in range(3):
            await client.post("/upload/a", content=b"12345", headers=tenant.headers)
        upstream.conduct = Conduct(status=500)
        await client.post("/upload/a", content=b"1234567", headers=tenant.headers)
        await client.post("/upload/%00", content=b"1", headers=tenant.headers)
        await client.post("/upload/a", content=b"nobody's")
        async with RawClient(*relay.address) as raw:
            await raw.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 10") + b"123")
            await upstream.received(3, 4)
            assert (await scrape(client))["relay_uploads_running"] == before["relay_uploads_running"] + 1
            raw.close()

        async def is_shipped() -> bool:
            return (await scrape(client))["relay_ledger_shipped_total"] - before["relay_ledger_shipped_total"] == 6

        await until(is_shipped)
        after = await scrape(client)

        def grown(name: str) -> float:
            return after.get(name, 0.0) - before.get(name, 0.0)

        for outcome, count in (("delivered", 3), ("rejected", 1), ("refused", 1), ("client_gone", 1)):
            assert grown(f'relay_requests_total{{outcome="{outcome}"}}') == count
        assert (grown("relay_received_bytes_total"), grown("relay_delivered_bytes_total")) == (25, 15)
        assert (grown("relay_uploads_running"), grown("relay_upstream_wait_seconds_count")) == (0, 4)
        assert grown("relay_request_seconds_count") >= 7
        assert (after["relay_journal_entries"], after["relay_journal_oldest_seconds"], grown("relay_ledger_rejected_total")) == (0, 0, 0)


async def test_an_access_line_has_the_ids_that_find_the_entry(database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay.access")
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)

        async def line(path: str) -> dict[str, object]:
            """The one line of the request with this path."""

            def lines() -> list[dict[str, object]]:
                found = [getattr(record, "fields", {}) for record in caplog.records if record.name == "relay.access"]
                return [fields for fields in found if fields["path"] == path]

            await until(lines)
            (only,) = lines()
            return only

        delivered = await client.post("/upload/a/b?token=of-the-query", content=b"12345", headers=tenant.headers)
        told = await line("/upload/a/b")
        entry = await relay.entry(upload_id=str(told["upload_id"]))
        assert told["request_id"] == entry["request_id"] == delivered.headers["relay-request-id"]
        assert (told["method"], told["status"], told["outcome"], told["code"], told["tenant"]) == ("POST", 200, "delivered", None, "acme")
        assert (told["bytes_in"], told["bytes_out"], told["client"]) == (5, 5, "127.0.0.1")

        refused = await client.post("/upload/%2e%2e/x", content=b"1", headers=tenant.headers)
        told = await line("/upload/../x")
        assert (told["status"], told["outcome"], told["code"]) == (400, "refused", "path_invalid")
        assert told["request_id"] == refused.headers["relay-request-id"]

        unknown = await client.post("/upload/nobody", content=b"1")
        told = await line("/upload/nobody")
        assert (told["status"], told["outcome"], told["code"], told["tenant"], told["upload_id"]) == (401, None, "key_missing", None, None)
        assert told["request_id"] == unknown.headers["relay-request-id"]

        async with RawClient(*relay.address) as raw:
            await raw.send(head("/upload/gone", f"X-API-Key: {tenant.key}", "Content-Length: 10") + b"123")
            await upstream.received(3, 1)
            raw.close()
        told = await line("/upload/gone")
        assert (told["status"], told["outcome"], told["code"]) == (499, "client_gone", "client_gone")
        assert (await relay.entry(upload_id=str(told["upload_id"])))["request_id"] == told["request_id"]

        assert "of-the-query" not in repr([record.__dict__ for record in caplog.records])
