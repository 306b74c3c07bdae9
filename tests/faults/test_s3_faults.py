"""A bucket whose store breaks, lies, refuses or loses its answers: a delivery still happens once, whole, or not at all."""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial

import pytest

from relay.destinations.keys import KeyTemplate
from relay.destinations.object_store import NewObject
from relay.destinations.store import StoreDestination
from relay.errors import DestinationBroke, DestinationMisconfigured, DiskFull, ObjectExists, RelayError
from relay.settings import FormSettings
from tests.support.bodies import ScriptedBody, make_item
from tests.support.buckets import PART, Stores
from tests.support.objects import store_object, write
from tests.support.store_proxy import Asked, Cut, Flip, Hold, Say, StoreProxy, Whim, error_xml
from tests.support.stores import SECRET_KEY, TestBucket
from tests.support.waiting import until

DATA = os.urandom(PART + 1)


class Once:
    """One whim for each of the first requests that it is meant for; afterwards the store is itself."""

    def __init__(self, judge: Callable[[Asked], bool], *whims: Whim) -> None:
        self._judge = judge
        self._whims = list(whims)

    def __call__(self, asked: Asked) -> Whim:
        return self._whims.pop(0) if self._whims and self._judge(asked) else None


def deny(judge: Callable[[Asked], bool], asked: Asked) -> Whim:
    return Say(403, error_xml("AccessDenied")) if judge(asked) else None


def is_object(asked: Asked) -> bool:
    return asked.method == "PUT" and "?" not in asked.target and ".relay-probe" not in asked.target


def whole_complete(asked: Asked) -> bool:
    return asked.is_complete and ".relay-probe" not in asked.target


@pytest.mark.parametrize(
    "whim",
    [
        pytest.param(Say(500, b"<html>"), marks=pytest.mark.full),
        pytest.param(Say(400, error_xml("RequestTimeout")), marks=pytest.mark.full),
        Flip(),
    ],
    ids=["500", "request_timeout", "flipped_bit"],
)
async def test_a_part_is_sent_again_after_what_passes(bucket: TestBucket, stores: Stores, whim: Whim) -> None:
    async with StoreProxy(bucket.server.port, Once(lambda asked: asked.is_part and ".relay" not in asked.target, whim)) as proxy:
        await store_object(stores.open(bucket, url=proxy.url), NewObject("again.bin", len(DATA)), [DATA])
        assert bucket.read("again.bin") == DATA and bucket.open_uploads() == []
        assert proxy.count(lambda asked: asked.is_part and "again.bin" in asked.target) == 3


@pytest.mark.full
async def test_another_ones_object_is_not_taken_for_ours(bucket: TestBucket, stores: Stores) -> None:
    def whim(asked: Asked) -> Whim:
        if is_object(asked) and not bucket.keys():
            bucket.put("mine.bin", b"0123456789")  # of the same size
            return Say(500)
        return None

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url)
        await store.place.conditions()
        with pytest.raises(ObjectExists):
            await store_object(store, NewObject("mine.bin", 10), [b"9876543210"])
        assert bucket.read("mine.bin") == b"0123456789"


async def test_an_error_that_follows_200_is_an_error(bucket: TestBucket, stores: Stores) -> None:
    async with StoreProxy(bucket.server.port, Once(whole_complete, Say(200, b"  \n" + error_xml("InternalError")))) as proxy:
        await store_object(stores.open(bucket, url=proxy.url), NewObject("late.bin"), [DATA])
        assert bucket.read("late.bin") == DATA and proxy.count(whole_complete) == 2
    async with StoreProxy(bucket.server.port, Once(whole_complete, Say(200, error_xml("InvalidPart")))) as proxy:
        with pytest.raises(DestinationBroke):
            await store_object(stores.open(bucket, url=proxy.url), NewObject("never.bin"), [DATA])
        assert bucket.keys() == ["late.bin"] and bucket.open_uploads() == []


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (Say(301, error_xml("PermanentRedirect"), {"x-amz-bucket-region": "eu-central-1"}), DestinationMisconfigured, "eu-central-1"),
        pytest.param(*(Say(307, b"", {"location": "http://127.0.0.1:1/"}), DestinationMisconfigured, "elsewhere"), marks=pytest.mark.full),
        pytest.param(
            *(Say(400, error_xml("AuthorizationHeaderMalformed", Region="us-west-2")), DestinationMisconfigured, "us-west-2"),
            marks=pytest.mark.full,
        ),
        pytest.param(
            *(Say(400, error_xml("AuthorizationHeaderMalformed", Region="<b>x</b>")), DestinationMisconfigured, "elsewhere"),
            marks=pytest.mark.full,
        ),
        pytest.param(*(Say(403, error_xml("RequestTimeTooSkewed")), DestinationMisconfigured, "clock"), marks=pytest.mark.full),
        (Say(403, error_xml("SignatureDoesNotMatch", StringToSign="secret-text")), DestinationMisconfigured, "credentials"),
        (Say(403, error_xml("AccessDenied")), DestinationMisconfigured, "s3:PutObject"),
        pytest.param(*(Say(404, error_xml("NoSuchBucket")), DestinationMisconfigured, "does not exist"), marks=pytest.mark.full),
        pytest.param(*(Say(507, error_xml("XMinioStorageFull")), DiskFull, "no room"), marks=pytest.mark.full),
        (Say(403, b"<!DOCTYPE a [<!ENTITY b 'c'>]><Error><Code>NoSuchBucket</Code></Error>"), DestinationMisconfigured, "s3:PutObject"),
        pytest.param(*(Say(403, b"x" * (2 << 20)), DestinationBroke, "longer"), marks=pytest.mark.full),
    ],
)
async def test_a_refusal_says_what_to_do(
    bucket: TestBucket, stores: Stores, said: Say, error: type[RelayError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with StoreProxy(bucket.server.port, lambda asked: said if asked.method == "PUT" else None) as proxy:
        store = stores.open(bucket, url=proxy.url, overwrite="replace")
        with pytest.raises(error, match=words) as caught:
            await store_object(store, NewObject("no.bin"), [b"x"])
        finding = await store.check()
    assert not finding.ok and words in finding.detail
    told = f"{caught.value!r} {finding} {caplog.text} {store.place.requests!r}"
    assert not any(text in told for text in ("hidden-text", "secret-text", SECRET_KEY, bucket.name))


@pytest.mark.full
async def test_a_store_that_knows_no_checksums_gets_an_md5(bucket: TestBucket, stores: Stores) -> None:
    def whim(asked: Asked) -> Whim:
        return Say(501, error_xml("NotImplemented")) if any("x-amz-checksum" in name for name in asked.fields) else None

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url, overwrite="replace")
        for size in (10, len(DATA)):
            await store_object(store, NewObject("old.bin", size), [DATA[:size]])
            assert bucket.read("old.bin") == DATA[:size]
        assert proxy.count(lambda asked: "content-md5" in asked.fields) == 3


async def test_a_store_that_does_not_take_a_part_twice_still_gets_checksums(plain_bucket: TestBucket, stores: Stores) -> None:
    seen: set[str] = set()

    def whim(asked: Asked) -> Whim:  # rclone says 501 too, but not when the part comes again soon enough
        if not asked.is_part:
            return None
        is_again, is_first = asked.target in seen, not seen
        seen.add(asked.target)
        return Say(501, error_xml("NotImplemented")) if is_again else Flip() if is_first else None

    async with StoreProxy(plain_bucket.server.port, whim) as proxy:
        store = stores.open(plain_bucket, url=proxy.url, overwrite="replace")
        with pytest.raises(DestinationBroke):
            await store_object(store, NewObject("a.bin"), [DATA])
        await store_object(store, NewObject("b.bin"), [b"x"])
        assert plain_bucket.keys() == ["b.bin"]
        assert "x-amz-checksum-crc32c" in proxy.asked[-1].fields


@pytest.mark.parametrize(
    ("is_google", "told", "asked_for"),
    [
        (False, {"x-amz-checksum-crc32c": "AAAAAA==", "x-amz-version-id": "v1"}, "versionId=v1"),
        (True, {"x-goog-hash": "crc32c=AAAAAA==", "x-goog-generation": "17"}, "generation=17"),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "parts"])
async def test_what_is_not_what_was_sent_is_removed_in_its_own_version(
    bucket: TestBucket, stores: Stores, is_google: bool, told: dict[str, str], asked_for: str, is_whole: bool
) -> None:
    def whim(asked: Asked) -> Whim:
        if asked.is_create:
            return Say(200, b"<Begun><UploadId>u</UploadId></Begun>")
        if asked.is_part:
            return Say(200, b"", {"etag": '"e"'})
        return Say(204 if asked.method == "DELETE" else 200, b"<Done></Done>" if asked.is_complete else b"", told)

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url, overwrite="replace", is_google=is_google)
        with pytest.raises(DestinationBroke):
            await store_object(store, NewObject("wrong.bin"), [b"x" if is_whole else DATA])
        removals = [asked.target.partition("?")[2] for asked in proxy.asked if asked.method == "DELETE" and not asked.is_abort]
    assert removals == [asked_for]


async def test_check_names_the_right_that_is_missing(bucket: TestBucket, stores: Stores) -> None:
    rights: dict[str, Callable[[Asked], bool]] = {
        "s3:GetObject": lambda asked: asked.method == "GET",
        "s3:DeleteObject": lambda asked: asked.method == "DELETE" and not asked.is_abort,
        "s3:AbortMultipartUpload": lambda asked: asked.is_abort,
    }
    for right, judge in rights.items():
        async with StoreProxy(bucket.server.port, partial(deny, judge)) as proxy:
            finding = await stores.open(bucket, url=proxy.url).check()
        assert finding.code == "destination_misconfigured" and right in finding.detail


async def test_a_store_without_end_of_words_is_not_listened_to_for_ever(bucket: TestBucket, stores: Stores) -> None:
    pages = 0

    def whim(asked: Asked) -> Whim:
        nonlocal pages
        if asked.is_create:
            return Say(200, b"<Begun><UploadId>" + b"u" * 5_000 + b"</UploadId></Begun>")
        if "uploads=" not in asked.target:
            return Say(200, b"", {"etag": '"' + "e" * 5_000 + '"', "x-amz-version-id": "v" * 5_000})
        pages += 1
        one = f"<Upload><Key>a</Key><UploadId>{pages}</UploadId></Upload><NextKeyMarker>a</NextKeyMarker>"
        return Say(200, f"<L><IsTruncated>true</IsTruncated><NextUploadIdMarker>{pages}</NextUploadIdMarker>{one}</L>".encode())

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url, overwrite="replace")
        async with asyncio.timeout(10):
            assert len(await store.place.bucket.list_uploads("a")) == pages < 100
        published, _ = await store_object(store, NewObject("a"), [b"x"])
        assert (published.etag, published.version) == (None, None)
        with pytest.raises(DestinationBroke, match="has an id"):
            await store_object(store, NewObject("a"), [DATA])


@pytest.mark.parametrize("size", [10, pytest.param(PART + 1, marks=pytest.mark.full)], ids=["whole", "parts"])
async def test_a_publication_that_nobody_waits_for_any_more_is_told(bucket: TestBucket, stores: Stores, size: int) -> None:
    held = asyncio.Event()

    def whim(asked: Asked) -> Whim:
        return Hold(held) if is_object(asked) or whole_complete(asked) else None

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url, overwrite="replace")
        destination = StoreDestination(store, KeyTemplate("{path}"), FormSettings())
        item = make_item("late.bin")

        async def upload() -> None:
            async with destination.deliver(item, ScriptedBody([DATA[:size]])):
                pass

        uploading = asyncio.create_task(upload())
        await until(lambda: proxy.count(lambda asked: is_object(asked) or whole_complete(asked)) > 0)
        uploading.cancel()
        await asyncio.sleep(0.05)
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        assert bucket.keys() == [stored.key for stored in item.landed] == ["late.bin"]
        assert item.landed[0].size == size and stores.tools.memory.held_bytes == 0


async def test_a_bucket_that_is_cut_off_in_the_middle_leaves_its_upload_to_the_sweeper(bucket: TestBucket, stores: Stores) -> None:
    is_away = False

    def whim(_asked: Asked) -> Whim:
        return Cut() if is_away else None

    async with StoreProxy(bucket.server.port, whim) as proxy:
        store = stores.open(bucket, url=proxy.url)
        writer = store.begin(NewObject("left.bin", PART * 2))
        await write(writer, DATA)
        is_away = True
        await writer.discard()
        assert bucket.open_uploads() == ["left.bin"] and len(stores.tools.notes.abandoned) == 1
        is_away = False
        noted = next(iter(stores.tools.notes.abandoned.values()))
        assert noted.upload_id is not None and await store.abort(noted.key, noted.upload_id)
        assert bucket.open_uploads() == []
