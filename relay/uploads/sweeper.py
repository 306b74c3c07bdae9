"""Ends multipart uploads that nobody sees to any more, so that no bucket is paid for what will never be an object.

Every process sweeps: what it gave up itself and could not abort, and what is noted in the folders of processes that are gone
(``destinations/upload_notes.py``). An upload whose id is noted is aborted by it. Where only the intention is noted, it is not
known whether the store has begun one: those of exactly that key that were begun at that time are aborted, unless a living
process of this host claims them. For a while that is done again, because the request may have been on its way.

What cannot be settled (the store is away, the credentials were withdrawn) is tried again with every sweep, and given up after days.
A process of another host that begins an upload of the same key in the same minute is not known here: a bucket that several hosts
write the same keys to should rather have a rule of its own for old multipart uploads.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from relay.db.engine import Database
from relay.destinations.opened import OpenDestinations
from relay.destinations.s3 import S3Store
from relay.destinations.store import StoreDestination
from relay.destinations.upload_notes import Noted, UploadNotes, read_notes
from relay.errors import DestinationMisconfigured, RelayError
from relay.ledger.folders import FolderLock
from relay.tenants.owned_destinations import find_destination

SWEEP_SECONDS: Final = 15.0
NOTE_SECONDS: Final = 30.0
SURE_AFTER: Final = timedelta(minutes=5)
GIVEN_UP_AFTER: Final = timedelta(days=7)

log = logging.getLogger(__name__)


class MultipartStore(Protocol):
    """A store whose multipart uploads can be ended from outside."""

    async def abort(self, key: str, upload_id: str) -> bool: ...
    async def find_begun(self, key: str, since: datetime) -> list[str]: ...


class StoreFinder:
    """Finds the buckets in which noted uploads are."""

    def __init__(self, database: Database, destinations: OpenDestinations) -> None:
        self._database = database
        self._destinations = destinations

    async def __call__(self, noted: Noted) -> MultipartStore | None:
        """Open the bucket of a noted upload; ``None`` when its destination is gone, or leads elsewhere.

        Raises:
            DatabaseUnavailable: Postgres does not answer.
            DestinationMisconfigured: its credentials cannot be opened.
        """
        async with self._database.transaction() as session:
            spec = await find_destination(session, noted.tenant, noted.destination)
        destination = self._destinations.open(spec) if spec is not None else None
        store = destination.store if isinstance(destination, StoreDestination) else None
        return store if isinstance(store, S3Store) and store.place.address == noted.bucket else None


FindStore = Callable[[Noted], Awaitable[MultipartStore | None]]
"""Opens the bucket in which a noted upload is; ``None`` when its destination is gone, or leads elsewhere."""


class Sweeper:
    """Sweeps for one process."""

    def __init__(self, notes: UploadNotes, find_store: FindStore) -> None:
        self._notes = notes
        self._find_store = find_store
        self._away: set[UUID] = set()
        """The destinations that did not answer in this sweep. They are asked once, so that nobody's dead store holds up the others."""

    async def run(self) -> None:
        """Sweep now, and again and again, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("the sweep for multipart uploads failed; it is tried again")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> int:
        """Settle what can be settled; returns how many notes remain.

        Raises:
            OSError: the folder of the notes cannot be read.
        """
        remaining = 0
        self._away.clear()
        for noted in list(self._notes.abandoned.values()):
            remaining += not await self._settle(noted)
        for lock in self._notes.orphaned():
            with lock:
                remaining += await self._settle_folder(lock)
        return remaining

    async def _settle_folder(self, lock: FolderLock) -> int:
        remaining = 0
        for noted in read_notes(lock.path):
            remaining += not await self._settle(noted)
        if not remaining:
            for torn in lock.path.iterdir():  # written in part, so the request that it announces was never sent
                torn.unlink()
            lock.path.rmdir()
        return remaining

    async def _settle(self, noted: Noted) -> bool:
        """Try to end a noted upload; true when its note is gone."""
        age = datetime.now(UTC) - noted.since
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                is_settled = noted.destination not in self._away and await self._end(noted, age)
        except (RelayError, TimeoutError, OSError) as error:
            is_settled = False
            if not isinstance(error, DestinationMisconfigured):
                self._away.add(noted.destination)
            log.warning(
                "an abandoned multipart upload cannot be aborted; it is tried again",
                extra={"fields": {"destination": str(noted.destination), "error": type(error).__name__}},
            )
        if not is_settled and age > GIVEN_UP_AFTER:
            log.error("gave up a multipart upload that cannot be aborted", extra={"fields": {"destination": str(noted.destination)}})
            is_settled = True
        if is_settled:
            self._notes.forget(noted)
        return is_settled

    async def _end(self, noted: Noted, age: timedelta) -> bool:
        store = await self._find_store(noted)
        if store is None:
            log.warning(
                "the destination of an abandoned multipart upload is gone", extra={"fields": {"destination": str(noted.destination)}}
            )
            return True
        if noted.upload_id is not None:
            return await store.abort(noted.key, noted.upload_id)
        found = await store.find_begun(noted.key, noted.since)
        others = [other for other in self._notes.living(noted.path.parent) if (other.bucket, other.key) == (noted.bucket, noted.key)]
        if any(other.upload_id is None for other in others):
            return False  # one of those found may be that one's
        claimed = {other.upload_id for other in others}
        for upload_id in found:
            if upload_id not in claimed:
                await store.abort(noted.key, upload_id)
        return age > SURE_AFTER
