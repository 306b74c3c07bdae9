"""The moment in which an object becomes visible at a store that is asked over a network.

Whoever gives up an upload then (its client left, an operator cut it) cannot take back what is on its way. So the request goes
on for a bounded time, and what it made visible is told, not forgotten.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from relay.destinations.object_store import Published


class Publication:
    """One object's publication: run once, or never."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Published] | None = None

    async def run(self, publish: Coroutine[Any, Any, Published]) -> Published:
        """Publish. Who is cancelled meanwhile must ask ``end`` what became of it."""
        self._task = asyncio.get_running_loop().create_task(publish, name="publish")
        return await asyncio.shield(self._task)

    async def end(self, seconds: float) -> Published | None:
        """What was published, if it was; what has not ended by then is stopped."""
        task = self._task
        if task is None:
            return None
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None
