"""A folder below ``RELAY_DISK_ROOT`` as a destination: one raw body becomes one file.

A file is visible whole or not at all, and durable before the answer. Names are judged by
``disk_names``, the file itself is made by ``disk_file``; here is the story, and the discipline of threads:
every blocking call runs in the executor that the destination was given, one at a time per file, under
the idle timeout. While one batch of bytes is being written the next one is gathered, so at most two
batches of an upload are in memory.

Not here: forms (several files in one body), and who may write (admission).
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path

from relay.destinations.config import DiskConfig
from relay.destinations.destination import Body, Delivery, Finding, Headers, Item, Receipt, StoredObject
from relay.destinations.disk_file import PartialFile, Place, sweep, write_probe
from relay.destinations.disk_names import folder_segments, object_segments
from relay.errors import (
    BodyIncomplete,
    DestinationMisconfigured,
    DestinationTimeout,
    DiskBroke,
    DiskFull,
    FormNotSupported,
    PathInvalid,
    RangeRefused,
    RelayError,
)

__all__ = ["DiskDelivery", "DiskDestination", "sweep"]

BATCH_BYTES = 512 << 10
SMALL_CHUNK_BYTES = 4 << 10
CLEAN_UP_SECONDS = 2.0

_log = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})
_MISCONFIGURED = {
    errno.EACCES: "Relay may not write there.",
    errno.EPERM: "Relay may not write there, or the file system has no hard links.",
    errno.EROFS: "The file system is read-only.",
    errno.ENOENT: "The root of disk destinations does not exist.",
    errno.ENOTDIR: "The root of disk destinations is not a folder.",
    errno.EXDEV: "The directory lies on another file system than the root of disk destinations.",
    errno.EOPNOTSUPP: "The file system has no hard links.",
}


class DiskDestination:
    """One tenant's folder."""

    def __init__(self, root: Path, config: DiskConfig, executor: concurrent.futures.Executor, idle_timeout: timedelta) -> None:
        self._root = root
        self._key_template = config.key_template
        self._is_replacing = config.overwrite == "replace"
        self._folder = folder_segments(config.directory)
        self._executor = executor
        self._idle_seconds = idle_timeout.total_seconds()

    def check_item(self, item: Item) -> None:
        """Refuse what is not one whole raw file of a plain name.

        Raises:
            PathInvalid: the path is no plain name of a file below the destination.
            FormNotSupported, RangeRefused: what is sent is not one whole raw file.
        """
        self._key_of(item)

    def _key_of(self, item: Item) -> tuple[str, ...]:
        _check_is_whole_file(item)
        return object_segments(self._key_template, item.segments)

    @contextlib.asynccontextmanager
    async def deliver(self, item: Item, body: Body) -> AsyncIterator[Delivery]:
        """Store the whole body as one file; entering returns when it is published.

        Raises:
            ObjectExists: the name is taken and the destination refuses to replace.
            DiskFull, DiskBroke, DestinationMisconfigured, DestinationTimeout: the disk failed. Nothing was kept.
            ClientFault: as ``check_item`` says.
        """
        key = self._key_of(item)
        file = PartialFile(Place(self._root, self._folder, key), is_replacing=self._is_replacing)
        await self._store(file, body)
        stored = StoredObject(
            key="/".join(key),
            size=file.size,
            content_type=item.content_type,
            filename=None,
            field=None,
            sha256=file.sha256,
            etag=None,
        )
        yield DiskDelivery(item.upload_id, stored, file.crc32c)

    async def check(self) -> Finding:
        """Write a probe the way an upload is written, and remove it again."""
        probe = partial(write_probe, self._root, self._folder, is_replacing=self._is_replacing)
        try:
            await Turns(self._executor, self._idle_seconds).run(probe)
        except RelayError as error:
            return Finding(ok=False, code=error.code, detail=error.detail)
        return Finding(ok=True, code=None, detail="Wrote a file and removed it.")

    async def close(self) -> None:
        """Hold nothing between deliveries; the executor belongs to whoever made it."""

    async def _store(self, file: PartialFile, body: Body) -> None:
        turns = Turns(self._executor, self._idle_seconds)
        is_published = False
        try:
            await turns.run(partial(file.open, body.declared_bytes))
            batch = Batch()
            async for chunk in body:
                batch.add(chunk)
                if batch.size >= BATCH_BYTES:
                    await turns.wait()
                    turns.start(partial(file.append, batch.take()))
            await turns.wait()
            if batch.size:
                await turns.run(partial(file.append, batch.take()))
            if body.declared_bytes not in {None, file.size}:
                raise BodyIncomplete
            await turns.run(file.publish)
            is_published = True
        finally:
            if not is_published:
                file.abandon()
                await turns.end_with(file.discard)


class DiskDelivery:
    """The answer of a finished delivery: 201 with what was stored."""

    status = 201
    headers: Headers = ((b"content-type", b"application/json"),)
    is_settled = True
    is_body_taken = True

    def __init__(self, upload_id: str, stored: StoredObject, crc32c: str) -> None:
        self._content = json.dumps({"upload_id": upload_id, "objects": [asdict(stored)]}, ensure_ascii=False).encode()
        self._receipt = Receipt(bytes=stored.size, digests={"sha256": stored.sha256, "crc32c": crc32c}, objects=(stored,))

    @property
    def answer_bytes(self) -> int:
        """The answer's length."""
        return len(self._content)

    async def answer(self) -> AsyncIterator[bytes]:
        """Yield the answer, one JSON object."""
        yield self._content

    async def settled(self) -> Receipt:
        """The receipt; publishing is over by now."""
        return self._receipt


class Batch:
    """Chunks gathered for one write. Small chunks are joined, so that their number stays bounded too."""

    def __init__(self) -> None:
        self._chunks: list[bytes | bytearray] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Take one more chunk."""
        self.size += len(chunk)
        if len(chunk) >= SMALL_CHUNK_BYTES:
            self._chunks.append(chunk)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def take(self) -> list[bytes | bytearray]:
        """Hand over what was gathered and start anew."""
        chunks, self._chunks, self.size = self._chunks, [], 0
        return chunks


class Turns:
    """One file's blocking calls: one at a time, each under the idle timeout, and a last one however it ends.

    A thread that hangs in the kernel cannot be stopped. So a call that times out, or whose waiter is
    cancelled, goes on; only when it is over does the last call run, from wherever it ended. That keeps a
    descriptor from being closed under a thread that writes to it. Where no call has ever run there is nothing
    to close, and nothing is left waiting for a thread of a dead disk.
    """

    def __init__(self, executor: concurrent.futures.Executor, idle_seconds: float) -> None:
        self._executor = executor
        self._idle_seconds = idle_seconds
        self._running: concurrent.futures.Future[None] | None = None
        self._has_run = False

    async def run(self, call: Callable[[], None]) -> None:
        """Start the call and wait for it."""
        self.start(call)
        await self.wait()

    def start(self, call: Callable[[], None]) -> None:
        """Hand the call to the executor; the one before must have been waited for."""
        self._running = self._executor.submit(call)

    async def wait(self) -> None:
        """Wait for the running call, if there is one.

        Raises:
            DestinationTimeout: it took longer than the idle timeout.
            RelayError: whatever the call raised, its ``OSError`` translated.
        """
        if self._running is None:
            return
        try:
            async with asyncio.timeout(self._idle_seconds):
                await asyncio.wrap_future(self._running)
        except TimeoutError:
            raise DestinationTimeout from None
        except OSError as error:
            raise _told(error) from error
        self._running = None
        self._has_run = True

    async def end_with(self, last: Callable[[], None]) -> None:
        """Run ``last`` once the running call is over, and wait a bounded time for it."""
        if not self._has_run and self._running is not None and self._running.cancel():
            last()  # nothing has happened: it finds nothing to do
            return
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        ended.set_running_or_notify_cancel()  # so that giving up waiting cannot cancel it

        def finish() -> None:
            try:
                last()
            finally:
                ended.set_result(None)

        def submit(_: object = None) -> None:
            try:
                self._executor.submit(finish)
            except RuntimeError:  # the executor is shut down: this thread is as good
                finish()

        if self._running is None:
            submit()
        else:
            self._running.cancel()
            self._running.add_done_callback(submit)
        waiter = asyncio.wrap_future(ended)
        try:
            await asyncio.wait({waiter}, timeout=CLEAN_UP_SECONDS)
        finally:
            waiter.cancel()


def _check_is_whole_file(item: Item) -> None:
    media_type = (item.content_type or "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        raise FormNotSupported
    if any(name.lower() == b"content-range" for name, _ in item.headers):
        raise RangeRefused


def _told(error: OSError) -> RelayError:
    """The error in our words; the system's number goes to the log, never to a client."""
    if error.errno in _FULL:
        return DiskFull()
    if error.errno in _BAD_NAME:
        return PathInvalid("The disk does not take this name. Choose a shorter or simpler one.")
    name = errno.errorcode.get(error.errno or 0, "unknown")
    _log.warning("a disk destination failed", extra={"fields": {"errno": name}})
    if error.errno in _MISCONFIGURED:
        return DestinationMisconfigured(_MISCONFIGURED[error.errno])
    return DiskBroke()
