"""A journal's folder and the lock that says who owns it.

``<data_dir>/journal/<worker uuid>/`` belongs to whoever holds the ``flock`` of the folder itself. There is no
lock file: a descriptor of the folder carries the lock, so the lock lives exactly as long as the process does,
and a folder can be removed while its lock is held.

Two hazards shape this module. A new folder is made under a temporary name, locked, and only then renamed:
nobody can adopt it half-made. And a lock may be won on a folder that its last owner has just removed: the
lock counts only while the path still leads to the very folder that is locked.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import UUID, uuid4

from relay.ledger.segments import SEGMENT_SUFFIX

TEMPORARY_PREFIX: Final = ".new-"
CORRUPT_FOLDER: Final = "corrupt"
_ATTEMPTS: Final = 100


class FolderLock:
    """A locked folder. Leaving its context, or ``release``, gives it up; so does the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def sync(self) -> None:
        """Make the folder's list of files durable. Blocks on the disk."""
        os.fsync(self._descriptor)

    def release(self) -> None:
        """Give the lock up; doing it twice is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def create_folder(root: Path, name: str) -> FolderLock:
    """Make ``root/name`` and lock it before anybody can see it.

    Raises:
        OSError: the disk refused.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(_ATTEMPTS):
        temporary = root / f"{TEMPORARY_PREFIX}{uuid4()}"
        temporary.mkdir(mode=0o700)
        lock = claim_folder(temporary)
        if lock is None:
            continue  # a sweep of abandoned folders came between: it removes this one
        try:
            temporary.rename(root / name)
        except BaseException:
            lock.release()
            raise
        lock.path = root / name
        return lock
    raise OSError(errno.EAGAIN, "no folder of the journal could be made", str(root))


def claim_folder(path: Path) -> FolderLock | None:
    """Lock a folder that belongs to nobody; ``None`` when it has an owner or is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked, found = os.fstat(descriptor), path.stat()
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    if (locked.st_dev, locked.st_ino) != (found.st_dev, found.st_ino):
        os.close(descriptor)
        return None
    return FolderLock(path, descriptor)


def sync_folder(path: Path) -> None:
    """Make durable which names a folder holds. Blocks on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_folders(root: Path) -> list[Path]:
    """The journal folders below ``root``, those of running processes and half-made ones included."""
    with suppress(FileNotFoundError):
        return sorted(path for path in root.iterdir() if is_journal_name(path.name))
    return []


def is_journal_name(name: str) -> bool:
    """True for the names that journals give to their folders."""
    try:
        return str(UUID(name.removeprefix(TEMPORARY_PREFIX))) == name.removeprefix(TEMPORARY_PREFIX)
    except ValueError:
        return False


def list_segments(folder: Path) -> list[Path]:
    """The segments of a journal, oldest first."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(SEGMENT_SUFFIX))


def segment_path(folder: Path, number: int) -> Path:
    """The path of a journal's segment."""
    return folder / f"{number:08d}{SEGMENT_SUFFIX}"


def keep_corrupt(segment: Path) -> Path:
    """Move a segment that cannot be read to its end out of its journal, for people to look at."""
    kept = segment.parent.parent / CORRUPT_FOLDER
    kept.mkdir(exist_ok=True, mode=0o700)
    return segment.rename(kept / f"{segment.parent.name}-{segment.name}")


def remove_folder(lock: FolderLock) -> None:
    """Remove a locked journal with all its segments, then give the lock up.

    Oldest first: should this be cut short, what is left holds no *begun* whose *finished* is gone.

    Raises:
        OSError: the disk refused, or the folder holds something that is not ours.
    """
    for segment in list_segments(lock.path):
        segment.unlink()
    lock.path.rmdir()
    lock.release()
