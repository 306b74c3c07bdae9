"""Refusals in the ledger: one by one up to a rate, summed up beyond it.

A client in a loop must not fill the ledger. Of each tenant's refusals the first N of a second (setting) are
entries of their own; the others of that second become one entry with ``repeated: n``, told when the second is
over. A member in which they differ is null there; bytes are summed. While the journal is full nothing
is told one by one, and the sums wait until it has room: what is held is one entry a tenant, never more.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import RelayFault
from relay.ledger.entry import Entry
from relay.ledger.journal import Journal
from relay.settings import LedgerSettings

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
# Members that say which request it was. The others are the sum's own: its id, tenant, method, path and times.
_COMMON: Final = (
    "client_request_id",
    "upload_id",
    "key_id",
    "destination",
    "code",
    "status",
    "declared_length",
    "content_type",
    "client_address",
    "user_agent",
    "trace_id",
)
_SUMMED: Final = ("bytes_in", "bytes_out")


@dataclass(slots=True)
class _Window:
    second: int
    told: int = 0
    sum: Entry | None = None


class Refusals:
    """Tells refusals to the journal. ``clock`` gives seconds that never go back."""

    def __init__(self, journal: Journal, settings: LedgerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._most = settings.refusals_per_second
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    async def tell(self, entry: Entry) -> None:
        """Account for one refusal; ``entry`` is finished in all its members.

        Never raises because of the journal: the client is to get its refusal. What the disk refuses is summed up.
        """
        second = int(self._clock())
        window = self._windows.get(entry.tenant)
        if window is None:
            window = self._windows[entry.tenant] = _Window(second)
        elif window.second != second:
            window.second, window.told = second, 0
            if not self._journal.is_full:
                await self._tell_sum(window)
        if window.told < self._most and not self._journal.is_full:
            window.told += 1
            if await self._finish(entry):
                return
        _add(window, entry)

    async def run(self) -> None:
        """Tell the sums of the seconds that are over, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._tell_sums(is_over=True)
            except Exception:
                log.exception("summed refusals cannot be told; they wait")

    async def flush(self) -> None:
        """Tell all sums, at shutdown."""
        await self._tell_sums(is_over=False)

    async def _tell_sums(self, *, is_over: bool) -> None:
        second = int(self._clock())
        for tenant, window in list(self._windows.items()):
            if is_over and (window.second == second or self._journal.is_full):
                continue
            await self._tell_sum(window)
            if window.sum is None and window.second < second:
                self._windows.pop(tenant, None)

    async def _tell_sum(self, window: _Window) -> None:
        entry, window.sum = window.sum, None
        if entry is not None and not await self._finish(entry):
            _add(window, entry)

    async def _finish(self, entry: Entry) -> bool:
        try:
            await self._journal.finish(entry)
        except RelayFault as fault:
            log.warning("a refusal could not be written to the journal", extra={"fields": {"tenant": entry.tenant, "code": fault.code}})
            return False
        return True


def _add(window: _Window, entry: Entry) -> None:
    window.sum = replace(entry, repeated=entry.repeated or 1) if window.sum is None else _merged(window.sum, entry)


def _merged(summed: Entry, entry: Entry) -> Entry:
    """Add a refusal, or a later sum, to a sum."""
    summed.repeated = (summed.repeated or 1) + (entry.repeated or 1)
    for name in _COMMON:
        if getattr(summed, name) != getattr(entry, name):
            setattr(summed, name, None)
    for name in _SUMMED:
        setattr(summed, name, getattr(summed, name) + getattr(entry, name))
    summed.finished_us = entry.finished_us
    return summed
