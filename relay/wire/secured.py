"""A connection with TLS, whose records OpenSSL takes from the socket itself, into the buffer of whoever receives.

Theory of operation
-------------------
The loops speak TLS in memory: each byte is received, copied to where OpenSSL reads, from there into a record, and from the
record to the receiver. Here OpenSSL has the socket. A read fills the receiver's buffer record by record, until the buffer is
full or the socket empty, and hands it over once: so what costs per call costs no more than without TLS.

    reading     the socket is watched; OpenSSL may hold the rest of a record, of which the socket tells nothing
    paused      nobody takes anything; what comes stays in the socket, and the client is slowed down
    closing     nothing is handed over any more. What waits to be sent is sent, then our closure alert and our end; what the
                client still sends is dropped until its own end, so that a reset does not destroy what it has not read yet
    lost        nothing counts any more

What bounds memory: ``pause_writing`` above the high-water mark, the receiver's own buffer, one record within OpenSSL.
What bounds time: ``CLOSING_SECONDS`` for closing. While a connection is open, its protocol has the clock.

A record that the socket does not take at once must be offered again as it was, and is kept for that.
"""

import asyncio
import os
import socket
import ssl
from typing import Final, cast

RECORD_BYTES: Final = 16 * 1024
CLOSING_SECONDS: Final = 10.0
DROPPED_BYTES: Final = 64 * 1024

_again = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_dropped = bytearray(DROPPED_BYTES)


async def shake_hands(loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket) -> None:
    """Agree on TLS with a client.

    Raises:
        OSError: it does not; ``ssl.SSLError`` is one.
    """
    file = secured.fileno()
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            watch, forget = loop.add_reader, loop.remove_reader
        except ssl.SSLWantWriteError:
            watch, forget = loop.add_writer, loop.remove_writer
        else:
            return
        is_ready = loop.create_future()
        watch(file, _tell, is_ready)
        try:
            await is_ready
        finally:
            forget(file)


def _tell(is_ready: asyncio.Future[None]) -> None:
    if not is_ready.done():
        is_ready.set_result(None)


class SecuredTransport(asyncio.Transport):
    """One connection whose handshake is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket, protocol: asyncio.BufferedProtocol) -> None:
        """Take over the socket, and tell the protocol.

        Raises:
            OSError: the client is gone.
        """
        names = {"peername": secured.getpeername(), "sockname": secured.getsockname()}
        super().__init__({"socket": secured, "ssl_object": secured, **names})
        self._loop = loop
        self._secured = secured
        self._file = secured.fileno()
        self._protocol = protocol
        self._unsent = bytearray()
        self._offered = b""
        self._high, self._low = 4 * RECORD_BYTES, RECORD_BYTES
        self._is_reading = True
        self._is_full = False
        self._is_closing = False
        self._is_lost = False
        self._timer: asyncio.TimerHandle | None = None
        protocol.connection_made(self)
        if self._is_reading and not self._is_closing:
            loop.add_reader(self._file, self._read)
            self._read()  # OpenSSL may have taken a first record along with the handshake

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def is_reading(self) -> bool:
        """True while what comes is handed over."""
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        """Hand over nothing more for now."""
        if self.is_reading():
            self._is_reading = False
            self._loop.remove_reader(self._file)

    def resume_reading(self) -> None:
        """Go on."""
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._file, self._read)
            self._read_rest_soon()

    def _read_rest_soon(self) -> None:
        """Have the rest of a record read, which OpenSSL holds: of that the socket tells nothing."""
        if self._secured.pending():
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        if not self.is_reading():
            return
        buffer = cast("memoryview", self._protocol.get_buffer(-1))
        try:
            count, has_ended = self._fill(buffer)
        except OSError as error:  # of which ssl.SSLError is one
            self._lose(error)
            return
        if count:
            self._hand_over(count)
        if has_ended and not self._is_closing:
            self._protocol.eof_received()
            self.close()
        elif count == len(buffer) and self.is_reading():
            self._read_rest_soon()

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Read records into a buffer; returns the number of bytes, and whether the client has sent its end."""
        count, size, read = 0, len(buffer), self._secured.read
        try:
            while count < size:
                more = cast("int", read(size - count, cast("bytearray", buffer[count:])))
                if not more:
                    return count, True
                count += more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:  # an answer to the client's change of keys; it goes out with the next write, or read
            self._loop.add_writer(self._file, self._write_on)
        except ssl.SSLEOFError:  # an end without a closure alert: the protocol knows whether something is missing
            return count, True
        except OSError:
            if not count:
                raise  # else the next read meets it again
        return count, False

    def _hand_over(self, count: int) -> None:
        try:
            self._protocol.buffer_updated(count)
        except Exception as error:  # noqa: BLE001 - whatever it is: this connection has no protocol any more
            self._loop.call_exception_handler({"message": "a protocol failed", "exception": error, "transport": self})
            self.abort()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say above how many unsent bytes the protocol is to pause, and at how many it may go on."""
        self._high = 4 * RECORD_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """How many bytes the client's side has not taken yet."""
        return len(self._unsent)

    def can_write_eof(self) -> bool:
        """False: TLS ends in both directions at once."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, and keep what is not taken at once."""
        if self._is_closing or not data:
            return
        was_empty = not self._unsent
        self._unsent += data
        if was_empty:
            self._write_on()
        if len(self._unsent) > self._high and not self._is_full and not self._is_closing:
            self._is_full = True
            self._protocol.pause_writing()

    def _write_on(self) -> None:
        """Send what waits, as far as the socket takes it."""
        if self._is_lost:
            return
        try:
            while self._unsent:
                self._offered = self._offered or bytes(self._unsent[:RECORD_BYTES])
                sent = self._secured.write(self._offered)
                self._offered = b""
                del self._unsent[:sent]
        except _again:
            self._loop.add_writer(self._file, self._write_on)
        except OSError as error:
            self._lose(error)
            return
        else:
            self._loop.remove_writer(self._file)
        if self._is_full and len(self._unsent) <= self._low:
            self._is_full = False
            self._protocol.resume_writing()
        if self._is_closing and not self._unsent:
            self._say_end()

    # ── how it ends ──────────────────────────────────────────────────────────────────────────────

    def is_closing(self) -> bool:
        """True once nothing more is taken or handed over."""
        return self._is_closing

    def close(self) -> None:
        """Send what waits and our end, and be lost when the client's own has come, or the time is up."""
        if self._is_closing:
            return
        self._is_closing = True
        self._loop.remove_reader(self._file)
        self._timer = self._loop.call_later(CLOSING_SECONDS, self.abort)
        if not self._unsent:
            self._say_end()

    def _say_end(self) -> None:
        """Send the closure alert and our end (RFC 8446, section 6.1), and drop what still comes."""
        self._loop.remove_writer(self._file)
        try:
            try:
                self._secured.unwrap()
            except ssl.SSLWantWriteError:
                self._loop.add_writer(self._file, self._say_end)
                return
            except ssl.SSLError:
                pass  # the client's own alert has not come yet, or never will
            self._secured.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone: it needs no end of ours
            self._lose(None)
        else:
            self._loop.add_reader(self._file, self._drop)

    def _drop(self) -> None:
        try:
            if os.readv(self._file, [_dropped]):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lose(None)

    def abort(self) -> None:
        """Be lost at once; what was not sent is dropped."""
        self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._file)
        self._loop.remove_writer(self._file)
        self._unsent.clear()
        self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._secured.close()
