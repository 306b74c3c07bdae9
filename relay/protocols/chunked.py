"""The chunked transfer coding, read (RFC 9112 "Chunked Transfer Coding"). No I/O; small chunks are moved together where they lie.

Strict, because two readings of one body are how requests are smuggled: a size is 1 to 15 hex digits, every line ends
with CRLF, extensions are bounded and hold no control characters. Trailer fields are checked and dropped: they never
become header fields.
"""

import re
import sys
from typing import Final

from relay.errors import FramingInvalid
from relay.protocols.framed import LONG_BYTES, Span

LINE_LIMIT = 4 * 1024
TRAILERS_LIMIT = 16 * 1024
MOVED_BYTES = 8 * 1024
"""Pieces of chunks that are smaller are moved together: a view of each would cost more."""
COARSE_BYTES = 32 * 1024
"""Pieces of this size, on average, are worth a call each to have the kernel move them."""

_EXTENSIONS = rb"(?:[ \t]{0,16};[\t\x20-\x7e\x80-\xff]{0,4000})?\r\n"
_FIRST_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})" + _EXTENSIONS)
_NEXT_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})" + _EXTENSIONS)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,80}:[\t\x20-\x7e\x80-\xff]{0,4000}\r\n")
_END = b"\r\n"


class ChunkedBody:
    """One body. Give it what came; it tells where the body's bytes lie in that, and where it stopped.

    ``pieces`` is in how many the last ones came; ``is_coarse``, ``is_long``: see ``Framed``.
    """

    most_bytes: Final = sys.maxsize
    is_bare: Final = False

    def __init__(self) -> None:
        self._rest_bytes = 0
        self._line = bytearray()
        self._size = _FIRST_SIZE
        self._again = (b"", 0)
        self._is_in_trailers = False
        self._trailer_bytes = 0
        self._taken_bytes = 0
        self.has_ended = False
        self.is_coarse = self.is_long = False
        self.pieces = 0

    def take(self, buffer: bytearray, at: int, end: int) -> tuple[list[Span], int]:
        """Read ``buffer[at:end]``: where the body's bytes lie, and the place behind what was read (``end``, unless the body ended).

        Small pieces are moved together: the later ones take the place of what lay between.

        Raises:
            FramingInvalid: this is not the chunked coding.
        """
        view = memoryview(buffer)
        spans: list[Span] = []
        begin = first = last = at
        pieces, has_moved = 0, False
        rest_bytes, (again, again_bytes) = self._rest_bytes, self._again
        while at < end and not self.has_ended:
            if rest_bytes:
                stop = min(end, at + rest_bytes)
                size = stop - at
                rest_bytes -= size
                if size >= MOVED_BYTES or not pieces or last - first >= MOVED_BYTES:
                    if pieces:
                        spans.append((first, last))
                    first, last = at, stop
                else:
                    view[last : last + size] = view[at:stop]
                    last += size
                    has_moved = True
                pieces += 1
                at = stop
                if not rest_bytes and buffer.startswith(again, at, end):  # most chunks are as large as the one before
                    rest_bytes = again_bytes
                    at += len(again)
            elif self._is_in_trailers:
                at = self._take_trailer(buffer, at, end)
            else:
                self._rest_bytes = 0
                at = self._take_size(buffer, at, end)
                rest_bytes, (again, again_bytes) = self._rest_bytes, self._again
        if pieces:
            spans.append((first, last))
        self._rest_bytes, self.pieces = rest_bytes, pieces
        self._taken_bytes += at - begin
        self.is_coarse = not has_moved and pieces * COARSE_BYTES <= at - begin
        self.is_long = self.is_coarse and self._taken_bytes >= LONG_BYTES
        return spans, at

    def _take_size(self, buffer: bytearray, at: int, end: int) -> int:
        if self._line:
            return self._complete(buffer, at, end)
        size = self._size.match(buffer, at, end)
        if size is None:
            return self._keep(buffer, at, end)
        self._begin_chunk(int(size[1], 16), size[0])
        return size.end()

    def _take_trailer(self, buffer: bytearray, at: int, end: int) -> int:
        if self._line:
            return self._complete(buffer, at, end)
        if buffer.startswith(_END, at, end):
            self.has_ended = True
            return at + len(_END)
        trailer = _TRAILER.match(buffer, at, end)
        if trailer is None:
            return self._keep(buffer, at, end)
        self._trailer_bytes += trailer.end() - at
        if self._trailer_bytes > TRAILERS_LIMIT:
            raise FramingInvalid("The body's trailer fields are too long.")
        return trailer.end()

    def _keep(self, buffer: bytearray, at: int, end: int) -> int:
        """Keep the beginning of a line until the rest of it comes."""
        has_more_to_come = end - at <= LINE_LIMIT and b"\n" not in buffer[at + self._leading(buffer, at, end) : end]
        if not has_more_to_come:
            raise FramingInvalid("The body is not framed as the chunked coding demands.")
        self._line += buffer[at:end]
        return end

    def _leading(self, buffer: bytearray, at: int, end: int) -> int:
        """The bytes of the CRLF that ends a chunk's data; it stands before the next size."""
        return len(_END) if self._size is _NEXT_SIZE and not self._is_in_trailers and buffer.startswith(_END, at, end) else 0

    def _complete(self, buffer: bytearray, at: int, end: int) -> int:
        """Read the line that began in an earlier piece."""
        line, self._line = self._line, bytearray()
        before = len(line)
        line += buffer[at : min(end, at + LINE_LIMIT)]
        taken = self._take_trailer(line, 0, len(line)) if self._is_in_trailers else self._take_size(line, 0, len(line))
        return at + taken - before

    def _begin_chunk(self, size: int, line: bytes) -> None:
        self._rest_bytes = size
        self._again = (line if self._size is _NEXT_SIZE else _END + line), size
        self._size = _NEXT_SIZE
        self._is_in_trailers = size == 0
