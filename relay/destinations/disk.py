"""A folder below ``RELAY_DISK_ROOT`` as a store: one object becomes one file.

A file is visible whole or not at all, and durable before the answer. Names are judged by ``keys`` and
``disk_names``, the file itself is made by ``disk_file``; here is the discipline of threads: every blocking call
runs in the executor that the store was given, one at a time per file, under the idle timeout. While one batch of
bytes is being written the next one is gathered, so at most two batches of an upload are in memory.
"""

import asyncio
import concurrent.futures
import errno
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from relay.destinations.destination import Finding
from relay.destinations.disk_config import DiskConfig
from relay.destinations.disk_file import PartialFile, Place, sweep, write_probe
from relay.destinations.disk_names import check_file_names, folder_segments
from relay.destinations.object_store import NewObject, Published
from relay.errors import DestinationMisconfigured, DestinationTimeout, DiskBroke, DiskFull, PathInvalid, RelayError
from relay.wire.pieces import Piece, Room, views_of

__all__ = ["DiskStore", "DiskWriter", "sweep"]

CLEAN_UP_SECONDS = 2.0
BATCH_BYTES = 512 << 10
SMALL_PIECE_BYTES = 4 << 10

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


class DiskStore:
    """One tenant's folder."""

    def __init__(self, root: Path, config: DiskConfig, executor: concurrent.futures.Executor, idle_timeout: timedelta) -> None:
        self._root = root
        self._is_replacing = config.overwrite == "replace"
        self._folder = folder_segments(config.directory)
        self._executor = executor
        self._idle_seconds = idle_timeout.total_seconds()

    def check_key(self, key: str) -> None:
        """Refuse a key that holds one of our own names.

        Raises:
            PathInvalid: as it says.
        """
        check_file_names(key.split("/"))

    def begin(self, new: NewObject) -> "DiskWriter":
        """Begin a file; fields and metadata have no place on a disk."""
        place = Place(self._root, self._folder, tuple(new.key.split("/")))
        file = PartialFile(place, is_replacing=self._is_replacing)
        return DiskWriter(file, Turns(self._executor, self._idle_seconds), new.declared_bytes)

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


class DiskWriter:
    """One file on its way. While one batch is being written the next one may be gathered."""

    def __init__(self, file: PartialFile, turns: "Turns", declared_bytes: int | None) -> None:
        self._file = file
        self._turns = turns
        self._declared_bytes = declared_bytes
        self._is_published = False
        self._batch = Batch()
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._file.sha256

    @property
    def crc32c(self) -> str:
        """CRC-32C of what was written, in hex."""
        return self._file.crc32c

    async def open(self) -> None:
        """Make the file, without a visible name.

        Raises:
            ObjectExists: the name is taken and the destination refuses to replace.
            PathInvalid: the name leads through a link, or is none that the disk takes.
            DiskFull, DiskBroke, DestinationMisconfigured, DestinationTimeout: the disk failed.
        """
        await self._turns.run(partial(self._file.open, self._declared_bytes))

    def take(self, piece: Piece) -> Room:
        """Gather the next bytes."""
        self.size += len(piece)
        return self._batch.take(piece)

    async def ready(self) -> None:
        """Hand what was gathered to the disk, if it is enough, once it has what was gathered before. Raises as ``open``."""
        if self._batch.size >= BATCH_BYTES:
            await self._write()

    async def _write(self) -> None:
        await self._turns.wait()
        batch, self._batch = self._batch, Batch()
        self._turns.start(partial(self._file.append, batch.pieces))

    async def seal(self) -> None:
        """Wait until the disk has all bytes. Raises as ``open``."""
        if self._batch.size:
            await self._write()
        await self._turns.wait()

    async def publish(self) -> Published:
        """Make the file durable and give it its name. Raises as ``open``."""
        await self._turns.run(self._file.publish)
        self._is_published = True
        return Published()

    async def discard(self) -> Published | None:
        """Leave nothing, whatever the disk is doing. A file that is published stays."""
        if self._is_published:
            return Published()
        self._file.abandon()
        await self._turns.end_with(self._file.discard)
        return Published() if self._file.stands else None


class Batch:
    """Bytes gathered for one write, as copies. Small pieces are joined, so that their number stays bounded too."""

    def __init__(self) -> None:
        self.pieces: list[bytes | bytearray] = []
        self.size = 0

    def take(self, piece: Piece) -> int:
        """Take one more piece; returns how many bytes more there is room for."""
        self.size += len(piece)
        for view in views_of(piece):
            if len(view) >= SMALL_PIECE_BYTES:
                self.pieces.append(bytes(view))
            elif self.pieces and isinstance(self.pieces[-1], bytearray):
                self.pieces[-1] += view
            else:
                self.pieces.append(bytearray(view))
        return max(0, BATCH_BYTES - self.size)


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
