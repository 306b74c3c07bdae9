"""The memory that processes hold, and the most they have held, as the kernel tells (Linux)."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

Process = int | str
"""A process id, or ``self``."""

_RESET_PEAK = "5"


def forget_peak(pids: Sequence[Process]) -> None:
    """From now on the peak is that of now."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak_bytes(pids: Sequence[Process]) -> int:
    """The most that each has held, added up."""
    return _told(pids, "VmHWM:")


def held_bytes(pids: Sequence[Process]) -> int:
    """What they hold now."""
    return _told(pids, "VmRSS:")


def private_bytes(pids: Sequence[Process]) -> int:
    """What they have for themselves."""
    return _told(pids, "RssAnon:")


def _told(pids: Sequence[Process], name: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith(name):
                    total += int(line.split()[1]) << 10
    return total
