"""The promise of a destination, asked of every kind alike.

Each keeper sets one destination up and can tell from the far side what has arrived. What only one kind
does (names on disk, early answers over HTTP) is tested beside that kind.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient

from relay.destinations.destination import Destination
from relay.destinations.egress import Egress
from relay.destinations.http_config import HttpConfig
from relay.destinations.http_upstream import HttpUpstream
from relay.destinations.keys import KeyTemplate
from relay.destinations.store import StoreDestination
from relay.errors import BodyIncomplete, ClientGone, DependencyFault
from relay.settings import DnsSettings, EgressSettings, FormSettings
from relay.wire.client import Account, Transport, make_client
from relay.wire.names import Names
from tests.support.azurite import names_in, opened_azure, read_blob
from tests.support.bodies import ScriptedBody, make_item
from tests.support.disks import disk_config, open_disk, tree
from tests.support.upstreams import Upstream
from tests.support.waiting import until

CONTENT = os.urandom(3_000_001)


@dataclass
class Keeper:
    """One destination and its far side: digests of what arrived whole, and whether anything else is left or open."""

    destination: Destination
    arrived: Callable[[], list[str]]
    is_clean: Callable[[], bool]


Keep = Callable[[Path], AbstractAsyncContextManager[Keeper]]
azure = pytest.param("azure", id="azure", marks=pytest.mark.full)  # each of its requests takes longer than all of a file's


@asynccontextmanager
async def keep_disk(folder: Path) -> AsyncIterator[Keeper]:
    def arrived() -> list[str]:
        return [hashlib.sha256(content).hexdigest() for content in tree(folder / "acme").values() if isinstance(content, bytes)]

    def is_clean() -> bool:
        return not any(".relay-tmp/" in name for name in tree(folder))

    with ThreadPoolExecutor(2) as threads:
        disk = open_disk(folder, disk_config(), threads, timedelta(seconds=20))
        yield Keeper(disk, arrived, is_clean)
        await disk.close()


@asynccontextmanager
async def http(base_url: str) -> AsyncIterator[HttpUpstream]:
    names = Names(DnsSettings())
    transport = Transport(names, Egress(EgressSettings(allow=("127.0.0.1/32",))).permit)
    async with make_client(transport) as client:
        destination = HttpUpstream(client, Account("acme", "main"), HttpConfig(base_url=base_url), {})
        yield destination
        await destination.close()
    names.close()


@asynccontextmanager
async def keep_http(_folder: Path) -> AsyncIterator[Keeper]:
    async with Upstream() as upstream, http(f"{upstream.url}/base") as destination:

        def arrived() -> list[str]:
            return [recorded.sha256 for recorded in upstream.requests if recorded.is_whole and recorded.method != "HEAD"]

        def is_clean() -> bool:
            return all(recorded.ending != "open" for recorded in upstream.requests)

        yield Keeper(destination, arrived, is_clean)


@asynccontextmanager
async def lose_disk(folder: Path) -> AsyncIterator[Destination]:
    with ThreadPoolExecutor(1) as threads:
        yield open_disk(folder / "gone", disk_config(), threads, timedelta(seconds=20))


@asynccontextmanager
async def lose_http(_folder: Path) -> AsyncIterator[Destination]:
    async with Upstream() as upstream:
        url = upstream.url
    async with http(url) as destination:
        yield destination


@asynccontextmanager
async def keep_azure(container: ContainerClient) -> AsyncIterator[Keeper]:
    async with opened_azure() as stores:
        yield Keeper(
            StoreDestination(stores.open(container), KeyTemplate("{path}"), FormSettings()),
            lambda: [hashlib.sha256(read_blob(container, name)).hexdigest() for name in names_in(container)],
            lambda: stores.tools.memory.held_bytes == 0,
        )


@asynccontextmanager
async def lose_azure(_folder: Path) -> AsyncIterator[Destination]:
    async with Upstream() as upstream:
        url = upstream.url
    async with opened_azure() as stores:
        yield StoreDestination(stores.open(ContainerClient(url, "gone"), url=url), KeyTemplate("{path}"), FormSettings())


@pytest.fixture(params=[pytest.param(keep_disk, id="disk"), pytest.param(keep_http, id="http"), azure])
async def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Keeper]:
    is_azure = request.param == "azure"
    keep: Keep = (lambda _: keep_azure(request.getfixturevalue("container"))) if is_azure else request.param
    async with keep(tmp_path) as kept:
        yield kept


@pytest.fixture(params=[lose_disk, lose_http, lose_azure], ids=["disk", "http", "azure"])
async def lost(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Destination]:
    async with request.param(tmp_path) as destination:
        yield destination


def pieces(content: bytes, size: int = 65_536) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "one", "large"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
async def test_a_body_arrives_whole_and_is_receipted(keeper: Keeper, content: bytes, is_declared: bool) -> None:
    declared = len(content) if is_declared else None
    item = make_item("photos/cat.jpg", declared_bytes=declared)
    async with keeper.destination.deliver(item, ScriptedBody(pieces(content), declared_bytes=declared)) as delivery:
        assert 200 <= delivery.status < 300
        answer = b"".join([chunk async for chunk in delivery.answer()])
        receipt = await delivery.settled()
        assert delivery.answer_bytes in {None, len(answer)}
        assert delivery.is_body_taken
    assert receipt.bytes == len(content)
    assert receipt.digests.get("sha256") in {None, hashlib.sha256(content).hexdigest()}
    assert keeper.arrived() == [hashlib.sha256(content).hexdigest()]
    assert keeper.is_clean()


async def test_settling_does_not_need_the_answer_to_be_read(keeper: Keeper) -> None:
    async with keeper.destination.deliver(make_item(), ScriptedBody([b"x"])) as delivery:
        assert (await delivery.settled()).bytes == 1


@pytest.mark.parametrize("fault", [ClientGone(), BodyIncomplete(), asyncio.CancelledError()], ids=["gone", "incomplete", "cancelled"])
@pytest.mark.parametrize("declared", [len(CONTENT), None], ids=["declared", "undeclared"])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT[:-1]], ids=["nothing", "little", "all but one"])
async def test_a_body_that_breaks_is_never_delivered_and_its_fault_passes_through(
    keeper: Keeper, fault: BaseException, declared: int | None, content: bytes
) -> None:
    body = ScriptedBody(pieces(content), declared_bytes=declared, fault=fault)
    with pytest.raises(type(fault)):
        async with keeper.destination.deliver(make_item(declared_bytes=declared), body):
            pytest.fail("a broken body was delivered")
    await until(keeper.is_clean)
    assert keeper.arrived() == []


async def test_a_cancelled_delivery_is_aborted(keeper: Keeper) -> None:
    body = ScriptedBody(pieces(CONTENT[:1_000_000]), gate=asyncio.Event())

    async def deliver() -> None:
        async with keeper.destination.deliver(make_item(), body):
            pass

    task = asyncio.create_task(deliver())
    await body.has_given_all.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(keeper.is_clean)
    assert keeper.arrived() == []


async def test_deliveries_at_once_do_not_mix(keeper: Keeper) -> None:
    contents = [os.urandom(400_000) for _ in range(6)]

    async def deliver(number: int) -> None:
        async with keeper.destination.deliver(make_item(f"file-{number}"), ScriptedBody(pieces(contents[number], 10_000))) as delivery:
            await delivery.settled()

    await asyncio.gather(*(deliver(number) for number in range(6)))
    assert sorted(keeper.arrived()) == sorted(hashlib.sha256(content).hexdigest() for content in contents)
    assert keeper.is_clean()


async def test_the_destination_serves_on_after_a_broken_body(keeper: Keeper) -> None:
    with pytest.raises(ClientGone):
        async with keeper.destination.deliver(make_item("a"), ScriptedBody([b"half"], fault=ClientGone())):
            pass
    async with keeper.destination.deliver(make_item("a"), ScriptedBody([b"whole"])) as delivery:
        await delivery.settled()
    assert keeper.arrived() == [hashlib.sha256(b"whole").hexdigest()]


async def test_the_check_finds_it_well_and_leaves_nothing(keeper: Keeper) -> None:
    finding = await keeper.destination.check()
    assert (finding.ok, finding.code) == (True, None)
    assert keeper.arrived() == []
    assert keeper.is_clean()


async def test_a_destination_that_is_not_there_is_told_without_asking_for_the_body(lost: Destination) -> None:
    body = ScriptedBody([b"x"])
    with pytest.raises(DependencyFault):
        async with lost.deliver(make_item(), body):
            pass
    assert not body.is_asked


async def test_the_check_tells_of_a_destination_that_is_not_there(lost: Destination) -> None:
    finding = await lost.check()
    assert not finding.ok
    assert finding.code
    assert finding.detail
