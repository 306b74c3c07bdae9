"""Turns: long readings take a part of the pool at most, and one owner one connection of it at a time.

Uploads with unknown keys, the shipper and operators' changes share the pool with those who read much. A tenant that lists its
uploads in a flood, or a search through a year, waits for its turn, and nobody else does.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from relay.errors import DatabaseUnavailable

PATIENCE_SECONDS: Final = 30.0


class Turns:
    """The turns of one pool."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self._owners: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block.

        Raises:
            DatabaseUnavailable: it did not come in time.
        """
        lock = self._owners.setdefault(owner, asyncio.Lock())
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await held.enter_async_context(lock)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise DatabaseUnavailable from None
            yield
