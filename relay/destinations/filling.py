"""The parts of one object: filled with its bytes as they come, digested, and sent.

Theory of operation. Bytes are taken in the very call that received them, as long as the part at hand has room that its
``PartMemory`` gave: they are copied into the part's own memory, or were received there, which ``take`` offers. What does
not fit comes late: it is kept as it is, nothing more is taken, and ``ready`` waits for what is missing, be it room, the
turn of a full part to be sent, or whatever its maker wants to have done before the first one.

An object that turns out to be no larger than its first part is not sent by itself: ``seal`` leaves it, ``whole`` is it, and
its maker sends it when it is published. Until then it waits in memory, if there is room for such; if not, it is sent as a part.

Of the memory of a part nothing is given away before nobody looks at it any more: see ``PartMemory``.
"""

import asyncio
from typing import Final, Protocol

from relay.destinations.part_digests import DigestThreads, PartDigests
from relay.destinations.parts import Loan, OwnedPiece, PartMemory
from relay.destinations.sending import Sending
from relay.destinations.slabs import SLAB_BYTES
from relay.wire.pieces import PLENTY, Piece, Room, views_of

LEAST_BYTES: Final = 4 << 10
FEW_BYTES: Final = 64 << 10
"""A client gets as much memory as it has sent before, up to this where it sends less at a time, else up to a slab."""


class Part:
    """Bytes of an object in their order, and the memory that they lie in."""

    def __init__(self, number: int, limit_bytes: int, digests: PartDigests, memory: PartMemory) -> None:
        self.number = number
        self.limit_bytes = limit_bytes
        self.digests = digests
        self.size = 0
        self.pieces: list[OwnedPiece] = []
        """The bytes, once no more are added."""
        self._memory = memory
        self._chunks: list[bytearray] = []
        self._used = 0
        self._digested = 0

    @property
    def is_full(self) -> bool:
        """True when nothing more fits."""
        return self.size == self.limit_bytes

    @property
    def place(self) -> memoryview:
        """Where the next bytes belong."""
        return memoryview(self._chunks[-1])[self._used :] if self._chunks else memoryview(b"")

    def grow(self, count: int) -> None:
        """Have room for so many bytes more; there was none left."""
        self._chunks.append(self._memory.take_chunk(count))
        self._used = self._digested = 0

    def add(self, view: memoryview) -> int:
        """Take as much of it as there is room for; returns how much. What was received here already is not moved."""
        place = self.place
        count = min(len(view), len(place))
        if count and view.obj is not place.obj:
            place[:count] = view[:count]
        self._used += count
        self.size += count
        return count

    def find_new(self, least: int = 1) -> list[OwnedPiece]:
        """What was added since this was last asked, if that is so much, or all that will ever lie beside it."""
        count = self._used - self._digested
        if not count or (count < least and self._used < len(self._chunks[-1])):
            return []
        found = memoryview(self._chunks[-1])[self._digested : self._used]
        self._digested = self._used
        return [found]

    def end(self) -> None:
        """No more bytes are added."""
        if self._chunks:
            self.pieces = [*self._chunks[:-1], memoryview(self._chunks[-1])[: self._used]]

    def drop(self) -> None:
        """Hold nothing more; whoever still wants to send it finds nothing."""
        self.pieces.clear()
        chunks, self._chunks = self._chunks, []
        self._used = self._digested = 0
        while chunks:
            self._memory.leave_chunk(chunks.pop())


class PartMaker(Protocol):
    """What a kind of store knows of its parts."""

    def plan(self, number: int) -> tuple[int, PartDigests]:
        """The size of a part, from 1, and what takes its digests.

        Raises:
            UploadTooLarge: there would be too many.
        """
        ...

    async def prepare(self) -> None:
        """Do what must be done before the first part is sent. Raises what the store says."""
        ...

    async def send(self, part: Part) -> None:
        """Send a part, until the store has it. Raises what the store says."""
        ...


class PartTools(Protocol):
    """What all objects of a process share."""

    @property
    def memory(self) -> PartMemory: ...
    @property
    def digests(self) -> DigestThreads: ...
    @property
    def parallel(self) -> int: ...


class Filling:
    """One object's; see the module."""

    def __init__(self, tools: PartTools, owner: str, told_part_bytes: int | None, declared_bytes: int | None, maker: PartMaker) -> None:
        self._memory = tools.memory
        self._account = tools.memory.open(owner)
        self._digests = tools.digests.open()
        self._sending = Sending(tools.parallel)
        self._declared_bytes = declared_bytes
        self._maker = maker
        self.part_bytes = tools.memory.choose_part_bytes(owner, told_part_bytes)
        """The usual size of its parts."""
        self._part: Part | None = None
        self._late = bytearray()
        self._loan: Loan | None = None
        self._added_bytes = 0
        self.size = 0
        """Bytes that were taken."""
        self.sent = 0
        """How many parts are with the store, or on their way to it."""

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes, in hex."""
        return self._digests.sha256

    @property
    def crc32c(self) -> str:
        """CRC-32C of all bytes, in hex."""
        return self._digests.crc32c

    @property
    def whole(self) -> Part | None:
        """The only part of an object that is sealed and was not sent."""
        return self._part

    @property
    def was_cut(self) -> bool:
        """True once a part was given up while it was on its way: it may still arrive."""
        return self._sending.was_cut

    # ── the bytes ────────────────────────────────────────────────────────────────────────────────

    def take(self, piece: Piece) -> Room:
        """Take the next bytes; returns where the ones behind them belong, or that they come anywhere, or 0: ``ready`` is to be asked."""
        self.size += len(piece)
        for each in views_of(piece):
            view = memoryview(each)
            taken = 0 if self._late else self._put(view)
            if taken < len(view):
                self._late += view[taken:]
        part = self._part
        if self._late or part is None or part.is_full or self._sending.has_failed:
            return 0
        if self._due_bytes >= FEW_BYTES and not part.place:
            self._grow_now(part, len(piece))
        return part.place or PLENTY

    def _put(self, view: memoryview) -> int:
        """Add bytes to the part at hand, as many as fit at once; returns how many."""
        part, at = self._part, 0
        while part is not None and at < len(view) and (part.place or self._grow_now(part, len(view) - at)):
            at += self._add(part, view[at:])
        return at

    def _add(self, part: Part, view: memoryview) -> int:
        count = part.add(view)
        self._added_bytes += count
        self._digests.feed(part.digests, part.find_new(FEW_BYTES))
        return count

    def _grow_now(self, part: Part, coming: int) -> bool:
        """Give the part more memory, if it may have some at once."""
        count = self._chunk_bytes(part, coming)
        if not count or not self._account.take_now(count):
            return False
        part.grow(count)
        return True

    def _chunk_bytes(self, part: Part, coming: int) -> int:
        """How much memory the part is given for bytes of which so many have come. One that is full gets none."""
        most = part.limit_bytes - part.size
        if self._declared_bytes is not None:
            most = min(most, max(coming, self._due_bytes))
        wanted = max(coming, self._added_bytes, LEAST_BYTES)
        return min(most, wanted, SLAB_BYTES if coming >= FEW_BYTES else FEW_BYTES)

    @property
    def _due_bytes(self) -> int:
        """How many bytes are still to be added, as far as it is known."""
        return 0 if self._declared_bytes is None else self._declared_bytes - self._added_bytes

    async def ready(self) -> None:
        """Wait until more can be taken.

        Raises:
            DependencyFault: the store cannot be reached, refuses, or is too slow.
            UploadTooLarge: there would be too many parts.
        """
        self._sending.raise_failure()
        late, self._late = memoryview(self._late), bytearray()
        while late:
            part = self._part or self._begin()
            if part.is_full:
                await self._send(part)
            elif not part.place:
                count = self._chunk_bytes(part, len(late))
                await self._account.take(count)
                part.grow(count)
            else:
                late = late[self._add(part, late) :]
        full = self._part if self._part is not None and self._part.is_full else None
        if full is not None and (self.sent or self._due_bytes > 0):
            await self._send(full)
        if self._part is None and self._due_bytes > 0:
            self._begin()
        self._sending.raise_failure()

    def _begin(self) -> Part:
        number = self.sent + 1
        limit_bytes, digests = self._maker.plan(number)
        self._account.begin(min(limit_bytes, self._due_bytes) if self._due_bytes > 0 else limit_bytes)
        self._part = Part(number, limit_bytes, digests, self._memory)
        return self._part

    async def _send(self, part: Part) -> None:
        """Begin to send a part, as soon as fewer than a few are on their way."""
        self._end(part)
        if not self.sent:
            await self._maker.prepare()
        await self._sending.turn()
        self._start(part, self._account.hand_over())
        self._sending.raise_failure()

    def _end(self, part: Part) -> None:
        part.end()
        self._digests.feed(part.digests, part.find_new())

    def _start(self, part: Part, loan: Loan) -> None:
        self._part = None
        self.sent = part.number

        async def send() -> None:
            await self._digests.reach()
            await self._maker.send(part)

        self._sending.start(part, loan, send)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    async def seal(self) -> None:
        """All bytes have been given: wait until the store has them, or a small object waits to be published. Raises as ``ready``."""
        await self.ready()
        part = self._part or (None if self.sent else self._begin())
        if part is not None and not self.sent:
            self._end(part)
            await self._digests.reach()
            self._loan = self._account.hand_over()
            if self._loan.park():
                return
            await self._maker.prepare()
            await self._sending.turn()
            self._start(part, self._loan)
        elif part is not None and part.size:
            await self._send(part)
        await self._sending.finish()
        await self._digests.reach()

    def cut(self) -> set[asyncio.Task[None]]:
        """Give up what is on its way; returns the tasks that are ending."""
        return self._sending.cut()

    def release(self) -> None:
        """Hold nothing more; harmless twice."""
        self._digests.drop()
        self._late.clear()
        self._account.close()
        if self._loan is not None:
            self._loan.release()
        if self._part is not None:
            self._part.drop()
