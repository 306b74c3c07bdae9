"""A line on a terminal that tells how far a transfer has come. Where no terminal is, nothing is written."""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

REDRAW_SECONDS = 0.1
BAR_CELLS = 24
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Tells bytes, rate and time left; ``total_bytes`` is ``None`` where the end is not known."""

    def __init__(self, name: str, total_bytes: int | None, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent_bytes = 0
        self._name = printable(name)
        self._total_bytes = total_bytes
        self._stream = stream
        self._clock = clock
        self._is_shown = stream.isatty()
        self._began_at = clock()
        self._drawn_at: float | None = None

    def advance(self, size: int) -> None:
        """Count bytes that went out; draw now and then."""
        self.sent_bytes += size
        now = self._clock()
        if self._drawn_at is None or now - self._drawn_at >= REDRAW_SECONDS:
            self._drawn_at = now
            self._draw(self.line(now - self._began_at))

    def wait(self) -> None:
        """Say that everything is sent and that the answer is awaited."""
        self._draw(f"{self.line(self._clock() - self._began_at)}  waiting for the answer")

    def close(self) -> None:
        """Take the line away: what is printed next begins where it stood."""
        if self._drawn_at is not None:
            self._drawn_at = None
            self._draw("")

    def line(self, seconds: float) -> str:
        """The line as it reads after so many seconds."""
        rate = self.sent_bytes / seconds if seconds > 0 else 0.0
        if self._total_bytes is None:
            return f"{self._name}  {size_text(self.sent_bytes)}  {size_text(rate)}/s"
        share = self.sent_bytes / self._total_bytes if self._total_bytes else 1.0
        bar = ("█" * int(share * BAR_CELLS)).ljust(BAR_CELLS, "░")
        left = time_text((self._total_bytes - self.sent_bytes) / rate) if rate else "-:--"
        return f"{self._name}  {bar} {share:4.0%}  {size_text(self.sent_bytes)}  {size_text(rate)}/s  {left} left"

    def _draw(self, line: str) -> None:
        if self._is_shown:
            width = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{line[: width - 1]}")
            self._stream.flush()


def size_text(size: float) -> str:
    """Say a number of bytes for people."""
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == UNITS[0] else f"{size:.1f} {unit}"


def time_text(seconds: float) -> str:
    """Say a duration as minutes and seconds, with hours before them where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str, *, keep: str = "") -> str:
    """Replace what a terminal would obey instead of show."""
    return "".join(each if each.isprintable() or each in keep else "\N{REPLACEMENT CHARACTER}" for each in text)
