"""The one buffer into which a process receives, and how much of it each read may fill.

A read fills the buffer and is taken out of it before the loop does anything else, so all connections of a process
share one. What a destination does not take of it at once is what an upload holds. The more uploads run, the smaller the
reads. An upload that stands still keeps what it held when fewer ran: the n-th of them at most the budget divided by
``SHARES`` times n, and all of n together that divided by ``SHARES`` times 1 + 1/2 + … + 1/n, which is within the budget for
more uploads than a process can have. Below ``SMALLEST`` a read costs more in calls than it saves in memory.
"""

from relay.settings import MemorySettings

LARGEST = 1024 * 1024
SMALLEST = 64 * 1024
TINY = 16 * 1024
SHARES = 16


class Intake:
    """The receive buffer of one process."""

    def __init__(self, settings: MemorySettings) -> None:
        self._budget_bytes = settings.buffers
        self._running = 0
        self.buffer = bytearray(LARGEST)
        self._view = memoryview(self.buffer)
        self._tiny = self._view[:TINY]
        self.slice = self._view
        """What the next read may fill."""

    @property
    def slice_bytes(self) -> int:
        """The size of ``slice``."""
        return len(self.slice)

    @property
    def tiny(self) -> memoryview:
        """What a read may fill on a connection whose bytes are dear to parse."""
        return self._tiny

    def enter(self) -> None:
        """A body begins to come."""
        self._running += 1
        self._share()

    def leave(self) -> None:
        """It has come, or will not come."""
        self._running -= 1
        self._share()

    def _share(self) -> None:
        share = self._budget_bytes // (SHARES * max(1, self._running))
        size = LARGEST if share >= LARGEST else max(SMALLEST, share & ~0xFFF)
        if size != len(self.slice):
            self.slice = self._view[:size]
