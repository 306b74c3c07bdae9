"""The journals of processes that are gone: shipped, settled, removed.

A folder whose lock can be taken belongs to nobody. Its finished entries go to the ledger, its entries that only
began become ``interrupted``, and then the folder goes. A folder whose lock is held is never touched, however
old it looks. Nothing is removed before all of it is in Postgres (or in ``rejected.ndjson``), and everything may be
done twice: an adopter that dies leaves the folder to the next one.

Segments that cannot be read to their end are moved to ``journal/corrupt``; what came before the end is shipped.
"""

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable
from relay.json_text import encode
from relay.ledger.batches import Batches
from relay.ledger.folders import FolderLock, claim_folder, keep_corrupt, list_folders, list_segments, remove_folder
from relay.ledger.segments import End, Record, read_segment
from relay.telemetry import JOURNAL_ENTRIES

log = logging.getLogger(__name__)

ADOPT_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
BATCH_ENTRIES: Final = 500
NO_MEMBERS: Final[tuple[str, ...]] = ()

_OUR_KEY: Final = re.compile(rb'\["(?:begun|finished)",("[0-9a-f-]{36}"),')


@dataclass(slots=True)
class _Survey:
    """What a folder holds: counts, and the entries that only began."""

    finished: int = 0
    begun: dict[bytes, Record] = field(default_factory=dict)
    corrupt: list[Path] = field(default_factory=list)


class Adoption:
    """Looks for abandoned journals below ``root`` and settles them."""

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        # A thread of its own: a large abandoned journal must not hold up the living one.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="adoption")
        self._batches = Batches(database, root, self._executor)
        self._unusable: set[Path] = set()
        self._waiting = 0

    async def run(self) -> None:
        """Adopt what is there, and again every five seconds, until cancelled."""
        while True:
            try:
                await self.adopt_all()
            except Exception:
                log.exception("an abandoned journal cannot be settled; it is tried again")
            await asyncio.sleep(ADOPT_SECONDS)

    def close(self) -> None:
        """Let the thread go. Call it when ``run`` does not run."""
        self._executor.shutdown(wait=True)
        self._add_waiting(-self._waiting)

    async def adopt_all(self) -> None:
        """Settle every journal that belongs to nobody, waiting for Postgres where it is away.

        Raises:
            OSError: a journal cannot be read or removed.
            DBAPIError: Postgres refused for a reason that is no entry's fault.
        """
        for path in list_folders(self._root):
            if path in self._unusable:
                continue
            lock = self._claim(path)
            if lock is not None:
                with lock:
                    await self._adopt(lock)

    def _claim(self, path: Path) -> FolderLock | None:
        try:
            return claim_folder(path)
        except OSError:
            self._unusable.add(path)
            log.exception("a journal cannot be opened; it is left alone", extra={"fields": {"folder": str(path)}})
            return None

    async def _adopt(self, lock: FolderLock) -> None:
        loop = asyncio.get_running_loop()
        survey = await loop.run_in_executor(self._executor, _survey, lock.path)
        self._add_waiting(survey.finished + len(survey.begun))
        try:
            for segment in list_segments(lock.path):
                await self._ship_finished(segment)
            begun = list(survey.begun.values())
            for first in range(0, len(begun), BATCH_ENTRIES):
                await self._ship(begun[first : first + BATCH_ENTRIES], is_interrupted=True)
        finally:
            self._add_waiting(-self._waiting)
        try:
            await _to_its_end(loop.run_in_executor(self._executor, _remove, lock, survey.corrupt))
        except OSError:
            self._unusable.add(lock.path)  # or it would be shipped again every five seconds
            raise
        log.info(
            "settled the journal of a process that is gone",
            extra={"fields": {"folder": lock.path.name, "finished": survey.finished, "interrupted": len(survey.begun)}},
        )

    def _add_waiting(self, entries: int) -> None:
        self._waiting += entries
        JOURNAL_ENTRIES.inc(entries)

    async def _ship_finished(self, segment: Path) -> None:
        loop = asyncio.get_running_loop()
        offset, members, end = 0, NO_MEMBERS, End.MORE
        while end is End.MORE:
            reading = await loop.run_in_executor(self._executor, read_segment, segment, offset, members)
            offset, members, end = reading.offset, reading.members, reading.end
            if reading.finished:
                await self._ship(list(reading.finished), is_interrupted=False)

    async def _ship(self, records: list[Record], *, is_interrupted: bool) -> None:
        while True:
            try:
                await self._batches.ship(records, is_interrupted=is_interrupted)
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._add_waiting(-len(records))
                return


async def _to_its_end(removing: asyncio.Future[None]) -> None:
    """Wait, cancelled or not: the lock must not be given up while a thread still removes files."""
    try:
        await asyncio.shield(removing)
    except asyncio.CancelledError:
        await asyncio.wait([removing])
        raise


def _survey(folder: Path) -> _Survey:
    survey = _Survey()
    for segment in list_segments(folder):
        offset, members, end = 0, NO_MEMBERS, End.MORE
        while end is End.MORE:
            reading = read_segment(segment, offset, members)
            offset, members, end = reading.offset, reading.members, reading.end
            for record in reading.records:
                _note(survey, record)
        unread = segment.stat().st_size - offset
        if end is End.CORRUPT:
            survey.corrupt.append(segment)
            log.error(
                "a segment of an abandoned journal is corrupt; the rest of it is unread and kept aside",
                extra={"fields": {"segment": str(segment), "offset": offset, "unread_bytes": unread}},
            )
        elif end is End.TORN:
            log.warning("dropped the torn tail of a journal", extra={"fields": {"segment": str(segment), "bytes": unread}})
    return survey


def _note(survey: _Survey, record: Record) -> None:
    """Count a finished entry; remember one that began until it finishes."""
    key = _key_of(record)
    if record.is_finished:
        survey.finished += 1
        survey.begun.pop(key, None)
    else:
        survey.begun[key] = record


def _key_of(record: Record) -> bytes:
    """What both records of an entry have in common. A journal may hold millions: ours are not parsed for it."""
    if record.members[:1] == ("request_id",) and (found := _OUR_KEY.match(record.payload)):
        return found[1]
    try:
        return encode(record.entry().get("request_id"))
    except (ValueError, RecursionError):
        return record.payload


def _remove(lock: FolderLock, corrupt: list[Path]) -> None:
    for segment in corrupt:
        keep_corrupt(segment)
    remove_folder(lock)
