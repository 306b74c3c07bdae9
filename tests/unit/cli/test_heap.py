"""Free memory goes back to the system, holes and all."""

import ctypes
from pathlib import Path

import pytest

from relay.cli.heap import MUCH, Heap
from tests.support.waiting import until

PIECE = 4_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another allocator than glibc's")
async def test_holes_are_given_back_and_little_is_left_alone() -> None:
    heap = Heap()
    crowd = [bytes(PIECE) for _ in range(3 * MUCH // PIECE)]
    full = resident()
    few = crowd[::50]
    del crowd
    assert full - resident() < MUCH  # what is left stands in the way
    await heap.look()
    await until(lambda: full - resident() >= 2 * MUCH)
    assert sum(map(len, few)) >= PIECE
    assert heap._trimming is not None and await heap._trimming == 1
    await heap.look()
    assert heap._trimming.done()  # not again so soon
