"""A disk that fails, hangs or is cancelled under: the error has a name, and nothing is left."""

import asyncio
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relay.destinations import disk, disk_file
from relay.errors import (
    ClientGone,
    DestinationMisconfigured,
    DestinationTimeout,
    DiskBroke,
    DiskFull,
    PathInvalid,
    RelayError,
)
from tests.support.bodies import ScriptedBody, make_item
from tests.support.disks import MakeDisk, open_below, temp_names, visible
from tests.support.waiting import until

BATCH = bytes(disk.BATCH_BYTES)


class Jam:
    """A call that hangs in its thread until it is let go."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.let_go = threading.Event()

    def hang(self) -> None:
        self.is_reached.set()
        assert self.let_go.wait(20)


@pytest.fixture
def jam(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jam]:
    monkeypatch.setattr(disk, "CLEAN_UP_SECONDS", 0.05)
    jam = Jam()
    yield jam
    jam.let_go.set()


def hang_in_write(monkeypatch: pytest.MonkeyPatch, jam: Jam) -> None:
    write = disk_file._write_all

    def hanging(fd: int, chunks: Sequence[bytes | bytearray]) -> None:
        jam.hang()
        write(fd, chunks)  # fails with EBADF if the file was closed meanwhile

    monkeypatch.setattr(disk_file, "_write_all", hanging)


def hang_in_sync(monkeypatch: pytest.MonkeyPatch, jam: Jam, *, number: int) -> None:
    """Hang in the n-th sync: the first is of the file, those after it of folders."""
    sync = os.fsync
    calls: list[int] = []

    def hanging(fd: int) -> None:
        calls.append(fd)
        if len(calls) == number:
            jam.hang()
        sync(fd)

    monkeypatch.setattr(os, "fsync", hanging)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EIO, DiskBroke),
        (errno.ESTALE, DiskBroke),
        (errno.EACCES, DestinationMisconfigured),
        (errno.EROFS, DestinationMisconfigured),
        (errno.ENAMETOOLONG, PathInvalid),
        (errno.ETIMEDOUT, DestinationTimeout),
    ],
)
async def test_a_disk_that_refuses_a_write_is_told_by_name_and_keeps_nothing(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, number: int, error: type[RelayError]
) -> None:
    def refuse(_fd: int, _data: bytes) -> None:
        raise OSError(number, "told by the system")

    monkeypatch.setattr(disk_file, "_write_all", refuse)
    with pytest.raises(error) as caught:
        async with make_disk().deliver(make_item("a/b"), ScriptedBody([BATCH, b"x"])):
            pass
    assert "told by the system" not in caught.value.detail, way
    assert (visible(root), temp_names(root), open_below(root)) == ({}, [], 0)


async def test_a_write_in_pieces_is_finished(root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:100_000]))
    content = os.urandom(300_001)
    async with make_disk().deliver(make_item("a"), ScriptedBody([content])):
        assert (root / "acme/a").read_bytes() == content


async def test_a_declared_length_beyond_what_is_free_is_refused_before_the_body(way: str, root: Path, make_disk: MakeDisk) -> None:
    body = ScriptedBody([b"x"], declared_bytes=1 << 60)
    with pytest.raises(DiskFull):
        async with make_disk().deliver(make_item("a", declared_bytes=1 << 60), body):
            pass
    assert not body.is_asked, way
    assert (visible(root), temp_names(root), open_below(root)) == ({}, [], 0)


async def test_a_folder_that_cannot_be_synced_withdraws_the_file(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "acme").mkdir()
    sync = os.fsync

    def refuse_folders(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}") and (root / "acme/a").exists():  # noqa: PTH112 - a descriptor's name
            raise OSError(errno.EIO, "no")
        sync(fd)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.raises(DiskBroke):
        async with make_disk().deliver(make_item("a"), ScriptedBody([b"x"])):
            pass
    assert (visible(root), temp_names(root), open_below(root)) == ({"acme": None}, [], 0), way


async def test_a_write_that_hangs_times_out_and_is_cleared_up_when_it_ends(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam
) -> None:
    hang_in_write(monkeypatch, jam)
    with pytest.raises(DestinationTimeout):
        async with make_disk(idle_seconds=0.05).deliver(make_item("a"), ScriptedBody([BATCH, BATCH, b"x"])):
            pass
    assert open_below(root) > 0, "the file was closed under a thread that uses it"
    jam.let_go.set()
    await until(lambda: open_below(root) == 0)
    assert (visible(root), temp_names(root)) == ({}, []), way


async def test_cancelled_while_writing_the_file_is_closed_after_the_write_and_once(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam
) -> None:
    hang_in_write(monkeypatch, jam)

    async def upload() -> None:
        async with make_disk().deliver(make_item("a"), ScriptedBody([BATCH, BATCH, b"x"])):
            pass

    task = asyncio.create_task(upload())
    await until(jam.is_reached.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_below(root) > 0, "the file was closed under a thread that uses it"
    jam.let_go.set()
    await until(lambda: open_below(root) == 0)
    assert (visible(root), temp_names(root)) == ({}, []), way


async def test_a_body_that_breaks_while_a_write_hangs_ends_with_its_own_fault(
    root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam
) -> None:
    hang_in_write(monkeypatch, jam)
    with pytest.raises(ClientGone):
        async with make_disk().deliver(make_item("a"), ScriptedBody([BATCH], fault=ClientGone())):
            pass
    jam.let_go.set()
    await until(lambda: open_below(root) == 0)
    assert (visible(root), temp_names(root)) == ({}, [])


@pytest.mark.parametrize("is_replacing", [False, True])
async def test_cancelled_before_the_name_is_given_it_is_never_given(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam, is_replacing: bool
) -> None:
    hang_in_sync(monkeypatch, jam, number=1)

    async def upload() -> None:
        async with make_disk(is_replacing=is_replacing).deliver(make_item("a"), ScriptedBody([b"x"])):
            pass

    task = asyncio.create_task(upload())
    await until(jam.is_reached.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    jam.let_go.set()
    await until(lambda: open_below(root) == 0)
    assert "acme/a" not in visible(root), way
    assert temp_names(root) == []


async def test_timed_out_after_the_name_was_given_it_is_withdrawn(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam
) -> None:
    (root / "acme").mkdir()
    hang_in_sync(monkeypatch, jam, number=2)
    with pytest.raises(DestinationTimeout):
        async with make_disk(idle_seconds=0.2).deliver(make_item("a"), ScriptedBody([b"x"])):
            pass
    jam.let_go.set()
    await until(lambda: not (root / "acme/a").exists())  # between publishing and withdrawing nothing is open either
    await until(lambda: open_below(root) == 0)
    assert (visible(root), temp_names(root)) == ({"acme": None}, []), way


async def test_timed_out_after_it_replaced_another_one_it_is_told(
    way: str, root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam
) -> None:
    (root / "acme").mkdir()
    hang_in_sync(monkeypatch, jam, number=2)
    item = make_item("a")
    with pytest.raises(DestinationTimeout):
        async with make_disk(is_replacing=True, idle_seconds=0.2).deliver(item, ScriptedBody([b"x"])):
            pass
    assert [stored.key for stored in item.landed] == ["a"] and visible(root)["acme/a"] == b"x", way


async def test_what_was_withdrawn_is_only_our_own_file(root: Path, make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch, jam: Jam) -> None:
    (root / "acme").mkdir()
    hang_in_sync(monkeypatch, jam, number=2)
    with pytest.raises(DestinationTimeout):
        async with make_disk(idle_seconds=0.2).deliver(make_item("a"), ScriptedBody([b"x"])):
            pass
    (root / "acme/other").write_bytes(b"somebody else's")
    (root / "acme/other").replace(root / "acme/a")
    jam.let_go.set()
    await until(lambda: open_below(root) == 0)
    assert visible(root) == {"acme": None, "acme/a": b"somebody else's"}


async def test_behind_a_hanging_disk_an_upload_times_out_and_never_starts(
    root: Path, threads: ThreadPoolExecutor, make_disk: MakeDisk, jam: Jam
) -> None:
    for _ in range(4):
        threads.submit(jam.hang)
    body = ScriptedBody([b"x"])
    with pytest.raises(DestinationTimeout):
        async with make_disk(idle_seconds=0.05).deliver(make_item("a"), body):
            pass
    assert not body.is_asked
    jam.let_go.set()
    threads.shutdown(wait=True)
    assert (visible(root), temp_names(root), open_below(root)) == ({}, [], 0)


async def test_threads_that_are_shut_down_do_not_keep_the_file_open(
    way: str, root: Path, make_disk: MakeDisk, threads: ThreadPoolExecutor
) -> None:
    gate = asyncio.Event()
    body = ScriptedBody([b"x"], gate=gate, fault=ClientGone())

    async def upload() -> None:
        async with make_disk().deliver(make_item("a"), body):
            pass

    task = asyncio.create_task(upload())
    await body.has_given_all.wait()
    threads.shutdown(wait=True)
    gate.set()
    with pytest.raises(ClientGone):
        await task
    assert (visible(root), temp_names(root), open_below(root)) == ({}, [], 0), way
