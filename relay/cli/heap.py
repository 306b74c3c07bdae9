"""Memory that a crowd has left behind goes back to the system.

glibc gives back only what lies at the end of its heap. A thousand uploads that stall and go leave holes, and the process
would keep the size of its worst hour. So every few seconds it is asked how much is free, and if that is much, to give back
every page of it. Where there is no glibc there is nothing to do.
"""

import asyncio
import ctypes
from typing import Any, Final

LOOK_SECONDS: Final = 10.0
MUCH: Final = 16 << 20


class _Info(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


class Heap:
    """The heap of this process."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._info: Any = getattr(libc, "mallinfo2", None)
        self._trim: Any = getattr(libc, "malloc_trim", None)
        if self._info is not None and self._trim is not None:
            self._info.restype = _Info
            self._trim.argtypes = (ctypes.c_size_t,)
        self._next_look = 0.0
        self._trimming: asyncio.Task[int] | None = None

    async def look(self) -> None:
        """Have free memory given back, if there is much of it, in a thread that is not waited for."""
        now = asyncio.get_running_loop().time()
        is_at_work = self._trimming is not None and not self._trimming.done()
        if self._info is None or now < self._next_look or is_at_work:
            return
        self._next_look = now + LOOK_SECONDS
        if self._info().fordblks >= MUCH:
            self._trimming = asyncio.create_task(asyncio.to_thread(self._trim, 0), name="trim")
