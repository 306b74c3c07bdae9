"""A blob store that misbehaves: answers are lost, requests are cut, bits flip, others are faster. What is sent arrives whole, or not."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import ContainerClient

from relay.destinations.object_store import NewObject
from relay.errors import DestinationMisconfigured, ObjectExists, RelayError
from tests.support.azurite import BLOCK, MIB, AzureStores, names_in, opened_azure, read_blob
from tests.support.fault_proxy import FaultProxy
from tests.support.objects import store_object, write
from tests.support.store_proxy import Asked, Hold, Lose, Say, StoreProxy, Whim
from tests.support.waiting import until

DATA = os.urandom(2 * BLOCK + 1)
SMALL = DATA[:1_000]


@pytest.fixture
async def azures() -> AsyncIterator[AzureStores]:
    async with opened_azure() as opened:
        yield opened


def is_block(asked: Asked) -> bool:
    return asked.method == "PUT" and "comp=block&" in asked.target


def is_list(asked: Asked) -> bool:
    return asked.method == "PUT" and "comp=blocklist" in asked.target


def is_publication(asked: Asked) -> bool:
    return asked.method == "PUT" and not is_block(asked)


def proxy(container: ContainerClient, whim: Callable[[Asked], Whim]) -> StoreProxy:
    port = urlsplit(container.url).port
    assert port is not None
    return StoreProxy(port, whim)


def times(count: int, judge: Callable[[Asked], bool], whim: Whim) -> Callable[[Asked], Whim]:
    """This whim for the first so many requests of a kind."""
    left = [count]

    def choose(asked: Asked) -> Whim:
        if not judge(asked) or not left[0]:
            return None
        left[0] -= 1
        return whim

    return choose


def refusal(status: int, code: str, **fields: str) -> Say:
    return Say(status, b"<Error/>", {"x-ms-error-code": code, **fields})


@pytest.mark.parametrize("data", [SMALL, pytest.param(DATA, marks=pytest.mark.full)], ids=["whole", "blocks"])
async def test_when_all_answers_are_lost_what_stands_there_is_believed(
    container: ContainerClient, azures: AzureStores, data: bytes
) -> None:
    async with proxy(container, times(99, is_publication, Lose())) as front:
        await store_object(azures.open(container, url=front.url), NewObject("a"), [data])
    assert read_blob(container, "a") == data


async def test_a_lost_answer_does_not_make_the_blob_of_another_ours(container: ContainerClient, azures: AzureStores) -> None:
    container.upload_blob("a", b"another's")
    async with proxy(container, times(1, is_publication, Lose())) as front:
        with pytest.raises(ObjectExists):
            await store_object(azures.open(container, url=front.url), NewObject("a", len(SMALL)), [SMALL])
    assert read_blob(container, "a") == b"another's"


@pytest.mark.parametrize(
    "whim",
    [
        refusal(400, "Md5Mismatch"),
        pytest.param(refusal(500, "OperationTimedOut"), marks=pytest.mark.full),
        pytest.param(refusal(429, "TooManyRequests"), marks=pytest.mark.full),
        pytest.param(refusal(408, "RequestTimeout"), marks=pytest.mark.full),
    ],
    ids=["altered", "timed out", "too many", "slow"],
)
async def test_a_block_is_sent_again_until_the_store_has_it(container: ContainerClient, azures: AzureStores, whim: Whim) -> None:
    async with proxy(container, times(2, is_block, whim)) as front:
        await store_object(azures.open(container, url=front.url), NewObject("a"), [DATA])
        assert front.count(is_block) == 3 + 2
    assert read_blob(container, "a") == DATA


@pytest.mark.full
@pytest.mark.parametrize(
    ("code", "overwrite", "error"),
    [
        ("LeaseIdMissing", "refuse", ObjectExists),
        ("LeaseIdMissing", "replace", DestinationMisconfigured),
        ("BlobImmutableDueToPolicy", "replace", DestinationMisconfigured),
        ("BlobArchived", "replace", DestinationMisconfigured),
        ("UnauthorizedBlobOverwrite", "refuse", ObjectExists),
    ],
)
async def test_a_blob_that_cannot_be_replaced_is_told(
    container: ContainerClient, azures: AzureStores, code: str, overwrite: str, error: type[RelayError]
) -> None:
    status = 403 if code.startswith("Unauthorized") else 412 if code.startswith("Lease") else 409
    async with proxy(container, times(1, is_publication, refusal(status, code))) as front:
        with pytest.raises(error):
            await store_object(azures.open(container, url=front.url, overwrite=overwrite), NewObject("a"), [SMALL])
        assert front.count(is_publication) == 1, "what is refused for good is asked once"


async def test_an_answer_without_end_is_not_read(container: ContainerClient, azures: AzureStores) -> None:
    async with proxy(container, times(99, lambda asked: asked.method == "GET", Say(200, bytes(2 * MIB)))) as front:
        finding = await azures.open(container, url=front.url).check()
    assert (finding.ok, finding.code) == (False, "destination_broke")
    assert names_in(container) == []


async def test_a_store_that_ignores_the_condition_is_found_out(container: ContainerClient, azures: AzureStores) -> None:
    answer = Say(201, b"", {"etag": '"0x1"'})
    async with proxy(container, times(1, lambda asked: asked.fields.get("x-ms-blob-type") == "BlockBlob", answer)) as front:
        finding = await azures.open(container, url=front.url).check()
    assert not finding.ok and "If-None-Match" in finding.detail
    assert names_in(container) == []


async def test_a_publication_that_nobody_waits_for_any_more_is_told(container: ContainerClient, azures: AzureStores) -> None:
    held = asyncio.Event()
    async with proxy(container, lambda asked: Hold(held) if is_publication(asked) else None) as front:
        writer = azures.open(container, url=front.url).begin(NewObject("a", len(SMALL)))
        await write(writer, SMALL)
        await writer.seal()
        publishing = asyncio.create_task(writer.publish())
        await until(lambda: front.count(is_publication) > 0)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        held.set()
        published = await writer.discard()
    assert published is not None and read_blob(container, "a") == SMALL
    assert azures.tools.memory.held_bytes == 0


async def test_giving_up_twice_holds_nothing(container: ContainerClient, azures: AzureStores) -> None:
    async with FaultProxy(("127.0.0.1", urlsplit(container.url).port or 0)) as front:
        writer = azures.open(container, url=f"http://127.0.0.1:{front.port}").begin(NewObject("a"))
        await writer.open()
        front.freeze()
        await write(writer, DATA)
        discarding = asyncio.create_task(writer.discard())
        await asyncio.sleep(0)
        discarding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await discarding
        await until(lambda: azures.tools.memory.held_bytes == 0)


@pytest.mark.full
async def test_many_uploads_share_little_memory(container: ContainerClient) -> None:
    async with opened_azure(32 * MIB) as azures:
        store = azures.open(container, block_bytes=4 * MIB)
        contents = {f"{number}.bin": os.urandom(9 * MIB + number) for number in range(12)}
        most = 0

        async def store_one(name: str, content: bytes) -> None:
            nonlocal most
            writer = store.begin(NewObject(name))
            await writer.open()
            for start in range(0, len(content), 100_000):
                await write(writer, content[start : start + 100_000])
                most = max(most, azures.tools.memory.held_bytes)
            await writer.seal()
            await writer.publish()
            await writer.discard()

        await asyncio.gather(*(store_one(*each) for each in contents.items()))
        assert most <= 32 * MIB
        for name, content in contents.items():
            assert read_blob(container, name) == content
