"""The body of one request: limits, clocks, digest, and the memory of what failed.

A destination iterates it and learns nothing but chunks or an exception; whoever wants to know what the
client did asks the body (``fault``, ``is_whole``), never the destination.

The clocks run only while the body waits for the client. Time that the destination takes between two
chunks is charged to the destination's own timeout.
"""

import asyncio
from typing import Protocol, Self

import google_crc32c

from relay.errors import BodyIncomplete, ClientGone, ClientTooSlow, RelayError, UploadTooLarge
from relay.ledger.entry import now_us
from relay.settings import UploadSettings


class Source(Protocol):
    """Where the client's bytes come from."""

    @property
    def is_ready(self) -> bool:
        """True when ``read`` would not wait."""
        ...

    @property
    def is_at_hand(self) -> bool:
        """True when all bytes have come, read or not."""
        ...

    async def read(self) -> bytes | None:
        """Read the next bytes (maybe none yet), ``None`` at the end. Raises ClientGone."""
        ...


class RequestBody:
    """One pass over the client's bytes. Iterating it raises, and never ends, when the body breaks."""

    def __init__(self, source: Source, *, declared_bytes: int | None, limit_bytes: int | None, settings: UploadSettings) -> None:
        self._source = source
        self.declared_bytes = declared_bytes
        self._limit_bytes = limit_bytes
        self._pace = Pace(settings)
        self._crc = 0
        self.received_bytes = 0
        self.first_byte_us: int | None = None
        self.completed_us: int | None = None
        self.fault: RelayError | None = None
        self.is_asked = False
        self._is_waiting = False
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
    def crc32c(self) -> str:
        """CRC-32C of the bytes taken so far, in hex."""
        return f"{self._crc:08x}"

    def abandon(self) -> bool:
        """Say that the client has left before its body was whole; true when nobody would notice, since nobody is asking for it."""
        if self._is_waiting or self.is_whole or self.fault is not None:
            return False
        self.fault = ClientGone()
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Take the client's next chunk.

        Raises:
            ClientGone: the client left before its body was whole.
            ClientTooSlow: nothing came for the idle timeout, or too little over the rate window.
            UploadTooLarge: more came than the limit allows.
            BodyIncomplete: the body ended before its declared length.
        """
        if self.fault is not None:
            raise self.fault
        if self.is_whole:
            raise StopAsyncIteration
        self.is_asked = self._is_waiting = True
        try:
            chunk = await self._take()
        except RelayError as error:
            self.fault = error
            raise
        finally:
            self._is_waiting = False
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _take(self) -> bytes | None:
        chunk = b""
        while not chunk:
            received = await self._pace.wait(self._source)
            if received is None:
                self._end()
                return None
            chunk = received
        if self.first_byte_us is None:
            self.first_byte_us = now_us()
        self.received_bytes += len(chunk)
        if self._limit_bytes is not None and self.received_bytes > self._limit_bytes:
            raise UploadTooLarge
        self._crc = google_crc32c.extend(self._crc, chunk)
        if self.received_bytes == self.declared_bytes:
            self.completed_us = now_us()
        return chunk

    def _end(self) -> None:
        if self.declared_bytes is not None and self.received_bytes != self.declared_bytes:
            raise BodyIncomplete
        self.completed_us = now_us()


class Pace:
    """The client's clocks: an idle timeout, and a least rate over a window of waiting time."""

    def __init__(self, settings: UploadSettings) -> None:
        self._idle_seconds = settings.idle_timeout.total_seconds()
        self._window_seconds = settings.rate_window.total_seconds()
        self._window_bytes = settings.min_rate * self._window_seconds
        self._waited = 0.0
        self._received = 0

    async def wait(self, source: Source) -> bytes | None:
        """Wait for the client's next bytes.

        Raises:
            ClientTooSlow: a clock ran out.
        """
        if source.is_ready:
            chunk = await source.read()
            self._received += len(chunk or b"")
            return chunk
        seconds = self._idle_seconds
        if self._received < self._window_bytes:
            seconds = min(seconds, self._window_seconds - self._waited)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(seconds):
                chunk = await source.read()
        except TimeoutError:
            raise ClientTooSlow from None
        self._waited += loop.time() - began
        self._received += len(chunk or b"")
        if self._received >= self._window_bytes or self._waited >= self._window_seconds:
            self._judge()
        return chunk

    def _judge(self) -> None:
        if self._received < self._window_bytes:
            raise ClientTooSlow
        self._received = 0
        self._waited = 0.0
