"""A transport without a socket: what a protocol writes is kept, and bytes come to it in pieces as a test cuts them.

For properties that need thousands of connections; what sockets do beside is shown on sockets.
"""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any, Final

PATIENCE: Final = 200
"""Turns of the loop that a protocol may pause reading for."""

STILL: Final = 8
"""Turns of the loop in which nothing is written: nothing more happens by itself."""


class PaperTransport(asyncio.Transport):
    """One connection of a buffered protocol."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = bytearray()
        self.has_sent_end = False
        self._is_paused = False
        self._is_closing = False
        self.is_lost = False
        protocol.connection_made(self)

    async def give(self, pieces: Iterable[bytes], *, turns: int = 0) -> None:
        """Let these bytes come, a read for each piece, with so many turns of the loop in between; no more once nothing is read."""
        for piece in pieces:
            at = 0
            while at < len(piece):
                if not await self._is_reading():
                    return
                view = memoryview(self._protocol.get_buffer(-1))
                count = min(len(view), len(piece) - at)
                view[:count] = piece[at : at + count]
                self._protocol.buffer_updated(count)
                at += count
            for _ in range(turns):
                await asyncio.sleep(0)

    async def _is_reading(self) -> bool:
        for _ in range(PATIENCE):
            if self._is_closing or not self._is_paused:
                break
            await asyncio.sleep(0)
        return not self._is_closing and not self._is_paused

    async def settle(self) -> None:
        """Let everything happen that nothing more has to come for."""
        before = -1
        while before != (before := len(self.written)):
            for _ in range(STILL):
                await asyncio.sleep(0)

    def end(self) -> None:
        """The peer ends its side, and the connection with it."""
        if not self._is_closing and not self._protocol.eof_received():
            self.close()

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.has_sent_end = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _lose(self) -> None:
        self.is_lost = True
        self._protocol.connection_lost(None)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is nothing to limit."""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The same bytes, cut at these places, whatever they are."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]
