"""One shell in which commands follow each other, as they are pasted: what one exports, the next one sees."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

RUN_SECONDS = 25.0
END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Shell:
    """A bash of its own session; leaving the block ends it and whatever it left running."""

    def __init__(self, notes: Path, folder: Path, environment: Mapping[str, str]) -> None:
        """``notes`` takes what the commands print; ``folder`` is where the first one runs."""
        self._notes = notes
        self._count = 0
        self._started: list[int] = []
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for pid in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        while any(_is_there(pid) for pid in self._started) and time.monotonic() < deadline:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        assert self._bash.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._bash.stdin.close()
        self._bash.wait()

    def run(self, command: str) -> Ended:
        """Run a command to its end."""
        note = self._write(command)
        self._say(f"source {note} >{note}.out 2>{note}.err </dev/null; echo $? >{note}.new; mv {note}.new {note}.code")
        self._wait_for(Path(f"{note}.code"), command)
        return Ended(int(Path(f"{note}.code").read_text(encoding="ascii")), _read(note, "out"), _read(note, "err"))

    def start(self, command: str, sign: str) -> None:
        """Start a command that goes on until the shell ends; wait until it has printed ``sign``."""
        note = self._write(f"exec {command}")
        self._say(f"( source {note} ) >{note}.out 2>{note}.err </dev/null & echo $! >{note}.new; mv {note}.new {note}.pid")
        pid = Path(f"{note}.pid")
        self._wait_for(pid, command)
        self._started.append(int(pid.read_text(encoding="ascii")))
        deadline = time.monotonic() + RUN_SECONDS
        while sign not in _read(note, "out"):
            assert _is_there(self._started[-1]), f"ended: {command}\n{_read(note, 'out')}{_read(note, 'err')}"
            assert time.monotonic() < deadline, f"did not print {sign!r}: {command}\n{_read(note, 'err')}"
            time.sleep(0.02)

    def _write(self, command: str) -> Path:
        self._count += 1
        note = self._notes / str(self._count)
        note.write_text(f"{command}\n", encoding="utf-8")
        return note

    def _say(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\n")
        self._bash.stdin.flush()

    def _wait_for(self, path: Path, command: str) -> None:
        deadline = time.monotonic() + RUN_SECONDS
        while not path.exists():
            assert self._bash.poll() is None, f"ended the shell: {command}"
            assert time.monotonic() < deadline, f"did not end within {RUN_SECONDS:.0f} s: {command}"
            time.sleep(0.01)


def _read(note: Path, kind: str) -> str:
    """What a command has printed; nothing, while the shell has not even begun it."""
    path = Path(f"{note}.{kind}")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
