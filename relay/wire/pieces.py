"""What a body is handed on in."""

import socket
from collections.abc import Callable, Sequence
from typing import Final

from relay.wire.pipe import Pipe


class Scattered:
    """A piece whose bytes lie in several places, in this order: of a body that came in chunks, and is passed on without a copy."""

    __slots__ = ("_size", "views")

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views
        self._size = sum(map(len, views))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.views)


class Unread:
    """A piece that was looked at (``view``) where it still lies: in the socket that it came by."""

    __slots__ = ("_gone_bytes", "_pipe", "_size", "_source", "view")

    def __init__(self, view: memoryview, source: socket.socket, pipe: Pipe) -> None:
        self.view = view
        self._size = len(view)
        self._source = source
        self._pipe = pipe
        self._gone_bytes = 0

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def move_to(self, file: int) -> int:
        """Have the kernel move it to another socket; returns how many bytes that took. The others are in ``view`` only."""
        self._gone_bytes, moved = self._pipe.move(self._source.fileno(), file, self.view)
        return moved

    def discard_rest(self) -> None:
        """Take out of the socket what was not moved from there.

        Raises:
            OSError: it is not there any more.
        """
        while self._gone_bytes < self._size:
            count = self._source.recv_into(self.view, self._size - self._gone_bytes, socket.MSG_TRUNC)
            if not count:
                raise ConnectionResetError
            self._gone_bytes += count


Piece = bytes | memoryview | Scattered | Unread
"""A piece of a body. A view is good only for the call that it is given to: what it views is received into again."""

Room = int | memoryview
"""How many bytes more would be taken at once, about: 0 when no more should come for now. Or the place where they are wanted: who
receives into it spares a copy, and gives what lies there as a piece like any other."""

Take = Callable[[Piece], Room]
"""Takes a piece, and says for how many more there is room."""

PLENTY: Final = 1 << 30
"""As much as comes (bytes)."""


def views_of(piece: Piece) -> Sequence[bytes | memoryview]:
    """Where the bytes of a piece lie, in their order."""
    if isinstance(piece, Scattered):
        return piece.views
    return (piece.view,) if isinstance(piece, Unread) else (piece,)
