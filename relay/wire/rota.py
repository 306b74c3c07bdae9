"""Who reads when: how long one turn of the loop reads, how many requests begin in it, and who is next.

Everything else of the process waits while the loop reads: other connections, timers, whoever was woken. So whoever reads when
the turn has lasted for ``TURN_SECONDS`` gives way. Long bodies that are looked at where they lie (``peeking``) are read one after
the other, each until nothing is left of what has come; who was not reached is first in the next turn.

Requests that come together do not begin together: ``BEGUN_MOST`` in a turn, and the others wait, the bodies in their sockets. What
begins is worked at again in the next turns, when its body and its answer come; what began with a thousand others has left the
processor's caches by then. Of a long line a share begins, so that who waits behind ten thousand waits for a fraction of a second.
"""

import asyncio
from collections import OrderedDict, deque
from time import perf_counter
from typing import Protocol

TURN_SECONDS = 0.003
BEGUN_MOST = 8
BEGUN_SHARE = 32


class Looker(Protocol):
    """Who reads a long body."""

    def look(self) -> bool:
        """Read once; false when it is not to be asked again before something comes."""
        ...


class Beginner(Protocol):
    """Who has a request that waits to begin."""

    def begin_late(self) -> None:
        """Begin now, unless it need not be any more."""
        ...


class Rota:
    """The turns of one process."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._waiting: OrderedDict[Looker, None] = OrderedDict()
        self._is_due = False
        self._begun = 0
        self._late: deque[Beginner] = deque()

    def may_begin(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Count one more that is to begin in this turn of the loop; false when that is one too many: it is to wait (``let_wait``)."""
        if not self._begun:
            loop.call_soon(self._end_beginning, loop)
        self._begun += 1
        return self._begun <= BEGUN_MOST

    def let_wait(self, beginner: Beginner) -> None:
        """Have somebody begin in a later turn, before those who come then."""
        self._late.append(beginner)

    def _end_beginning(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = min(len(self._late), max(BEGUN_MOST, len(self._late) // BEGUN_SHARE))
        if self._begun:
            loop.call_soon(self._end_beginning, loop)
        for _ in range(self._begun):
            self._late.popleft().begin_late()

    def is_turn_over(self, loop: asyncio.AbstractEventLoop) -> bool:
        """True when this turn of the loop has lasted for long enough since this was first asked in it."""
        now = perf_counter()
        if self._began is None:
            self._began = now
            loop.call_soon(self._end_turn)
        return now - self._began >= TURN_SECONDS

    def _end_turn(self) -> None:
        self._began = None

    def queue(self, looker: Looker, loop: asyncio.AbstractEventLoop) -> None:
        """Have somebody look soon, once or more often. Who waits already keeps its place."""
        self._waiting[looker] = None
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_due = False
        is_over = False
        self.is_turn_over(loop)  # it begins now at the latest, and lasts for one look at least
        try:
            while self._waiting and not is_over:
                looker, _ = self._waiting.popitem(last=False)
                has_more = True
                while has_more and not is_over:
                    has_more = looker.look()
                    is_over = self.is_turn_over(loop)
                if has_more:
                    self._waiting[looker] = None
        finally:
            if self._waiting:
                self.queue(next(iter(self._waiting)), loop)
