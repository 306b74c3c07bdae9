"""The way from one socket to another within the kernel: ``splice(2)``, through pipes that are empty before and after each call.

So the same pipes serve all connections of a process. What is all of one piece goes through one of them. What is to be left
out of a piece, the framing of its chunks, is read out of the first pipe, while what is to go on is moved to a second one, so
that the target gets all of it at once.

Pipes in which something is left are thrown away: the next bytes in them would be another tenant's. Where the system has no
such call, or no descriptor is left for a pipe, nothing is moved, and whoever asked copies.
"""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from relay.protocols.framed import Span

CAPACITY: Final = 1 << 20
"""The most that the system grants to a user who is not root, unless it is told otherwise (``/proc/sys/fs/pipe-max-size``)."""


class Mover:
    """The pipes of one process. They are made with their first use."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._close: Callable[[], object] | None = None

    def move(self, source: int, target: int, spans: Sequence[Span], before: bytes = b"") -> tuple[int, int]:
        """Move parts of what lies in one socket to another one, behind ``before`` (at most ``PIPE_BUF`` bytes); neither is waited for.

        ``spans`` say where the parts lie, from the first unread byte on; what lies between them is dropped.

        Returns how many bytes are gone from the source, and how many the target took, of ``before`` and the parts. An error of
        either is left to be met by whoever reads or writes there next.
        """
        if self._close is None and not self._make():
            return 0, 0
        passage = Passage(self._files, source, target)
        is_empty = False
        try:
            with contextlib.suppress(OSError):
                passage.move(spans, before)
            is_empty = passage.is_empty
        finally:
            if not is_empty:
                self._throw_away()
        return passage.gone, passage.moved

    def _make(self) -> bool:
        files: list[int] = []
        try:
            for _ in range(2):
                files += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            _close(files)
            return False
        self._files, self._close = files, weakref.finalize(self, _close, files)
        with contextlib.suppress(OSError):  # a user with many pipes gets small ones
            for into in files[1::2]:
                fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, CAPACITY)
        return True

    def _throw_away(self) -> None:
        if self._close is not None:
            self._close()
        self._close = None


class Passage:
    """One piece on its way. ``gone`` bytes have left the source, ``moved`` have reached the target."""

    __slots__ = ("_files", "_passed", "_source", "_target", "_waiting", "gone", "moved")

    def __init__(self, files: Sequence[int], source: int, target: int) -> None:
        self._files = files
        self._source = source
        self._target = target
        self._passed = 0
        """Of the bytes that are gone, how many are where they wait for the target, or were dropped."""
        self._waiting = 0
        self.gone = 0
        self.moved = 0

    @property
    def is_empty(self) -> bool:
        """True when nothing is left in the pipes, whatever call failed."""
        return not self._waiting and self._passed == self.gone

    def move(self, spans: Sequence[Span], before: bytes) -> None:
        """Move what lies at ``spans``, and drop what lies between.

        Raises:
            OSError: the source gives nothing more, or the target takes nothing more.
        """
        if len(spans) == 1 and not spans[0][0]:
            self._move_all(spans[0][1], before)
        else:
            self._sort(spans, before)

    def _move_all(self, size: int, before: bytes) -> None:
        out, into, _, _ = self._files
        if before:
            self._waiting = os.write(into, before)
        while self.gone < size:
            count = self._fetch(into, size - self.gone)
            self._passed += count
            self._waiting += count
            self._flush(out)

    def _sort(self, spans: Sequence[Span], before: bytes) -> None:
        out, into, sorted_out, sorted_into = self._files
        splice, flags = os.splice, os.SPLICE_F_NONBLOCK
        if before:
            self._waiting = os.write(sorted_into, before)
        at = gone = 0
        size = spans[-1][1]
        try:
            for start, stop in spans:
                while at < stop:
                    if at == gone:
                        if gone:
                            self._flush(sorted_out)
                        gone += self._fetch(into, size - at)
                    elif at < start:
                        at += len(os.read(out, min(start, gone) - at))
                    else:
                        try:
                            count = splice(out, sorted_into, min(stop, gone) - at, None, None, flags)
                        except BlockingIOError:  # the second pipe is full
                            if not self._waiting:
                                raise
                            self._flush(sorted_out)
                            continue
                        at += count
                        self._waiting += count
        finally:
            self._passed = at
        self._flush(sorted_out)

    def _fetch(self, into: int, most: int) -> int:
        """Fill a pipe."""
        count = os.splice(self._source, into, most, flags=os.SPLICE_F_NONBLOCK)
        if not count:
            raise BlockingIOError
        self.gone += count
        return count

    def _flush(self, out: int) -> None:
        """Empty a pipe."""
        while self._waiting:
            count = os.splice(out, self._target, self._waiting, flags=os.SPLICE_F_NONBLOCK)
            self.moved += count
            self._waiting -= count


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
