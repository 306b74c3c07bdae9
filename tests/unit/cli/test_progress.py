"""The progress line: right at both ends, and silent where nobody watches."""

import io

import pytest

from relay.cli.progress import Progress, printable, size_text, time_text


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_line_tells_share_size_rate_and_time_left() -> None:
    clock, screen = Clock(), Screen()
    progress = Progress("a.bin", 4 << 20, screen, clock)
    clock.now += 2
    progress.advance(1 << 20)
    assert screen.getvalue() == "\r\x1b[Ka.bin  ██████░░░░░░░░░░░░░░░░░░  25%  1.0 MiB  512.0 KiB/s  0:06 left"


def test_line_without_a_known_end_tells_no_share() -> None:
    clock, screen = Clock(), Screen()
    progress = Progress("standard input", None, screen, clock)
    clock.now += 1
    progress.advance(2048)
    assert screen.getvalue().endswith("standard input  2.0 KiB  2.0 KiB/s")


def test_it_is_drawn_ten_times_a_second_at_most_and_taken_away() -> None:
    clock, screen = Clock(), Screen()
    progress = Progress("x", 1000, screen, clock)
    for _ in range(100):
        clock.now += 0.01
        progress.advance(10)
    progress.close()
    progress.close()
    assert 9 <= screen.getvalue().count("\r") <= 11
    assert screen.getvalue().endswith("\r\x1b[K")


def test_empty_file_and_a_clock_that_stands_still() -> None:
    screen = Screen()
    Progress("x", 0, screen, Clock()).advance(0)
    assert "100%" in screen.getvalue()


def test_nothing_is_written_where_no_terminal_is() -> None:
    stream = io.StringIO()
    progress = Progress("x", 10, stream)
    progress.advance(10)
    progress.wait()
    progress.close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB"), (1 << 60, "1048576.0 TiB")]
)
def test_sizes_are_told_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_times_are_told_for_people(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_name_cannot_command_the_terminal() -> None:
    assert printable("a\x1b]0;x\x07\n\u202eb") == "a\ufffd]0;x\ufffd\ufffd\ufffdb"
    assert printable("a\nb", keep="\n") == "a\nb"
