"""One tenant's stalled clients, dead upstream, dead names or dead disk: another tenant's uploads go on at their speed."""

import asyncio
import contextlib
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.destinations.disk_file import PartialFile
from tests.support.entries import read_ledger
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

STALLED = 60
BLOCKED = 20
VANISHING = 120
SLOWER_AT_MOST = 5
SLACK_SECONDS = 0.1
"""For the machine: what one pause of it adds to a median of a few milliseconds."""

UPLOADS = 20
CONTENT = b"x" * 10_000
THREADS = 8


class Crowd:
    """Clients that begin an upload each and then stall."""

    def __init__(self, relay: RunningRelay, tenant: TestTenant) -> None:
        self._relay = relay
        self._tenant = tenant
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.StreamReader] = []
        self._sending: list[asyncio.Task[None]] = []
        self.sent_bytes = 0

    async def begin(self, count: int, path: str, *, declared: int, sent: int) -> None:
        """Begin so many uploads; of each, ``sent`` bytes of the ``declared`` go out, as far as they are taken."""
        for number in range(count):
            reader, writer = await asyncio.open_connection(*self._relay.address)
            self._readers.append(reader)
            self._writers.append(writer)
            lines = [
                f"POST /upload/{path}/{number} HTTP/1.1",
                "Host: relay",
                f"X-API-Key: {self._tenant.key}",
                f"Content-Length: {declared}",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            self._sending.append(asyncio.create_task(self._send(writer, sent)))

    async def _send(self, writer: asyncio.StreamWriter, left: int) -> None:
        with contextlib.suppress(OSError):
            while left:
                piece = bytes(min(left, 65_536))
                writer.write(piece)
                await writer.drain()
                left -= len(piece)
                self.sent_bytes += len(piece)

    async def is_stuck(self) -> bool:
        """True when nothing more is taken from any of them."""
        before = self.sent_bytes
        await asyncio.sleep(0.3)
        return before == self.sent_bytes

    async def statuses(self) -> list[int]:
        """The statuses of their answers."""
        heads = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader in self._readers))
        return [int(head.split(b" ")[1]) for head in heads]

    async def vanish(self) -> None:
        """Go away at once, one half by closing, the other by a reset."""
        for number, writer in enumerate(self._writers):
            if number % 2:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._writers.clear()
        self._readers.clear()
        self._sending.clear()


@contextlib.asynccontextmanager
async def crowd_of(relay: RunningRelay, tenant: TestTenant) -> AsyncIterator[Crowd]:
    crowd = Crowd(relay, tenant)
    try:
        yield crowd
    finally:
        await crowd.vanish()


async def median_seconds(relay: RunningRelay, tenant: TestTenant, name: str, *, status: int = 200) -> float:
    """The median time of one upload after the other, each on a path of its own; all of them succeed."""
    took = []
    async with httpx.AsyncClient(base_url=relay.url, headers=tenant.headers, timeout=20, trust_env=False) as client:
        for number in range(UPLOADS):
            began = time.monotonic()
            answer = await client.post(f"/upload/{name}/{number}", content=CONTENT)
            took.append(time.monotonic() - began)
            assert answer.status_code == status, answer.text
    return statistics.median(took)


def check_speed(alone: float, beside: float) -> None:
    assert beside <= SLOWER_AT_MOST * alone + SLACK_SECONDS, f"an upload takes {beside:.3f} s beside the stalled ones, {alone:.3f} s alone"


async def test_beside_stalled_clients_another_tenant_uploads_at_its_speed(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as dead, Upstream() as living, running_relay(database_url, tmp_path) as relay:
        acme, globex = await relay.tenant("acme"), await relay.tenant("globex")
        await relay.http_destination(acme, dead.url, max_connections=STALLED)
        await relay.http_destination(globex, living.url)
        alone = await median_seconds(relay, globex, "alone")
        async with crowd_of(relay, acme) as crowd:
            await crowd.begin(STALLED, "stalled", declared=100_000, sent=50_000)
            await dead.until(lambda: sum(each.body_bytes for each in dead.requests) == STALLED * 50_000)
            check_speed(alone, await median_seconds(relay, globex, "beside"))
            assert relay.services.journal.running == STALLED


async def test_beside_an_upstream_that_never_reads_another_tenant_uploads_at_its_speed(database_url: str, tmp_path: Path) -> None:
    never = Upstream(Conduct(stop_reading_after=0), receive_buffer=4096)
    async with never as dead, Upstream() as living, running_relay(database_url, tmp_path) as relay:
        acme, globex = await relay.tenant("acme"), await relay.tenant("globex")
        await relay.http_destination(acme, dead.url, max_connections=STALLED)
        await relay.http_destination(globex, living.url)
        alone = await median_seconds(relay, globex, "alone")
        async with crowd_of(relay, acme) as crowd:
            # Small bodies fit into the buffers on the way and wait for their answer; large ones stop half-way.
            await crowd.begin(STALLED - BLOCKED, "small", declared=100_000, sent=100_000)
            await crowd.begin(BLOCKED, "large", declared=64 << 20, sent=64 << 20)
            await dead.until(lambda: len(dead.requests) == STALLED)
            await until(crowd.is_stuck)
            assert crowd.sent_bytes < BLOCKED * (64 << 20) // 2
            check_speed(alone, await median_seconds(relay, globex, "beside"))
            assert relay.services.journal.running == STALLED


class Jam:
    """Calls that hang in their threads until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.hanging = 0

    def hang(self) -> None:
        self.hanging += 1
        assert self.let_go.wait(25)


@pytest.fixture
def jam() -> Iterator[Jam]:
    jam = Jam()
    yield jam
    jam.let_go.set()


@pytest.fixture
def dead_names(jam: Jam, monkeypatch: pytest.MonkeyPatch) -> Jam:
    """The system's resolver never answers for names below ``dead.test``."""
    resolve = socket.getaddrinfo

    def hang_for_some(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".dead.test"):
            jam.hang()
            raise socket.gaierror(socket.EAI_NONAME, "at last")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang_for_some)
    return jam


async def test_beside_names_that_never_resolve_another_tenant_uploads_at_its_speed(
    database_url: str, tmp_path: Path, dead_names: Jam
) -> None:
    # Every upload of the living tenant looks its name up again and connects anew.
    variables = {"RELAY_DNS_THREADS": str(THREADS), "RELAY_DNS_CACHE_SECONDS": "0"}
    async with Upstream(Conduct(then="close")) as living, running_relay(database_url, tmp_path, **variables) as relay:
        acme, globex = await relay.tenant("acme"), await relay.tenant("globex")
        for number in range(2 * THREADS):
            await relay.http_destination(acme, f"http://host{number}.dead.test", f"dead{number}")
            await relay.post("/tenants/acme/routes", {"prefix": f"dead{number}", "destination": f"dead{number}"})
        await relay.http_destination(globex, f"http://localhost:{living.port}")
        alone = await median_seconds(relay, globex, "alone")
        async with crowd_of(relay, acme) as crowd:
            for number in range(2 * THREADS):
                await crowd.begin(5, f"dead{number}", declared=10, sent=10)
            await until(lambda: dead_names.hanging == THREADS // 4)
            check_speed(alone, await median_seconds(relay, globex, "beside"))
            assert dead_names.hanging == THREADS // 4
            assert set(await crowd.statuses()) == {502}
        dead_names.let_go.set()


@pytest.fixture
def dead_disk(jam: Jam, monkeypatch: pytest.MonkeyPatch) -> Jam:
    """Every call on files below the directory ``dead`` hangs, as on a network disk whose server is gone."""
    for name in ("open", "append", "publish"):
        call = getattr(PartialFile, name)

        def hang_for_some(file: PartialFile, *args: Any, call: Any = call) -> Any:
            if file._place.directory == ("dead",):
                jam.hang()
            return call(file, *args)

        monkeypatch.setattr(PartialFile, name, hang_for_some)
    return jam


async def test_beside_a_dead_disk_another_tenant_uploads_at_its_speed(database_url: str, tmp_path: Path, dead_disk: Jam) -> None:
    variables = {"RELAY_DISK_THREADS": str(THREADS), "RELAY_DISK_IDLE_TIMEOUT": "5"}
    async with running_relay(database_url, tmp_path, **variables) as relay:
        acme, globex = await relay.tenant("acme"), await relay.tenant("globex")
        folder = await relay.disk_destination(acme, "dead")
        living = await relay.disk_destination(globex, "living")
        alone = await median_seconds(relay, globex, "alone", status=201)
        async with crowd_of(relay, acme) as crowd:
            await crowd.begin(STALLED, "dead", declared=10, sent=10)
            await until(lambda: dead_disk.hanging == THREADS // 4)
            check_speed(alone, await median_seconds(relay, globex, "beside", status=201))
            assert dead_disk.hanging == THREADS // 4
            assert set(await crowd.statuses()) == {504}
        dead_disk.let_go.set()
        assert len([path for path in living.rglob("*") if path.is_file()]) == 2 * UPLOADS
        assert not [path for path in folder.rglob("*") if path.is_file()]


async def test_connections_are_never_shared_across_tenants(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenants = [await relay.tenant("acme"), await relay.tenant("globex")]
        for tenant in tenants:
            await relay.http_destination(tenant, f"{upstream.url}/base")
        async with httpx.AsyncClient(base_url=relay.url, timeout=20, trust_env=False) as client:
            for _ in range(3):
                for tenant in tenants:
                    posts = (client.post(f"/upload/{tenant.slug}", content=CONTENT, headers=tenant.headers) for _ in range(4))
                    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}
        used: dict[str, set[int]] = {}
        for recorded in upstream.requests:
            used.setdefault(recorded.target, set()).add(recorded.connection)
        assert used.keys() == {"/base/acme", "/base/globex"}
        assert not used["/base/acme"] & used["/base/globex"]
        assert upstream.connections < len(upstream.requests), "no connection was used twice: the test shows nothing"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_when_all_stalled_clients_vanish_everything_is_released(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        acme = await relay.tenant("acme")
        await relay.http_destination(acme, upstream.url, max_connections=VANISHING)
        await median_seconds(relay, acme, "before")
        descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
        async with crowd_of(relay, acme) as crowd:
            await crowd.begin(VANISHING, "stalled", declared=20_000, sent=10_000)
            await upstream.until(lambda: sum(each.body_bytes for each in upstream.requests) == VANISHING * 10_000 + UPLOADS * len(CONTENT))
            assert open_descriptors() > descriptors + 3 * VANISHING  # two of each upload are this test's own
        await until(lambda: relay.services.journal.running == 0)
        await until(lambda: open_descriptors() <= descriptors)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert {each.ending for each in upstream.requests[-VANISHING:]} == {"cut"}
        await until(lambda: relay.services.journal.entries == 0)
        outcomes = [outcome for _, outcome in await read_ledger(relay.services.database)]
        assert Counter(outcomes) == {"client_gone": VANISHING, "delivered": UPLOADS}
