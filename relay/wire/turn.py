"""One request and its answer on one connection: two directions, neither of which waits for the other.

Theory of operation
-------------------
``run`` starts the *pump*, a task that writes the head and then the body as the client gives it, and returns when the head
of a final answer has come, which may be before the body's end. From then on the answer is read by ``next_piece``, while the
pump goes on.

    final status of 300 or more, body unfinished     the pump stops; the connection is of no further use
    2xx, body unfinished                             the pump goes on; ``sent`` says in the end whether it got through
    the body breaks (the client's fault)             the connection is aborted: the request never ends cleanly
    the connection breaks                            what has come already is read out first: it may be the answer
    nothing moves                                    see the clock

The clock is looked at when it could have run out, not set anew at every step, by a timer of the channel. It runs while the peer is what
is waited for: to take what was written (any byte that it acknowledges counts as progress), or, once the body is written,
to answer. It does not run while the client is what is waited for.

Strict counting: a body that ends before its declared length, or goes on past it, aborts the connection. Bytes that come
after the answer, or before a request, make the connection useless. 1xx answers are counted and dropped, 101 is an error.
Everything that is kept is bounded: the answer's head by ``HEAD_LIMIT``, its unread body by ``RECEIVE_LIMIT``.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, NamedTuple, Protocol

import httptools
import httpx

from relay.errors import RelayError
from relay.protocols.header_rules import Field
from relay.wire.channel import Channel
from relay.wire.news import News
from relay.wire.pieces import PLENTY, Piece, Take

HEAD_LIMIT: Final = 64 * 1024
RECEIVE_LIMIT: Final = 256 * 1024
JOIN_LIMIT: Final = 64 * 1024
PIECE_COST: Final = 64
"""What a piece takes at least, however few bytes are in it: a service chooses how many it sends them in (bytes)."""

INTERIM_MOST: Final = 10_000
INTERIM_BYTES: Final = 64 * 1024 + 256 * INTERIM_MOST
_LENGTH: Final = b"content-length"
_CODING: Final = b"transfer-encoding"
_SWITCHING: Final = 101
_NO_PARSER: Final = httptools.HttpResponseParser(object())
_FIRST_REFUSAL: Final = 300


class OutgoingBody(Protocol):
    """A request's body that gives its pieces away as they come, and can tell whether that would wait."""

    @property
    def is_at_hand(self) -> bool:
        """True when all of it has come: taking it waits for nothing."""
        ...

    def pour(self, take: Take) -> Awaitable[bool]:
        """Give each piece to ``take`` as it comes, until it says that it takes no more; true at the end."""
        ...


class NoBody:
    """The body of a request that has none."""

    is_at_hand = True

    async def pour(self, take: Take) -> bool:
        """Give nothing."""
        del take
        return True


class _Iterated:
    """A body of httpx."""

    is_at_hand = False

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._chunks = aiter(stream)

    async def pour(self, take: Take) -> bool:
        async for chunk in self._chunks:
            if chunk and not take(chunk):
                return False
        return True


class Outgoing(NamedTuple):
    """A request as it is written, and how long the peer may be waited for: to be connected, and between two steps (seconds)."""

    method: str
    target: bytes
    fields: Sequence[Field]
    body: OutgoingBody
    connect_seconds: float | None = None
    idle_seconds: float | None = None

    @classmethod
    def of(cls, request: httpx.Request) -> "Outgoing":
        """Read any request of httpx."""
        timeouts = request.extensions.get("timeout", {})
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - the client is an asynchronous one
        body = _Iterated(request.stream)
        return cls(request.method, request.url.raw_path, request.headers.raw, body, timeouts.get("connect"), timeouts.get("read"))


class Turn:
    """One request and its answer."""

    def __init__(self, channel: Channel, request: Outgoing) -> None:
        self._channel = channel
        self._request = request
        self._is_head_asked = request.method == "HEAD"
        self._idle_seconds = request.idle_seconds
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._headed: asyncio.Future[None] = self._loop.create_future()
        self._news = News()
        self._unwritten = b""
        self._pump_task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._head_bytes = 0
        self._interim = 0
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._is_paused = False
        self._is_stopped = False
        self._is_reading = False
        self._is_asking_client = False
        self._is_until_close = False
        self._is_old = False
        self._stalled_since = 0.0
        self._unsent_bytes = 0
        self.declared_bytes, self._is_chunked = _framing_of(request.fields)
        self._between = b""
        self.body_bytes = 0
        """Bytes of the body that were handed over."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_body_asked = False
        self.is_sent = False
        self.is_answered = False
        self.is_spoiled = False

    @property
    def is_over(self) -> bool:
        """True once both directions have ended, well or not."""
        return self.is_answered and (self._pump_task is None or self._pump_task.done())

    @property
    def is_silent(self) -> bool:
        """True while not a byte of an answer has come."""
        return not self._head_bytes

    # ── the request ──────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Send the request; return when the head of its answer has come. The body may still be going.

        Raises:
            httpx.TransportError: the connection broke or stood still.
            RelayError: the body broke.
        """
        self._channel.begin(self)
        self._stalled_since = self._loop.time()
        if self._idle_seconds is not None:
            self._channel.look_by(self._stalled_since + self._idle_seconds)
        if self._is_small_and_at_hand:
            await self._pump()  # waits for nothing, so it needs no task of its own
        else:
            self._pump_task = self._loop.create_task(self._pump(), name="pump")
        await self._headed

    @property
    def _is_small_and_at_hand(self) -> bool:
        length = self.declared_bytes
        return length is not None and length <= JOIN_LIMIT and self._request.body.is_at_hand

    async def _pump(self) -> None:
        try:
            self._unwritten = self._head()
            # The head waits for the first piece, or for the end of this turn of the loop: a small request is one write.
            if self._pump_task is not None:
                self._loop.call_soon(self._flush)
            await self._send_body()
        except asyncio.CancelledError as cancelled:
            if not self._is_stopped:  # the body was cancelled, not the pump: whoever waits for an answer must not wait for ever
                self._fail(cancelled)
            raise
        except (RelayError, httpx.TransportError) as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever broke the body: the connection must not be used again
            self._fail(httpx.LocalProtocolError(type(error).__name__))

    def _flush(self) -> None:
        self._write(b"")

    def _write(self, data: Piece) -> None:
        """Write a piece behind what was not written yet."""
        before, self._unwritten = self._unwritten, b""
        if before or data:
            self._channel.write(data, before)

    def _head(self) -> bytes:
        request = self._request
        lines = [request.method.encode("ascii") + b" " + request.target + b" HTTP/1.1", *map(b": ".join, request.fields)]
        head = b"\r\n".join([*lines, b"", b""])
        if head.count(b"\r\n") != len(lines) + 1 or head.count(b"\n") != len(lines) + 1 or b"\0" in head:
            raise httpx.LocalProtocolError("a header field holds a line break")
        return head

    async def _send_body(self) -> None:
        body = self._request.body
        has_ended = self.declared_bytes == 0
        while not has_ended and self._channel.can_write:
            self.is_body_asked = self._is_asking_client = True
            try:
                has_ended = await body.pour(self._send_piece)
            finally:
                self._is_asking_client = False
            if self.declared_bytes is not None and self.body_bytes > self.declared_bytes:
                raise httpx.LocalProtocolError("more than the declared length")
            if self._channel.is_full:
                self._unsent_bytes, self._stalled_since = self._channel.unsent_bytes, self._loop.time()
                await self._channel.drained()
        if has_ended and self.declared_bytes is not None and self.body_bytes < self.declared_bytes:
            raise httpx.LocalProtocolError("less than the declared length")
        self._write(self._between + b"0\r\n\r\n" if self._is_chunked else b"")
        if has_ended and self._channel.can_write:  # else something of it was dropped, and was not sent whatever was answered
            self._unsent_bytes, self._stalled_since = self._channel.unsent_bytes, self._loop.time()
            self.is_sent = True
            self._news.tell()

    def _send_piece(self, piece: Piece) -> int:
        """Write a piece of the body, and say what more would be taken: nothing when the destination must be waited for, or is gone."""
        size = len(piece)
        if not size:  # in chunks it would be the end
            return PLENTY
        self.body_bytes += size
        if self.declared_bytes is not None:
            if self.body_bytes > self.declared_bytes:
                return 0
        elif self._is_chunked:
            self._unwritten += self._between + b"%x\r\n" % size
            self._between = b"\r\n"
        self._write(piece)
        return self._channel.room

    # ── the answer ───────────────────────────────────────────────────────────────────────────────

    async def next_piece(self) -> bytes | None:
        """Take what has come of the answer's body, waiting for it; ``None`` at its end.

        Raises:
            httpx.TransportError: it broke, or stood still.
            RelayError: the request's body broke meanwhile.
        """
        while not self._pieces:
            if self.is_answered:
                return None
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread_bytes = 0
        self._read_on()
        return piece

    async def sent(self) -> bool:
        """Wait until the whole body is written, or never will be."""
        while not self.is_sent and self._failure is None and self._channel.is_open:
            await self._wait()
        if not self.is_sent and self._failure is not None:
            raise self._failure
        return self.is_sent

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._is_reading = True
        self._stalled_since = self._loop.time()
        try:
            await self._news.come()
        finally:
            self._is_reading = False

    def _read_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._stalled_since = self._loop.time()
            self._channel.resume_reading()

    # ── what the connection tells ────────────────────────────────────────────────────────────────

    def take(self, data: memoryview) -> None:
        """Bytes have come."""
        self._stalled_since = self._loop.time()
        if self.is_answered:
            self.is_spoiled = True
            return
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("the destination wants another protocol"))
        except httptools.HttpParserError:
            if self.is_answered:
                self.is_spoiled = True
            else:
                self._fail(httpx.RemoteProtocolError("not an HTTP/1.1 answer"))
        if not self.status and self._head_bytes > (HEAD_LIMIT if not self._interim else INTERIM_BYTES):
            self._fail(httpx.RemoteProtocolError("the head of the answer is too long"))
        if self._unread_bytes > RECEIVE_LIMIT and not self._is_paused:
            self._is_paused = True
            self._channel.pause_reading()

    def end(self, failure: Exception | None) -> None:
        """The connection has ended; ``failure`` where it was not the peer's own end."""
        self.is_spoiled = True
        if self.status and not self.is_answered and failure is None and self._is_until_close:
            self._complete()
        elif not self.is_answered:
            self._fail(failure if isinstance(failure, RelayError) else httpx.ReadError("the connection broke"))
        self._news.tell()

    def on_message_begin(self) -> None:
        """For the parser. The first byte of another answer, in the same read as the end of this one, is one too many."""
        if self.is_answered:
            self.is_spoiled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """For the parser. Trailers, and the fields of what follows the answer, are nobody's."""
        if not self.status:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """For the parser."""
        if self.is_answered or self.status:
            self.is_spoiled = True
            return
        status = self._parser.get_status_code()
        if status < 200 and status != _SWITCHING:
            self._interim += 1
            self.headers = []
            if self._interim > INTERIM_MOST:
                self._fail(httpx.RemoteProtocolError("interim answers without end"))
            return
        if not self._is_understood(status):
            self._fail(httpx.RemoteProtocolError("an answer that can be read in two ways"))
            return
        names = {name for name, _ in self.headers}
        self._is_until_close = not names & {b"content-length", b"transfer-encoding"}
        self.status = status
        if status >= _FIRST_REFUSAL and not self.is_sent:
            self._stop_pump()
        if not self._headed.done():
            self._headed.set_result(None)
        if self._is_head_asked:
            self.is_spoiled = True
            self._complete()

    def _is_understood(self, status: int) -> bool:
        """True of an HTTP/1 answer that is sent as it is or in chunks, and in nothing else: the parser takes more than that."""
        version = self._parser.get_http_version()
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        self._is_old = version == "1.0"
        return status != _SWITCHING and (version == "1.1" or (self._is_old and not codings)) and codings in ([], [b"chunked"])

    def on_body(self, data: bytes) -> None:
        """For the parser."""
        if not self.is_answered:
            self._pieces.append(data)
            self._unread_bytes += max(len(data), PIECE_COST)
            self._news.tell()

    def on_message_complete(self) -> None:
        """For the parser."""
        if self.status and not self.is_answered:
            self._complete()

    def _complete(self) -> None:
        self.is_answered = True
        self.is_spoiled = self.is_spoiled or self._is_old or not self._parser.should_keep_alive()
        self._news.tell()

    # ── how it ends ──────────────────────────────────────────────────────────────────────────────

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.is_spoiled = True
        self._channel.abort()
        self._stop_pump()
        if not self._headed.done():
            self._headed.set_exception(self._failure)
        self._news.tell()

    def _stop_pump(self) -> None:
        self._is_stopped = True
        if self._pump_task is not None and self._pump_task is not asyncio.current_task():
            self._pump_task.cancel()

    async def close(self) -> bool:
        """End both directions; true when the connection may serve another turn. A cancellation waits until they have ended."""
        if self._headed.done() and not self._headed.cancelled():
            self._headed.exception()
        is_clean = self.is_sent and self.is_answered and not self.is_spoiled and self._failure is None and self._channel.is_open
        if not is_clean:
            self._channel.abort()
            self._pieces.clear()
        cancelled = None
        if self._pump_task is not None and not self._pump_task.done():
            self._stop_pump()
        while self._pump_task is not None and not self._pump_task.done():
            try:
                await asyncio.wait({self._pump_task})
            except asyncio.CancelledError as error:  # a pump that has not ended was not clean: nobody needs the answer
                cancelled = error
        self._parser = _NO_PARSER  # it holds what it calls, which is this: neither would be let go but by a collection
        if cancelled is not None:
            raise cancelled
        if is_clean:
            self._channel.finish()
        return is_clean

    # ── the clock ────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """See whether the peer has let us wait for too long."""
        if self._idle_seconds is None:  # the timer was an earlier turn's
            return
        now = self._loop.time()
        # Who cannot get rid of its answer may well take nothing: then the client is what is waited for.
        is_writing = not self.is_sent and not self._is_asking_client and not self._is_paused
        is_waiting = is_writing or (self.is_sent and (self._is_reading or not self._headed.done()))
        if not is_waiting:
            self._stalled_since = now
        elif (unsent := self._channel.unsent_bytes) < self._unsent_bytes:
            self._unsent_bytes, self._stalled_since = unsent, now
        runs_out = self._stalled_since + self._idle_seconds
        if runs_out > now:
            self._channel.look_by(runs_out)
        elif is_writing:
            self._fail(httpx.WriteTimeout("the destination takes nothing"))
        else:
            self._fail(httpx.ReadTimeout("no answer in time"))


def _framing_of(fields: Sequence[Field]) -> tuple[int | None, bool]:
    """The declared length of a body in bytes, and whether it is chunked."""
    length, is_chunked = None, False
    for name, value in fields:
        size = len(name)  # a small upload has a dozen fields, and few are as long as these two
        if size == len(_LENGTH) and name.lower() == _LENGTH:
            length = int(value)
        elif size == len(_CODING) and name.lower() == _CODING:
            is_chunked = True
    return length, is_chunked
