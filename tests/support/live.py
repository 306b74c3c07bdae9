"""Uploads that stay where they are for as long as a test looks at them, and what an operator sees of them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def begun_upload(
    relay: RunningRelay, tenant: TestTenant, path: str = "a", *, sent: bytes = b"hello", length: int = 1000
) -> AsyncIterator[RawClient]:
    """A client that has sent so much of a body of ``length`` bytes, and sends no more by itself."""
    async with RawClient(*relay.address) as client:
        lines = [f"POST /upload/{path} HTTP/1.1", "Host: relay", f"Authorization: Bearer {tenant.key}", f"Content-Length: {length}"]
        await client.send("\r\n".join([*lines, "", ""]).encode() + sent)
        yield client


async def live(relay: RunningRelay, **query: str | int) -> dict[str, Any]:
    """The listing of what runs."""
    answer = await relay.admin.get("/live", params=query)
    assert answer.status_code == 200, answer.text
    listing: dict[str, Any] = answer.json()
    return listing


async def until_running(relay: RunningRelay, count: int = 1, *, bytes_in: int = 0, **query: str) -> list[dict[str, Any]]:
    """Wait until so many uploads run and each has received so much; newest first."""
    found: list[dict[str, Any]] = []

    async def look() -> bool:
        found[:] = (await live(relay, **query))["items"]
        return len(found) == count and all(item["bytes_in"] >= bytes_in for item in found)

    await until(look)
    return found
