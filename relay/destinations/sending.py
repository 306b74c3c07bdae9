"""Parts of one object on their way to a store: a few at a time, each held until the store has it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from relay.destinations.parts import Loan


class Droppable(Protocol):
    """What is sent."""

    def drop(self) -> None:
        """Hold nothing of it any more."""
        ...


class Sending:
    """What is on its way of one object. The first failure is raised to whoever writes."""

    def __init__(self, most: int) -> None:
        self._slots = asyncio.Semaphore(most)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self.was_cut = False
        """True once a part was given up while it was on its way: it may still arrive."""

    @property
    def has_failed(self) -> bool:
        """True once a part met what is to be raised."""
        return self._failure is not None

    async def turn(self) -> None:
        """Wait until one more may go."""
        await self._slots.acquire()

    def start(self, part: Droppable, loan: Loan, send: Callable[[], Awaitable[None]]) -> None:
        """Send a part, whose turn has come, in a task of its own; what it holds is given back however that ends."""
        task = asyncio.get_running_loop().create_task(self._send(send), name="part")
        self._tasks.add(task)

        def end(task: asyncio.Task[None]) -> None:  # not in the task: one that is cancelled before it has begun does nothing at all
            self._tasks.discard(task)
            self.was_cut = self.was_cut or task.cancelled()
            loan.release()
            part.drop()
            self._slots.release()

        task.add_done_callback(end)

    async def _send(self, send: Callable[[], Awaitable[None]]) -> None:
        try:
            await send()
        except Exception as error:  # noqa: BLE001 - it is raised to whoever writes
            self._failure = self._failure or error

    def raise_failure(self) -> None:
        """Raise what a part met, if one did."""
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """Wait until the store has all parts. Raises what one of them met."""
        while self._tasks and self._failure is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self.raise_failure()

    def cut(self) -> set[asyncio.Task[None]]:
        """Give up what is on its way; returns the tasks that are ending."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks
