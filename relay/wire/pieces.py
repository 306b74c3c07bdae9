"""What a body is handed on in."""

import socket
from collections.abc import Callable, Sequence
from typing import Final

from relay.protocols.framed import Span
from relay.wire.mover import Mover


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
    """A piece that was looked at (``copy``) where it still lies: in the socket that it came by, at ``spans`` of what is unread there.

    ``gone_bytes`` is how much is not there any more.
    """

    __slots__ = ("_mover", "_size", "_source", "_spans", "copy", "gone_bytes")

    def __init__(self, copy: memoryview | Scattered, spans: Sequence[Span], source: socket.socket, mover: Mover) -> None:
        self.copy = copy
        self._size = len(copy)
        self._spans = spans
        self._source = source
        self._mover = mover
        self.gone_bytes = 0

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return bytes(self.copy)

    def move_to(self, file: int, before: bytes = b"") -> int:
        """Have the kernel move it to another socket, behind ``before``.

        Returns how many bytes that took of both. The others are in ``copy`` only.
        """
        self.gone_bytes, moved = self._mover.move(self._source.fileno(), file, self._spans, before)
        return moved


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
    if isinstance(piece, Unread):
        piece = piece.copy
    return piece.views if isinstance(piece, Scattered) else (piece,)


def piece_of(view: memoryview, spans: Sequence[Span]) -> memoryview | Scattered:
    """The piece whose bytes lie there."""
    if len(spans) == 1:
        return view[spans[0][0] : spans[0][1]]
    return Scattered([view[start:stop] for start, stop in spans])
