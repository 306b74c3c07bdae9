"""``<data_dir>/live/``: where the workers of a host find each other's sockets, ``<worker uuid>.sock``.

The folder is the operator's alone (0700), so nobody else reaches a socket in it. A socket's path may be longer than
the 107 bytes that an address has room for: where ``/proc`` is, it is reached through the open folder.

A socket appears only when it is listened to: it is bound under a temporary name and then renamed. So a connection that
is refused tells of a process that is gone, and its socket may be removed by whoever finds it. Names are never used
again. A worker that is stopped, or too busy, refuses nothing: it does not answer.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

LIVE_FOLDER: Final = "live"
SUFFIX: Final = ".sock"
TEMPORARY_PREFIX: Final = ".new-"
TEMPORARY_SECONDS: Final = 60.0
"""How old a temporary name must be before it counts as left behind: no worker takes so long to listen."""
ADDRESS_BYTES: Final = 103
"""The longest address that every system takes."""
BACKLOG: Final = 64
MODE: Final = 0o700

_DESCRIPTORS: Final = Path("/proc/self/fd")


class LiveFolder:
    """The folder of one data directory. Every method is a few system calls."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def listen(self, worker: str) -> socket.socket:
        """Make the folder where it is missing, and listen as ``worker``.

        Raises:
            OSError: it belongs to somebody else, or the disk refused, or its path is too long for this system.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=MODE)
        with self._opened() as folder:
            if os.fstat(folder).st_uid != os.geteuid():
                raise PermissionError(f"{self.path} belongs to another user")
            os.fchmod(folder, MODE)
            temporary = f"{TEMPORARY_PREFIX}{uuid4()}"
            listening = _make_socket()
            try:
                listening.bind(self._address(folder, temporary))
                os.chmod(temporary, 0o600, dir_fd=folder)
                listening.listen(BACKLOG)
                os.rename(temporary, worker + SUFFIX, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                listening.close()
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            return listening

    def workers(self) -> list[str]:
        """The workers that have a socket here, living or not; what a start that was killed left behind is removed."""
        try:
            with self._opened() as folder:
                names = sorted(os.listdir(folder))  # noqa: PTH208 - of a descriptor
                for name in names:
                    if name.startswith(TEMPORARY_PREFIX):
                        _remove_old(folder, name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and _is_uuid(name.removesuffix(SUFFIX))]

    def connect(self, worker: str) -> socket.socket | None:
        """Connect to a worker without waiting; ``None`` when it is gone, and then its socket is removed.

        Raises:
            OSError: it is there, and cannot be reached (it takes no connection, or no access is given).
        """
        with self._opened() as folder:
            connected = _make_socket()
            connected.setblocking(False)
            try:
                connected.connect(self._address(folder, worker + SUFFIX))
            except (ConnectionRefusedError, FileNotFoundError):
                connected.close()
                with suppress(OSError):
                    os.unlink(worker + SUFFIX, dir_fd=folder)
                return None
            except BaseException:
                connected.close()
                raise
            return connected

    def remove(self, worker: str) -> None:
        """Remove the socket of a worker; harmless where there is none."""
        with suppress(OSError), self._opened() as folder:
            os.unlink(worker + SUFFIX, dir_fd=folder)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _address(self, folder: int, name: str) -> str:
        """The address of a name in the open folder."""
        path = str(self.path / name)
        if len(os.fsencode(path)) <= ADDRESS_BYTES:
            return path
        return str(_DESCRIPTORS / str(folder) / name) if _DESCRIPTORS.exists() else path


def _make_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _remove_old(folder: int, name: str) -> None:
    with suppress(OSError):
        if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > TEMPORARY_SECONDS:
            os.unlink(name, dir_fd=folder)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
