"""The ledger keeps up: a second behind at most, says the long form, ``python -m tests.faults.ledger_lag``."""

import asyncio
from pathlib import Path

from tests.faults.ledger_lag import LivedClock, measure


async def test_finished_entries_are_visible_soon_at_a_steady_rate(database_url: str, tmp_path: Path) -> None:
    clock = LivedClock()  # a busy machine stands still for a second, and so would the ledger
    ticking = asyncio.create_task(clock.run())
    try:
        assert not await measure(tmp_path, database_url, rate=500, seconds=3.0, clock=clock)
    finally:
        ticking.cancel()
