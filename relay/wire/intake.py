"""The one buffer into which a process receives, and how much of it each read may fill.

A read fills the buffer and is taken out of it before the loop does anything else, so all connections of a process
share one. What a destination does not take of it at once is what an upload holds. The more uploads run, the smaller the
reads. An upload that stands still keeps what it held when fewer ran: the n-th of them at most the budget divided by
``SHARES`` times n, and all of n together that divided by ``SHARES`` times 1 + 1/2 + … + 1/n, which is within the budget for
more uploads than a process can have. Below ``SMALLEST`` a read costs more in calls than it saves in memory.

A look at a body that the kernel moves on (``peeking``) is bounded by the budget alone, and by what the destination has room
for: it gives way by time, and what turns out not to be moved is what an upload holds of it. A read in which a request is to
begin takes ``FIRST``: nobody takes its body yet, so what comes with the head is copied. Where it has to wait before it begins
(``rota``), what was read is held, and is ``LATE`` at most.

A loop reads on from one connection for as long as its reads are full (libuv 32 times), while the others wait, and so does
everything else. So the reads of one turn take ``TURN_BYTES`` together, one of each connection; how long they take is the
``rota``'s to bound. Giving way sooner costs: what was asleep on both sides is woken for each piece.
"""

from relay.settings import MemorySettings
from relay.wire.pieces import PLENTY

LARGEST = 1024 * 1024
SMALLEST = 64 * 1024
TINY = 16 * 1024
FIRST = 128 * 1024
LATE = 2 * 1024
SHARES = 16
TURN_BYTES = 4 * 1024 * 1024
TURN_SMALLEST = 128 * 1024


class Intake:
    """The receive buffer of one process."""

    def __init__(self, settings: MemorySettings) -> None:
        self._budget_bytes = settings.buffers
        self._running = 0
        self.buffer = bytearray(LARGEST)
        self._view = memoryview(self.buffer)
        self._tiny = self._view[:TINY]
        self.first = self._view[:FIRST]
        """What a read may fill in which a request is to begin: nobody takes its body yet."""
        self.late = self._view[:LATE]
        """What a read may fill whose request has to wait."""
        self._share = self._view
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

    def view_of(self, wanted_bytes: int) -> memoryview:
        """What a look may fill by which so many bytes are wanted: more than ``slice`` only where somebody says how many."""
        return self.slice if wanted_bytes >= PLENTY else self._share[: max(SMALLEST, wanted_bytes)]

    def enter(self) -> None:
        """A body begins to come."""
        self._running += 1
        self._divide()

    def leave(self) -> None:
        """It has come, or will not come."""
        self._running -= 1
        self._divide()

    def _divide(self) -> None:
        running = max(1, self._running)
        share = max(SMALLEST, min(LARGEST, self._budget_bytes // (SHARES * running)) & ~0xFFF)
        size = min(share, max(SMALLEST, max(TURN_SMALLEST, TURN_BYTES // running) & ~0xFFF))
        if share != len(self._share):
            self._share = self._view[:share]
        if size != len(self.slice):
            self.slice = self._view[:size]
