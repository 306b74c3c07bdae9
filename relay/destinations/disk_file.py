"""One file on its way to disk: blocking calls only, to be run in the destination's executor.

Theory of operation. Nothing is found by a path that somebody else could bend: every folder is opened
one component at a time from the root, never through a symbolic link, and the last step (link or rename)
names the file within a folder that is held open. The root itself is the operator's and may be a link.

A file has no name until it is whole. Where the file system can, it is made without one (``O_TMPFILE``)
in the deepest folder that exists, and linked in at the end; elsewhere, and for an atomic replacement,
it passes through a random name in ``.relay-tmp`` below the root. Whoever writes there holds a lock on
the file, so ``sweep`` can tell what a killed process left from what another process is writing.
Missing folders are made at the end only: a delivery that fails leaves nothing at all.

Durable means: file synced, then named, then its folder synced, and the parent of each folder made.

What stays true: one call at a time runs on a ``PartialFile`` (``disk.Turns`` sees to it); ``discard``
may follow any of them, is harmless twice, and alone closes a file that was not published.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from crc32c import crc32c

from relay.destinations.disk_names import TEMP_FOLDER
from relay.errors import DestinationMisconfigured, ObjectExists, PathInvalid, RelayError

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CLOEXEC
_TMPFILE = getattr(os, "O_TMPFILE", 0)
_HAS_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_SYNC_BYTES = 64 << 20
"""Written bytes are synced at least this often, so that no single call has a whole large file to sync."""
_WRITE_BACK_BYTES = 8 << 20
"""After so many the disk is told to begin, so that little is left to wait for when they are synced."""
_VECTOR_MOST = 512
"""Chunks that one call of the system takes: POSIX promises fewer, every system that we run on takes more."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file belongs: the root, the destination's directory below it, and the client's path below that."""

    root: Path
    directory: tuple[str, ...]
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path[-1]

    def folders(self) -> Iterator[tuple[str, bool]]:
        """Yield the folders from the root down; the flag says that the folder is the operator's, not the client's."""
        yield from ((name, True) for name in self.directory)
        yield from ((name, False) for name in self.path[:-1])


class PartialFile:
    """A file that is being written and has no visible name yet."""

    def __init__(self, place: Place, *, is_replacing: bool) -> None:
        self._place = place
        self._is_replacing = is_replacing
        self._fd = -1
        self._temp_name: str | None = None
        self._published: os.stat_result | None = None
        self._is_abandoned = False
        self._begun_bytes = 0
        self._synced_bytes = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = 0
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written so far, in hex."""
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        """CRC-32C of what was written so far, in hex."""
        return f"{self._crc32c:08x}"

    @property
    def stands(self) -> bool:
        """True when it has a name that ``discard`` does not take from it."""
        return self._is_replacing and self._published is not None

    def open(self, declared_bytes: int | None = None) -> None:
        """Judge the target and make the file, without a visible name.

        Raises:
            ObjectExists: the target, or one of its folders, is there already as something else.
            PathInvalid: the path leads through a symbolic link.
            OSError: the disk refused.
        """
        with _opened_root(self._place.root) as root_fd, _deepest_folder(root_fd, self._place) as (folder_fd, missing):
            if not missing:
                self._check_target(folder_fd)
            self._fd = self._make_nameless(folder_fd)
            if self._fd < 0:
                self._fd, self._temp_name = _make_temp(root_fd)
        if declared_bytes is not None:
            self._check_room(declared_bytes)

    def append(self, chunks: Sequence[bytes | bytearray]) -> None:
        """Write the chunks and take them into the digests."""
        for chunk in chunks:
            self._sha256.update(chunk)
            self._crc32c = crc32c(chunk, self._crc32c)
        _write_all(self._fd, chunks)
        self.size += sum(map(len, chunks))
        if self.size - self._begun_bytes >= _WRITE_BACK_BYTES:
            _begin_write_back(self._fd, self._begun_bytes, self.size - self._begun_bytes)
            self._begun_bytes = self.size
        if self.size - self._synced_bytes >= _SYNC_BYTES:
            os.fsync(self._fd)
            self._synced_bytes = self.size

    def publish(self) -> None:
        """Make the file durable, then visible under its name, then the name durable. Closes the file.

        Raises:
            ObjectExists: somebody was first, and the destination does not replace.
            OSError: the disk refused.
        """
        os.fsync(self._fd)
        with _opened_root(self._place.root) as root_fd, _made_folder(root_fd, self._place) as folder_fd:
            if self._is_abandoned:
                return
            if self._is_replacing:
                self._check_target(folder_fd)
                self._rename_into(root_fd, folder_fd)
            else:
                self._link_into(root_fd, folder_fd)
            os.fsync(folder_fd)
        self._close()

    def abandon(self) -> None:
        """Say, from any thread, that nobody waits any more: a publication that has not begun does not happen."""
        self._is_abandoned = True

    def discard(self) -> None:
        """Leave nothing behind: close the file, remove its temporary name, withdraw what was just published.

        A file that has replaced another one stays: the other one is gone.
        """
        if not self._is_replacing:
            self.withdraw()
        with contextlib.suppress(OSError):
            if self._temp_name is not None:
                with _opened_root(self._place.root) as root_fd:
                    _remove_temp(root_fd, self._temp_name)
                self._temp_name = None
        with contextlib.suppress(OSError):
            self._close()

    def withdraw(self) -> None:
        """Remove what was published, if the name still leads to it."""
        with contextlib.suppress(OSError, RelayError):
            if self._published is not None:
                self._unlink(self._published)
                self._published = None

    def _check_target(self, folder_fd: int) -> None:
        try:
            found = os.stat(self._place.name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not self._is_replacing or not stat.S_ISREG(found.st_mode):
            raise ObjectExists

    @staticmethod
    def _make_nameless(folder_fd: int) -> int:
        """Return a descriptor, or -1 where the file system or the system cannot do it."""
        if not _TMPFILE or not Path("/proc/self/fd").exists():
            return -1
        try:
            return os.open(".", _TMPFILE | _FILE_FLAGS, 0o666, dir_fd=folder_fd)
        except OSError as error:
            if error.errno in _HAS_NO_TMPFILE:
                return -1
            raise

    def _check_room(self, declared_bytes: int) -> None:
        room = os.fstatvfs(self._fd)
        if room.f_blocks and declared_bytes > room.f_bfree * room.f_frsize:
            raise OSError(errno.ENOSPC, "the declared length is more than what is free")

    def _link_into(self, root_fd: int, folder_fd: int) -> None:
        identity = os.fstat(self._fd)
        try:
            if self._temp_name is None:
                os.link(f"/proc/self/fd/{self._fd}", self._place.name, dst_dir_fd=folder_fd, follow_symlinks=True)
            else:
                with _temp_folder(root_fd) as temp_fd:
                    os.link(self._temp_name, self._place.name, src_dir_fd=temp_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
        except FileExistsError:
            raise ObjectExists from None
        self._published = identity
        if self._temp_name is not None:
            _remove_temp(root_fd, self._temp_name)
            self._temp_name = None

    def _rename_into(self, root_fd: int, folder_fd: int) -> None:
        identity = os.fstat(self._fd)
        with _temp_folder(root_fd) as temp_fd:
            if self._temp_name is None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                temp_name = secrets.token_hex(16)
                os.link(f"/proc/self/fd/{self._fd}", temp_name, dst_dir_fd=temp_fd, follow_symlinks=True)
                self._temp_name = temp_name
            try:
                os.rename(self._temp_name, self._place.name, src_dir_fd=temp_fd, dst_dir_fd=folder_fd)
            except IsADirectoryError:
                raise ObjectExists from None
        self._published = identity
        self._temp_name = None

    def _unlink(self, identity: os.stat_result) -> None:
        with _opened_root(self._place.root) as root_fd, _deepest_folder(root_fd, self._place) as (folder_fd, missing):
            if not missing and os.path.samestat(identity, os.stat(self._place.name, dir_fd=folder_fd, follow_symlinks=False)):
                os.unlink(self._place.name, dir_fd=folder_fd)
                os.fsync(folder_fd)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def write_probe(root: Path, directory: tuple[str, ...], *, is_replacing: bool) -> None:
    """Write and remove a file as an upload would, in the deepest folder of the destination that exists.

    Raises:
        DestinationMisconfigured: the directory leads through a file or a symbolic link.
        OSError: the disk refused.
    """
    name = f"{TEMP_FOLDER}-probe-{secrets.token_hex(16)}"
    with _opened_root(root) as root_fd, _deepest_folder(root_fd, Place(root, directory, (name,))) as (_, missing):
        existing = directory[: len(directory) - missing]
    file = PartialFile(Place(root, existing, (name,)), is_replacing=is_replacing)
    try:
        file.open()
        file.append([b"probe"])
        file.publish()
    finally:
        file.withdraw()
        file.discard()


def sweep(root: Path) -> int:
    """Remove the temporary files below ``root`` that nobody is writing any more, and return how many.

    Safe beside other processes that write: their files are locked.

    Raises:
        OSError: the root cannot be read.
    """
    with _opened_root(root) as root_fd:
        try:
            temp_fd = os.open(TEMP_FOLDER, _FOLDER_FLAGS, dir_fd=root_fd)
        except FileNotFoundError:
            return 0
        try:
            with os.scandir(temp_fd) as found:
                removed = sum(_remove_if_free(temp_fd, file.name) for file in found)
        finally:
            os.close(temp_fd)
    return removed


def _remove_if_free(temp_fd: int, name: str) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=temp_fd)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=temp_fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _make_temp(root_fd: int) -> tuple[int, str]:
    """Make a locked file in the temporary folder."""
    with _temp_folder(root_fd) as temp_fd:
        while True:
            name = secrets.token_hex(16)
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _FILE_FLAGS, 0o666, dir_fd=temp_fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # A sweeper may have taken the file for an orphan before it was locked; then it has no name.
                is_ours = os.fstat(fd).st_nlink > 0
            except OSError:
                os.close(fd)
                raise
            if is_ours:
                return fd, name
            os.close(fd)


def _remove_temp(root_fd: int, name: str) -> None:
    with _temp_folder(root_fd) as temp_fd, contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=temp_fd)


@contextlib.contextmanager
def _opened_root(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _temp_folder(root_fd: int) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(TEMP_FOLDER, 0o700, dir_fd=root_fd)
    fd = os.open(TEMP_FOLDER, _FOLDER_FLAGS, dir_fd=root_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _deepest_folder(root_fd: int, place: Place) -> Iterator[tuple[int, int]]:
    """Open as much of the place's folder as exists; the second value is the number of folders that are missing."""
    folders = tuple(place.folders())
    with contextlib.ExitStack() as opened:
        here = root_fd
        for depth, (name, is_operators) in enumerate(folders):
            try:
                here = _open_folder(here, name, is_operators=is_operators)
            except FileNotFoundError:
                yield here, len(folders) - depth
                return
            opened.callback(os.close, here)
        yield here, 0


@contextlib.contextmanager
def _made_folder(root_fd: int, place: Place) -> Iterator[int]:
    """Open the place's folder; what of it is missing is made, durably."""
    with contextlib.ExitStack() as opened:
        here = root_fd
        for name, is_operators in place.folders():
            try:
                inner = _open_folder(here, name, is_operators=is_operators)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=here)
                os.fsync(here)
                inner = _open_folder(here, name, is_operators=is_operators)
            opened.callback(os.close, inner)
            here = inner
        yield here


def _open_folder(parent_fd: int, name: str, *, is_operators: bool) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
    if is_operators:
        raise DestinationMisconfigured("The destination's directory leads through a file or a symbolic link.")
    if stat.S_ISLNK(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
        raise PathInvalid("The path leads through a symbolic link. Choose another path.")
    raise ObjectExists("A part of the path is a file. Choose another path.")


def _write_all(fd: int, chunks: Sequence[bytes | bytearray]) -> None:
    rest = deque(memoryview(chunk) for chunk in chunks)
    while rest:
        written = os.writev(fd, list(islice(rest, _VECTOR_MOST)))
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if written:
            rest[0] = rest[0][written:]


def _begin_write_back(fd: int, start: int, count: int) -> None:
    """Have what was written there go to the disk while more is taken.

    Linux does that first when it is asked to forget pages, and does not wait for it; what it has not written it does not forget.
    """
    with contextlib.suppress(OSError, AttributeError):  # it is advice, and not every system takes any
        os.posix_fadvise(fd, start, count, os.POSIX_FADV_DONTNEED)
