"""The promise of a place that keeps objects, asked of every kind alike."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError
from crc32c import crc32c

from relay.destinations.object_store import NewObject, ObjectWriter, Published
from relay.errors import BodyIncomplete, DestinationBroke, DigestMismatch, FormInvalid, ObjectExists, RelayError
from relay.protocols.digests import Claims
from relay.settings import UploadSettings
from relay.uploads.body import RequestBody
from tests.contract.keepers import KEEPING_METADATA, STORES, ServerKeeper, StoreKeeper, as_destination, of
from tests.support.bodies import ScriptedBody, SourceOf, make_item
from tests.support.objects import cut_up, store_object, write
from tests.support.waiting import until

MIB = 1 << 20
KEY = "ordner/ü 東京 +&%ß#?.bin"
FORM_TYPE = "multipart/form-data; boundary=B"

by_shape = pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "parts"])


def some(keeper: StoreKeeper, *, is_whole: bool) -> bytes:
    """Content that goes in one request, or in parts."""
    return os.urandom(10 if is_whole else 2 * keeper.part_bytes + 10)


async def begun(keeper: StoreKeeper, key: str, content: bytes, overwrite: str = "refuse") -> ObjectWriter:
    """An object that is only to be published."""
    writer = keeper.open(overwrite).begin(NewObject(key))
    await writer.open()
    for piece in cut_up(content):
        await write(writer, piece)
    await writer.seal()
    return writer


@of(STORES)
@pytest.mark.parametrize(("parts", "more"), [(0, 0), (0, 1), (1, -1), (1, 0), (1, 1), pytest.param(3, 1, marks=pytest.mark.full)])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
async def test_an_object_of_any_size_is_kept_whole(keeper: StoreKeeper, parts: int, more: int, *, is_declared: bool) -> None:
    content = os.urandom(parts * keeper.part_bytes + more)
    published, writer = await store_object(keeper.open(), NewObject(KEY, len(content) if is_declared else None), cut_up(content))
    assert keeper.objects() == {KEY: content}
    assert (writer.size, writer.sha256, writer.crc32c) == (len(content), hashlib.sha256(content).hexdigest(), f"{crc32c(content):08x}")
    assert published.etag is None or '"' not in published.etag


@of(KEEPING_METADATA)
@by_shape
async def test_what_belongs_to_an_object_is_kept_with_it(keeper: ServerKeeper, *, is_whole: bool) -> None:
    fields = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
    content = some(keeper, is_whole=is_whole)
    await store_object(keeper.open(), NewObject("a.bin", len(content), fields, {"colour": "blue", "size": ""}), [content])
    assert keeper.kept("a.bin") == ("text/plain; charset=utf-8", {"colour": "blue", "size": ""})


@of(STORES)
@by_shape
async def test_nothing_is_visible_before_the_publication_nor_after_a_discard(keeper: StoreKeeper, *, is_whole: bool) -> None:
    writer = await begun(keeper, "late.bin", some(keeper, is_whole=is_whole))
    assert keeper.objects() == {}
    for _ in range(2):
        await writer.discard()
    assert keeper.objects() == {} and not keeper.left()


@of(STORES)
@by_shape
async def test_a_key_that_is_taken_is_told_and_what_stands_there_stays(keeper: StoreKeeper, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    keeper.put("taken.bin", b"first")
    writer = keeper.open().begin(NewObject("taken.bin"))
    with pytest.raises(ObjectExists):
        await writer.open()
    await writer.discard()
    for declared in (None, len(content)):
        with pytest.raises(ObjectExists):
            await store_object(keeper.open(), NewObject("taken.bin", declared), [content])
    assert keeper.objects() == {"taken.bin": b"first"} and not keeper.left()
    await store_object(keeper.open("replace"), NewObject("taken.bin"), [content])
    assert keeper.objects() == {"taken.bin": content}


@of(STORES)
@by_shape
async def test_a_key_that_is_taken_meanwhile_is_told(keeper: StoreKeeper, *, is_whole: bool) -> None:
    writer = await begun(keeper, "taken.bin", some(keeper, is_whole=is_whole))
    keeper.put("taken.bin", b"first")
    with pytest.raises(ObjectExists):
        await writer.publish()
    await writer.discard()
    assert keeper.objects() == {"taken.bin": b"first"}


@of(STORES)
@by_shape
@pytest.mark.parametrize("overwrite", ["refuse", "replace"])
async def test_of_two_writers_of_one_key_what_stands_is_one_of_them(keeper: StoreKeeper, overwrite: str, *, is_whole: bool) -> None:
    contents = [some(keeper, is_whole=is_whole) for _ in range(2)]
    writers = [await begun(keeper, "same.bin", content, overwrite) for content in contents]
    results = await asyncio.gather(*(writer.publish() for writer in writers), return_exceptions=True)
    for writer in writers:
        await writer.discard()
    won = [content for content, result in zip(contents, results, strict=True) if isinstance(result, Published)]
    # One that replaces may be told that another one came first and took what it had sent with it: it is not visible then.
    told = ObjectExists if overwrite == "refuse" else DestinationBroke
    assert all(isinstance(result, Published | told) for result in results), results
    await until(lambda: is_readable(keeper, "same.bin"))  # rclone lists for a moment what it cannot read yet
    assert keeper.objects()["same.bin"] in won
    assert len(won) == 1 or overwrite == "replace" or not keeper.is_strict, "the store itself lets only one of them"


def is_readable(keeper: StoreKeeper, key: str) -> bool:
    """True once what is visible can be read, this among it."""
    with contextlib.suppress(ClientError):
        return key in keeper.objects()
    return False


def form_of(*files: tuple[str, bytes], end: bytes = b"--B--\r\n") -> Iterator[bytes]:
    for name, content in files:
        yield f'--B\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        yield from cut_up(content)
        yield b"\r\n"
    yield end


@of(STORES)
@by_shape
@pytest.mark.parametrize("name", ["sha-256", "crc32c", "sha-512"])
async def test_what_is_not_as_claimed_is_never_seen(keeper: StoreKeeper, name: str, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    for claimed in (content + b"x", content):
        pieces = iter(cut_up(content))

        async def read(pieces: Iterator[bytes] = pieces) -> bytes | None:
            return next(pieces, None)

        body = RequestBody(SourceOf(read), declared_bytes=len(content), limit_bytes=None, settings=UploadSettings())
        digest = crc32c(claimed).to_bytes(4) if name == "crc32c" else hashlib.new(name.replace("-", ""), claimed).digest()
        body.expect(Claims({name: digest}, {}))
        delivering = as_destination(keeper.open()).deliver(make_item("a"), body)
        if claimed == content:
            async with delivering as delivery:
                receipt = await delivery.settled()
            assert keeper.objects() == {"a": content}
            assert (body.digests | dict(receipt.digests))["sha256"] == hashlib.sha256(content).hexdigest()
        else:
            with pytest.raises(DigestMismatch, match=name):
                async with delivering:
                    pytest.fail("it was delivered")
            assert isinstance(body.fault, DigestMismatch)
            assert not keeper.objects() and not keeper.left()


@of(STORES)
async def test_each_file_of_a_form_becomes_an_object(keeper: StoreKeeper) -> None:
    files = {"1.bin": some(keeper, is_whole=False), "2 ü.bin": some(keeper, is_whole=True), "3.bin": b""}
    item = make_item("in/", content_type=FORM_TYPE)
    async with as_destination(keeper.open()).deliver(item, ScriptedBody(form_of(*files.items()))) as delivery:
        receipt = await delivery.settled()
    assert keeper.objects() == {f"in/{name}": content for name, content in files.items()}
    assert [(stored.key, stored.sha256) for stored in receipt.objects] == [
        (f"in/{name}", hashlib.sha256(content).hexdigest()) for name, content in files.items()
    ]


@of(STORES)
@by_shape
@pytest.mark.parametrize("failure", ["cut off", "gone", "taken"])
async def test_when_the_second_file_of_a_form_fails_the_first_stays_and_is_told(
    keeper: StoreKeeper, failure: str, *, is_whole: bool
) -> None:
    first, second = some(keeper, is_whole=is_whole), some(keeper, is_whole=is_whole)
    standing = {"in/second.bin": b"another's"} if failure == "taken" else {}
    for key, content in standing.items():
        keeper.put(key, content)
    item = make_item("in/", content_type=FORM_TYPE)
    body = ScriptedBody(
        form_of(("first.bin", first), ("second.bin", second), end=b"--B--\r\n" if failure == "taken" else b""),
        fault=BodyIncomplete() if failure == "gone" else None,
    )
    told: type[RelayError] = {"cut off": FormInvalid, "gone": BodyIncomplete, "taken": ObjectExists}[failure]
    with pytest.raises(told):
        async with as_destination(keeper.open()).deliver(item, body):
            pytest.fail("a form was delivered of which a file is missing")
    # What broke before any of it was read has not begun.
    landed = {} if (failure, is_whole) == ("gone", True) else {"in/first.bin": first}
    assert keeper.objects() == landed | standing
    assert [stored.key for stored in item.landed] == list(landed)
    assert not keeper.left()


@pytest.mark.full  # megabytes, again and again
@pytest.mark.timeout(240)
@of(STORES)
async def test_a_large_object_passes_in_little_memory(keeper: StoreKeeper) -> None:
    size, digest, most = 300 * MIB + 1, hashlib.sha256(), 0
    store = keeper.open(part_bytes=8 * MIB)
    writer = store.begin(NewObject("large.bin", size))
    await writer.open()
    while writer.size < size:
        piece = os.urandom(min(MIB, size - writer.size))
        digest.update(piece)
        await write(writer, piece)
        most = max(most, keeper.held_bytes)
    await writer.seal()
    await writer.publish()
    await writer.discard()
    assert keeper.arrived() == [digest.hexdigest()] == [writer.sha256]
    assert most <= 4 * 8 * MIB, "the parts on their way and the one that is being filled"
