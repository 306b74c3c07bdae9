"""Wait for something to become true: by polling with a deadline, never by sleeping and hoping."""

import asyncio
import inspect
from collections.abc import Callable


async def until(is_true: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as the condition, a function or a coroutine function, holds; fail the test if it never does."""
    async with asyncio.timeout(seconds):
        while True:
            holds = is_true()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.005)
