"""What a cluster's own files say about its server: version, process, state, address.

``postmaster.pid`` outlives a server that was killed, and its process id may meanwhile be somebody else's. So a process id is
believed only if its executable is Postgres and it works in this very cluster.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PID_LINES = 8
PROC = Path("/proc")


@dataclass(frozen=True)
class Postmaster:
    """The server of a cluster, as its pid file tells."""

    pid: int
    socket_folder: Path
    is_ready: bool


def read_major(cluster: Path) -> int | None:
    """The major version that made the cluster; None where there is none."""
    try:
        return int((cluster / "PG_VERSION").read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None


def find_postmaster(cluster: Path) -> Postmaster | None:
    """The server that runs on the cluster, if one does: starting, ready or stopping."""
    lines = _read_lines(cluster)
    pid = _read_pid(cluster)
    if pid is None or not _is_postgres(pid, cluster):
        return None
    socket_folder = lines[4] if len(lines) > 4 else ""
    return Postmaster(pid, Path(socket_folder), is_ready=len(lines) >= PID_LINES and lines[7].strip() == "ready")


def find_remaining(cluster: Path) -> list[int]:
    """The processes of the cluster's server, children of a dead one included (Linux; elsewhere the server alone)."""
    if not PROC.is_dir():
        postmaster = find_postmaster(cluster)
        return [postmaster.pid] if postmaster else []
    pids = [int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if _is_postgres(pid, cluster)]


def forget_stranger(cluster: Path) -> None:
    """Remove a pid file whose process id is now another program's: Postgres would take that for itself and refuse.

    Any other stale file stays: Postgres itself knows best whether a dead server's memory is still in use.
    """
    pid = _read_pid(cluster)
    if pid is not None and _is_alive(pid) and not _is_postgres(pid, cluster):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def _read_lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _read_pid(cluster: Path) -> int | None:
    lines = _read_lines(cluster)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _is_postgres(pid: int, cluster: Path) -> bool:
    if not PROC.is_dir():
        return _is_postgres_by_ps(pid)
    process = PROC / str(pid)
    try:
        if (process / "cwd").readlink() != cluster.resolve():
            return False
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # gone, or another user's: then it cannot be on our cluster
    try:
        return (process / "exe").readlink().name.removesuffix(" (deleted)") == "postgres"
    except FileNotFoundError:
        # It is ending. Its program goes first, then the memory that it shares, which a new server would find in use, then its folder.
        return True
    except (ProcessLookupError, PermissionError):
        return False


def _is_postgres_by_ps(pid: int) -> bool:
    asked = subprocess.run(["/bin/ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603
    return Path(asked.stdout.strip()).name == "postgres"
