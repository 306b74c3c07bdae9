"""The directory: from a key's id to its grant, in memory, never more than a second behind Postgres.

Theory of operation
-------------------
An *entry* is a grant and the listening session in which its reading began (``changes`` explains sessions and proof).
An entry is used without asking while its session is open and proven: then every change committed more than
900 ms ago has been told, and what was told to change is not here any more. This is the hot path: ``cached_grant``,
one look-up and a comparison of clocks.

*Invalidation.* A notification removes the entries of its tenant and raises the epoch; nothing is updated in place.
A reading is stored only if the epoch it began with still holds, because it may have seen the rows as they were before
the change whose notification has already come. It is then tried again, a few times; if changes keep coming, the last
reading is used once and not stored. Whoever waits for a reading uses it only if it began at the epoch that held when
they asked, or later: so no answer is older than an invalidation that was seen before the question.

*One reading per key at a time*, in a task of its own: a waiter that is cancelled leaves the others waiting for the same
reading. Few readings run at once, so a flood of made-up keys cannot take the pool from the ledger.

*Postgres away.* An unproven entry is read again before use. A reading has a second; if that fails, the entry is used as
it is, at most ``stale_seconds`` after it was last proven. From then on Postgres is *suspect*: for a second nobody asks,
and everybody uses what they have at once; then one reading is the probe, and only who has nothing waits for its verdict. A
success, or a new listening session, ends the suspicion. Without an entry there is nothing to go by: 503.

*Unknown ids* are remembered for a few seconds in a bounded table and forgotten at any notification, since it may tell
of the very key.

What stays true: a change is seen within a second while Postgres answers. Nothing here holds a connection after a
reading. Keys reach this module parsed: a malformed one never costs a query.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal
from uuid import UUID

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable, DirectoryUnavailable
from relay.settings import DirectorySettings
from relay.tenants import grants
from relay.tenants.changes import Changes, Session
from relay.tenants.tenant import Grant

READING_DEADLINE = timedelta(seconds=1)
SUSPICION_LASTS = timedelta(seconds=1)
ATTEMPTS = 3
READINGS_AT_ONCE = 4
UNKNOWN_MOST = 10_000

State = Literal["never_loaded", "ok", "stale"]
Read = Callable[[str], Awaitable[Grant | None]]


@dataclass(slots=True)
class _Reading:
    """What Postgres said, and when it was asked. ``began_at`` is monotonic."""

    epoch: int
    session: Session | None
    began_at: float = field(default_factory=time.monotonic)
    has_turn: bool = False
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    grant: Grant
    session: Session | None
    began_at: float

    def last_proven_at(self) -> float:
        return self.began_at if self.session is None else max(self.began_at, self.session.proven_at)


class Directory:
    """The grants of one process."""

    def __init__(self, database: Database, settings: DirectorySettings, changes: Changes, *, read: Read | None = None) -> None:
        """Read from ``database``, or by ``read`` where a test tells the story; be told of changes by ``changes``."""
        self._database = database
        self._settings = settings
        self._changes = changes
        self._read = read or self._read_stored
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._keys_of: dict[UUID, set[str]] = {}
        self._ids: dict[str, UUID] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._epoch = 0
        self._flights: dict[str, asyncio.Task[_Reading]] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(READINGS_AT_ONCE)
        self._failed_at: float | None = None
        self._probe: asyncio.Task[_Reading] | None = None
        changes.tell(self.forget, self._trust_again)

    @property
    def state(self) -> State:
        """``never_loaded`` until the first LISTEN, then ``ok`` while changes are proven to arrive, else ``stale``."""
        if not self._changes.has_listened:
            return "never_loaded"
        session = self._changes.session
        return "ok" if session is not None and session.is_proven(time.monotonic()) else "stale"

    def cached_grant(self, key_id: str) -> Grant | None:
        """The grant of a key, if it is in memory and proven; else ask ``find_grant``."""
        entry = self._entries.get(key_id)
        if entry is None or entry.session is None or not entry.session.is_proven(time.monotonic()):
            return None
        self._entries.move_to_end(key_id)
        return entry.grant

    async def find_grant(self, key_id: str) -> Grant | None:
        """Find the grant of a well-formed key id; ``None`` when there is no such key.

        Raises:
            DirectoryUnavailable: Postgres does not answer, and the key is not known or was last proven too long ago.
        """
        grant = self.cached_grant(key_id)
        if grant is not None:
            return grant
        if self._unknown.get(key_id, 0.0) > time.monotonic():
            return None
        seen = self._epoch
        while True:
            try:
                reading = await self._join(key_id)
            except DatabaseUnavailable:
                return self._find_stale(key_id)
            if reading.epoch >= seen:
                return reading.grant

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget what is known of a tenant, or of all with ``None``; readings under way are not stored."""
        self._epoch += 1
        self._unknown.clear()
        if tenant_id is None:
            self._entries.clear()
            self._keys_of.clear()
            self._ids.clear()
        for key_id in tuple(self._keys_of.get(tenant_id, ())) if tenant_id else ():
            self._drop(key_id)

    def forget_changed(self, slug: str) -> None:
        """Forget a tenant that this very process has changed: it does not wait to be told what it knows."""
        tenant_id = self._ids.get(slug)
        if tenant_id is None:  # nothing is held of it, but readings and unknown ids may be out of date
            self._epoch += 1
            self._unknown.clear()
        else:
            self.forget(tenant_id)

    async def close(self) -> None:
        """End every reading under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await asyncio.gather(*self._abandoned, return_exceptions=True)

    def _trust_again(self) -> None:
        self._failed_at = None
        self._unknown.clear()

    def _find_stale(self, key_id: str) -> Grant:
        entry = self._entries.get(key_id)
        if entry is None or time.monotonic() - entry.last_proven_at() > self._settings.stale_seconds.total_seconds():
            raise DirectoryUnavailable
        self._entries.move_to_end(key_id)
        return entry.grant

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    async def _join(self, key_id: str) -> _Reading:
        """Wait for the reading of a key, beginning one if none is under way."""
        while self._is_suspect() and self._probe is not None and not self._probe.done():
            if key_id in self._entries:
                raise DatabaseUnavailable  # one asks; meanwhile the others use what they have
            await asyncio.wait({self._probe})
        flight = self._flights.get(key_id)
        if flight is None:
            flight = asyncio.create_task(self._fly(key_id), name="directory reading")
            self._flights[key_id] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key_id, None))
        if self._failed_at is not None:
            self._probe = flight
        return await asyncio.shield(flight)

    def _is_suspect(self) -> bool:
        """Say whether Postgres failed at the last try.

        Raises:
            DatabaseUnavailable: that was less than a second ago.
        """
        if self._failed_at is None:
            return False
        if time.monotonic() - self._failed_at < SUSPICION_LASTS.total_seconds():
            raise DatabaseUnavailable
        return True

    async def _fly(self, key_id: str) -> _Reading:
        deadline = time.monotonic() + READING_DEADLINE.total_seconds()
        reading = await self._attempt(key_id, deadline)
        for _ in range(ATTEMPTS - 1):
            if reading.epoch == self._epoch:
                break
            reading = await self._attempt(key_id, deadline)
        self._keep(key_id, reading)
        return reading

    async def _attempt(self, key_id: str, deadline: float) -> _Reading:
        reading = _Reading(self._epoch, self._changes.session)
        asking = asyncio.create_task(self._ask(key_id, reading), name="directory query")
        try:
            await _result_by(deadline, asking)
        except DatabaseUnavailable:
            # A reading that never had its turn says something of the crowd, nothing of Postgres.
            if reading.has_turn or self._failed_at is not None:
                self._failed_at = time.monotonic()
            raise
        finally:
            self._abandon(asking)
        self._failed_at = None
        return reading

    async def _ask(self, key_id: str, reading: _Reading) -> None:
        async with self._turns:
            reading.has_turn = True
            reading.epoch, reading.session, reading.began_at = self._epoch, self._changes.session, time.monotonic()
            reading.grant = await self._read(key_id)

    async def _read_stored(self, key_id: str) -> Grant | None:
        async with self._database.transaction() as session:
            return await grants.find_grant(session, key_id)

    def _abandon(self, asking: asyncio.Task[None]) -> None:
        """Cancel a query without waiting for its end: taking leave of a frozen server takes time."""
        if asking.done():
            return
        self._abandoned.add(asking)
        asking.add_done_callback(self._forget_abandoned)
        asking.cancel()

    def _forget_abandoned(self, asking: asyncio.Task[None]) -> None:
        self._abandoned.discard(asking)
        if not asking.cancelled():
            asking.exception()  # looked at, so that the loop does not report it: the failure is counted already

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────

    def _keep(self, key_id: str, reading: _Reading) -> None:
        self._drop(key_id)
        if reading.epoch != self._epoch:
            return
        if reading.grant is None:
            self._unknown[key_id] = time.monotonic() + self._settings.unknown_seconds.total_seconds()
            self._unknown.move_to_end(key_id)
            if len(self._unknown) > UNKNOWN_MOST:
                self._unknown.popitem(last=False)
            return
        self._entries[key_id] = _Entry(reading.grant, reading.session, reading.began_at)
        self._keys_of.setdefault(reading.grant.tenant.id, set()).add(key_id)
        self._ids[reading.grant.tenant.slug] = reading.grant.tenant.id
        if len(self._entries) > self._settings.entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, key_id: str) -> None:
        entry = self._entries.pop(key_id, None)
        if entry is None:
            return
        keys = self._keys_of[entry.grant.tenant.id]
        keys.discard(key_id)
        if not keys:
            del self._keys_of[entry.grant.tenant.id]
            self._ids.pop(entry.grant.tenant.slug, None)


async def _result_by(deadline: float, asking: asyncio.Task[None]) -> None:
    """Wait for a task until ``deadline`` (monotonic); it runs on beyond.

    Raises:
        DatabaseUnavailable: it has no result by then.
    """
    await asyncio.wait({asking}, timeout=deadline - time.monotonic())
    if not asking.done():
        raise DatabaseUnavailable
    asking.result()
