"""Turns of those who read much: a bounded part of the pool, and one turn of an owner at a time."""

import asyncio

import pytest

from relay.db import turns
from relay.db.turns import Turns
from relay.errors import DatabaseUnavailable


class Crowd:
    """Owners that hold turns until they are let go; counts who holds one."""

    def __init__(self, most: int) -> None:
        self.turns = Turns(most)
        self.holding: list[str] = []
        self.most_at_once = 0
        self.may_end = asyncio.Event()

    async def read(self, owner: str) -> None:
        async with self.turns.turn(owner):
            self.holding.append(owner)
            self.most_at_once = max(self.most_at_once, len(self.holding))
            await self.may_end.wait()
            self.holding.remove(owner)


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_flood_of_one_owner_waits_behind_itself() -> None:
    crowd = Crowd(2)
    flood = [asyncio.create_task(crowd.read("acme")) for _ in range(50)]
    await settle()
    other = asyncio.create_task(crowd.read("globex"))
    await settle()
    assert sorted(crowd.holding) == ["acme", "globex"]
    crowd.may_end.set()
    await asyncio.gather(*flood, other)
    assert crowd.most_at_once == 2


async def test_all_owners_together_take_a_part() -> None:
    crowd = Crowd(2)
    readers = [asyncio.create_task(crowd.read(f"tenant {number}")) for number in range(10)]
    await settle()
    assert len(crowd.holding) == 2
    crowd.may_end.set()
    await asyncio.gather(*readers)
    assert crowd.most_at_once == 2


async def test_who_gives_up_leaves_no_turn_behind() -> None:
    crowd = Crowd(1)
    first = asyncio.create_task(crowd.read("acme"))
    await settle()
    waiting = [asyncio.create_task(crowd.read(owner)) for owner in ("acme", "globex")]
    await settle()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    crowd.may_end.set()
    await first
    await asyncio.wait_for(asyncio.gather(crowd.read("acme"), crowd.read("globex")), 5)


async def test_a_turn_that_does_not_come_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    crowd = Crowd(1)
    first = asyncio.create_task(crowd.read("acme"))
    await settle()
    with pytest.raises(DatabaseUnavailable):
        await crowd.read("globex")
    crowd.may_end.set()
    await first
