"""One client connection: a uvicorn protocol class that costs little per byte and reads HTTP one way only.

Theory of operation
-------------------
The loop receives into the one buffer of the process (``intake``), and what came is taken out of it here, at once, by
state:

    HEAD      a request's head is due. Its bytes are collected until an empty line, at most ``HEAD_LIMIT``, within the
              head's time limit; ``httptools`` reads it. Nothing collected: the connection is idle, and may be closed.
              Where many begin at once (``rota``), the first bytes are held until it is their turn, and reading pauses.
    BODY      the head is with the app. What comes is the body: given to the exchange as a view of the buffer, which the
              app takes at once, or which is copied. Nobody takes it: reading pauses. Of a long one the rest is not
              received but looked at in the socket (``peeking``), and the loop reads again behind it.
    WHOLE     the body has come, the answer is still due. What comes is the next request: held, and reading pauses.
    LINGER    the answer was sent, and there will be no further request. What comes is dropped until the client closes
              or the time is up, so that a reset does not destroy an answer that is under way.
    CLOSED    nothing counts any more.

    HEAD → BODY | WHOLE → HEAD      a request after the other, on a connection that is kept
    any  → LINGER                   the last answer was sent: a refusal of ours, or ``Connection: close``
    any  → CLOSED                   the connection is lost, or was cut

Who moves them: the client's bytes (``buffer_updated``), the app's answer (``complete``, ``cut``), and the clock (``tick``,
once a second for all connections, so that no request pays for a timer).

What bounds time: a connection whose reads are full gives way to the others once the loop's turn has lasted (``rota``).
What bounds memory: one read is at most the intake's slice; at most one and a little is unread; held bytes are at most one
read; what waits to be sent is bounded by the transport's high-water mark, since ``send`` waits for it.

A half-close is not a departure: after a whole request its answer is sent, and before, the app may say what is missing.
Deriving from ``asyncio.BufferedProtocol`` and nothing else is what makes both loops ask for the buffer.
"""

import asyncio
import contextlib
import contextvars
import enum
import logging
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from relay.errors import BodyIncomplete, ClientTooSlow, HeadTooLarge, RelayError
from relay.protocols.chunked import ChunkedBody
from relay.protocols.framed import DeclaredBody, Framed
from relay.protocols.header_rules import HEAD_LIMIT, Framing, parse_framing
from relay.wire.exchange import EXTENSION, INFORMATIONAL, Exchange
from relay.wire.heads import END_OF_HEAD, RequestHead, check_beginning, parse_head
from relay.wire.kernel import end_by_reset, is_reset, socket_of
from relay.wire.lingering import Lingering
from relay.wire.peeking import Peeking, prepare_peeking
from relay.wire.pieces import piece_of
from relay.wire.surroundings import Surroundings

LINGER_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 10.0
WRITE_LIMIT: Final = 256 * 1024
DEAR_PIECES: Final = 512
"""A read of more pieces than this is dear to parse: the next one on that connection is a tiny one."""

logger = logging.getLogger(__name__)


class State(enum.Enum):
    """See the theory of operation."""

    HEAD = enum.auto()
    BODY = enum.auto()
    WHOLE = enum.auto()
    LINGER = enum.auto()
    CLOSED = enum.auto()


class Connection(asyncio.BufferedProtocol):
    """One connection of a client."""

    def __init__(
        self,
        surroundings: Surroundings,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._shared = surroundings
        self._intake = surroundings.intake
        self._app: Any = config.loaded_app
        self._root_path = config.root_path
        self._idle_seconds = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else happens
        self._state = State.HEAD
        self._head = bytearray()
        self._exchange: Exchange | None = None
        self._framed: Framed = DeclaredBody(0)
        self._can_peek = False
        self._peeking: Peeking | None = None
        self._held = bytearray()
        self._held_at = 0
        self._is_dear = self._is_late = False
        self._is_reading = True
        self._writable: asyncio.Event | None = None
        self._deadline: float | None = None
        self._lingering: Lingering | None = None
        self._has_eof = False
        self.is_gone = False

    # ── what the loop tells ──────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._can_peek = prepare_peeking(transport)
        self._scope_of_connection = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "https" if transport.get_extra_info("ssl_object") is not None else "http",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": self._root_path,
        }
        cast("set[Any]", self._server.connections).add(self)
        self._shared.clock.watch(self._loop, cast("set[Any]", self._server.connections))
        self._set_deadline(self._shared.head_timeout.total_seconds())

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        self._is_late = self._state is State.HEAD and not self._head and not self._shared.rota.may_begin(self._loop)
        if self._is_late:
            return self._intake.late
        is_next_request = self._state is State.WHOLE  # held until it is its turn, and not counted among those that run
        if self._is_dear or is_next_request:
            return self._intake.tiny
        return self._intake.first if self._state is State.HEAD else self._intake.slice

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_late:
            self._wait(nbytes)
            return
        is_full = nbytes == self._intake.slice_bytes
        self._take(self._intake.buffer, 0, nbytes)
        if is_full and self._state is State.BODY and self._shared.rota.is_turn_over(self._loop):
            self._give_way()

    def eof_received(self) -> bool:
        """The client sends no more; it may still read."""
        self.begin_late()
        exchange = self._exchange
        if exchange is None or self._state in {State.LINGER, State.CLOSED}:
            return False
        self._has_eof = exchange.has_left = True
        exchange.keep_alive = False
        if self._state is State.BODY:
            self._leave_body()
            self._state = State.WHOLE
            exchange.fail(BodyIncomplete())
        return self._transport.can_write_eof()  # false over TLS: the loop closes then whatever we say

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_gone = True
        self._leave_body()
        self._state = State.CLOSED
        self._held, self._head = bytearray(), bytearray()  # two: somebody may still remember the connection
        self._server.connections.discard(cast("Any", self))
        if self._writable is not None:
            self._writable.set()
        if self._exchange is not None:
            self._exchange.leave()

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def shutdown(self) -> None:
        """End when the running request has its answer; uvicorn calls this when it stops."""
        self.begin_late()
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._state is State.HEAD:
            self._close()
        else:
            self._end()

    def _wait(self, nbytes: int) -> None:
        """Hold what came of a request until it is its turn to begin."""
        self._is_late = False
        self._held, self._held_at = self._intake.buffer[:nbytes], 0
        self._stop_reading()
        self._shared.rota.let_wait(self)

    def begin_late(self) -> None:
        """Begin what was held: it is its turn."""
        if self._state is not State.HEAD or not self._held or self.is_gone:
            return
        try:
            self._take_held()
            self.read_on()
        except Exception:
            self._abort()  # else it would stand still for ever
            raise

    # ── what has come ────────────────────────────────────────────────────────────────────────────

    def _take(self, buffer: bytearray, at: int, end: int) -> None:
        try:
            while at < end:
                if self._state is State.BODY and self._exchange is not None:
                    at = self._take_body(self._exchange, self._framed, buffer, at, end)
                elif self._state is State.HEAD:
                    at = self._take_head(buffer, at, end)
                else:
                    self._take_surplus(buffer, at, end)
                    return
        except RelayError as fault:
            self.refuse(fault)

    def _take_head(self, buffer: bytearray, at: int, end: int) -> int:
        if not self._head:
            while at < end and buffer[at] in b"\r\n":  # RFC 9112 "Message Parsing": empty lines before a request are ignored
                at += 1
            found = END_OF_HEAD.search(buffer, at, min(end, at + HEAD_LIMIT))
            if found is not None:
                self._begin(parse_head(bytes(memoryview(buffer)[at : found.end()])))
                return found.end()
            if at >= end:
                return end
            self._set_deadline(self._shared.head_timeout.total_seconds())
        before = len(self._head)
        self._head += buffer[at : min(end, at + HEAD_LIMIT + 1 - before)]
        found = END_OF_HEAD.search(self._head, max(0, before - 3))
        if found is None:
            check_beginning(self._head)
            if len(self._head) > HEAD_LIMIT:
                raise HeadTooLarge
            return end
        head, self._head = self._head, bytearray()
        self._begin(parse_head(bytes(head[: found.end()])))
        return at + found.end() - before

    def _take_body(self, exchange: Exchange, framed: Framed, buffer: bytearray, at: int, end: int) -> int:
        spans, stop = framed.take(buffer, at, end)
        self._is_dear = framed.pieces > DEAR_PIECES
        if spans:
            exchange.feed(piece_of(memoryview(buffer), spans))
        self._go_on(exchange, framed)
        return stop

    def _go_on(self, exchange: Exchange, framed: Framed) -> None:
        """A piece of the body was taken: see how the rest of it is to be read, if at all."""
        if framed.has_ended:
            self._leave_body()
            self._state = State.WHOLE
            exchange.end()
        elif not exchange.wants_more:
            self._stop_reading()
        elif self._may_peek:
            self._stop_reading()
            self.read_on()

    # ── a long body, looked at where it lies ─────────────────────────────────────────────────────

    @property
    def _may_peek(self) -> bool:
        return self._can_peek and self._peeking is None and self._state is State.BODY and self._framed.is_long

    def _begin_peeking(self, exchange: Exchange) -> None:
        with contextlib.suppress(OSError):  # no descriptor is left
            source = self._transport.get_extra_info("socket").dup()
            self._peeking = Peeking(source, self._shared, exchange, self._framed, self)

    def go_on(self) -> None:
        """What was looked at is taken."""
        if self._framed.pieces > DEAR_PIECES:
            self._is_dear = True
            self.stop_peeking()
        if self._exchange is not None:
            self._go_on(self._exchange, self._framed)

    def stop_peeking(self) -> None:
        """Have the loop read again."""
        peeking, self._peeking = self._peeking, None
        if peeking is not None:
            peeking.close()
            if self._is_reading and not self._transport.is_closing():
                self._transport.resume_reading()

    def give_up(self) -> None:
        """The connection is broken."""
        self._transport.abort()

    def _take_surplus(self, buffer: bytearray, at: int, end: int) -> None:
        if self._state is State.WHOLE:
            if buffer is not self._held:
                at, self._held = 0, self._held[self._held_at :] + buffer[at:end]
            self._held_at = at
            self._stop_reading()
        elif self._lingering is not None and not self._lingering.may_drop(end - at):
            self._abort()

    # ── from one request to the next ─────────────────────────────────────────────────────────────

    def _begin(self, head: RequestHead) -> None:
        framing = parse_framing(head.headers, head.http_version)
        exchange = Exchange(self, head.method, head.http_version, framing, keep_alive=head.keep_alive)
        self._exchange = exchange
        self._deadline = None
        self._frame(exchange, framing)
        scope = {
            **self._scope_of_connection,
            **head.as_scope(self._root_path),
            "state": self._app_state.copy(),
            "extensions": {EXTENSION: exchange, INFORMATIONAL: {}},
        }
        task = self._loop.create_task(self._run(exchange, scope), context=contextvars.Context())
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _frame(self, exchange: Exchange, framing: Framing) -> None:
        if framing.length == 0:
            self._state = State.WHOLE
            exchange.end()
            return
        self._framed = ChunkedBody() if framing.length is None else DeclaredBody(framing.length)
        self._state = State.BODY
        self._intake.enter()

    def _leave_body(self) -> None:
        if self._state is State.BODY:
            self._intake.leave()
            self.stop_peeking()

    async def _run(self, exchange: Exchange, scope: dict[str, Any]) -> None:
        """Let the app answer; an answer that it does not finish is cut."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("the app failed")
        finally:
            exchange.drop()
            if not exchange.is_complete and not self.is_gone:
                self.cut()

    def complete(self, *, keep: bool) -> None:
        """The answer was sent: on to the next request, or to the end of the connection."""
        self._server.total_requests += 1
        if self._state is not State.WHOLE or not keep:
            self._linger()
            return
        self._exchange = None
        self._state = State.HEAD
        self._set_deadline(self._idle_seconds)
        if self._held:
            self._take_held()
        self.read_on()

    def _take_held(self) -> None:
        held, at = self._held, self._held_at
        self._held_at = len(held)
        self._take(held, at, len(held))
        if self._held is held and self._held_at == len(held):
            self._held = bytearray()

    def refuse(self, fault: RelayError) -> None:
        """Answer by ourselves, or let the app do it, and read no more requests."""
        if self._exchange is not None:
            self._leave_body()
            self._state = State.WHOLE
            self._exchange.fail(fault)
            return
        status, fields, body = self._shared.refuse(fault)
        Exchange(self, "POST", "1.1", Framing(0, expects_continue=False), keep_alive=False).answer(status, fields, body)

    def _linger(self) -> None:
        """Send our end, and drop what still comes until the client sees it."""
        is_whole = self._state is State.WHOLE
        self._leave_body()
        self._exchange = None
        self._held = bytearray()
        self._state = State.LINGER
        self._lingering = Lingering(self._transport, self._loop.time())
        self._set_deadline(LINGER_SECONDS)
        can_send_end = self._transport.can_write_eof()  # not over TLS
        if self._has_eof or (is_whole and not can_send_end):
            self._end()
            return
        if can_send_end:
            with contextlib.suppress(OSError):  # asyncio's raises on a connection that was reset
                self._transport.write_eof()
        self.read_on()

    def cut(self) -> None:
        """End the connection so that the client sees that its answer is not whole."""
        exchange = self._exchange
        if exchange is not None and exchange.is_told:
            self._linger()
            return
        self._leave_body()
        if exchange is not None and exchange.ends_with_connection:
            end_by_reset(socket_of(self._transport))  # so that the client cannot take it for the end of an answer
            self._abort()
        elif self._writable is not None:
            self._abort()
        else:
            self._close()

    def _close(self) -> None:
        """Close when everything is sent, but not later than the clock allows."""
        self._state = State.CLOSED
        self._set_deadline(CLOSE_SECONDS)
        self._end()

    def _end(self) -> None:
        """Close when everything is sent. What is closed twice over TLS, asyncio can no longer abort."""
        if not self._transport.is_closing():
            self._transport.close()

    def _abort(self) -> None:
        self._state = State.CLOSED
        self._transport.abort()

    # ── reading, writing, the clock ──────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them until the client takes them."""
        self._transport.write(data)

    @property
    def is_writable(self) -> bool:
        """True while the client takes what is sent."""
        return self._writable is None

    async def writable(self) -> None:
        """Wait until the client has taken enough of what was sent."""
        while self._writable is not None and not self.is_gone:
            await self._writable.wait()

    def read_on(self) -> None:
        """Go on reading; the app has taken what there was."""
        if not self._is_reading and not self.is_gone and not self._held and not self._transport.is_closing():
            self._is_reading = True
            if self._may_peek and self._exchange is not None:
                self._begin_peeking(self._exchange)
            (self._peeking or self._transport).resume_reading()

    def _give_way(self) -> None:
        """Read on in the loop's next turn."""
        if self._is_reading:
            self._stop_reading()
            self._loop.call_soon(self._read_on_if_wanted)

    def _read_on_if_wanted(self) -> None:
        if self._exchange is None or self._exchange.wants_more:
            self.read_on()

    def _stop_reading(self) -> None:
        if self._is_reading and (self._peeking is not None or not self._transport.is_closing()):
            self._is_reading = False
            (self._peeking or self._transport).pause_reading()

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds

    def tick(self, now: float) -> None:
        """Look at the clock, and for a client that vanished while nothing is read from it."""
        is_waiting = self._state is State.HEAD and self._held  # for its turn to begin, which is not its client's fault
        if self._deadline is not None and now >= self._deadline and not is_waiting:
            self._expire()
        elif not self._is_reading and self._state is State.BODY and is_reset(socket_of(self._transport)):
            self._transport.abort()

    def _expire(self) -> None:
        self._deadline = None
        if self._state is State.HEAD and self._head:
            self._head.clear()
            self.refuse(ClientTooSlow("The head of the request did not come in time."))
        elif self._state is State.LINGER and self._lingering is not None and self._lingering.has_progress(self._loop.time()):
            self._set_deadline(CLOSE_SECONDS)
        elif self._state in {State.HEAD, State.LINGER}:
            self._close()
        else:
            self._abort()
