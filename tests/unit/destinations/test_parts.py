"""What parts may hold: the bound, the line, and that nobody waits for ever."""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations import slabs
from relay.destinations.part_digests import DigestThreads, PartDigests
from relay.destinations.parts import (
    LARGE_PART_BYTES,
    LARGEST_PART,
    MIB,
    MOST_PARTS,
    PART_BYTES,
    Loan,
    PartAccount,
    PartMemory,
    size_part,
)
from relay.destinations.slabs import SLAB_BYTES
from tests.support.waiting import until

TIB = 1 << 40


@given(st.integers(0, 5 * TIB), st.integers(5 * MIB, 64 * MIB))
def test_parts_of_a_known_length_are_equal_and_few_enough(length: int, part_bytes: int) -> None:
    sizes = {size_part(number, part_bytes, length) for number in (1, 2, 5_000, MOST_PARTS)}
    size = sizes.pop()
    assert not sizes and part_bytes <= size <= LARGEST_PART and size * MOST_PARTS >= length


def test_parts_of_an_unknown_length_grow_as_far_as_five_tebibytes() -> None:
    sizes = [size_part(number, 5 * MIB, None) for number in range(1, MOST_PARTS + 1)]
    assert sum(sizes) >= 5 * TIB and max(sizes) <= LARGEST_PART and set(sizes[:1_000]) == {5 * MIB} and sizes == sorted(sizes)


def test_parts_are_large_while_few_objects_are_on_their_way() -> None:
    memory, accounts, sizes = PartMemory(512 * MIB), list[PartAccount](), list[int]()
    for owner in ("a", "a", "b", "c"):
        accounts.append(memory.open(owner))
        sizes.append(memory.choose_part_bytes(owner, None))
    assert sizes == [LARGE_PART_BYTES, PART_BYTES, LARGE_PART_BYTES, PART_BYTES]
    assert memory.choose_part_bytes("c", 5 * MIB) == 5 * MIB, "as the destination says"
    assert memory.choose_part_bytes("c", 5_000 * MIB) == memory.share_bytes
    for account in accounts * 2:
        account.close()
    assert memory.open_objects == 0
    memory.open("a")
    assert memory.choose_part_bytes("a", None) == LARGE_PART_BYTES


def test_little_memory_has_small_parts() -> None:
    memory = PartMemory(32 * MIB)
    memory.open("a")
    assert memory.choose_part_bytes("a", None) == PART_BYTES


class Uploads:
    """Uploads that fill parts by and by, and a store that takes them in any order."""

    def __init__(self, memory: PartMemory, *, seed: int) -> None:
        self.memory = memory
        self.chance = random.Random(seed)
        self.most = 0
        self.done: Counter[str] = Counter()

    async def run(self, owner: str, part_bytes: int, parts: int, *, stalls: bool = False) -> None:
        account = self.memory.open(owner)
        sending: set[asyncio.Task[None]] = set()
        try:
            for _ in range(parts):
                account.begin(part_bytes)
                await self._fill(account, part_bytes, stalls=stalls)
                sending.add(asyncio.create_task(self._acknowledge(account.hand_over())))
                if len(sending) >= 3:
                    _, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            self.done[owner] += 1
        finally:
            account.close()
            await asyncio.gather(*sending)

    async def _fill(self, account: PartAccount, part_bytes: int, *, stalls: bool) -> None:
        filled = 0
        while filled < part_bytes:
            count = min(part_bytes - filled, self.chance.randint(1, max(1, part_bytes // 3)))
            await account.take(count)
            filled += count
            self.most = max(self.most, self.memory.held_bytes)
            if stalls and filled * 2 > part_bytes:
                await asyncio.Event().wait()
            await asyncio.sleep(0)

    async def _acknowledge(self, loan: Loan) -> None:
        for _ in range(self.chance.randint(1, 5)):
            await asyncio.sleep(0)
        loan.release()


@pytest.mark.parametrize("seed", range(4))
async def test_many_uploads_end_within_the_bound_whatever_their_parts(seed: int) -> None:
    memory = PartMemory(800)
    uploads = Uploads(memory, seed=seed)
    chance = random.Random(seed)
    async with asyncio.timeout(20):
        runs = (uploads.run(f"tenant {number % 3}", chance.choice([10, 50, 90, 340]), 4) for number in range(60))
        await asyncio.gather(*runs)
    assert uploads.done.total() == 60 and 400 < uploads.most <= 800 and memory.held_bytes == memory.waiting == 0


async def test_a_tenant_whose_clients_stall_leaves_half_to_the_others() -> None:
    memory = PartMemory(800)
    uploads = Uploads(memory, seed=1)
    stalled = [asyncio.create_task(uploads.run("slow", 100, 1, stalls=True)) for _ in range(40)]
    for _ in range(20):
        await asyncio.sleep(0)
    held = memory.held_bytes
    assert held <= 350 and memory.waiting > 0
    async with asyncio.timeout(10):
        await asyncio.gather(*(uploads.run("quick", 100, 5) for _ in range(10)))
    assert uploads.done == {"quick": 10} and uploads.most <= 800
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)
    assert memory.held_bytes == memory.waiting == 0


async def test_those_who_wait_may_all_give_up_at_once() -> None:
    memory = PartMemory(32 * MIB)
    accounts = [memory.open(f"tenant {number}") for number in range(8)]
    for account in accounts:
        account.begin(8 * MIB)
    tasks = [asyncio.create_task(account.take(8 * MIB)) for account in accounts]
    while memory.waiting < 5:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    accounts[0].close()  # room comes free before they know
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 3 + [asyncio.CancelledError] * 5
    for account in accounts:
        account.close()
    assert memory.held_bytes == memory.waiting == 0


async def test_a_part_larger_than_the_budget_goes_alone() -> None:
    memory = PartMemory(800)
    uploads = Uploads(memory, seed=1)
    async with asyncio.timeout(10):
        await asyncio.gather(uploads.run("one", 5_000, 2), uploads.run("one", 5_000, 2), uploads.run("one", 10, 20))
    assert uploads.done == {"one": 3} and uploads.most <= 5_000 + 700


async def test_nothing_is_held_of_a_part_that_has_not_come() -> None:
    memory = PartMemory(800)
    accounts = [memory.open(f"tenant {number}") for number in range(100)]
    for account in accounts:
        account.begin(100)
        await account.take(1)
    assert memory.held_bytes == 100


async def test_parked_objects_have_a_bound_of_their_own() -> None:
    memory = PartMemory(800)
    parked = []
    for _ in range(20):
        account = memory.open("one")
        account.begin(10)
        await account.take(10)
        loan = account.hand_over()
        if loan.park():
            parked.append(loan)
        else:
            loan.release()
    assert len(parked) == 5 and memory.held_bytes == 50
    for loan in parked:
        loan.release()
        loan.release()
    assert memory.held_bytes == 0


async def test_memory_is_used_again_unless_somebody_still_looks_at_it_and_within_the_bound() -> None:
    memory = PartMemory(64 * MIB)
    seen, unseen = memory.take_chunk(SLAB_BYTES), memory.take_chunk(SLAB_BYTES)
    view = memoryview(seen)[5:9]
    view[:] = b"mine"
    memory.leave_chunk(seen)
    memory.leave_chunk(unseen)
    assert memory.take_chunk(SLAB_BYTES) is unseen
    other = memory.take_chunk(SLAB_BYTES)
    other[:] = b"x" * SLAB_BYTES
    assert other is not seen and bytes(view) == b"mine" and len(unseen) == SLAB_BYTES
    for _ in range(20):
        memory.leave_chunk(bytearray(SLAB_BYTES))
    assert memory.spare_bytes == 56 * MIB


async def test_what_is_kept_for_the_next_counts_within_the_bound() -> None:
    memory = PartMemory(64 * MIB)
    room = 56 * MIB
    account = memory.open("one")
    account.begin(20 * MIB)
    await account.take(20 * MIB)
    for _ in range(20):
        memory.leave_chunk(bytearray(SLAB_BYTES))
    assert memory.spare_bytes == room - 20 * MIB
    other = memory.open("other")
    other.begin(28 * MIB)
    await other.take(26 * MIB)
    assert memory.held_bytes == 46 * MIB and room - SLAB_BYTES <= memory.held_bytes + memory.spare_bytes <= room
    account.close()
    other.close()
    assert memory.held_bytes == 0


async def test_what_nobody_needs_any_more_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what goes from one to the next is not."""
    monkeypatch.setattr(slabs, "IDLE_SECONDS", 0.05)
    memory = PartMemory(512 * MIB)
    for chunk in [memory.take_chunk(SLAB_BYTES) for _ in range(10)]:
        memory.leave_chunk(chunk)
    known = memory.take_chunk(SLAB_BYTES)
    assert memory.spare_bytes == 9 * SLAB_BYTES
    memory.leave_chunk(known)

    async def use() -> None:
        while True:
            used = [memory.take_chunk(SLAB_BYTES) for _ in range(3)]
            assert used[0] is known
            await asyncio.sleep(0)
            while used:
                memory.leave_chunk(used.pop())

    using = asyncio.create_task(use())
    await until(lambda: memory.spare_bytes <= 3 * SLAB_BYTES)
    await asyncio.sleep(0.2)
    using.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await using
    await until(lambda: memory.spare_bytes == 0)


async def test_digests_are_those_of_the_whole_and_of_each_part() -> None:
    threads = DigestThreads()
    whole, parts, data = threads.open(), [PartDigests(is_signed=True) for _ in range(3)], random.Random(1).randbytes(9 << 20)
    for index, part in enumerate(parts):
        whole.feed(part, [data[(index * 3) << 20 : ((index * 3 + 3) << 20) - 5], data[((index * 3 + 3) << 20) - 5 : (index * 3 + 3) << 20]])
        await whole.reach()
        assert whole.sha256 == hashlib.sha256(data[: (index * 3 + 3) << 20]).hexdigest()
    assert (whole.sha256, whole.crc32c) == (hashlib.sha256(data).hexdigest(), f"{crc32c(data):08x}")
    for index, part in enumerate(parts):
        assert part.sha256 == hashlib.sha256(data[(index * 3) << 20 : (index * 3 + 3) << 20]).hexdigest()
    threads.shutdown()
