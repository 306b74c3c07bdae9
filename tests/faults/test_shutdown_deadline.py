"""What runs beyond the deadline of a shutdown is cut, and the ledger says so before the process has ended."""

from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.support.raw_client import RawClient
from tests.support.running_relay import running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until


@pytest.mark.parametrize("phase", ["body to a service", "body to a disk", "waiting for the answer", "answer"])
async def test_an_upload_cut_by_the_deadline_is_relay_failed(phase: str, database_url: str, tmp_path: Path) -> None:
    conduct = Conduct(pieces=[b"piece"] * 1000, pause_seconds=0.05) if phase == "answer" else Conduct(is_answering=False)
    length = 1000 if phase.startswith("body") else 5
    async with (
        Upstream(conduct) as upstream,
        AsyncExitStack() as clients,
        running_relay(database_url, tmp_path, RELAY_SHUTDOWN_TIMEOUT="1") as relay,
    ):
        tenant = await relay.tenant()
        if phase == "body to a disk":
            await relay.disk_destination(tenant)
        else:
            await relay.http_destination(tenant, upstream.url)
        for number in range(5):
            client = await clients.enter_async_context(RawClient(*relay.address))
            lines = [f"POST /upload/{number} HTTP/1.1", "Host: relay", f"Authorization: Bearer {tenant.key}", f"Content-Length: {length}"]
            await client.send("\r\n".join([*lines, "", "hello"]).encode())
        await until(lambda: relay.services.journal.running == 5 and _is_in(phase, upstream))
    assert await _outcomes(database_url) == [("relay_failed", "shutting_down", 5)]
    assert not list((tmp_path / "data" / "journal").rglob("*.segment"))


def _is_in(phase: str, upstream: Upstream) -> bool:
    bodies = [request.body_bytes for request in upstream.requests]
    return phase == "body to a disk" or bodies == [5] * 5


async def _outcomes(url: str) -> list[tuple[str, str, int]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT outcome, code, count(*) FROM ledger GROUP BY 1, 2")
    finally:
        await connection.close()
    return [(row[0], row[1], row[2]) for row in rows]
