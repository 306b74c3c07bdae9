"""What buckets alone do: several parts in one request for each, conditions that a store may not know, bodies that TLS protects."""

import os
from pathlib import Path

import pytest

from relay.destinations.object_store import NewObject
from relay.errors import DestinationRefusedTls
from tests.support.buckets import PART, Stores
from tests.support.certificates import make_certificate
from tests.support.objects import store_object
from tests.support.store_proxy import StoreProxy
from tests.support.stores import TestBucket

DATA = os.urandom(PART * 2 + 1)


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


async def test_check_leaves_nothing_and_says_what_the_store_honours(bucket: TestBucket, plain_bucket: TestBucket, stores: Stores) -> None:
    strict, plain = await stores.open(bucket).check(), await stores.open(plain_bucket).check()
    assert strict.ok and "refuses by itself" in strict.detail
    assert plain.ok and "does not refuse by itself" in plain.detail
    assert bucket.keys() == plain_bucket.keys() == [] and bucket.open_uploads() == []


@pytest.mark.full
async def test_over_tls_a_body_is_not_signed_and_whom_to_trust_is_the_tenants_choice(
    bucket: TestBucket, stores: Stores, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "127.0.0.1")
    async with StoreProxy(bucket.server.port, lambda _asked: None, certificate.server_context()) as proxy:
        with pytest.raises(DestinationRefusedTls):
            await store_object(stores.open(bucket, url=proxy.url), NewObject("no.bin"), [b"x"])
        store = stores.open(bucket, url=proxy.url, tls={"ca": certificate.pem})
        await store_object(store, NewObject("tls.bin"), [DATA])
        assert bucket.read("tls.bin") == DATA
        digests = {asked.fields["x-amz-content-sha256"] for asked in proxy.asked if asked.is_part}
        assert digests == {"UNSIGNED-PAYLOAD"} and all("x-amz-checksum-crc32c" in asked.fields for asked in proxy.asked if asked.is_part)
