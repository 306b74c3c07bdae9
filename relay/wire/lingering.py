"""For how long a connection that got its last answer is read from, and may go on taking it.

Whoever closes while bytes lie unread has the kernel reset the connection, and the reset destroys an answer that is under way
(RFC 9112, "Tear-down"). So what still comes is dropped: so many bytes, and for so long.
"""

import asyncio
from typing import Final

LINGER_MOST_SECONDS: Final = 60.0
LINGER_BYTES: Final = 8 * 1024 * 1024


class Lingering:
    """The end of one connection, which begins now."""

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self._transport = transport
        self._dropped_bytes = 0
        self._unsent_bytes = transport.get_write_buffer_size() + 1
        self._ends = now + LINGER_MOST_SECONDS

    def may_drop(self, count: int) -> bool:
        """Count bytes that came; false when they are too many."""
        self._dropped_bytes += count
        return self._dropped_bytes <= LINGER_BYTES

    def has_progress(self, now: float) -> bool:
        """True while the client goes on taking the last answer, and has not done so for too long."""
        before, self._unsent_bytes = self._unsent_bytes, self._transport.get_write_buffer_size()
        return 0 < self._unsent_bytes < before and now < self._ends
