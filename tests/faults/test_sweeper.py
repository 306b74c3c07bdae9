"""Multipart uploads whose process was killed, or whose store was away, are ended by whoever is still there."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from relay.destinations.object_store import NewObject
from relay.destinations.s3 import S3Store
from relay.destinations.upload_notes import Noted, UploadNotes
from relay.uploads.sweeper import SWEEP_SECONDS, FindStore, MultipartStore, Sweeper
from tests.support.buckets import PART, Stores, opened_stores
from tests.support.objects import write
from tests.support.raw_client import RawClient
from tests.support.serving import serve_relay
from tests.support.stores import ACCESS_KEY, SECRET_KEY, StoreServer, TestBucket
from tests.support.waiting import until


class Dead:
    """A process that was killed while it wrote to a bucket: what it noted, and a lock that nobody holds."""

    def __init__(self, folder: Path, bucket: TestBucket, store: S3Store) -> None:
        self.notes = UploadNotes(folder / "multipart")
        self._bucket = bucket
        self._place = store.place

    def leave(self, key: str, *, is_id_known: bool, at_store: bool = True) -> None:
        note = self.notes.begin("acme", self._place.destination, self._place.address, key)
        upload_id = self.begin(key) if at_store else "gone"
        if is_id_known:
            note.learn(upload_id)

    def begin(self, key: str) -> str:
        return str(self._bucket.client.create_multipart_upload(Bucket=self._bucket.name, Key=key)["UploadId"])

    def die(self) -> None:
        assert self.notes._lock is not None
        self.notes._lock.release()


@pytest.fixture
async def living(tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened_stores(tmp_path) as opened:
        yield opened


def leads_to(store: MultipartStore | None) -> FindStore:
    async def find(_noted: Noted) -> MultipartStore | None:
        return store

    return find


async def test_what_a_dead_process_left_is_aborted_and_what_lives_stays(tmp_path: Path, plain_bucket: TestBucket, living: Stores) -> None:
    store = living.open(plain_bucket)
    dead = Dead(tmp_path, plain_bucket, store)
    for name, is_id_known in (("known", True), ("intended", False), ("shared", False)):
        dead.leave(name, is_id_known=is_id_known)
    dead.leave("was gone already", is_id_known=True, at_store=False)
    dead.leave("never sent", is_id_known=False, at_store=False)
    dead.begin("a stranger's")
    writer = store.begin(NewObject("shared", PART * 2))
    await write(writer, bytes(PART))
    sweeper = Sweeper(living.tools.notes, leads_to(store))
    assert await sweeper.sweep() == 0, "nothing is settled while its process lives"
    dead.die()

    assert await sweeper.sweep() == 3, "what was only intended may still be on its way"
    assert sorted(plain_bucket.open_uploads()) == ["a stranger's", "shared"]
    await write(writer, bytes(PART))
    await writer.seal()
    await writer.publish()
    assert plain_bucket.keys() == ["shared"] and plain_bucket.open_uploads() == ["a stranger's"]


async def test_notes_go_when_all_is_settled(
    tmp_path: Path, plain_bucket: TestBucket, living: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.uploads.sweeper.SURE_AFTER", timedelta(0))
    store = living.open(plain_bucket)
    dead = Dead(tmp_path, plain_bucket, store)
    dead.leave("known", is_id_known=True)
    dead.leave("intended", is_id_known=False)
    folder = next((tmp_path / "multipart").iterdir())
    (folder / "torn.note").write_text('{"tenant": "ac')
    dead.die()
    assert await Sweeper(living.tools.notes, leads_to(store)).sweep() == 0
    assert plain_bucket.open_uploads() == [] and not folder.exists()


@pytest.mark.full
async def test_what_cannot_be_settled_is_tried_again(tmp_path: Path, plain_bucket: TestBucket, living: Stores) -> None:
    store, away = living.open(plain_bucket), living.open(plain_bucket, url="http://127.0.0.1:9")
    dead = Dead(tmp_path, plain_bucket, store)
    dead.leave("known", is_id_known=True)
    dead.die()
    assert await Sweeper(living.tools.notes, leads_to(away)).sweep() == 1
    assert plain_bucket.open_uploads() == ["known"]
    assert await Sweeper(living.tools.notes, leads_to(store)).sweep() == 0
    assert plain_bucket.open_uploads() == []


async def test_a_store_that_does_not_answer_is_asked_once_in_a_sweep(
    tmp_path: Path, plain_bucket: TestBucket, living: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.uploads.sweeper.NOTE_SECONDS", 0.05)
    store, asked = living.open(plain_bucket), []
    dead = Dead(tmp_path, plain_bucket, store)
    for key in ("a", "b", "c"):
        dead.leave(key, is_id_known=True)
    dead.die()

    async def find(noted: Noted) -> MultipartStore | None:
        asked.append(noted.key)
        await asyncio.Event().wait()
        return None

    sweeper = Sweeper(living.tools.notes, find)
    assert await sweeper.sweep() == 3 and len(asked) == 1
    assert await sweeper.sweep() == 3 and len(asked) == 2
    monkeypatch.undo()
    assert await Sweeper(living.tools.notes, leads_to(store)).sweep() == 0 and plain_bucket.open_uploads() == []


@pytest.mark.full
async def test_a_note_whose_destination_is_gone_is_dropped(tmp_path: Path, plain_bucket: TestBucket, living: Stores) -> None:
    dead = Dead(tmp_path, plain_bucket, living.open(plain_bucket))
    dead.leave("known", is_id_known=True)
    dead.die()
    assert await Sweeper(living.tools.notes, leads_to(None)).sweep() == 0
    assert list((tmp_path / "multipart").iterdir()) == []


@pytest.mark.full
async def test_an_upload_that_was_completed_leaves_no_note(tmp_path: Path, plain_bucket: TestBucket, living: Stores) -> None:
    writer = living.open(plain_bucket).begin(NewObject("done", PART + 1))
    await write(writer, bytes(PART + 1))
    notes = list((tmp_path / "multipart").glob("*/*.note"))
    assert len(notes) == 1
    await writer.seal()
    await writer.publish()
    assert not notes[0].exists() and living.tools.notes.abandoned == {}


@pytest.mark.full  # it starts three processes
@pytest.mark.timeout(120)
async def test_a_worker_that_is_killed_in_the_middle_of_a_part_leaves_no_upload(
    database_url: str, tmp_path: Path, moto_server: StoreServer
) -> None:
    bucket = moto_server.make_bucket()
    async with serve_relay(tmp_path, workers=1, RELAY_DATABASE_URL=database_url) as relay:
        await relay.wait_for_workers(1)
        await relay.set_up(http_base_url="http://127.0.0.1:9")
        async with relay.admin() as admin:
            members = {"bucket": bucket.name, "endpoint_url": moto_server.url, "part_bytes": 5 << 20}
            document = {
                "name": "bucket",
                "kind": "s3",
                "config": members,
                "secrets": {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
            }
            assert (await admin.post("/tenants/storm/destinations", json=document)).status_code == 201
            route = {"prefix": "bucket", "destination": "bucket", "strip_prefix": True}
            assert (await admin.post("/tenants/storm/routes", json=route)).status_code == 201
        host, _, port = relay.url.removeprefix("http://").partition(":")
        async with RawClient(host, int(port)) as client:
            fields = ["Host: relay", f"Authorization: Bearer {relay.key}", f"Content-Length: {20 << 20}", "", ""]
            await client.send("\r\n".join(["POST /upload/bucket/a.bin HTTP/1.1", *fields]).encode())
            await client.send(bytes(12 << 20))

            async def is_open() -> bool:
                return bool(await asyncio.to_thread(bucket.open_uploads))

            await until(is_open, seconds=30)
            [worker] = relay.workers()
            os.kill(worker, signal.SIGKILL)

            async def is_swept() -> bool:
                return not await is_open()

            await until(is_swept, seconds=SWEEP_SECONDS * 3)
            assert bucket.keys() == []
