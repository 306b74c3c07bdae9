"""A bucket keeps the promise of a store, against servers that speak S3."""

import hashlib
import os

import pytest
from crc32c import crc32c

from relay.destinations.object_store import NewObject
from relay.errors import ObjectExists
from tests.support.buckets import PART, Stores, store_object
from tests.support.stores import TestBucket

DATA = os.urandom(PART * 2 + 1)


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("size", [0, 1, PART, PART + 1])
async def test_an_object_of_any_size_is_kept_whole(plain_bucket: TestBucket, stores: Stores, size: int, *, is_known: bool) -> None:
    data = DATA[:size]
    store = stores.open(plain_bucket, prefix="in/here")
    pieces = [data[start : start + 70_001] for start in range(0, size, 70_001)]
    _, writer = await store_object(store, NewObject("ordner/ü +&%ß.bin", size if is_known else None), pieces)
    assert plain_bucket.read("in/here/ordner/ü +&%ß.bin") == data
    assert (writer.size, writer.sha256, writer.crc32c) == (size, hashlib.sha256(data).hexdigest(), f"{crc32c(data):08x}")


async def test_several_parts_with_all_that_belongs_to_the_object(bucket: TestBucket, stores: Stores) -> None:
    fields = {
        "content-type": "text/plain; charset=utf-8",
        "content-disposition": 'attachment; filename="a.txt"',
        "cache-control": "no-store",
    }
    published, _ = await store_object(stores.open(bucket), NewObject("a.txt", len(DATA), fields, {"colour": "blue"}), [DATA])
    found = bucket.head("a.txt")
    assert bucket.read("a.txt") == DATA
    assert (found["ContentType"], found["ContentDisposition"], found["CacheControl"], found["Metadata"]) == (
        *fields.values(),
        {"colour": "blue"},
    )
    assert found["ETag"] == f'"{published.etag}"' and published.etag is not None and published.etag.endswith("-3")
    assert bucket.open_uploads() == []


async def test_nothing_is_visible_before_the_publication(bucket: TestBucket, stores: Stores) -> None:
    store = stores.open(bucket)
    for size in (10, PART + 10):
        writer = store.begin(NewObject("late.bin"))
        await writer.write([DATA[:size]])
        await writer.seal()
        assert bucket.keys() == []
        await writer.discard()
        assert bucket.keys() == [] and bucket.open_uploads() == []


async def test_a_key_that_is_taken_is_refused_by_the_store_itself(bucket: TestBucket, stores: Stores) -> None:
    store = stores.open(bucket)
    conditions = await store.place.conditions()
    assert conditions.put and conditions.complete and bucket.keys() == []
    for size in (3, PART + 1):
        # The key is taken after the object was begun: only the store's own condition can notice.
        writer = store.begin(NewObject(f"{size}.bin"))
        await writer.write([DATA[:size]])
        await writer.seal()
        bucket.put(f"{size}.bin", b"first")
        with pytest.raises(ObjectExists):
            await writer.publish()
        await writer.discard()
        assert bucket.read(f"{size}.bin") == b"first"
    assert bucket.open_uploads() == []


async def test_a_key_that_is_taken_is_refused_where_the_store_would_replace_it(plain_bucket: TestBucket, stores: Stores) -> None:
    store = stores.open(plain_bucket)
    plain_bucket.put("taken.bin", b"first")
    for size in (3, PART + 1):
        with pytest.raises(ObjectExists):
            await store_object(store, NewObject("taken.bin"), [DATA[:size]])
        assert plain_bucket.read("taken.bin") == b"first"
    await store_object(stores.open(plain_bucket, overwrite="replace"), NewObject("taken.bin"), [b"second"])
    assert plain_bucket.read("taken.bin") == b"second"


async def test_check_leaves_nothing_and_says_what_the_store_honours(bucket: TestBucket, plain_bucket: TestBucket, stores: Stores) -> None:
    strict, plain = await stores.open(bucket).check(), await stores.open(plain_bucket).check()
    assert strict.ok and "refuses by itself" in strict.detail
    assert plain.ok and "does not refuse by itself" in plain.detail
    assert bucket.keys() == plain_bucket.keys() == [] and bucket.open_uploads() == []
