"""Who owns a journal's folder."""

import fcntl
from pathlib import Path
from uuid import uuid4

import pytest

from relay.ledger import folders
from relay.ledger.folders import claim_folder, create_folder, is_journal_name, list_folders, remove_folder


def test_a_new_folder_is_locked_before_anybody_sees_it(tmp_path: Path) -> None:
    name = str(uuid4())
    with create_folder(tmp_path, name) as lock:
        assert lock.path == tmp_path / name
        assert claim_folder(tmp_path / name) is None
        assert list_folders(tmp_path) == [tmp_path / name]
    with claim_folder(tmp_path / name) or pytest.fail("the lock was not given up"):
        pass


def test_only_one_of_two_gets_the_lock(tmp_path: Path) -> None:
    create_folder(tmp_path, name := str(uuid4())).release()
    first = claim_folder(tmp_path / name)
    assert first is not None
    assert claim_folder(tmp_path / name) is None
    first.release()


def test_a_lock_on_a_folder_that_was_removed_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_folder(tmp_path, name := str(uuid4())).release()
    path = tmp_path / name

    def lock_after_its_owner_removed_and_another_made_it(_descriptor: int, _operation: int) -> None:
        path.rmdir()
        path.mkdir()

    monkeypatch.setattr(fcntl, "flock", lock_after_its_owner_removed_and_another_made_it)
    assert claim_folder(path) is None
    monkeypatch.setattr(fcntl, "flock", lambda _descriptor, _operation: path.rmdir())
    assert claim_folder(path) is None


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []

    def claim_too_late(path: Path) -> folders.FolderLock | None:
        if len(swept) < 3:
            swept.append(path)
            path.rmdir()
        return claim_folder(path)

    monkeypatch.setattr(folders, "claim_folder", claim_too_late)
    with create_folder(tmp_path, str(uuid4())) as lock:
        assert list_folders(tmp_path) == [lock.path]
    assert len(swept) == 3


def test_only_folders_of_journals_are_listed(tmp_path: Path) -> None:
    name = str(uuid4())
    for other in ("corrupt", "rejected.ndjson", f"{name}x", name.upper(), f".old-{name}"):
        (tmp_path / other).mkdir()
        assert not is_journal_name(other)
    (tmp_path / f".new-{name}").mkdir()
    assert list_folders(tmp_path) == [tmp_path / f".new-{name}"]
    assert list_folders(tmp_path / "missing") == []


def test_a_folder_that_holds_something_else_is_not_removed(tmp_path: Path) -> None:
    with create_folder(tmp_path, str(uuid4())) as lock:
        (lock.path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(OSError, match="not empty"):
            remove_folder(lock)
        assert (lock.path / "notes.txt").exists()
