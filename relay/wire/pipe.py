"""The way from one socket to another within the kernel: ``splice(2)``, through a pipe that is empty before and after each call.

So one pipe serves all connections of a process: what the target does not take is read out again. Where the system has no
such call, or no descriptor is left for a pipe, nothing is moved, and whoever asked copies.
"""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Callable
from typing import Final

CAPACITY: Final = 1 << 20
"""The most that the system grants to a user who is not root, unless it is told otherwise (``/proc/sys/fs/pipe-max-size``)."""


class Pipe:
    """The pipe of one process. It is made with its first use."""

    def __init__(self) -> None:
        self._out, self._into = -1, -1
        self._close: Callable[[], object] | None = None

    def move(self, source: int, target: int, view: memoryview) -> tuple[int, int]:
        """Move what lies in one socket, and was looked at into ``view``, to another one; neither is waited for.

        Returns how many bytes are gone from the source, and how many of these the target took. An error of either is left
        to be met by whoever reads or writes there next.
        """
        if self._close is None and not self._make():
            return 0, 0
        gone = moved = 0
        wanted = len(view)
        is_empty = False
        try:
            while moved == gone < wanted and (count := os.splice(source, self._into, wanted - gone, flags=os.SPLICE_F_NONBLOCK)):
                gone += count
                while moved < gone:
                    moved += os.splice(self._out, target, gone - moved, flags=os.SPLICE_F_NONBLOCK)
            is_empty = True
        except OSError:
            self._empty_into(view[moved:gone])
            is_empty = True
        finally:
            if not is_empty:  # the next bytes in it would be another tenant's
                self._throw_away()
        return gone, moved

    def _empty_into(self, view: memoryview) -> None:
        """Read what the target did not take to where it was looked at."""
        while view:
            view = view[os.readv(self._out, [view]) :]

    def _make(self) -> bool:
        try:
            self._out, self._into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        self._close = weakref.finalize(self, _close, self._out, self._into)
        with contextlib.suppress(OSError):  # a user with many pipes gets small ones
            fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, CAPACITY)
        return True

    def _throw_away(self) -> None:
        if self._close is not None:
            self._close()
        self._out, self._into, self._close = -1, -1, None


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
