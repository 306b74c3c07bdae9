"""Wait for something to become true: by polling with a deadline, never by sleeping and hoping."""

import asyncio
import inspect
import time
from collections.abc import Callable

HANGING_SECONDS = 20.0


async def until(is_true: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as the condition, a function or a coroutine function, holds; fail the test if it never does.

    It fails when a question that was put after so many seconds is still answered with no: a machine that stood still is not to blame.
    """
    deadline = time.monotonic() + seconds
    async with asyncio.timeout(seconds + HANGING_SECONDS):
        while True:
            is_last = time.monotonic() >= deadline
            holds = is_true()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            if is_last:
                raise TimeoutError(f"not so after {seconds} s")
            await asyncio.sleep(0.005)
