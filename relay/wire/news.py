"""Waiting for whatever comes next: an event for those who look for themselves at what is new.

Nothing is remembered: what is told while nobody waits is seen by whoever looks before he waits, as everybody here does. So
telling costs next to nothing while nobody waits, which is how most small uploads go by.
"""

import asyncio


class News:
    """One place to wait at."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        """Something is new."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def come(self) -> None:
        """Wait until something is."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
