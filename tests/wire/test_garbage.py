"""An upload leaves nothing that only a garbage collection would free: a collection stops the loop, and with it every other upload."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_client import RawClient
from tests.support.running_relay import running_relay
from tests.support.upstreams import Upstream

UPLOADS = 20


@pytest.fixture
def kept_garbage() -> Iterator[list[object]]:
    """What collections find from now on."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()


@pytest.mark.parametrize("kind", ["http", "disk"])
@pytest.mark.parametrize("body", ["small", "large", "chunked"])
async def test_an_upload_leaves_no_cycle(kind: str, body: str, database_url: str, tmp_path: Path, kept_garbage: list[object]) -> None:
    content = b"x" * (2_000_000 if body == "large" else 1_000)
    framing = "Transfer-Encoding: chunked" if body == "chunked" else f"Content-Length: {len(content)}"
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if body == "chunked" else content
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        if kind == "http":
            await relay.http_destination(tenant, upstream.url)
        else:
            await relay.disk_destination(tenant)
        async with RawClient(*relay.address) as client:
            for number in range(UPLOADS + 2):
                if number == 2:  # by then whatever is made once has been made
                    gc.collect()
                    kept_garbage.clear()
                head = f"POST /upload/{number} HTTP/1.1\r\nHost: relay\r\nX-API-Key: {tenant.key}\r\n{framing}\r\n\r\n"
                await client.send(head.encode() + sent)
                assert (await client.answer()).status in {200, 201}
        gc.collect()
        ours = Counter(type(thing).__qualname__ for thing in kept_garbage if type(thing).__module__.startswith("relay."))
    assert not {name: count for name, count in ours.items() if count >= UPLOADS}
