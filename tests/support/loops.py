"""Both event loops: what must hold on each is run on each."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import uvloop

Result = TypeVar("Result")

FACTORIES: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
LOOPS: Final = tuple(FACTORIES)
SHIPPED: Final = "uvloop"
"""What a worker runs on, unless it cannot be had."""


def run_in(loop: str, run: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run to the end in a loop of this kind."""
    with asyncio.Runner(loop_factory=FACTORIES[loop]) as runner:
        return runner.run(run())
