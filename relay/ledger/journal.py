"""The local, crash-safe log in front of the ledger.

Theory of operation
-------------------
Every process run has one journal: a locked folder of append-only segments. An entry is written twice.
``begin`` writes it before the first byte goes to a destination, ``finish`` before the client can believe that
its upload is done. Both append one record with one ``os.write``, on the event loop: an append to an open
file costs microseconds, and a record that a ``write`` took survives the death of the process, kill -9
included. With ``sync="group"`` ``finish`` also waits for an ``fsync``; one fsync, in a thread of its own,
serves everybody who came before it started.

What must stay true:

- **No record hides another.** If a record cannot be written whole (disk full, I/O error), the segment is cut
  back to where the record began; if even that fails, the segment is given up and the next record opens a new
  one. A later record never follows a torn one.
- **Nothing finished is forgotten.** A *finished* record that the disk refused is owed: it is kept (one per
  running upload at most) and written before anything else. Its caller is told, because the record is not safe.
- **A long upload pins nothing.** A new segment begins with the records of all entries that are open, so that
  an older segment holds nothing that only it knows, once its finished entries are in Postgres.
- **Memory is bounded.** Finished entries wait in the files. The shipper reads them back (``next_span``,
  ``advance``); here are only the open entries, the position of the shipper, and counts.
- **The bound refuses beginnings only.** Past ``max_bytes`` ``begin`` raises ``JournalFull``; entries that began
  are always allowed to finish.

All methods run on the event loop's thread. Not here: reading other journals (``adoption``), Postgres
(``shipper``), the record's format (``segments``).
"""

import asyncio
import errno
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from relay.errors import DiskBroke, JournalFull, RelayFault, ShuttingDown
from relay.ledger.entry import Entry, now_us
from relay.ledger.folders import FolderLock, create_folder, keep_corrupt, remove_folder, segment_path, sync_folder
from relay.ledger.records import RECORD_MEMBERS, begin_record, finish_record
from relay.ledger.segments import members_record
from relay.settings import JournalSettings

log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 16 << 20
SEGMENTS_AT_LEAST: Final = 8  # a small journal has small segments, or its first one would fill it for ever
LAGGING_SECONDS: Final = 10.0

_OPENING: Final = members_record(RECORD_MEMBERS)


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    file: int
    size: int = 0
    carried: int = 0
    finished: int = 0
    shipped: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a segment that the shipper has not read yet; every record in it is whole."""

    number: int
    path: Path
    start: int
    stop: int


class Journal:
    """The journal of this process. Made by ``open``, given up by ``close``."""

    def __init__(self, lock: FolderLock, settings: JournalSettings) -> None:
        self._lock = lock
        self._is_group = settings.sync == "group"
        self._max_bytes = int(settings.max_bytes)
        self._segment_bytes = min(SEGMENT_BYTES, max(1, self._max_bytes // SEGMENTS_AT_LEAST))
        self._segments: deque[_Segment] = deque()
        self._bytes = 0
        self._open: dict[str, bytes] = {}
        self._owed: dict[str, bytes] = {}
        self._cursor = 0
        self._unshipped = 0
        self._oldest_us: int | None = None
        self._is_closed = False
        self._is_suspect = False  # the active segment must not be written any more
        self._retired: list[int] = []
        self._next_sync: asyncio.Future[None] | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self.arrived = asyncio.Event()

    @classmethod
    def open(cls, root: Path, worker: str, settings: JournalSettings) -> Self:
        """Make and lock the journal ``root/<worker>``; ``worker`` is the UUID of this process run.

        Raises:
            OSError: the data directory cannot be written.
        """
        journal = cls(create_folder(root, worker), settings)
        try:
            journal._rotate()
            if journal._is_group:
                sync_folder(root)
                sync_folder(root.parent)
        except BaseException:
            journal._lock.release()
            raise
        return journal

    # ── what the request path calls ──────────────────────────────────────────────────────────────

    def begin(self, entry: Entry) -> None:
        """Write that the entry has begun, before the first byte goes to the destination.

        Raises:
            JournalFull: the journal has reached its bound, or the disk is full.
            DiskBroke: the disk refused the record.
            ShuttingDown: the journal is closed.
        """
        if self.is_full:
            raise JournalFull
        begun = begin_record(entry)
        self._append(begun)
        self._open[entry.request_id] = begun

    async def finish(self, entry: Entry) -> None:
        """Write that the entry is finished; it is safe when this returns. An entry that never began may finish.

        The record is written before the first suspension, so that a cancelled caller has told it all the same.

        Raises:
            JournalFull: the disk is full. The record of an entry that began is owed and written later.
            DiskBroke: the same, for any other refusal of the disk.
            ShuttingDown: the journal is closed.
        """
        record = finish_record(entry)
        try:
            self._append(record)
        except RelayFault:
            if entry.request_id in self._open and not self._is_closed:
                self._owed.setdefault(entry.request_id, record)
            raise
        self._count_finished(entry.request_id)
        if self._is_group:
            await self._durable()

    # ── what health and metrics ask ──────────────────────────────────────────────────────────────

    @property
    def folder(self) -> Path:
        """Where this journal lies."""
        return self._lock.path

    @property
    def is_full(self) -> bool:
        """True when no upload may begin."""
        return self._bytes >= self._max_bytes

    @property
    def entries(self) -> int:
        """How many finished entries are not in Postgres yet."""
        return self._unshipped + len(self._owed)

    @property
    def running(self) -> int:
        """How many entries have begun and not finished."""
        return len(self._open)

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest finished entry that is not in Postgres yet (seconds)."""
        return 0.0 if self._oldest_us is None else max(0.0, (now_us() - self._oldest_us) / 1e6)

    @property
    def state(self) -> Literal["ok", "lagging", "full"]:
        """``ok``, ``lagging`` (entries wait longer than they should) or ``full``."""
        if self.is_full:
            return "full"
        return "lagging" if self.oldest_seconds > LAGGING_SECONDS else "ok"

    # ── what the shipper calls ───────────────────────────────────────────────────────────────────

    def next_span(self) -> Span | None:
        """What is to be read next; ``None`` when all that is written has been shipped."""
        self.pay_owed()
        oldest = self._segments[0]
        return None if self._cursor >= oldest.size else Span(oldest.number, oldest.path, self._cursor, oldest.size)

    def note_oldest(self, finished_us: object) -> None:
        """Say when the oldest entry that waits was finished (microseconds), as read from its record."""
        if isinstance(finished_us, int):
            self._oldest_us = finished_us

    def advance(self, span: Span, offset: int, shipped: int) -> None:
        """Say that everything of the span before ``offset`` is safe elsewhere, ``shipped`` finished entries among it."""
        segment = self._segments[0]
        if segment.number != span.number:
            return
        self._cursor = offset
        segment.shipped += shipped
        self._lower_unshipped(shipped)
        self._discard_shipped()

    def skip_unreadable(self, span: Span) -> None:
        """Give up the rest of a segment that cannot be read, and keep the file aside. Open entries stay open."""
        segment = self._segments[0]
        if segment.number != span.number:
            return
        if segment is self._segments[-1]:
            self._rotate()
        lost = segment.finished - segment.shipped
        log.error(
            "a segment of the journal cannot be read; its unread entries are lost to the ledger",
            extra={"fields": {"segment": str(segment.path), "offset": span.start, "entries": lost}},
        )
        self._lower_unshipped(lost)
        self._segments.popleft()
        self._cursor = 0
        self._bytes -= segment.size
        with suppress(FileNotFoundError):
            keep_corrupt(segment.path)

    def pay_owed(self) -> None:
        """Try to write the finished records that the disk refused before; they stay owed if it still does."""
        if self._owed and not self._is_closed:
            with suppress(RelayFault):
                self._write_owed()

    def close(self) -> None:
        """Give the journal up. What is not in Postgres stays on disk and is adopted by the next process."""
        if self._is_closed:
            return
        self.pay_owed()
        self._is_closed = True
        self._disk.shutdown(wait=True)
        for file in (*self._retired, self._segments[-1].file):
            if self._is_group:
                with suppress(OSError):
                    os.fsync(file)
            os.close(file)
        if not (self._open or self.entries):
            try:
                remove_folder(self._lock)
            except OSError:
                log.exception("the journal's folder cannot be removed; the next process does it")
        self._lock.release()

    # ── appending ────────────────────────────────────────────────────────────────────────────────

    def _append(self, record: bytes) -> None:
        if self._is_closed:
            raise ShuttingDown
        try:
            if self._owed:
                self._write_owed()
            self._write(record)
        except OSError as error:
            raise _fault(error) from error

    def _write_owed(self) -> None:
        for request_id, record in list(self._owed.items()):
            try:
                self._write(record)
            except OSError as error:
                raise _fault(error) from error
            del self._owed[request_id]
            self._count_finished(request_id)

    def _write(self, record: bytes) -> None:
        active = self._segments[-1]
        if self._is_suspect or active.size - active.carried >= self._segment_bytes:
            active = self._next_segment(active)
        try:
            written = os.write(active.file, record)
            if written != len(record):
                _write_rest(active.file, record, written)
        except BaseException:
            self._cut_back(active)
            raise
        active.size += len(record)
        self._bytes += len(record)

    def _cut_back(self, segment: _Segment) -> None:
        try:
            os.ftruncate(segment.file, segment.size)
        except OSError:
            self._is_suspect = True

    def _next_segment(self, active: _Segment) -> _Segment:
        try:
            self._rotate()
        except OSError:
            if self._is_suspect:
                raise
            log.warning("no new segment can be opened; the journal goes on in the old one", exc_info=True)
            return active
        return self._segments[-1]

    def _rotate(self) -> None:
        number = self._segments[-1].number + 1 if self._segments else 1
        segment = _open_segment(segment_path(self._lock.path, number), number)
        carried = b"".join((_OPENING, *self._open.values()))
        try:
            _write_rest(segment.file, carried, 0)
        except BaseException:
            os.close(segment.file)
            segment.path.unlink(missing_ok=True)
            raise
        segment.size = segment.carried = len(carried)
        self._bytes += segment.size
        if self._segments:
            self._retire(self._segments[-1].file)
        self._segments.append(segment)
        self._is_suspect = False
        self._discard_shipped()

    def _retire(self, file: int) -> None:
        if self._is_group:
            self._retired.append(file)  # somebody may be waiting for its fsync
        else:
            os.close(file)

    def _count_finished(self, request_id: str) -> None:
        self._open.pop(request_id, None)
        self._segments[-1].finished += 1
        self._unshipped += 1
        if self._oldest_us is None:
            self._oldest_us = now_us()
        self.arrived.set()

    def _lower_unshipped(self, count: int) -> None:
        self._unshipped -= count
        if not self._unshipped:
            self._oldest_us = None

    def _discard_shipped(self) -> None:
        # What only began is in the next segment too: of an older one nothing but finished entries matters.
        while len(self._segments) > 1 and self._segments[0].shipped >= self._segments[0].finished:
            shipped = self._segments.popleft()
            self._cursor = 0
            self._bytes -= shipped.size
            successor = self._segments[0].path if self._is_group else None
            self._disk.submit(_discard, shipped.path, successor, self._lock)

    # ── one fsync for many ───────────────────────────────────────────────────────────────────────

    async def _durable(self) -> None:
        if self._next_sync is None:
            self._next_sync = asyncio.get_running_loop().create_future()
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync_groups(), name="journal-sync")
        # Shielded: one caller that is cancelled must not cancel the wait of all the others.
        await asyncio.shield(self._next_sync)

    async def _sync_groups(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (group := self._next_sync) is not None:
                self._next_sync = None
                retired, self._retired = self._retired, []
                files = (*retired, self._segments[-1].file)
                try:
                    await loop.run_in_executor(self._disk, _sync_files, files, self._lock)
                except Exception:
                    # After a failed fsync a later one may succeed without having written: never use this file again.
                    self._is_suspect = True
                    log.exception("the journal cannot be made durable")
                    _fail(group, DiskBroke())
                else:
                    group.set_result(None)
                finally:
                    for file in retired:
                        os.close(file)
        finally:
            self._syncing = None


def _fault(error: OSError) -> RelayFault:
    return JournalFull() if error.errno in (errno.ENOSPC, errno.EDQUOT) else DiskBroke()


def _fail(group: asyncio.Future[None], fault: RelayFault) -> None:
    group.set_exception(fault)
    group.exception()  # retrieved: every waiter may have been cancelled


def _open_segment(path: Path, number: int) -> _Segment:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return _Segment(number, path, file)


def _write_rest(file: int, data: bytes, written: int) -> None:
    while written < len(data):
        count = os.write(file, data[written:])
        if not count:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        written += count


def _sync_files(files: tuple[int, ...], folder: FolderLock) -> None:
    for file in files:
        os.fsync(file)
    folder.sync()


def _discard(path: Path, successor: Path | None, folder: FolderLock) -> None:
    try:
        if successor is not None:  # it must hold the open entries durably before the older segment goes
            file = os.open(successor, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _sync_files((file,), folder)
            finally:
                os.close(file)
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError:
        log.exception("a shipped segment cannot be removed", extra={"fields": {"segment": str(path)}})
