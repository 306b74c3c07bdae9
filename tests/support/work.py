"""How much work a parser does, counted, not timed: the same on any machine, however busy it is.

A unit is an instruction of the interpreter in the files that are named, or a byte that is searched or copied in what is fed as
``CountedBytes``. So what looks at the same bytes again and again shows, in whichever of the two it does so.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self, SupportsIndex


@dataclass
class Work:
    """What was counted."""

    units: int = 0


class CountedBytes(bytes):
    """Bytes that count what is searched in them and copied out of them; so do their slices and sums."""

    work: Work

    @classmethod
    def of(cls, data: bytes, work: Work) -> Self:
        """The same bytes, counted in ``work``."""
        counted = cls(data)
        counted.work = work
        return counted

    def __radd__(self, before: bytes | bytearray) -> Any:
        if isinstance(before, bytearray):
            return NotImplemented  # it takes these bytes in by itself
        return self.of(bytes.__add__(before, self), self._count(len(before) + len(self) if before else 0))

    def __add__(self, after: Any) -> Self:
        return self.of(bytes.__add__(self, after), self._count(len(self) + len(after) if self else 0))

    def __getitem__(self, key: Any) -> Any:
        part = bytes.__getitem__(self, key)
        return self.of(part, self._count(len(part))) if isinstance(part, bytes) else part

    def find(self, sub: Any, start: Any = 0, end: SupportsIndex | None = None) -> int:
        """As ``bytes.find``; every byte before the place is one that was looked at."""
        at = bytes.find(self, sub, start, end)
        self._count((len(self) if at < 0 else at) - start)
        return at

    def rfind(self, sub: Any, start: Any = 0, end: SupportsIndex | None = None) -> int:
        """As ``bytes.rfind``."""
        at = bytes.rfind(self, sub, start, end)
        self._count(len(self) - max(at, start))
        return at

    def _count(self, units: int) -> Work:
        self.work.units += units
        return self.work


@contextmanager
def work_of(*files: str) -> Iterator[Work]:
    """Count the instructions of functions in files of these names."""
    work = Work()

    def count(frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            if Path(frame.f_code.co_filename).name not in files:
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            work.units += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield work
    finally:
        sys.settrace(before)
