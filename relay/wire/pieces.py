"""What a body is handed on in."""

from collections.abc import Callable, Sequence


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


Piece = bytes | memoryview | Scattered
"""A piece of a body. A view is good only for the call that it is given to: what it views is received into again."""

Take = Callable[[Piece], bool]
"""Takes a piece; false when no more should come for now."""


def views_of(piece: Piece) -> Sequence[bytes | memoryview]:
    """Where the bytes of a piece lie, in their order."""
    return piece.views if isinstance(piece, Scattered) else (piece,)
