"""Children of the benchmark: started in the foreground, measured from outside, ended by their ids."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.db import launch

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


class BrokenError(Exception):
    """Something that the benchmark needs does not work; the message says what, and how it can be mended."""


class Child:
    """One program. Its output goes to a file; it is ended when the benchmark ends, however that happens (Linux)."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()) -> None:
        self.name = Path(command[0]).name
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, launch.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "-", "-", *command],
                cwd=ROOT,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,  # a Ctrl-C is for the benchmark, which then ends its children in order
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def told(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is up.

        Raises:
            BrokenError: it ended, or it takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self.process.poll() is not None:
                raise BrokenError(f"{self.name} ended with exit code {self.process.returncode}: {self.told()}")
            if time.monotonic() > deadline:
                raise BrokenError(f"{self.name} was not up within {START_SECONDS:.0f} s: {self.told()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End it."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not buried."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def name_of(pid: int) -> str:
    """What the kernel calls a process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def tree_of(pid: int) -> tuple[list[int], list[int]]:
    """A process and its descendants: those that are no Postgres, and those that are."""
    if name_of(pid) == "postgres":
        return [], [pid, *(each for child in children_of(pid) for part in tree_of(child) for each in part)]
    own, postgres = [pid], list[int]()
    for child in children_of(pid):
        theirs, databases = tree_of(child)
        own += theirs
        postgres += databases
    return own, postgres


def cpu_seconds(pid: int) -> float:
    """The processor time of a process, user and system, and of the children that it has buried.

    Its own part is the kernel's clock of that process, the same as in ``/proc/<pid>/stat`` without the rounding to ticks.
    """
    try:
        own = time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return own + (int(fields[13]) + int(fields[14])) / TICKS


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor time: of a server's own processes, and of its Postgres (None where it has none)."""

    own: float
    postgres: float | None

    def since(self, before: "Spent") -> "Spent":
        """What was spent between two looks."""
        postgres = None if self.postgres is None or before.postgres is None else self.postgres - before.postgres
        return Spent(self.own - before.own, postgres)


def spent_by(pid: int) -> Spent:
    """What a process and its descendants have spent so far."""
    own, postgres = tree_of(pid)
    return Spent(sum(map(cpu_seconds, own)), sum(map(cpu_seconds, postgres)) if postgres else None)
