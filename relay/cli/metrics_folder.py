"""The folder in which the workers of one run keep their metrics, so that any worker can tell the sum.

``<data dir>/metrics/<run>``, locked for the life of the supervisor; a folder that nobody locks belongs
to a dead run and is removed. Counters of a dead worker stay (they still count); its gauges go.
"""

import fcntl
import os
import shutil
import uuid
from pathlib import Path


class MetricsFolder:
    """The folder of this run."""

    def __init__(self, data_dir: Path) -> None:
        runs = data_dir / "metrics"
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in runs.iterdir():
            _remove_abandoned(folder)
        self.path = runs / uuid.uuid4().hex
        unfinished = runs / f".{self.path.name}"
        unfinished.mkdir(mode=0o700)
        self._lock = os.open(unfinished / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(self.path)  # it is never seen without its lock

    def forget(self, pid: int) -> None:
        """Remove what only holds while process ``pid`` lives."""
        for file in self.path.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_abandoned(folder: Path) -> None:
    if folder.name.startswith("."):
        return  # another supervisor is just making it
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its supervisor lives
    finally:
        os.close(lock)
