"""The body of one request: limits, clocks, digests, and the memory of what failed.

A destination iterates it and learns nothing but chunks or an exception; whoever wants to know what the
client did asks the body (``fault``, ``is_whole``), never the destination.

The clocks run only while the body waits for the client. Time that the destination takes between two
chunks is charged to the destination's own timeout.

A body of which something was claimed is never whole for anybody before the claim has proved right: the piece that completes
a declared length is given away after that, and where no length was declared the body raises instead of ending. Digests are
taken in the loop: a piece is at most what one read brings, and a thread would cost more than the hash of it. A destination that
keeps the body takes some of them anyway, in threads, and makes nothing visible before the body has judged those (``judge``).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, Self

from crc32c import crc32c

from relay.errors import BodyIncomplete, ClientGone, ClientTooSlow, RelayError, UploadTooLarge
from relay.ledger.entry import now_us
from relay.protocols.digests import CRC32C, Claims, Digests
from relay.settings import UploadSettings
from relay.wire.pieces import Piece, Room, Take, Unread, views_of

NEVER: Final = 0
"""For ``crc32c``: a piece takes less time than to let the interpreter go, and to have it back."""


class Source(Protocol):
    """Where the client's bytes come from."""

    @property
    def is_at_hand(self) -> bool:
        """True when all bytes have come, taken or not."""
        ...

    def pour(self, take: Take) -> Awaitable[bool]:
        """Give each piece to ``take`` as it comes, until it says that it takes no more; true at the end. Raises ClientGone."""
        ...


def _take_none(piece: Piece) -> int:
    """What takes pieces while nobody pours."""
    del piece
    return 0


class RequestBody:
    """One pass over the client's bytes. Iterating it raises, and never ends, when the body breaks."""

    def __init__(self, source: Source, *, declared_bytes: int | None, limit_bytes: int | None, settings: UploadSettings) -> None:
        self._source = source
        self.declared_bytes = declared_bytes
        self._limit_bytes = limit_bytes
        self._settings = settings
        self._pace: Pace | None = None
        self._take: Take = _take_none
        self._crc = 0
        self._takes_crc = True
        self._digests: Digests | None = None
        self.claims: Claims | None = None
        self.received_bytes = 0
        self.first_byte_us: int | None = None
        self.completed_us: int | None = None
        self.fault: RelayError | None = None
        self.is_asked = False
        self._is_waiting = False
        self._breach: RelayError | None = None
        if declared_bytes == 0:
            self.completed_us = now_us()

    @property
    def is_whole(self) -> bool:
        """True once the client's last byte was taken."""
        return self.completed_us is not None

    @property
    def is_at_hand(self) -> bool:
        """True when the client has sent all of it: taking it waits for nothing."""
        return self._source.is_at_hand

    @property
    def is_claimed(self) -> bool:
        """True when the client has claimed a digest of it."""
        return self.claims is not None and bool(self.claims.digests)

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the bytes taken so far, in hex: CRC-32C unless somebody else takes it, others where they were claimed or asked for."""
        taken = {CRC32C: f"{self._crc:08x}"} if self._takes_crc else {}
        return {**taken, **(self._digests.in_hex() if self._digests is not None else {})}

    def leave_digests(self, names: Collection[str]) -> None:
        """Whoever takes the body takes these digests, by the names of RFC 9530, and has them judged."""
        self._takes_crc = CRC32C not in names
        if self._digests is not None:
            self._digests.leave(names)

    def judge(self, taken: Mapping[str, bytes]) -> None:
        """Hold what was claimed against digests that were left to somebody.

        Raises:
            DigestMismatch: the body is not the one that was claimed.
        """
        if self._digests is not None and (fault := self._digests.find_fault(taken)) is not None:
            self.fault = fault
            raise fault

    def expect(self, claims: Claims) -> None:
        """Hold the body to what was claimed of it, before any of it is taken.

        Raises:
            DigestMismatch: it is empty, and the claim is of something else.
        """
        self.claims, self._digests = claims, Digests(claims)
        if self.is_whole and (fault := self._digests.find_fault(self._crc_taken())) is not None:
            raise fault

    def abandon(self) -> bool:
        """Say that the client has left before its body was whole; true when nobody would notice, since nobody is asking for it."""
        if self._is_waiting or self.is_whole or self.fault is not None:
            return False
        self.fault = ClientGone()
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Take the client's next chunk. Raises what ``pour`` raises."""
        chunks: list[bytes] = []

        def keep(piece: Piece) -> int:
            chunks.append(bytes(piece))
            return 0

        await self.pour(keep)
        if not chunks:
            raise StopAsyncIteration
        return chunks[0]

    async def pour(self, take: Take) -> bool:
        """Give each chunk to ``take`` as it comes, until it says that it takes no more; true at the end of the body.

        Raises:
            ClientGone: the client left before its body was whole.
            ClientTooSlow: nothing came for the idle timeout, or too little over the rate window.
            UploadTooLarge: more came than the limit allows.
            BodyIncomplete: the body ended before its declared length.
            DigestMismatch: it is not the one that was claimed.
        """
        if self.fault is not None:
            raise self.fault
        if self.is_whole:
            return True
        self.is_asked = self._is_waiting = True
        try:
            has_ended = await self._pour(take)
            if self._breach is not None:
                raise self._breach
            if has_ended:
                self._end()
        except RelayError as error:
            self.fault = error
            raise
        finally:
            self._is_waiting = False
            self._take = _take_none
        return self.is_whole

    def _pour(self, take: Take) -> Awaitable[bool]:
        self._take = take
        if self._source.is_at_hand:  # nothing is waited for, so no clock runs
            return self._source.pour(self._account)
        self._pace = self._pace or Pace(self._settings)
        return self._pace.watch(self._source, self._account)

    def _account(self, piece: Piece) -> Room:
        """Account for a chunk and give it on; returns for what there is room next, 0 if it is not to be given away."""
        size = len(piece)
        if self._pace is not None:
            self._pace.note(size)
        if self.first_byte_us is None:
            self.first_byte_us = now_us()
        self.received_bytes += size
        if self._limit_bytes is not None and self.received_bytes > self._limit_bytes:
            self._breach = UploadTooLarge()
            return 0
        self._digest(views_of(piece))
        if self.received_bytes == self.declared_bytes:
            self._complete()
            if self._breach is not None:
                return 0
        if self._digests is not None and isinstance(piece, Unread):  # what was claimed is proved of the very bytes that are handed on
            return self._take(piece.copy)
        return self._take(piece)

    def _digest(self, views: Sequence[bytes | memoryview]) -> None:
        if self._takes_crc:
            crc = self._crc
            for view in views:
                crc = crc32c(view, crc, NEVER)
            self._crc = crc
        if self._digests is not None:
            for view in views:
                self._digests.update(view)

    def _end(self) -> None:
        if self.declared_bytes is not None and self.received_bytes != self.declared_bytes:
            raise BodyIncomplete
        if self.completed_us is None:
            self._complete()
        if self._breach is not None:
            raise self._breach

    def _complete(self) -> None:
        """All bytes have come: judge what was claimed of them."""
        self.completed_us = now_us()
        if self._digests is not None:
            self._breach = self._digests.find_fault(self._crc_taken())

    def _crc_taken(self) -> dict[str, bytes]:
        return {CRC32C: self._crc.to_bytes(4)} if self._takes_crc else {}


class Pace:
    """The client's clocks: an idle timeout, and a least rate over a window of waiting time.

    They run while the client is what is waited for. One timer looks at them when one could have run out; a chunk costs no timer.
    """

    def __init__(self, settings: UploadSettings) -> None:
        self._idle_seconds = settings.idle_timeout.total_seconds()
        self._window_seconds = settings.rate_window.total_seconds()
        self._window_bytes = settings.min_rate * self._window_seconds
        self._waited = 0.0
        self._received = 0
        self._waits_since = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def watch(self, source: Source, take: Take) -> bool:
        """Let the source pour while the clocks run.

        Raises:
            ClientTooSlow: a clock ran out.
        """
        self._loop = asyncio.get_running_loop()
        self._waits_since = self._loop.time()
        limit = asyncio.timeout(None)
        looker = _Looker(self._loop, limit, self._seconds_left)
        try:
            async with limit:
                looker.look()
                return await source.pour(take)
        except TimeoutError:
            if limit.expired():
                raise ClientTooSlow from None
            raise
        finally:
            looker.stop()
            self._loop = None

    def note(self, count: int) -> None:
        """So many bytes have come."""
        self._received += count
        if self._loop is None:  # they had come before they were asked for
            return
        now = self._loop.time()
        self._waited += now - self._waits_since
        self._waits_since = now
        if self._received >= self._window_bytes:
            self._received = 0
            self._waited = 0.0

    def _seconds_left(self, now: float) -> float:
        """How long the client may be waited for from now on; 0 or less when it is too slow."""
        waits = now - self._waits_since
        idle = self._idle_seconds - waits
        if self._received >= self._window_bytes:
            return idle
        return min(idle, self._window_seconds - self._waited - waits)


class _Looker:
    """A timer that looks whether time is up, and if not, when it could be."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout, seconds_left: Callable[[float], float]) -> None:
        self._loop = loop
        self._limit = limit
        self._seconds_left = seconds_left
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Look now, and again when time could be up."""
        now = self._loop.time()
        left = self._seconds_left(now)
        if left > 0:
            self._timer = self._loop.call_later(left, self.look)
        else:
            self._limit.reschedule(now)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
