"""Starting ``relay`` as a user would, and looking at the processes and ports it leaves."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 20.0


def poll(is_so: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a condition holds; fail with ``what`` when it does not."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []


def descendants_of(pid: int) -> list[int]:
    return [each for child in children_of(pid) for each in (child, *descendants_of(child))]


def command_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    return ""


class Running:
    """A ``relay`` command that runs, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._queue: Queue[str] = Queue()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self.errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_line(self, pattern: str, seconds: float = DEADLINE_SECONDS) -> str:
        """Wait until a line of standard output or standard error matches."""
        deadline = time.monotonic() + seconds
        while True:
            for line in [*self.lines, *self.errors]:
                if re.search(pattern, line):
                    return line
            assert self.process.poll() is None or self._is_reading(), f"ended with {self.process.returncode}: {self.told()}"
            assert time.monotonic() < deadline, f"no line {pattern!r} within {seconds} s: {self.told()}"
            with contextlib.suppress(Empty):
                self._queue.get(timeout=0.05)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for the end and for everything it printed; the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return code

    def told(self) -> str:
        return "\n".join([*self.lines, *self.errors])

    def _is_reading(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            self._queue.put(line)


@contextlib.contextmanager
def relay(*arguments: str, environment: Mapping[str, str]) -> Iterator[Running]:
    """Run a ``relay`` command with these settings and no others; kill it and what it started at the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = Running(process)
    try:
        yield running
    finally:
        left = [process.pid, *descendants_of(process.pid)]
        process.kill()
        process.wait()
        for pid in left[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
        running.wait()
        process.stdout.close()  # type: ignore[union-attr] # a pipe, as asserted above
        process.stderr.close()  # type: ignore[union-attr] # a pipe, as asserted above
