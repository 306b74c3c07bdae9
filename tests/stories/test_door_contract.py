"""Refusals of the main door that need a disk that is full or broken, a part of a file, or a Postgres that is away."""

from pathlib import Path

import pytest

from tests.faults.test_journal_disk import files_no_longer_than
from tests.stories.speech import client_of, problem_of
from tests.support.disks import tree
from tests.support.fault_proxy import FaultProxy, address_of_postgres, url_through
from tests.support.running_relay import RunningRelay, running_relay
from tests.support.upstreams import Upstream

MIB = 1 << 20


@pytest.mark.asyncio(loop_scope="module")
async def test_a_file_that_has_no_room_leaves_nothing(shared_relay: RunningRelay) -> None:
    async with client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("full")
        folder = await shared_relay.disk_destination(tenant, "full")
        assert (await client.put("/upload/small", content=b"x", headers=tenant.headers)).status_code == 201
        before = tree(folder)
        with files_no_longer_than(4 * MIB):
            full = await client.put("/upload/large", content=bytes(6 * MIB), headers=tenant.headers)
        problem_of(full, 507, "disk_full")
        entry = await shared_relay.entry(upload_id=full.headers["relay-upload-id"])
        assert (entry["outcome"], entry["code"], entry["status"], entry["bytes_delivered"]) == ("destination_failed", "disk_full", 507, 0)
        part = await client.put("/upload/part", content=b"x", headers={**tenant.headers, "Content-Range": "bytes 0-0/2"})
        problem_of(part, 400, "range_refused")
        assert tree(folder) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_be_noted_down_is_not_delivered(shared_relay: RunningRelay) -> None:
    async with Upstream() as upstream, client_of(shared_relay) as client:
        tenant = await shared_relay.tenant("broken")
        await shared_relay.http_destination(tenant, upstream.url)
        assert (await client.put("/upload/a", content=b"x", headers=tenant.headers)).status_code == 200
        segments = [path.stat().st_size for path in (shared_relay.settings.data.dir / "journal").rglob("*") if path.is_file()]
        with files_no_longer_than(max(segments) + 10):
            broken = await client.put("/upload/a", content=b"x", headers=tenant.headers)
        problem_of(broken, 500, "disk_broke")
        assert len(upstream.requests) == 1, "nothing went to the destination"
        assert (await client.put("/upload/a", content=b"x", headers=tenant.headers)).status_code == 200


async def test_a_key_that_cannot_be_looked_up_is_503_and_says_when_to_come_back(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        FaultProxy(address_of_postgres(database_url)) as proxy,
        running_relay(url_through(proxy, database_url), tmp_path) as relay,
        client_of(relay) as client,
    ):
        known, unknown = await relay.tenant(), await relay.tenant("unknown")
        await relay.http_destination(known, upstream.url)
        assert (await client.put("/upload/a", content=b"x", headers=known.headers)).status_code == 200
        proxy.refuse()
        refused = await client.put("/upload/a", content=b"x", headers=unknown.headers)
        problem_of(refused, 503, "directory_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.put("/upload/a", content=b"x", headers=known.headers)).status_code == 200, "who is known goes on"
        away = await relay.admin.get("/tenants")
        problem_of(away, 503, "database_unavailable")
        assert int(away.headers["retry-after"]) >= 1
        proxy.allow()  # what ends now ships what it has
