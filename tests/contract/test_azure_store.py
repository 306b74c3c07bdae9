"""What containers alone do, against Azurite: digests of the whole, names of metadata, blocks that get lost, tokens, refusals."""

import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from _pytest.mark import ParameterSet
from azure.storage.blob import ContainerClient

from relay.destinations.azure_signing import SasToken, SharedKey
from relay.destinations.object_store import NewObject
from relay.errors import DestinationBroke, DestinationMisconfigured, MetadataInvalid, ObjectExists, PathInvalid
from tests.support.azurite import ACCOUNT, BLOCK, AzureStores, names_in, opened_azure, read_blob, sas
from tests.support.objects import cut_up, store_object, write

DATA = os.urandom(3 * BLOCK + 1)


def full(*values: object) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.full)


@pytest.fixture
async def azures() -> AsyncIterator[AzureStores]:
    async with opened_azure() as opened:
        yield opened


@pytest.mark.parametrize("size", [full(0), full(BLOCK), 3 * BLOCK + 1])
async def test_the_digest_of_the_whole_is_kept_with_it(container: ContainerClient, azures: AzureStores, size: int) -> None:
    data = DATA[:size]
    published, _ = await store_object(azures.open(container), NewObject("a.bin"), cut_up(data))
    found = container.get_blob_client("a.bin").get_blob_properties()
    assert found.etag.strip('"') == published.etag
    assert found.content_settings.content_md5 == bytearray(hashlib.md5(data, usedforsecurity=False).digest()), "of several blocks, too"


async def test_blocks_that_are_never_named_are_seen_by_nobody_and_end_with_the_next_upload(
    container: ContainerClient, azures: AzureStores
) -> None:
    store = azures.open(container)
    writer = store.begin(NewObject("broken.bin"))
    await writer.open()
    await write(writer, DATA)
    await writer.seal()
    await writer.discard()
    blob = container.get_blob_client("broken.bin")
    assert (names_in(container), blob.exists()) == ([], False)
    assert len(blob.get_block_list("all")[1]) == 4, "the store removes them, after a week"
    await store_object(store, NewObject("broken.bin"), [DATA])
    assert (read_blob(container, "broken.bin"), blob.get_block_list("all")[1]) == (DATA, [])


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
    await store_object(azures.open(container), NewObject("a.txt", size, fields, metadata), [DATA[:size]])
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
        await store_object(azures.open(container), NewObject("a", 1, {}, {"1a": "x", "-1a": "y"}), [b"x"])
    assert names_in(container) == []


@pytest.mark.parametrize("overwrite", ["replace", full("refuse")])
async def test_blocks_are_lost_when_another_upload_of_the_name_ends_first(
    container: ContainerClient, azures: AzureStores, overwrite: str
) -> None:
    store = azures.open(container, overwrite=overwrite)
    writer = store.begin(NewObject("same.bin"))
    await writer.open()
    await write(writer, DATA)
    await writer.seal()
    faster = os.urandom(BLOCK + 7)
    await store_object(azures.open(container, overwrite="replace"), NewObject("same.bin"), [faster])
    with pytest.raises(ObjectExists if overwrite == "refuse" else DestinationBroke):
        await writer.publish()
    await writer.discard()
    assert read_blob(container, "same.bin") == faster


@pytest.mark.parametrize("permissions", [full("rcwd"), "cw"])
async def test_a_sas_is_enough_and_need_not_let_read(container: ContainerClient, azures: AzureStores, permissions: str) -> None:
    store = azures.open(container, signer=SasToken(sas(container, permissions)))
    for size in (10, BLOCK + 10):
        await store_object(store, NewObject(f"{size}.bin"), [DATA[:size]])
        assert read_blob(container, f"{size}.bin") == DATA[:size]
        with pytest.raises(ObjectExists):
            await store_object(store, NewObject(f"{size}.bin"), [DATA[:size]])


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
            await store_object(store, NewObject("a"), [b"x"])
        told = f"{finding} {refused.value!r} {refused.value.detail} {caplog.text} {[vars(record) for record in caplog.records]}"
        assert not [secret for secret in (expired.rpartition("sig=")[2], "sig=", another) if secret in told]


async def test_names_that_the_store_would_change_are_refused(azures: AzureStores) -> None:
    store = azures.open(ContainerClient("http://127.0.0.1:1/x", "unused"))
    for key in ("a.", "a./b", "..", "x" * 1_025, "a/" * 254 + "a", "\uffff"):
        with pytest.raises(PathInvalid):
            store.check_key(key)
    store.check_key("x" * 1_024)
