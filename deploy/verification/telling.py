"""Running programs within a time limit, and telling what is done: steps, substitutions, installations."""

# ruff: noqa: T201, S603 - it runs the programs that it is for, never by a shell

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STARTED = time.monotonic()
SUBSTITUTED: list[str] = []
SHORT_SECONDS = 60.0
LONG_SECONDS = 900.0


class Failed(Exception):
    """The stack does not do what it should; the message says what was seen."""


def step(text: str) -> None:
    """Say what begins."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] step: {text}", flush=True)


def note(text: str) -> None:
    """Say what was found."""
    print(f"           {text}", flush=True)


def substitute(what: str, by: str) -> None:
    """Say that something stands for something else."""
    SUBSTITUTED.append(f"{what} <- {by}")
    print(f"           substituted: {SUBSTITUTED[-1]}", flush=True)


def expect(is_so: object, otherwise: str) -> None:
    """Fail with what was seen instead."""
    if not is_so:
        raise Failed(otherwise)


def run(
    *command: str | Path, seconds: float = SHORT_SECONDS, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a program; return what it wrote to standard output.

    Raises:
        Failed: it ended with another code than 0, or not in time.
    """
    try:
        return checked(command, seconds, environment, folder)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"not within {seconds:.0f} s: {shown(command)}") from None
    except subprocess.CalledProcessError as error:
        told = f"{error.stdout}\n{error.stderr}".strip()
        raise Failed(f"{shown(command)} ended with {error.returncode}:\n{told[-3000:]}") from None


def checked(command: Sequence[str | Path], seconds: float, environment: Mapping[str, str] | None, folder: Path | None) -> str:
    """Run a program and raise what ``subprocess`` raises."""
    told = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=True,
    )
    return told.stdout


def succeeds(*command: str | Path, seconds: float = SHORT_SECONDS, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a program ends with 0 in time."""
    try:
        checked(command, seconds, environment, None)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def shown(command: Sequence[str | Path]) -> str:
    """A command as one line, shortened."""
    line = " ".join(str(word) for word in command)
    return line if len(line) <= 200 else f"{line[:200]}…"
