"""Relay's app with a sampler of its loop's lag: ``relay serve --app bench.lag_probe:create_app``.

The sampler asks to be called every few milliseconds and notes how much later it was, into a file that is mapped into
memory: the first number is how many there were, the others are the latest ones, in seconds. Nobody has to ask the worker.
"""

import asyncio
import contextlib
import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from relay.app import create_app as create_relay
from relay.settings import Settings

EVERY_SECONDS = 0.005
SLOTS = 1 << 16
VARIABLE = "BENCH_LAG_FILE"


class LagFile:
    """The samples, in a file."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate((SLOTS + 1) * 8)
            self._map = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._map).cast("d")

    @property
    def count(self) -> int:
        """How many samples there were."""
        return int(self._numbers[0])

    def add(self, seconds: float) -> None:
        """Note one."""
        count = self.count
        self._numbers[1 + count % SLOTS] = seconds
        self._numbers[0] = count + 1

    def since(self, count: int) -> list[float]:
        """Those after the first ``count``, as far as they are kept."""
        last = self.count
        return [self._numbers[1 + index % SLOTS] for index in range(max(count, last - SLOTS), last)]


def sample(loop: asyncio.AbstractEventLoop, file: LagFile, due: float) -> None:
    """Note how late this call is, and ask for the next."""
    now = loop.time()
    file.add(now - due)
    loop.call_at(now + EVERY_SECONDS, sample, loop, file, now + EVERY_SECONDS)


def create_app(settings: Settings) -> FastAPI:
    """Make the app; the sampler starts with its lifespan and ends with the loop."""
    app = create_relay(settings)
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(of: Any) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        async with inner(of) as state:
            sample(loop, LagFile(Path(os.environ[VARIABLE])), loop.time())
            yield state

    app.router.lifespan_context = lifespan
    return app
