"""Memory that is used again: what comes new from the system costs several times the copy of bytes into it.

What lay in it is still there, so nobody is shown more of it than was written to it since; and what somebody still looks at is not
used again: a connection that is being given up may still have bytes of it to send.

What nobody needed for ``IDLE_SECONDS`` is given back to the system.
"""

import asyncio
from typing import Final

SLAB_BYTES: Final = 4 << 20
"""Memory of this size, and of no other, is used again."""
IDLE_SECONDS: Final = 30.0
"""In a virtual machine 64 MiB that come anew cost 40 ms of processor time, as much as their SHA-256."""
GIVEN_MOST: Final = 8
"""So many are given back at once, which takes about two milliseconds, and the next after ``PAUSE_SECONDS``."""
PAUSE_SECONDS: Final = 0.05


class Slabs:
    """The spare memory of one process."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []
        self._unneeded = 0
        self._is_watched = False

    @property
    def spare_bytes(self) -> int:
        """What is kept for whoever comes next."""
        return len(self._spare) * SLAB_BYTES

    def take(self, count: int) -> bytearray:
        """So many bytes. What is in them is nobody's business."""
        if count != SLAB_BYTES or not self._spare:
            return bytearray(count)
        slab = self._spare.pop()
        self._unneeded = min(self._unneeded, len(self._spare))
        return slab

    def leave(self, chunk: bytearray, most_bytes: int) -> None:
        """Keep it for the next, unless somebody still looks at it, or that would make it more than so many bytes."""
        if len(chunk) == SLAB_BYTES and self.spare_bytes + SLAB_BYTES <= most_bytes and not _is_seen(chunk):
            self._spare.append(chunk)
            self._watch(IDLE_SECONDS)

    def shrink(self, most_bytes: int) -> None:
        """Keep no more than so many bytes."""
        excess = len(self._spare) - max(0, most_bytes) // SLAB_BYTES
        if excess > 0:
            del self._spare[:excess]
            self._unneeded = max(0, self._unneeded - excess)

    def _watch(self, seconds: float) -> None:
        if not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        """Give back what was not needed since the last time: the last that came goes first, so that lies at the beginning."""
        self._is_watched = False
        given = min(self._unneeded, GIVEN_MOST)
        del self._spare[:given]
        self._unneeded -= given
        if self._unneeded:
            self._watch(PAUSE_SECONDS)
        elif self._spare:
            self._unneeded = len(self._spare)
            self._watch(IDLE_SECONDS)


def _is_seen(chunk: bytearray) -> bool:
    """True while somebody has a view of it: then its length cannot change."""
    try:
        chunk.append(chunk.pop())
    except BufferError:
        return True
    return False
