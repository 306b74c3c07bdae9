"""A request's body as it is framed: what every way to frame one tells of what has come, and the simplest of them. No I/O."""

from typing import Final, Protocol

Span = tuple[int, int]
"""Where bytes lie in a buffer: the place of the first one, and the place behind the last."""

LONG_BYTES: Final = 1 << 20
"""Of a shorter rest it costs more to have the kernel move it than is spared."""


class Framed(Protocol):
    """One body, read as it comes."""

    @property
    def has_ended(self) -> bool:
        """True once all of it has come."""
        ...

    @property
    def most_bytes(self) -> int:
        """The most that is still to come."""
        ...

    @property
    def is_bare(self) -> bool:
        """True of a body between whose bytes there is nothing else."""
        ...

    @property
    def pieces(self) -> int:
        """In how many the last bytes came."""
        ...

    @property
    def is_coarse(self) -> bool:
        """True while the last pieces lie where they came, and are so large that they are worth a call each."""
        ...

    @property
    def is_long(self) -> bool:
        """True while it is worth having the kernel move what comes."""
        ...

    def take(self, buffer: bytearray, at: int, end: int) -> tuple[list[Span], int]:
        """Read ``buffer[at:end]``: where the body's bytes lie, and the place behind what was read (``end``, unless the body ended).

        Raises:
            FramingInvalid: it is not framed as it should be.
        """
        ...


class DeclaredBody:
    """A body of a declared length (RFC 9112 "Message Body Length")."""

    is_bare: Final = True
    pieces: Final = 1
    is_coarse: Final = True

    def __init__(self, length: int) -> None:
        self.most_bytes = length

    @property
    def has_ended(self) -> bool:
        """True once all of it has come."""
        return not self.most_bytes

    @property
    def is_long(self) -> bool:
        """True while so much is to come that it is worth having the kernel move it."""
        return self.most_bytes >= LONG_BYTES

    def take(self, buffer: bytearray, at: int, end: int) -> tuple[list[Span], int]:
        """Read ``buffer[at:end]``: where the body's bytes lie, and the place behind them."""
        del buffer
        stop = min(end, at + self.most_bytes)
        self.most_bytes -= stop - at
        return [(at, stop)], stop
