"""Notes of the multipart uploads that are open, so that whoever is killed leaves none behind for ever.

A note is a file: the intention, written before the store is asked, and a second line with the upload's id once the store has
told it. It goes when the upload is completed or aborted. Notes lie in a folder of their process's run, which is locked as a
journal is (``ledger/folders.py``): one whose lock can be taken belongs to nobody, and the sweeper settles what is noted there.

Not durable against a loss of power: then the bucket's own rule for old multipart uploads is what is left.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from relay.ledger.folders import FolderLock, claim_folder, create_folder, list_folders

NOTES_FOLDER: Final = "multipart"
NOTE_SUFFIX: Final = ".note"


@dataclass(frozen=True, slots=True)
class Noted:
    """What a note says.

    ``bucket`` is where the upload is: its destination may lead elsewhere by now. ``upload_id`` is ``None`` while, or because, it
    is not known whether there is an upload at all.
    """

    path: Path
    tenant: str
    destination: UUID
    bucket: str
    key: str
    since: datetime
    upload_id: str | None


class UploadNote:
    """The note of one multipart upload."""

    def __init__(self, notes: "UploadNotes", noted: Noted) -> None:
        self._notes = notes
        self._noted = noted
        self._is_open = True

    def learn(self, upload_id: str) -> None:
        """The store has begun the upload."""
        self._noted = replace(self._noted, upload_id=upload_id)
        with contextlib.suppress(OSError):  # the intention is there: the upload is found by its key
            _append(self._noted.path, {"upload_id": upload_id})

    def remove(self) -> None:
        """There is no such upload any more; harmless twice. A note that cannot be removed does no harm: the sweeper finds nothing."""
        self._is_open = False
        with contextlib.suppress(OSError):
            self._noted.path.unlink()

    def abandon(self) -> None:
        """Nobody sees to the upload any more: the sweeper should. Nothing happens after ``remove``."""
        if self._is_open:
            self._notes.abandoned[self._noted.path] = self._noted


class UploadNotes:
    """The notes of this process's run. The folder is made for the first of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: FolderLock | None = None
        self.abandoned: dict[Path, Noted] = {}
        """Notes of this run whose uploads nobody sees to any more."""

    def begin(self, tenant: str, destination: UUID, bucket: str, key: str) -> UploadNote:
        """Note that an upload is about to be begun.

        Raises:
            OSError: the disk refused.
        """
        if self._lock is None:
            self._lock = create_folder(self.root, str(uuid4()))
        noted = Noted(self._lock.path / f"{uuid4()}{NOTE_SUFFIX}", tenant, destination, bucket, key, datetime.now(UTC), None)
        members = {"tenant": tenant, "destination": str(destination), "bucket": bucket, "key": key, "since": noted.since.isoformat()}
        _append(noted.path, members)
        return UploadNote(self, noted)

    def forget(self, noted: Noted) -> None:
        """An upload that was left is gone."""
        self.abandoned.pop(noted.path, None)
        with contextlib.suppress(OSError):
            noted.path.unlink()

    def living(self, besides: Path) -> Iterator[Noted]:
        """What the processes of this host see to, this one included; what it has abandoned is not among it.

        ``besides``: the folder that is being swept. If it is another one's, nobody is alive there.
        """
        for folder in list_folders(self.root):
            if self._lock is not None and folder == self._lock.path:
                yield from (noted for noted in read_notes(folder) if noted.path not in self.abandoned)
            elif folder != besides:
                lock = claim_folder(folder)
                if lock is None:
                    yield from read_notes(folder)
                else:
                    lock.release()

    def orphaned(self) -> Iterator[FolderLock]:
        """The folders of processes that are gone, locked. Whoever is given one releases it."""
        for folder in list_folders(self.root):
            if self._lock is None or folder != self._lock.path:
                lock = claim_folder(folder)
                if lock is not None:
                    yield lock

    def close(self) -> None:
        """Give the folder up; it goes when nothing is noted in it."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.path.rmdir()
            self._lock.release()
            self._lock = None


def read_notes(folder: Path) -> list[Noted]:
    """The notes in a folder; what is torn says nothing: its request was never sent."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(NOTE_SUFFIX))
    except FileNotFoundError:
        return []
    return [noted for noted in map(_read, paths) if noted is not None]


def _read(path: Path) -> Noted | None:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        first = lines[0]
        upload_id = lines[1]["upload_id"] if len(lines) > 1 else None
        since = datetime.fromisoformat(first["since"])
        return Noted(path, first["tenant"], UUID(first["destination"]), first["bucket"], first["key"], since, upload_id)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _append(path: Path, members: dict[str, str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(members).encode() + b"\n")
    finally:
        os.close(descriptor)
