"""Moves finished entries from the journal into Postgres, in the background, in their order.

Theory of operation
-------------------
The shipper reads the journal's files from where it stopped, sends what it read as one batch (``batches``), and
only then moves its position: a batch is sent again until it is known to be in Postgres, and sending one twice
changes nothing. It keeps one batch in memory and no more; with Postgres away the rest waits in the files.

It wakes when an entry finishes, lingers briefly, and longer after a batch that was sent just before, so that a busy
process sends tens of entries at once; it begins behind an upload that ends, where one does soon, and goes on until nothing
is left. A failure makes it wait, from 50 ms up to a second, and try again for ever. Nothing ends the loop but cancellation,
and cancellation loses nothing: the position is where it was.

At shutdown ``drain`` sends what it can; what is left stays on disk for the next process. Not here: what Postgres
has against a row (``batches``), and the journals of other processes (``adoption``).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal

from relay.db.engine import Database
from relay.errors import DatabaseUnavailable
from relay.ledger.batches import Batches
from relay.ledger.journal import Journal, Span
from relay.ledger.records import RECORD_MEMBERS
from relay.ledger.segments import End, Reading, Record, read_segment
from relay.telemetry import JOURNAL_ENTRIES, JOURNAL_OLDEST_SECONDS

log = logging.getLogger(__name__)

BATCH_ENTRIES: Final = 500
LINGER_SECONDS: Final = 0.05
SPACING_SECONDS: Final = 0.5
"""How far apart batches that are not full begin at least: one costs as much as dozens of its rows."""
GAP_SECONDS: Final = 0.05
"""How long a batch that is not full waits for an upload to end: behind one there is the longest time before the next."""
PROBE_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 2.0
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_MOST_SECONDS: Final = 1.0


class Shipper:
    """Ships one process's journal; ``root`` is the folder of all journals, where rejected entries are kept."""

    def __init__(self, journal: Journal, database: Database, root: Path) -> None:
        self._journal = journal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._batches = Batches(database, root, self._executor)
        self._one_at_a_time = asyncio.Lock()
        self._failures = 0
        self._is_away = False
        self._asked_at: float | None = None
        self._published = 0
        self._began_at = -SPACING_SECONDS

    @property
    def database_state(self) -> Literal["ok", "away"]:
        """What Postgres was when it was last asked, two seconds ago at most; ``away`` too while it owes its answer for as long.

        A frozen server is found out by this, long before the statement times out.
        """
        is_silent = self._asked_at is not None and time.monotonic() - self._asked_at > SILENCE_SECONDS
        return "away" if self._is_away or is_silent else "ok"

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await self._wait_for_entries()
            await self._try_to_ship()

    async def drain(self, within: timedelta) -> bool:
        """Ship what is left in the journal, as far as time allows; True when nothing is left.

        To be called when no upload runs any more. What is left stays on disk.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                while self._journal.entries:
                    await self._try_to_ship()
        self._publish()
        return not self._journal.entries

    def close(self) -> None:
        """Let the thread go, and tell no longer of what is left. Call it when neither ``run`` nor ``drain`` runs."""
        self._executor.shutdown(wait=True)
        JOURNAL_ENTRIES.inc(-self._published)  # what is left is the next process's
        self._published = 0

    async def _wait_for_entries(self) -> None:
        self._publish()
        if not self._journal.entries:
            await self._await_entry(PROBE_SECONDS)
        if 0 < self._journal.entries < BATCH_ENTRIES:
            await asyncio.sleep(max(LINGER_SECONDS, self._began_at + SPACING_SECONDS - time.monotonic()))
            await self._await_entry(GAP_SECONDS)
        self._began_at = time.monotonic()

    async def _await_entry(self, most_seconds: float) -> None:
        """Wait until the next entry has come, but not for longer than that."""
        self._journal.arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await self._journal.arrived.wait()

    async def _try_to_ship(self) -> None:
        """Ship all there is; on a failure note it and wait."""
        try:
            if not await self._ship_all():
                await self._ask(self._batches.probe())
        except DatabaseUnavailable as error:
            self._note_failure(error)
        except Exception as error:  # noqa: BLE001 - the loop must never end, and nothing is given up: the batch is sent again
            self._note_failure(error)
        else:
            self._note_success()
            if self._journal.entries and self._journal.next_span() is None:
                await asyncio.sleep(RETRY_MOST_SECONDS)  # what is left is owed: the journal's disk refuses it
            return
        self._publish()
        await asyncio.sleep(min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(self._failures - 1, 10)))

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        was_away, self._is_away = self._is_away, isinstance(error, DatabaseUnavailable)
        if self._is_away and not was_away:
            log.warning("Postgres is away; entries wait in the journal")
        elif not self._is_away and self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            log.error("entries cannot be shipped and wait in the journal", exc_info=error, extra={"fields": {"failures": self._failures}})

    def _note_success(self) -> None:
        if self._failures:
            log.info("entries are shipped again", extra={"fields": {"failures": self._failures}})
        self._failures = 0
        self._is_away = False

    async def _ship_all(self) -> int:
        """Ship until no full batch is left; return how many batches it took."""
        batches = 0
        async with self._one_at_a_time:
            while (span := self._journal.next_span()) is not None:
                reading = await self._read(span)
                if reading is None:
                    continue
                if finished := reading.finished:
                    self._journal.note_oldest(_finished_us(finished[0]))
                    await self._ask(self._batches.ship(finished))
                    batches += 1
                self._journal.advance(span, reading.offset, len(finished))
                self._publish()
                if 0 < len(finished) < BATCH_ENTRIES:
                    break  # what has come meanwhile lingers too, or a steady trickle would go in batches of two or three
        return batches

    async def _ask(self, question: Awaitable[object]) -> None:
        self._asked_at = time.monotonic()
        try:
            await question
        finally:
            self._asked_at = None

    async def _read(self, span: Span) -> Reading | None:
        """Read a batch; ``None`` when the segment gives nothing more and was given up."""
        read = partial(read_segment, span.path, span.start, RECORD_MEMBERS, stop=span.stop, most_finished=BATCH_ENTRIES)
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._executor, read)
        except FileNotFoundError:
            reading = Reading((), span.start, (), End.CORRUPT)
        if reading.offset > span.start:
            return reading
        self._journal.skip_unreadable(span)
        return None

    def _publish(self) -> None:
        JOURNAL_ENTRIES.inc(self._journal.entries - self._published)  # the adoption adds its own
        self._published = self._journal.entries
        JOURNAL_OLDEST_SECONDS.set(self._journal.oldest_seconds)


def _finished_us(record: Record) -> object:
    try:
        return record.entry().get("finished_us")
    except (ValueError, RecursionError):
        return None
