"""Parts of objects on their way to a store: how large they are, and what they may hold in memory.

Theory of operation. A store wants an object in parts of megabytes, and a part is held until the store has it, so that it
can be sent again. ``PartMemory`` bounds what all parts of a process hold together: who wants to add to a part takes room
for bytes that it has received, and for not many more that may come, and waits where there is none.

Half-filled parts could then wait for one another for ever, each holding what another one needs. So nobody gets room unless
the whole rest of its part fits into what is free: whoever was given room last can fill its part, and what a filled part
holds comes back once the store has it. Who begins a part waits behind those who waited before; who is in the middle of one
may pass them, for only then do they get what they wait for.

A tenant holds at most half, so that one whose clients stall, or whose store does, leaves the other half to the others. A part
that is larger than that half gets more than it when nothing else of its tenant is held: by this alone the bound may be passed.

Objects that are whole and wait to be published are *parked*, in room of their own.

What a part costs beside its bytes is the same whatever its size: a request, a signature, a row of the store's. So parts are twice
as large while few objects are on their way; among many, each would keep more of the others waiting.

The memory itself comes in chunks, which are used again (``slabs``). What is kept for the next is counted within the bound.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from relay.destinations.slabs import Slabs

MIB: Final = 1 << 20
PART_BYTES: Final = 8 * MIB
LARGE_PART_BYTES: Final = 16 * MIB
CALM_PARTS: Final = 8
"""Parts are large while there would be room for so many of them for each object of the tenant, and of the process."""
MOST_PARTS: Final = 10_000
LARGEST_PART: Final = 5 << 30
SAME_PARTS: Final = 1_000
GROWTH_BYTES: Final = 144 << 10

_PARKED_SHARE: Final = 8
_OWNER_SHARE: Final = 2

OwnedPiece = bytes | bytearray | memoryview


def size_part(number: int, part_bytes: int, declared_bytes: int | None) -> int:
    """The size of part ``number`` (from 1), but for the last one, which is what is left.

    Where the length of the object is known, all parts are of one size, which some stores demand. Where it is not, they
    grow after a while, so that 10,000 of them hold 5 TiB.
    """
    if declared_bytes is not None:
        least = -(-declared_bytes // MOST_PARTS)
        return part_bytes if least <= part_bytes else -(-least // MIB) * MIB
    return min(LARGEST_PART, part_bytes + GROWTH_BYTES * max(0, number - SAME_PARTS))


class PartMemory:
    """What the parts of all uploads of a process may hold."""

    def __init__(self, budget_bytes: int) -> None:
        self._parked_most = budget_bytes // _PARKED_SHARE
        self._room_bytes = budget_bytes - self._parked_most
        self.share_bytes = self._room_bytes // _OWNER_SHARE
        """What a tenant may hold. No part is larger, unless its object would have too many."""

        self._open_by: Counter[str] = Counter()
        self._held_bytes = 0
        self._held_by: Counter[str] = Counter()
        self._parked_by: Counter[str] = Counter()
        self._waiters: deque[_Waiter] = deque()
        self._slabs = Slabs()

    @property
    def held_bytes(self) -> int:
        """What is held now, parked objects included."""
        return self._held_bytes + self._parked_by.total()

    @property
    def spare_bytes(self) -> int:
        """Memory that is kept for the next."""
        return self._slabs.spare_bytes

    @property
    def waiting(self) -> int:
        """Uploads that wait for room."""
        return len(self._waiters)

    @property
    def open_objects(self) -> int:
        """Objects that have an account."""
        return self._open_by.total()

    def open(self, owner: str) -> "PartAccount":
        """An account for the parts of one object, which belongs to this tenant."""
        self._open_by[owner] += 1
        return PartAccount(self, owner)

    def leave(self, owner: str) -> None:
        """An account of this tenant is closed."""
        self._open_by[owner] -= 1
        if not self._open_by[owner]:
            del self._open_by[owner]

    def choose_part_bytes(self, owner: str, told_bytes: int | None) -> int:
        """The usual size of the parts of an object that has an account: as its destination says, or large while few others have one."""
        for_each = min(self.share_bytes // self._open_by[owner], self._room_bytes // self.open_objects)
        usual = LARGE_PART_BYTES if for_each >= CALM_PARTS * LARGE_PART_BYTES else PART_BYTES
        return min(told_bytes or usual, self.share_bytes)

    def take_now(self, account: "PartAccount", count: int) -> bool:
        """Count so many bytes more as held by the account, if it may hold them without waiting."""
        if self._may_go_on(account, count) and (account.is_begun or not self._has_line()):
            self._give(account, count)
            return True
        return False

    async def take(self, account: "PartAccount", count: int) -> None:
        """Wait until the account may hold so many bytes more, and count them as held."""
        if self.take_now(account, count):
            return
        waiter = _Waiter(account, count, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.given
        except asyncio.CancelledError:
            if waiter.given.done() and not waiter.given.cancelled():
                account.held_bytes -= count
                self.give_back(account.owner, count)
            else:
                self._waiters.remove(waiter)
                self._serve()
            raise

    def give_back(self, owner: str, count: int) -> None:
        """So many bytes of a tenant are held no more."""
        self._held_bytes -= count
        self._held_by[owner] -= count
        if not self._held_by[owner]:
            del self._held_by[owner]
        self._serve()

    def take_chunk(self, count: int) -> bytearray:
        """Memory for bytes that are counted as held. What is in it is nobody's business."""
        return self._slabs.take(count)

    def leave_chunk(self, chunk: bytearray) -> None:
        """Memory whose bytes are counted as held no more: it is used again, unless somebody still looks at it."""
        self._slabs.leave(chunk, self._room_bytes - self._held_bytes)

    def park(self, owner: str, count: int) -> bool:
        """Count bytes that are held as parked, if there is room for them."""
        if self._parked_by.total() + count > self._parked_most or self._parked_by[owner] + count > self._parked_most // _OWNER_SHARE:
            return False
        self._parked_by[owner] += count
        self.give_back(owner, count)
        return True

    def unpark(self, owner: str, count: int) -> None:
        """So many parked bytes are held no more."""
        self._parked_by[owner] -= count
        if not self._parked_by[owner]:
            del self._parked_by[owner]

    def _free_for(self, owner: str) -> int:
        return min(self._room_bytes - self._held_bytes, self.share_bytes - self._held_by[owner])

    def _may_go_on(self, account: "PartAccount", count: int) -> bool:
        """True when the rest of the account's part fits into what is free."""
        lacking = account.lacking_bytes(self.share_bytes, count)
        return lacking <= 0 or lacking <= self._free_for(account.owner)

    def _has_line(self) -> bool:
        """True while somebody waits whom not only the share of its own tenant keeps waiting."""
        return any(self._blocks_all(waiter) for waiter in self._waiters)

    def _blocks_all(self, waiter: "_Waiter") -> bool:
        return waiter.account.lacking_bytes(self.share_bytes, waiter.count) > self._room_bytes - self._held_bytes

    def _give(self, account: "PartAccount", count: int) -> None:
        self._held_bytes += count
        self._held_by[account.owner] += count
        account.held_bytes += count
        self._slabs.shrink(self._room_bytes - self._held_bytes)

    def _serve(self) -> None:
        """Give room to those who wait, in their order."""
        is_barred = False
        barred_owners: set[str] = set()
        for waiter in [each for each in self._waiters if not each.given.done()]:  # who gave up takes itself away
            account = waiter.account
            is_passing = account.is_begun or not (is_barred or account.owner in barred_owners)
            if is_passing and self._may_go_on(account, waiter.count):
                self._waiters.remove(waiter)
                self._give(account, waiter.count)
                waiter.given.set_result(None)
            else:
                is_barred = is_barred or self._blocks_all(waiter)
                barred_owners.add(account.owner)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    account: "PartAccount"
    count: int
    given: asyncio.Future[None]


class PartAccount:
    """What one object holds in the part that is being filled. One call at a time."""

    def __init__(self, memory: PartMemory, owner: str) -> None:
        self._memory = memory
        self.owner = owner
        self._claim_bytes = 0
        self._is_open = True
        self.held_bytes = 0

    @property
    def is_begun(self) -> bool:
        """True once something of the part is held."""
        return self.held_bytes > 0

    def lacking_bytes(self, share_bytes: int, count: int) -> int:
        """What the part lacks of being full, or of as much as a tenant may hold."""
        held = self.held_bytes
        return 0 if held >= share_bytes else max(min(self._claim_bytes, share_bytes) - held, min(count, share_bytes - held))

    def begin(self, claim_bytes: int) -> None:
        """A part begins that will have at most so many bytes."""
        self._claim_bytes = claim_bytes

    async def take(self, count: int) -> None:
        """Wait for room for bytes of the part that have come."""
        await self._memory.take(self, count)

    def take_now(self, count: int) -> bool:
        """The same without waiting; false where that would have to be waited for."""
        return self._memory.take_now(self, count)

    def hand_over(self) -> "Loan":
        """The part is full: what it holds is given back by the loan, whenever a store has it."""
        loan = Loan(self._memory, self.owner, self.held_bytes)
        self.held_bytes = self._claim_bytes = 0
        return loan

    def close(self) -> None:
        """Give back what the part at hand holds; harmless twice."""
        self.hand_over().release()
        if self._is_open:
            self._is_open = False
            self._memory.leave(self.owner)


class Loan:
    """What a full part holds."""

    def __init__(self, memory: PartMemory, owner: str, count: int) -> None:
        self._memory = memory
        self._owner = owner
        self._count = count
        self._is_parked = False

    def park(self) -> bool:
        """Hold it as an object that waits to be published; false when there is no room for that."""
        self._is_parked = self._memory.park(self._owner, self._count)
        return self._is_parked

    def release(self) -> None:
        """It is held no more; harmless twice."""
        count, self._count = self._count, 0
        if count and self._is_parked:
            self._memory.unpark(self._owner, count)
        elif count:
            self._memory.give_back(self._owner, count)
