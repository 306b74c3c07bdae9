"""A body becomes a file: whole, under its name, with the receipt; or nothing at all."""

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.destinations import disk_file
from relay.destinations.disk import BATCH_BYTES, SMALL_PIECE_BYTES, Batch
from relay.errors import BodyIncomplete, ClientGone, FormInvalid, ObjectExists, PathInvalid, RangeRefused, RelayError
from relay.wire.pieces import Scattered
from tests.support.bodies import ScriptedBody, make_item
from tests.support.disks import MakeDisk, open_below, temp_names, tree, visible

CONTENT = bytes(range(256)) * 9_000  # several batches and a rest


def pieces(content: bytes, size: int = 65_536) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize("is_replacing", [False, True])
async def test_the_file_holds_the_body_and_the_answer_is_the_receipt(way: str, root: Path, make_disk: MakeDisk, is_replacing: bool) -> None:
    item = make_item("photos/2026/cat.jpg", declared_bytes=len(CONTENT), content_type="image/jpeg")
    disk = make_disk(is_replacing=is_replacing)
    async with disk.deliver(item, ScriptedBody(pieces(CONTENT), declared_bytes=len(CONTENT))) as delivery:
        answer = b"".join([chunk async for chunk in delivery.answer()])
        receipt = await delivery.settled()
        assert delivery.is_settled
    assert (root / "acme/photos/2026/cat.jpg").read_bytes() == CONTENT
    assert delivery.status == 201
    assert (b"content-type", b"application/json") in delivery.headers
    assert delivery.answer_bytes == len(answer)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    stored = {"key": "photos/2026/cat.jpg", "size": len(CONTENT), "content_type": "image/jpeg", "filename": None, "field": None}
    assert json.loads(answer) == {
        "upload_id": str(item.upload_id),
        "objects": [{**stored, "sha256": sha256, "etag": None, "version": None}],
    }
    assert receipt.bytes == len(CONTENT)
    assert receipt.digests["sha256"] == sha256
    assert receipt.objects[0].key == "photos/2026/cat.jpg"
    assert temp_names(root) == [], way
    assert open_below(root) == 0


@pytest.mark.parametrize("content", [b"", b"x", b"x" * BATCH_BYTES])
async def test_bodies_at_the_edges_of_a_batch_arrive_whole(way: str, root: Path, make_disk: MakeDisk, content: bytes) -> None:
    async with make_disk().deliver(make_item("a"), ScriptedBody(pieces(content))):
        assert (root / "acme/a").read_bytes() == content, way


async def test_a_body_of_single_bytes_and_large_chunks_keeps_its_order(root: Path, make_disk: MakeDisk) -> None:
    chunks = [bytes([i % 256]) * (1 if i % 3 else 70_000) for i in range(300)]
    async with make_disk().deliver(make_item("a"), ScriptedBody(chunks)):
        assert (root / "acme/a").read_bytes() == b"".join(chunks)


async def test_what_the_system_takes_only_in_part_is_written_whole(
    root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev

    def taking_some(fd: int, buffers: Sequence[memoryview]) -> int:
        assert len(buffers) <= 3
        return writev(fd, [memoryview(b"".join(buffers))[:70_001]])

    monkeypatch.setattr(disk_file, "_VECTOR_MOST", 3)
    monkeypatch.setattr(os, "writev", taking_some)
    async with make_disk().deliver(make_item("a"), ScriptedBody(pieces(CONTENT))) as delivery:
        assert (root / "acme/a").read_bytes() == CONTENT
        assert (await delivery.settled()).digests["sha256"] == hashlib.sha256(CONTENT).hexdigest()


async def test_the_disk_begins_before_the_end_and_every_byte_is_told_to_it_once(
    root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[range] = []
    monkeypatch.setattr(disk_file, "_WRITE_BACK_BYTES", len(CONTENT) // 4)
    monkeypatch.setattr(disk_file, "_begin_write_back", lambda _fd, start, count: begun.append(range(start, start + count)))
    async with make_disk().deliver(make_item("a"), ScriptedBody(pieces(CONTENT))):
        assert (root / "acme/a").read_bytes() == CONTENT
    assert [byte_range.start for byte_range in begun] == [0, *(byte_range.stop for byte_range in begun[:-1])]
    assert len(begun) > 1 and begun[-1].stop <= len(CONTENT)


def test_a_batch_of_tiny_chunks_holds_few_objects() -> None:
    batch = Batch()
    for _ in range(BATCH_BYTES):
        batch.take(b"x")
    assert batch.size == BATCH_BYTES
    taken = batch.pieces
    assert len(taken) <= BATCH_BYTES // SMALL_PIECE_BYTES
    assert b"".join(taken) == b"x" * BATCH_BYTES


def test_a_batch_takes_what_is_scattered_in_its_order() -> None:
    batch = Batch()
    large = b"l" * SMALL_PIECE_BYTES
    batch.take(Scattered([memoryview(b"ab"), memoryview(large), memoryview(b"cd")]))
    batch.take(b"ef")
    assert (batch.size, b"".join(batch.pieces)) == (SMALL_PIECE_BYTES + 6, b"ab" + large + b"cdef")


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (make_item("a", content_type="Multipart/Form-Data"), FormInvalid),
        (make_item("a", headers=((b"Content-Range", b"bytes 0-1/2"),)), RangeRefused),
        (make_item("a/"), PathInvalid),
        (make_item(segments=("..", "a")), PathInvalid),
        (make_item(segments=("x" * 256,)), PathInvalid),
        (make_item("taken"), ObjectExists),
        (make_item("taken/below"), ObjectExists),
        (make_item("folder"), ObjectExists),
    ],
)
async def test_what_cannot_be_stored_is_refused_before_the_body_is_asked_for(
    root: Path, make_disk: MakeDisk, item: object, error: type[RelayError]
) -> None:
    (root / "acme/folder").mkdir(parents=True)
    (root / "acme/taken").write_bytes(b"first")
    before = tree(root)
    body = ScriptedBody([b"second"])
    with pytest.raises(error):
        async with make_disk().deliver(item, body):  # type: ignore[arg-type]  # parametrised values have no type
            pass
    assert not body.is_asked
    assert tree(root) == before


async def test_replace_puts_the_new_file_in_the_place_of_the_old(way: str, root: Path, make_disk: MakeDisk) -> None:
    disk = make_disk(is_replacing=True)
    for content in (b"first", b"second"):
        async with disk.deliver(make_item("a"), ScriptedBody([content])):
            pass
    assert visible(root) == {"acme": None, "acme/a": b"second"}, way
    assert temp_names(root) == []


async def test_replace_does_not_replace_a_folder(way: str, root: Path, make_disk: MakeDisk) -> None:
    (root / "acme/a").mkdir(parents=True)
    with pytest.raises(ObjectExists):
        async with make_disk(is_replacing=True).deliver(make_item("a"), ScriptedBody([b"x"])):
            pass
    assert visible(root) == {"acme": None, "acme/a": None}, way


async def test_a_folder_that_appears_meanwhile_is_not_replaced(way: str, root: Path, make_disk: MakeDisk) -> None:
    gate = asyncio.Event()
    body = ScriptedBody([b"x"], gate=gate)

    async def upload() -> None:
        async with make_disk(is_replacing=True).deliver(make_item("a"), body):
            pass

    task = asyncio.create_task(upload())
    await body.has_given_all.wait()
    (root / "acme/a").mkdir(parents=True)
    gate.set()
    with pytest.raises(ObjectExists):
        await task
    assert visible(root) == {"acme": None, "acme/a": None}, way
    assert temp_names(root) == []


async def test_of_two_uploads_of_one_name_exactly_one_is_stored(way: str, root: Path, make_disk: MakeDisk) -> None:
    disk = make_disk()
    gate = asyncio.Event()
    bodies = [ScriptedBody([content], gate=gate) for content in (b"one", b"two")]

    async def upload(body: ScriptedBody) -> str:
        try:
            async with disk.deliver(make_item("same"), body):
                return "stored"
        except ObjectExists:
            return "exists"

    tasks = [asyncio.create_task(upload(body)) for body in bodies]
    for body in bodies:
        await body.has_given_all.wait()  # both have found the name free
    gate.set()
    assert sorted(await asyncio.gather(*tasks)) == ["exists", "stored"], way
    assert (root / "acme/same").read_bytes() in {b"one", b"two"}
    assert temp_names(root) == []
    assert open_below(root) == 0


@pytest.mark.parametrize("is_replacing", [False, True])
async def test_a_body_that_breaks_leaves_nothing(way: str, root: Path, make_disk: MakeDisk, is_replacing: bool) -> None:
    fault = ClientGone()
    with pytest.raises(ClientGone) as caught:
        async with make_disk(is_replacing=is_replacing).deliver(make_item("deep/er/a"), ScriptedBody(pieces(CONTENT), fault=fault)):
            pass
    assert caught.value is fault
    assert visible(root) == {}, way
    assert temp_names(root) == []
    assert open_below(root) == 0


async def test_a_body_shorter_than_declared_is_never_stored(root: Path, make_disk: MakeDisk) -> None:
    with pytest.raises(BodyIncomplete):
        async with make_disk().deliver(make_item("a"), ScriptedBody([b"xy"], declared_bytes=3)):
            pass
    assert visible(root) == {}


async def test_nothing_is_visible_while_the_body_comes(way: str, root: Path, make_disk: MakeDisk) -> None:
    gate = asyncio.Event()
    body = ScriptedBody(pieces(CONTENT), gate=gate)

    async def upload() -> None:
        async with make_disk().deliver(make_item("a/b"), body):
            pass

    task = asyncio.create_task(upload())
    await body.has_given_all.wait()
    assert visible(root) == {}, way
    gate.set()
    await task
    assert (root / "acme/a/b").read_bytes() == CONTENT


async def test_the_key_template_names_the_file(root: Path, make_disk: MakeDisk) -> None:
    async with make_disk("deep/er", template="in/{path}.raw").deliver(make_item("a/b"), ScriptedBody([b"x"])) as delivery:
        assert (await delivery.settled()).objects[0].key == "in/a/b.raw"
    assert (root / "deep/er/in/a/b.raw").read_bytes() == b"x"


async def test_the_check_leaves_nothing_behind(way: str, root: Path, make_disk: MakeDisk) -> None:
    (root / "acme").mkdir()
    for is_replacing in (False, True):
        finding = await make_disk("acme/not/yet", is_replacing=is_replacing).check()
        assert finding.ok, finding
    assert visible(root) == {"acme": None}, way
    assert temp_names(root) == []
    assert open_below(root) == 0


async def test_the_check_tells_of_a_root_that_is_not_there(root: Path, make_disk: MakeDisk) -> None:
    finding = await make_disk(below=root / "gone").check()
    assert (finding.ok, finding.code) == (False, "destination_misconfigured")
    assert str(root) not in finding.detail
