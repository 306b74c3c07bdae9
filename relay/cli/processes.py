"""The supervisor: one light process that starts the others, replaces the dead, and ends them all.

Theory of operation
    Every child is ``python -m relay <command>``, or a program that is not ours, in a process group of its own, so
    that a terminal's Ctrl-C reaches the supervisor alone. Between supervisor and child runs one socket pair, the child's standard
    input: the supervisor *tells* the child its last settings (a JSON object; addresses and secrets that are
    known late never stand on a command line), the child says ``ready`` when it is. A child may therefore be
    spawned early, import what it needs while Postgres starts, and wait for the word.

    The main loop sleeps until a signal, a child's word or a child's death, then looks at everything. A child
    that died is started again, at once if it had lived, else ever more slowly. A child that ends with
    ``REFUSED`` before any of its kind was ever ready has said why it cannot start: that ends everything.

    Children follow the supervisor into death (``parents``), so that kill -9 leaves no orphan.

What must stay true: children are spawned by the main thread (Linux ties the death signal to the thread);
there is one way out, ``__exit__``, whatever ended the run. Not here: what is run (``serve``, ``demo``).
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Protocol, Self

from relay.db import launch

REFUSED = 3
"""Exit code of a child that cannot start and has said why."""

READY = b"ready\n"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIVED_SECONDS = 5.0
"""A child that lived this long is replaced at once."""

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
KILL_GRACE_SECONDS = 10.0
"""What a child may take beyond that to ship its journal and close."""

HASTE_SECONDS = 1.0
SAME_PRESS_SECONDS = 0.5
"""A second Ctrl-C hastens the stop; what comes this soon after the first is an echo of it."""

TICK_SECONDS = 1.0

logger = logging.getLogger("relay.supervisor")


class StopAsked(Exception):
    """SIGTERM, SIGINT or SIGHUP came: leave, with exit code 0."""


class ChildRefused(Exception):
    """A child cannot start and has said why on standard error."""


class Watched(Protocol):
    """Something else that lives beside the children and is started again when it dies: the embedded Postgres."""

    def is_alive(self) -> bool: ...

    def start(self) -> str: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: ``python -m relay <command>``, with the sockets it inherits, by name.

    Or, where ``is_foreign``, ``command`` as it is: with ``environment`` and no other, because ours holds secrets.
    """

    name: str
    command: tuple[str, ...]
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    """Further arguments of the first process alone; its successors have nothing left to prepare."""

    is_foreign: bool = False


@dataclass(slots=True)
class Child:
    """A program and the process that runs it, if one does."""

    program: Program
    settings: dict[str, str] | None = None
    """What it was told; ``None`` while it waits for the word."""

    process: "subprocess.Popen[bytes] | None" = None
    channel: socket.socket | None = None
    is_ready: bool = False
    was_ever_ready: bool = False
    started_at: float = 0.0
    quick_deaths: int = 0
    start_again_at: float | None = None

    def hear(self) -> None:
        """Take in what the child says: that it is ready, or nothing more."""
        if self.channel is None:
            return
        try:
            word = self.channel.recv(64)
        except OSError:
            word = b""
        if word == READY:
            self.is_ready = self.was_ever_ready = True
        else:
            self.close_channel()

    def close_channel(self) -> None:
        """Hang up."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None


class Supervisor:
    """Owns every child between entering and leaving."""

    def __init__(self, *, stop_timeout: float, forget: Callable[[int], None] = lambda _: None) -> None:
        """Give children ``stop_timeout`` seconds to leave; ``forget`` is called with the pid of each that died."""
        self._stop_timeout = stop_timeout
        self._forget = forget
        self._children: list[Child] = []
        self._listening: list[socket.socket] = []
        self._watched: Watched | None = None
        self._stop_asked_at: float | None = None
        self._is_hastened = False
        self._may_interrupt = True
        self._wake_read, self._wake_write = os.pipe()

    def __enter__(self) -> Self:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._note_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._may_interrupt = False  # from here on a signal only hastens
        self._stop_asked_at = self._stop_asked_at or time.monotonic()
        self._stop_children()
        if self._watched is not None:
            self._watched.stop()
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the process is leaving: an impatient one must not spoil the exit code
        os.close(self._wake_read)
        os.close(self._wake_write)

    # ── starting ─────────────────────────────────────────────────────────────────────────────────

    def hold(self, listening: socket.socket) -> socket.socket:
        """Keep a listening socket open until the stop begins."""
        self._listening.append(listening)
        return listening

    def watch(self, watched: Watched) -> None:
        """Start it again when it dies, stop it after the children."""
        self._watched = watched

    def spawn(self, program: Program) -> Child:
        """Start a program; it waits for ``tell``."""
        child = Child(program)
        self._children.append(child)
        self._start(child)
        return child

    def tell(self, child: Child, settings: Mapping[str, str]) -> None:
        """Give a child its last settings (environment variables): it goes on now. A successor is told the same."""
        child.settings = dict(settings)
        if child.channel is not None:
            with contextlib.suppress(OSError):  # it died: its successor will be told
                child.channel.sendall(json.dumps(child.settings).encode())
                child.channel.shutdown(socket.SHUT_WR)

    def _start(self, child: Child) -> None:
        program = child.program
        ours, theirs = socket.socketpair()
        with theirs:
            child.process = subprocess.Popen(  # noqa: S603 - ourselves, or a program that we located
                _foreign_command(program) if program.is_foreign else _own_command(program, is_first=not child.was_ever_ready),
                stdin=theirs.fileno(),
                env={**({} if program.is_foreign else os.environ), **program.environment},
                pass_fds=[bound.fileno() for bound in program.sockets.values()],
                process_group=0,
            )
        ours.setblocking(True)
        child.channel = ours
        child.started_at = time.monotonic()
        child.start_again_at = None
        child.is_ready = False
        if child.settings is not None:
            self.tell(child, child.settings)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Watch over everything for ever.

        Raises:
            StopAsked: a signal asked for the end.
            ChildRefused: a child cannot start.
        """
        while True:
            self.step(TICK_SECONDS)

    def step(self, longest_seconds: float) -> None:
        """Wait for the next thing to happen, at most so long, and see to it.

        Raises:
            StopAsked: a signal asked for the end.
            ChildRefused: a child cannot start.
        """
        self._may_interrupt = False
        try:
            self._sleep(longest_seconds)
            for child in self._children:
                self._look_after(child)
        finally:
            self._may_interrupt = True
        if self._stop_asked_at is not None:
            raise StopAsked
        self._look_after_watched()

    def _note_stop(self, number: int, _frame: FrameType | None) -> None:
        # Wrappers (make, timeout) pass on a signal that the terminal or the group has already given us.
        if self._stop_asked_at is not None:
            is_another_press = number == signal.SIGINT and time.monotonic() - self._stop_asked_at > SAME_PRESS_SECONDS
            self._is_hastened = self._is_hastened or is_another_press
            return
        self._stop_asked_at = time.monotonic()
        # Outside the loop the main thread may be deep in a start of Postgres: only an exception gets it out.
        if self._may_interrupt:
            raise StopAsked

    def _sleep(self, longest_seconds: float) -> None:
        now = time.monotonic()
        due = [child.start_again_at - now for child in self._children if child.start_again_at is not None]
        channels = {child.channel.fileno(): child for child in self._children if child.channel is not None}
        readable, _, _ = select.select([self._wake_read, *channels], [], [], max(0.0, min([longest_seconds, *due])))
        for number in readable:
            if number in channels:
                channels[number].hear()
            else:
                self._swallow_wakeups()

    def _swallow_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _look_after_watched(self) -> None:
        if self._watched is not None and not self._watched.is_alive():
            logger.warning("the embedded Postgres died: starting it again")
            self._watched.stop()
            self._watched.start()

    def _look_after(self, child: Child) -> None:
        if child.process is not None and child.process.poll() is not None:
            self._bury(child, child.process)
        if child.process is None and child.start_again_at is not None and child.start_again_at <= time.monotonic():
            self._start(child)

    def _bury(self, child: Child, process: "subprocess.Popen[bytes]") -> None:
        """Take note of a death, and plan the successor."""
        child.process, child.is_ready = None, False
        child.close_channel()
        self._forget(process.pid)
        kin = [other for other in self._children if other.program.command == child.program.command]
        if process.returncode == REFUSED and not child.program.is_foreign and not any(other.was_ever_ready for other in kin):
            raise ChildRefused(child.program.name)
        lived = time.monotonic() - child.started_at >= LIVED_SECONDS
        child.quick_deaths = 0 if lived else child.quick_deaths + 1
        delay = 0.0 if child.quick_deaths <= 1 else min(FIRST_DELAY_SECONDS * 2.0 ** (child.quick_deaths - 2), LONGEST_DELAY_SECONDS)
        child.start_again_at = time.monotonic() + delay
        logger.warning("%s (pid %d) %s: starting another in %.1f s", child.program.name, process.pid, _fate(process.returncode), delay)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def _stop_children(self) -> None:
        """End every child: ask, wait, then kill. Those without sockets (the demo's examples) go last."""
        for listening in self._listening:
            listening.close()
        serving = [child for child in self._children if child.program.sockets]
        others = [child for child in self._children if not child.program.sockets]
        self._stop(serving, self._stop_timeout + KILL_GRACE_SECONDS)
        self._stop(others, KILL_GRACE_SECONDS)

    def _stop(self, children: Sequence[Child], longest_seconds: float) -> None:
        running = [child.process for child in children if child.process is not None]
        _send(running, signal.SIGTERM)
        deadline = time.monotonic() + longest_seconds
        while running and time.monotonic() < deadline:
            select.select([self._wake_read], [], [], min(0.1, max(0.0, deadline - time.monotonic())))
            self._swallow_wakeups()
            running = [process for process in running if process.poll() is None]
            if self._is_hastened:
                _send(running, signal.SIGINT)  # cuts what still runs
                deadline = min(deadline, time.monotonic() + HASTE_SECONDS)
        _send(running, signal.SIGKILL)
        for child in children:
            if child.process is not None:
                child.process.wait()
                child.process = None
            child.close_channel()


def _own_command(program: Program, *, is_first: bool) -> list[str]:
    command = [sys.executable, "-m", "relay", *program.command, "--parent", str(os.getpid()), *(program.once if is_first else ())]
    for name, bound in program.sockets.items():
        command += ["--socket", f"{name}={bound.fileno()}"]
    return command


def _foreign_command(program: Program) -> list[str]:
    """The program, after a step that has the kernel end it with us."""
    return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "-", "-", *program.command]


def _send(processes: "Sequence[subprocess.Popen[bytes]]", number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _fate(code: int) -> str:
    return f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
