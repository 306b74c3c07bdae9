"""Do what the README says in a fresh clone, as somebody who has nothing else, up to the first upload and its entry.

    python -m tests.stories.new_user

Clones the checkout's last commit (or ``--source``), and in it, with an environment of PATH and HOME alone: runs the
README's first command, pastes the lines that it prints, looks at what comes back, presses Ctrl-C. Packages are
installed as ``make run`` installs them, from wherever pip takes them. Prints the seconds of each step; ends with ``PASS``,
or with what went wrong and exit code 1.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.documents import ROOT, commands

KEYS = ("url", "tenant", "key", "admin-token", "upload", "forward", "ledger")
INSTALL_SECONDS = 900.0
STOP_SECONDS = 30.0
LEDGER_SECONDS = 5.0
PORTS = (8000, 8001, 8002)


class WentWrong(Exception):
    """A step did not do what the README says; the message says which."""


class Trial:
    """The steps of a new user, each with the time it took."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "relay"
        self.log = folder / "log"
        self._home = folder / "home"
        self._home.mkdir()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done in the block."""
        began = time.monotonic()
        yield
        print(f"{time.monotonic() - began:7.1f} s  {name}", flush=True)

    def environment(self) -> dict[str, str]:
        """What ``env -i PATH=/usr/bin:/bin HOME=…`` gives."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self._home)}

    def paste(self, line: str) -> str:
        """Run a line in the clone, as it is."""
        command = ("bash", "-c", line)
        ended = subprocess.run(command, cwd=self.clone, env=self.environment(), capture_output=True, text=True, check=False, timeout=30)
        if ended.returncode != 0:
            raise WentWrong(f"{line.split(maxsplit=1)[0]} ended with {ended.returncode}: {ended.stderr[-500:]}")
        return ended.stdout

    def run(self, command: str) -> None:
        """Start what the README starts with; paste what it prints; stop it."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ("bash", "-c", f"exec {command}"),
                cwd=self.clone,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        watchdog = threading.Timer(INSTALL_SECONDS, process.kill)
        watchdog.start()
        try:
            told = self._read_until_ready(process)
            print(f"{time.monotonic() - began:7.1f} s  {command}, to 'ready'", flush=True)
            self._upload(told)
            self._stop(process)
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()

    def _read_until_ready(self, process: "subprocess.Popen[str]") -> dict[str, str]:
        told: dict[str, str] = {}
        for line in process.stdout or ():
            if line.strip() == "ready":
                if tuple(told)[-len(KEYS) :] != KEYS:
                    raise WentWrong(f"these lines came before 'ready': {tuple(told)}")
                return told
            name, colon, value = line.strip().partition(": ")
            if colon:
                told[name] = value
        raise WentWrong(f"it ended with {process.wait()} before it was ready")

    def _upload(self, told: dict[str, str]) -> None:
        with self.step("the line 'upload:'"):
            (stored,) = json.loads(self.paste(told["upload"]))["objects"]
            check(stored["size"] == (self.clone / "README.md").stat().st_size, "the receipt has another size")
        with self.step("its entry, by the line 'ledger:'"):
            self._wait_for_entry(told["ledger"], lambda path: path.endswith("README.md"))
        if "bucket" in told:
            with self.step("the line 'bucket:', and its entry"):
                (stored,) = json.loads(self.paste(told["bucket"]))["objects"]
                check(stored["etag"] is not None, "the bucket told no ETag")
                self._wait_for_entry(told["ledger"], lambda path: path == "bucket/README.md")
        with self.step("the line 'forward:', and its entry"):
            check(json.loads(self.paste(told["forward"]))["query"] == {"q1": "x"}, "the upstream saw another query")
            self._wait_for_entry(told["ledger"], lambda path: path.endswith("hello/world"))

    def _wait_for_entry(self, line: str, is_it: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + LEDGER_SECONDS
        while True:
            items = json.loads(self.paste(line))["items"]
            if items and is_it(items[0]["path"]):
                check(items[0]["outcome"] == "delivered", f"the entry says {items[0]['outcome']}")
                return
            if time.monotonic() > deadline:
                raise WentWrong(f"no entry after {LEDGER_SECONDS:.0f} s")
            time.sleep(0.05)

    def _stop(self, process: "subprocess.Popen[str]") -> None:
        with self.step("stopped by Ctrl-C, ports free"):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_SECONDS)
            check(not any(is_open(port) for port in PORTS), "a port is still taken")


def check(holds: bool, otherwise: str) -> None:
    """Raise unless it holds."""
    if not holds:
        raise WentWrong(otherwise)


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def try_it(trial: Trial, source: str) -> None:
    """Be a new user."""
    check(not any(is_open(port) for port in PORTS), f"something listens on {PORTS} already: stop it")
    began = time.monotonic()
    with trial.step("git clone"):
        subprocess.run(["git", "clone", "-q", source, trial.clone], check=True)
    first = next(command.text.partition("#")[0].strip() for command in commands(ROOT / "README.md"))
    trial.run(first)
    print(f"{time.monotonic() - began:7.1f} s  in all, installed anew")
    trial.run(first)
    print("        (the second time nothing is installed)")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", default=str(ROOT))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-new-user-") as folder:
        trial = Trial(Path(folder))
        try:
            try_it(trial, arguments.source)
        except WentWrong as error:
            said = trial.log.read_text(encoding="utf-8", errors="replace")[-2000:] if trial.log.exists() else ""
            print(f"{said}FAIL {error}")
            sys.exit(1)
    print("PASS")


if __name__ == "__main__":
    main()
