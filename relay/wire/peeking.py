"""A long body is looked at where it lies, in the client's socket, and moved on from there.

Theory of operation
-------------------
A byte that passes through a process is copied twice: out of the socket that it comes by, and into the one that it leaves by.
Of a long body the second copy is spared. It is looked at (``MSG_PEEK``): that is a copy, of which digests are taken. Whoever
takes the piece may have the kernel move it to another socket (``Unread.move_to``), which moves pages; or takes the copy.
What was not moved is then discarded where it lies, which costs next to nothing. Whoever keeps what comes says where, and it
is received there, unless the framing of chunks lies between.

Of a body in large chunks the content is moved and the framing is left behind (``mover``): it was read in the copy, and what a
sender could still change of it goes nowhere. Small chunks cost more in calls than in copies: a body in such is not begun
(``Framed.is_long``), and what comes in such later is taken from the copy. Very many are dear to parse: then the loop reads
again, in small reads.

    watching    the loop tells when something lies in the socket; it is looked at when it is its turn (``rota``), until nothing is left
    paused      nobody takes anything; what comes stays in the socket, and the client is slowed down
    closed      the body has come, or will not come, and the loop reads the connection again

Nobody else reads meanwhile: the connection's transport is paused. The client's end and its errors are the loop's to find:
at the first sign of either the connection gets its reading back. What the client sends as urgent data is data like any other
(``SO_OOBINLINE``, RFC 6093): else what was looked at could change before it is moved. ``splice`` stops in front of it, and the
rest of that piece is taken from the copy.

A sender on the same host can change pages that it has sent (``sendfile`` and the like) behind the look at them. It gets what
it asked for: another body than the one whose digest the receipt tells. So nothing is moved of a body whose digest was claimed.
"""

import asyncio
import socket
import sys
from typing import Final, Protocol

from relay.errors import FramingInvalid
from relay.protocols.framed import Framed
from relay.wire.exchange import Exchange
from relay.wire.kernel import socket_of
from relay.wire.pieces import Unread, piece_of
from relay.wire.surroundings import Surroundings

PLACED_BYTES: Final = 2 << 20
"""The most that is received at once where it is wanted: digests may be taken of it before anybody else has a turn."""


class Owner(Protocol):
    """The connection whose body it is."""

    def go_on(self) -> None: ...
    def refuse(self, fault: FramingInvalid) -> None: ...
    def stop_peeking(self) -> None: ...
    def give_up(self) -> None: ...


def prepare_peeking(transport: asyncio.BaseTransport) -> bool:
    """Make a new connection ready for this; false where it cannot be done, or what lies in the socket is TLS's."""
    plain = socket_of(transport)
    if sys.platform != "linux" or plain is None or transport.get_extra_info("ssl_object") is not None:
        return False
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    return True


class Peeking:
    """The reading of one long body. It is paused at first."""

    def __init__(self, source: socket.socket, shared: Surroundings, exchange: Exchange, framed: Framed, owner: Owner) -> None:
        self._source = source
        self._intake, self._mover, self._rota = shared.intake, shared.mover, shared.rota
        self._exchange = exchange
        self._framed = framed
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._is_watching = False

    def resume_reading(self) -> None:
        """Go on."""
        if not self._is_watching:
            self._is_watching = True
            self._loop.add_reader(self._source.fileno(), self._rota.queue, self, self._loop)

    def pause_reading(self) -> None:
        """Take nothing more for now."""
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_reader(self._source.fileno())

    def close(self) -> None:
        """Leave the socket to the loop."""
        self.pause_reading()
        self._source.close()

    def look(self) -> bool:
        """Have taken what there is; true unless nothing is left. Of an error behind it uvloop tells once, so it is looked for."""
        try:
            if self._is_watching:
                self._look()
        except BlockingIOError:
            return False
        except OSError:
            self._owner.give_up()
            return False
        except FramingInvalid as fault:
            self._owner.refuse(fault)
        except Exception:
            self._owner.give_up()  # else the loop would call again, and again
            raise
        return self._is_watching

    def _look(self) -> None:
        """Look at what there is, and have it taken.

        Raises:
            OSError: there is nothing yet, or the connection is broken.
        """
        room, framed = self._exchange.room, self._framed
        is_placed = False
        if isinstance(room, memoryview):
            is_placed = framed.is_bare
            view = room[:PLACED_BYTES] if is_placed else self._intake.view_of(len(room))
        else:
            view = self._intake.view_of(room)
        view = view[: framed.most_bytes]
        count = self._source.recv_into(view, 0, 0 if is_placed else socket.MSG_PEEK)
        if not count:
            self._owner.stop_peeking()
            return
        if is_placed:
            framed.take(self._intake.buffer, 0, count)
            self._exchange.feed(view[:count])
        else:
            self._take(view, count)
        self._owner.go_on()

    def _take(self, view: memoryview, count: int) -> None:
        """Have taken what of the body was looked at, and then discard what still lies there.

        Raises:
            OSError: it does not lie there any more.
        """
        spans, taken = self._framed.take(self._intake.buffer, 0, count)
        gone = 0
        if spans:
            copy = piece_of(view, spans)
            piece = Unread(copy, spans, self._source, self._mover) if self._framed.is_coarse else copy
            self._exchange.feed(piece)
            gone = piece.gone_bytes if isinstance(piece, Unread) else 0
        while gone < taken:
            count = self._source.recv_into(view, taken - gone, socket.MSG_TRUNC)
            if not count:
                raise ConnectionResetError
            gone += count
