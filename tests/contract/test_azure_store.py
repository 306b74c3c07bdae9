"""A container keeps the promise of a store, against Azurite, read back by the maker's own client."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from _pytest.mark import ParameterSet
from azure.storage.blob import ContainerClient
from crc32c import crc32c

from relay.destinations.azure_signing import SasToken, SharedKey
from relay.destinations.object_store import NewObject
from relay.errors import DestinationBroke, DestinationMisconfigured, MetadataInvalid, ObjectExists, PathInvalid
from tests.support.azurite import ACCOUNT, BLOCK, AzureStores, names_in, opened_azure, read_blob, sas, store_blob

DATA = os.urandom(3 * BLOCK + 1)


def full(*values: object) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.full)


@pytest.fixture
async def azures() -> AsyncIterator[AzureStores]:
    async with opened_azure() as opened:
        yield opened


def cut_up(data: bytes, size: int = 700_001) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [0, full(1), full(BLOCK - 1), full(BLOCK), BLOCK + 1, full(3 * BLOCK + 1)])
@pytest.mark.parametrize("is_known", [full(True), False], ids=["known", "unknown"])
async def test_a_blob_of_any_size_is_kept_whole(container: ContainerClient, azures: AzureStores, size: int, *, is_known: bool) -> None:
    data = DATA[:size]
    store = azures.open(container, prefix="in/höhe")
    published, writer = await store_blob(store, NewObject("ordner/ü +&%ß#?.bin", size if is_known else None), cut_up(data))
    assert names_in(container) == ["in/höhe/ordner/ü +&%ß#?.bin"]
    assert read_blob(container, "in/höhe/ordner/ü +&%ß#?.bin") == data
    assert (writer.size, writer.sha256, writer.crc32c) == (size, hashlib.sha256(data).hexdigest(), f"{crc32c(data):08x}")
    found = container.get_blob_client("in/höhe/ordner/ü +&%ß#?.bin").get_blob_properties()
    assert found.etag.strip('"') == published.etag
    assert found.content_settings.content_md5 == bytearray(hashlib.md5(data, usedforsecurity=False).digest()), (
        "that of the whole, of several blocks, too"
    )


@pytest.mark.parametrize("size", [full(10), BLOCK + 10], ids=["whole", "blocks"])
async def test_what_belongs_to_it_is_kept_with_it(container: ContainerClient, azures: AzureStores, size: int) -> None:
    fields = {
        "content-type": "text/plain; charset=utf-8",
        "content-disposition": 'attachment; filename="a.txt"',
        "content-encoding": "gzip",
        "content-language": "de",
        "cache-control": "no-store",
    }
    metadata = {"colour": "blue", "two-words": "x y", "2nd": "digits", "a-1": "", "a1": "sorted", "a-b": "otherwise"}
    await store_blob(azures.open(container), NewObject("a.txt", size, fields, metadata), [DATA[:size]])
    found = container.get_blob_client("a.txt").get_blob_properties()
    kept = found.content_settings
    assert fields == {
        "content-type": kept.content_type,
        "content-disposition": kept.content_disposition,
        "content-encoding": kept.content_encoding,
        "content-language": kept.content_language,
        "cache-control": kept.cache_control,
    }
    assert found.metadata == {"colour": "blue", "two_words": "x y", "_2nd": "digits", "a_1": "", "a1": "sorted", "a_b": "otherwise"}


async def test_metadata_that_would_become_one_is_refused_before_anything_is_sent(container: ContainerClient, azures: AzureStores) -> None:
    with pytest.raises(MetadataInvalid):
        await store_blob(azures.open(container), NewObject("a", 1, {}, {"1a": "x", "-1a": "y"}), [b"x"])
    assert names_in(container) == []


@pytest.mark.parametrize("size", [full(10), BLOCK + 10], ids=["whole", "blocks"])
async def test_nothing_is_visible_before_the_publication_nor_after_a_discard(
    container: ContainerClient, azures: AzureStores, size: int
) -> None:
    writer = azures.open(container).begin(NewObject("late.bin"))
    await writer.open()
    await writer.write([DATA[:size]])
    await writer.seal()
    assert names_in(container) == []
    assert azures.tools.memory.held_bytes <= 10, "what is sealed holds nothing to speak of"
    await writer.discard()
    await writer.discard()
    assert names_in(container) == []


@pytest.mark.parametrize("size", [full(10), BLOCK + 10], ids=["whole", "blocks"])
async def test_of_two_writers_of_one_name_one_is_told_that_it_exists(container: ContainerClient, azures: AzureStores, size: int) -> None:
    store = azures.open(container)
    contents = [os.urandom(size) for _ in range(2)]
    writers = [store.begin(NewObject("same.bin")) for _ in contents]
    for writer, content in zip(writers, contents, strict=True):
        await writer.open()
        await writer.write([content])
    await asyncio.gather(*(writer.seal() for writer in writers))
    results = await asyncio.gather(*(writer.publish() for writer in writers), return_exceptions=True)
    for writer in writers:
        await writer.discard()
    lost = [isinstance(result, ObjectExists) for result in results]
    assert sorted(lost) == [False, True], results
    assert read_blob(container, "same.bin") == contents[lost.index(False)]


async def test_a_name_that_is_taken_is_told_before_the_body_is_asked_for(container: ContainerClient, azures: AzureStores) -> None:
    container.upload_blob("taken", b"first")
    with pytest.raises(ObjectExists):
        await azures.open(container).begin(NewObject("taken")).open()
    with pytest.raises(ObjectExists):
        await store_blob(azures.open(container), NewObject("taken", 3), [b"new"])
    published, _ = await store_blob(azures.open(container, overwrite="replace"), NewObject("taken"), [b"second"])
    assert (read_blob(container, "taken"), bool(published.etag)) == (b"second", True)


@pytest.mark.parametrize("overwrite", ["replace", full("refuse")])
async def test_blocks_are_lost_when_another_upload_of_the_name_ends_first(
    container: ContainerClient, azures: AzureStores, overwrite: str
) -> None:
    store = azures.open(container, overwrite=overwrite)
    writer = store.begin(NewObject("same.bin"))
    await writer.open()
    await writer.write([DATA])
    await writer.seal()
    faster = os.urandom(BLOCK + 7)
    await store_blob(azures.open(container, overwrite="replace"), NewObject("same.bin"), [faster])
    with pytest.raises(ObjectExists if overwrite == "refuse" else DestinationBroke):
        await writer.publish()
    await writer.discard()
    assert read_blob(container, "same.bin") == faster


@pytest.mark.parametrize("permissions", [full("rcwd"), "cw"])
async def test_a_sas_is_enough_and_need_not_let_read(container: ContainerClient, azures: AzureStores, permissions: str) -> None:
    store = azures.open(container, signer=SasToken(sas(container, permissions)))
    for size in (10, BLOCK + 10):
        await store_blob(store, NewObject(f"{size}.bin"), [DATA[:size]])
        assert read_blob(container, f"{size}.bin") == DATA[:size]
        with pytest.raises(ObjectExists):
            await store_blob(store, NewObject(f"{size}.bin"), [DATA[:size]])


@pytest.mark.parametrize(
    ("permissions", "named"), [("cw", ["(r of a SAS)", "(d of a SAS)", "was left behind"]), full("r", ["(c and w of a SAS)"])]
)
async def test_the_check_names_what_is_missing(container: ContainerClient, azures: AzureStores, permissions: str, named: list[str]) -> None:
    finding = await azures.open(container, signer=SasToken(sas(container, permissions))).check()
    assert (finding.ok, finding.code) == (False, "destination_misconfigured")
    assert [text for text in named if text not in finding.detail] == []


async def test_the_check_leaves_nothing(container: ContainerClient, azures: AzureStores) -> None:
    finding = await azures.open(container, prefix="in").check()
    assert (finding.ok, finding.code) == (True, None), finding.detail
    assert names_in(container) == []


async def test_credentials_that_are_not_good_are_told_and_never_quoted(
    container: ContainerClient, azures: AzureStores, caplog: pytest.LogCaptureFixture
) -> None:
    expired, another = sas(container, "rcwd", seconds=-60), "bm90IHRoZSBrZXkgb2YgdGhpcyBhY2NvdW50"
    for signer, hint in ((SasToken(expired), "expired at"), (SharedKey(ACCOUNT, another), "does not accept the account key")):
        store = azures.open(container, signer=signer)
        finding = await store.check()
        assert not finding.ok and hint in finding.detail
        with pytest.raises(DestinationMisconfigured) as refused:
            await store_blob(store, NewObject("a"), [b"x"])
        told = f"{finding} {refused.value!r} {refused.value.detail} {caplog.text} {[vars(record) for record in caplog.records]}"
        assert not [secret for secret in (expired.rpartition("sig=")[2], "sig=", another) if secret in told]


async def test_a_container_that_is_not_there_is_told(container: ContainerClient, azures: AzureStores) -> None:
    container.delete_container()
    store = azures.open(container)
    for declared in (None, 1):
        with pytest.raises(DestinationMisconfigured, match="container does not exist"):
            await store_blob(store, NewObject("a", declared), [b"x"])
    assert "container does not exist" in (await store.check()).detail


async def test_names_that_the_store_would_change_are_refused(azures: AzureStores) -> None:
    store = azures.open(ContainerClient("http://127.0.0.1:1/x", "unused"))
    for key in ("a.", "a./b", "..", "x" * 1_025, "a/" * 254 + "a", "\uffff"):
        with pytest.raises(PathInvalid):
            store.check_key(key)
    store.check_key("x" * 1_024)
