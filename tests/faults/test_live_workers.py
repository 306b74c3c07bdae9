"""Running uploads over the processes of a real ``relay serve``: a worker that is stopped, one that is killed."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.raw_client import RawClient
from tests.support.serving import ServedRelay, serve_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until


def worker_of(relay: ServedRelay, name: str) -> int:
    return next(pid for pid, journal in relay.workers().items() if journal == name)


async def listing(admin: httpx.AsyncClient) -> dict[str, Any]:
    answer = await admin.get("/live")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.full  # it starts three processes; the parts of it are in tests/unit/uploads and tests/stories
async def test_stopped_worker_is_told_of_and_a_killed_one_is_forgotten(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        serve_relay(tmp_path, workers=2, RELAY_DATABASE_URL=database_url) as relay,
    ):
        await relay.wait_for_workers(2)
        await relay.set_up(http_base_url=upstream.url)
        host, _, port = relay.url.removeprefix("http://").partition(":")
        async with RawClient(host, int(port)) as client, relay.admin() as admin:
            head = f"POST /upload/a HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {relay.key}\r\nContent-Length: 1000\r\n\r\nhello"
            await client.send(head.encode())

            async def runs() -> bool:
                return bool((await listing(admin))["items"])

            await until(runs)
            [seen] = (await listing(admin))["items"]
            busy = worker_of(relay, seen["worker"])

            sockets = {path.stem for path in (relay.data_dir / "live").iterdir()}
            assert sockets == set(relay.workers().values())
            os.kill(busy, signal.SIGSTOP)
            try:
                async with relay.admin() as asked:  # the worker that is stopped accepts no connection
                    began = time.monotonic()
                    assert await listing(asked) == {"items": [], "next": None, "unreachable": 1}
                    assert time.monotonic() - began < 5
                    refused = await asked.delete(f"/live/{seen['upload_id']}")
                    assert (refused.status_code, refused.json()["code"]) == (503, "worker_unreachable")
                    os.kill(busy, signal.SIGCONT)
                    found = await listing(asked)
                    assert ([item["upload_id"] for item in found["items"]], found["unreachable"]) == ([seen["upload_id"]], 0)
                    os.kill(busy, signal.SIGKILL)

                    async def is_forgotten() -> bool:
                        found = await listing(asked)
                        return not found["items"] and not found["unreachable"]

                    await until(is_forgotten)
                    assert not (relay.data_dir / "live" / f"{seen['worker']}.sock").exists()
            finally:
                if busy in relay.workers():
                    os.kill(busy, signal.SIGCONT)
    assert list((tmp_path / "data" / "live").iterdir()) == []
