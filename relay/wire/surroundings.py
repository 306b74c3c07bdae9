"""What all client connections of a process share."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from relay.errors import RelayError
from relay.wire.intake import Intake
from relay.wire.mover import Mover
from relay.wire.rota import Rota

TICK_SECONDS: Final = 1.0


class Ticked(Protocol):
    """What hears the ticks."""

    def tick(self, now: float) -> None: ...


class Clock:
    """Ticks for all connections while there are any."""

    def __init__(self) -> None:
        self._is_ticking = False

    def watch(self, loop: asyncio.AbstractEventLoop, connections: set[Ticked]) -> None:
        """Make sure that these connections hear the ticks."""
        if not self._is_ticking:
            self._is_ticking = True
            loop.call_later(TICK_SECONDS, self._tick, loop, connections)

    def _tick(self, loop: asyncio.AbstractEventLoop, connections: set[Ticked]) -> None:
        self._is_ticking = False
        now = loop.time()
        for connection in list(connections):
            connection.tick(now)
        if connections:
            self.watch(loop, connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all connections of a process share. ``refuse`` renders an answer of our own: status, fields, body."""

    intake: Intake
    refuse: Callable[[RelayError], tuple[int, list[tuple[bytes, bytes]], bytes]]
    head_timeout: timedelta
    clock: Clock = field(default_factory=Clock)
    mover: Mover = field(default_factory=Mover)
    rota: Rota = field(default_factory=Rota)
