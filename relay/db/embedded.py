"""A real Postgres of our own, for those who have none: made, started, watched, stopped.

Theory of operation
    ``<data dir>/postgres/`` holds ``lock``, ``password``, ``log``, ``data/`` (the cluster) and ``socket/``. The process
    that started it holds an ``flock`` on ``lock``, so no two supervisors ever meet on one cluster; others join it by
    ``find_running``, which only reads. The server listens on a Unix socket in a private folder and on no port, and
    asks for the password (SCRAM) even there.

    It dies with us, however we die: the kernel sends it SIGINT (a fast, clean shutdown) when the thread that started
    it ends (Linux), which is why ``start`` insists on the main thread. It has a session of its own, so that a terminal's
    Ctrl-C reaches us and not the server while we still write to it.

What must stay true: only the binaries of a package are used, never its own process manager; a cluster is run by the
major version that made it, or not at all; an interrupted initdb leaves no half cluster. Every command imports this
module: it imports nothing heavy.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

from relay.db import launch
from relay.db.postmaster import find_postmaster, find_remaining, forget_stranger, read_major
from relay.db.privileges import Privileges, choose_privileges
from relay.db.programs import Programs, ProgramsMissing, find_programs

USER = "relay"
DATABASE = "postgres"
SOCKET_PATH_LIMIT = 103  # bytes, of the 104 (macOS) or 108 (Linux) that hold a terminating NUL too
SOCKET_NAME = ".s.PGSQL.5432"
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
LOG_LIMIT_BYTES = 10 << 20
LOG_TAIL_CHARACTERS = 1_000
POLL_SECONDS = 0.005
ORPHAN_POLL_SECONDS = 0.02
START_SECONDS = 60.0  # recovery after a power cut takes its time
STOP_SECONDS = 10.0
ORPHAN_SECONDS = 30.0  # it may have a last checkpoint to write

SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "jit": "off",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_error_statement": "panic",  # a statement may hold a secret
}
THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}  # survives a kill, not a power cut


class EmbeddedUnusable(Exception):
    """The embedded Postgres cannot be used here; the message says why and what to do."""


class EmbeddedPostgres:
    """One cluster below ``data_dir`` and, between ``start`` and ``stop``, its server process."""

    def __init__(self, data_dir: Path, bin_dir: Path | None = None, *, is_durable: bool = True) -> None:
        """Name the cluster; ``is_durable=False`` gives up fsync, for tests."""
        self._home = data_dir.absolute() / "postgres"
        self._cluster = self._home / "data"
        self._bin_dir = bin_dir
        self._is_durable = is_durable
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the server while it is ours."""
        return self._process.pid if self._process else None

    def is_alive(self) -> bool:
        """Whether the server that we started still runs."""
        return self._process is not None and self._process.poll() is None

    def url(self) -> str:
        """The address of the running server, password included.

        Raises:
            EmbeddedUnusable: it does not run.
        """
        url = _find_url(self._home)
        if url is None:
            raise EmbeddedUnusable(f"The embedded Postgres in {self._home} is not running")
        return url

    def start(self) -> str:
        """Start the server, making the cluster first where there is none; return its URL once it answers.

        Raises:
            EmbeddedUnusable: no programs, the wrong major version, another process runs it, or it does not come up.
        """
        if self.is_alive() and (running := _find_url(self._home)) is not None:
            return running
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded Postgres ends with the thread that started it: start it from the main thread")
        self.stop()  # of a server that crashed, the lock is left
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take_lock()
            self._end_orphan()
            self._start_locked()
            return self.url()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError | ProgramsMissing):
                raise EmbeddedUnusable(str(error)) from error
            raise

    def stop(self) -> None:
        """Stop the server, cleanly if it lets us, and release the cluster; harmless when it does not run."""
        process, self._process = self._process, None
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process is None or process.poll() is not None:
                break
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        lock = (self._home / "lock").open("a", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedUnusable(
                f"Another process runs the embedded Postgres in {self._home}: stop it, or choose another RELAY_DATA_DIR"
            ) from None
        self._lock = lock

    def _end_orphan(self) -> None:
        """Wait out a server whose supervisor died, and a dead server's children: they still use its memory."""
        if not (self._cluster / "postmaster.pid").exists():
            return
        deadline = time.monotonic() + ORPHAN_SECONDS
        while remaining := find_remaining(self._cluster):
            if time.monotonic() > deadline:
                raise EmbeddedUnusable(
                    f"Process {remaining[0]} runs the Postgres in {self._cluster} and does not stop: end it, then try again"
                )
            orphan = find_postmaster(self._cluster)
            if orphan is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan.pid, signal.SIGINT)
            time.sleep(ORPHAN_POLL_SECONDS)
        forget_stranger(self._cluster)

    def _start_locked(self) -> None:
        programs = find_programs(self._bin_dir, read_major(self._cluster))
        is_new = not self._cluster.exists()
        privileges = choose_privileges(self._home if is_new else self._cluster)
        if is_new:
            self._make_cluster(programs, privileges)
        self._run(programs, privileges)

    def _make_cluster(self, programs: Programs, privileges: Privileges) -> None:
        """Run initdb beside the final place and rename: an interrupted one leaves no half cluster."""
        unfinished = self._home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self._home / "password"
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        privileges.give(self._home)
        command: list[str | Path] = [programs.initdb, "-D", unfinished, "-U", USER, "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"]
        command += ["--pwfile", password, "--no-instructions", "--no-sync"]
        with (self._home / "log").open("ab") as log, _launch(command, privileges, signal.SIGKILL, log) as process:
            try:
                process.wait()
            except BaseException:  # Ctrl-C reaches us alone
                process.kill()
                raise
        if process.returncode != 0:
            raise EmbeddedUnusable(f"initdb failed {privileges.description}; the end of {self._home / 'log'}: {_tail(self._home)}")
        unfinished.rename(self._cluster)
        if self._is_durable:  # a thousand files: nobody should wait for their fsync, and nothing of worth is in them yet
            threading.Thread(target=make_durable, args=(self._cluster,), name="embedded-fsync", daemon=True).start()

    def _run(self, programs: Programs, privileges: Privileges) -> None:
        socket_folder = _choose_socket_folder(self._home)
        privileges.give(socket_folder)
        settings = SERVER_SETTINGS | {"unix_socket_directories": str(socket_folder)} | ({} if self._is_durable else THROWAWAY_SETTINGS)
        command: list[str | Path] = [programs.postgres, "-D", self._cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        path = self._home / "log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.unlink()
        with path.open("ab") as log:
            self._process = _launch(command, privileges, signal.SIGINT, log)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            postmaster = find_postmaster(self._cluster)
            if postmaster is not None and postmaster.pid == self._process.pid and postmaster.is_ready:
                return
            time.sleep(POLL_SECONDS)
        raise EmbeddedUnusable(f"The embedded Postgres does not come up {privileges.description}; the end of {path}: {_tail(self._home)}")


def find_running(data_dir: Path) -> str | None:
    """The URL of the embedded Postgres that some process runs below ``data_dir``, if one does."""
    return _find_url(data_dir.absolute() / "postgres")


def _find_url(home: Path) -> str | None:
    postmaster = find_postmaster(home / "data")
    if postmaster is None or not postmaster.is_ready:
        return None
    password = (home / "password").read_text(encoding="ascii").strip()
    place = urlencode({"host": str(postmaster.socket_folder)})
    return f"postgresql://{USER}:{quote(password, safe='')}@/{DATABASE}?{place}"


def _launch(command: list[str | Path], privileges: Privileges, at_death: signal.Signals, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program that gets the signal ``at_death`` when we die."""
    owner = [str(privileges.user), str(privileges.group)] if privileges.user is not None else ["-", "-"]
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(at_death)), *owner]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "RELAY_"))}
    return subprocess.Popen(  # noqa: S603 - programs that we located, no shell
        [*launcher, *privileges.prefix, *(str(part) for part in command)],
        env=environment | {"TZ": "UTC", "LC_ALL": "C"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _choose_socket_folder(home: Path) -> Path:
    """A private folder whose path fits a socket address: below the cluster's, or a short one that is remembered."""
    folder = home / "socket"
    if PLAIN.issuperset(str(folder)) and len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    note = home / "socket_folder"
    if note.exists():
        folder = Path(note.read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):
            state = folder.lstat()
            if folder.is_dir() and not folder.is_symlink() and state.st_uid == home.stat().st_uid and state.st_mode & 0o077 == 0:
                return folder
    folder = Path(tempfile.mkdtemp(prefix="relay-pg-", dir="/tmp"))
    note.write_text(str(folder), encoding="utf-8")
    return folder


def make_durable(cluster: Path) -> None:
    """Fsync every file and folder of a new cluster."""
    for folder, _, files in os.walk(cluster):
        for path in (*(os.path.join(folder, name) for name in files), folder):  # noqa: PTH118 - a thousand of them
            with contextlib.suppress(OSError):  # the server may have removed it meanwhile
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _tail(home: Path) -> str:
    return (home / "log").read_bytes()[-LOG_TAIL_CHARACTERS * 4 :].decode(errors="replace").strip()[-LOG_TAIL_CHARACTERS:]
