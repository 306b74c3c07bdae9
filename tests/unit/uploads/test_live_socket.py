"""The socket at which a worker tells what runs: whom it answers, what it makes of nonsense, and what dead workers leave."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from relay.errors import UploadNotRunning, WorkerUnreachable
from relay.settings import UploadSettings
from relay.uploads.body import RequestBody
from relay.uploads.live import Live
from relay.uploads.live_folder import ADDRESS_BYTES, LiveFolder
from relay.uploads.live_socket import ASKING_MOST, LiveSocket
from relay.uploads.questions import QUESTION_BYTES, ListQuestion
from relay.uploads.running import Running
from relay.uploads.siblings import Siblings
from tests.support.bodies import SourceOf
from tests.support.entries import make_entry
from tests.support.postgres import make_private_folder
from tests.support.waiting import until

NOBODY = 65_534
EVERYTHING = ListQuestion(limit=100)


async def read_nothing() -> bytes | None:
    return None


def enter(running: Running, **members: str) -> str:
    """Register an upload of the current task and return its id."""
    entry = make_entry(**members)
    running.enter(entry, RequestBody(SourceOf(read_nothing), declared_bytes=None, limit_bytes=None, settings=UploadSettings()))
    return entry.upload_id or ""


@asynccontextmanager
async def worker(folder: LiveFolder, running: Running | None = None) -> AsyncIterator[str]:
    name = str(uuid4())
    opened = await LiveSocket.open(folder, name, running or Running())
    try:
        yield name
    finally:
        await opened.close()
        await asyncio.sleep(0)


async def ask(folder: LiveFolder, name: str, sent: bytes) -> bytes:
    """Send these bytes and read until the worker hangs up."""
    connection = folder.connect(name)
    assert connection is not None
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            return await reader.read()
    except OSError:
        return b""
    finally:
        writer.transport.abort()


async def test_siblings_tell_what_runs_and_own_uploads_are_not_asked_for(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    one, two = Running(), Running()
    first, second = enter(one, path="é\u2028\x01"), enter(two, tenant="other")
    async with worker(folder, one) as name, worker(folder, two) as other:
        answers = await Siblings(folder).list_uploads(EVERYTHING)
        assert {upload.upload_id: upload.worker for upload in answers.uploads} == {first: name, second: other}
        assert {upload.path for upload in answers.uploads} == {"é\u2028\x01", "photos/cat.jpg"}
        assert answers.unreachable == 0
        assert [upload.upload_id for upload in (await Siblings(folder, name).list_uploads(EVERYTHING)).uploads] == [second]
        page = await Live(Siblings(folder, name), one).list_uploads(None, 1, None)
        assert [upload.upload_id for upload in page.page.items] == [second]
        page = await Live(Siblings(folder, name), one).list_uploads(None, 1, page.page.next)
        assert ([upload.upload_id for upload in page.page.items], page.page.next) == ([first], None)
    assert list(folder.path.iterdir()) == [], "closed sockets are removed"


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"garbage\n",
        b"\x00\xff\xfe\n",
        b"[" * 4_000 + b"\n",
        b'{"ask":"list"}\n',
        b'{"ask":"list","limit":0}\n',
        b'{"ask":"list","limit":100000}\n',
        b'{"ask":"list","limit":"5"}\n',
        b'{"ask":"list","limit":5,"tenant":7}\n',
        b'{"ask":"list","limit":5,"more":1}\n',
        b'{"ask":"cut","upload_id":"x"}\n',
        b'{"ask":"cut","upload_id":"x","until":NaN}\n',
        b'{"ask":"stop"}\n',
        b'{"ask":"list","limit":5,"tenant":"' + b"x" * QUESTION_BYTES + b'"}\n',
        b"x" * (1 << 20),
        b'{"ask":"list","limit":5}',
    ],
)
async def test_what_is_no_question_gets_no_answer(sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.uploads.live_socket.QUESTION_SECONDS", 0.2)
    folder = LiveFolder(tmp_path / "live")
    running = Running()
    enter(running)
    async with worker(folder, running) as name:
        assert await ask(folder, name, sent) == b""
        assert len((await Siblings(folder).list_uploads(EVERYTHING)).uploads) == 1, "and the worker answers the next one"


async def test_a_question_may_come_in_pieces(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    async with worker(folder) as name:
        reader, writer = await asyncio.open_unix_connection(sock=folder.connect(name))
        for piece in (b'{"ask":', b'"list","limit":5}', b"\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert json.loads(await reader.read()) == {"end": True}
        writer.transport.abort()


async def test_a_cut_that_is_asked_for_too_late_is_not_carried_out(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    running = Running()
    upload_id = enter(running)
    async with worker(folder, running) as name:
        question = json.dumps({"ask": "cut", "upload_id": upload_id, "until": time.monotonic() - 0.001})
        assert await ask(folder, name, question.encode() + b"\n") == b""
        assert len(running) == 1
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_more_than_so_many_at_once_are_turned_away(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    async with worker(folder) as name:
        silent = [await asyncio.open_unix_connection(sock=folder.connect(name)) for _ in range(ASKING_MOST)]
        await asyncio.sleep(0.05)
        assert await ask(folder, name, EVERYTHING.line()) == b""
        assert (await Siblings(folder).list_uploads(EVERYTHING)).unreachable == 1
        for _, writer in silent:
            writer.transport.abort()

        async def answers_again() -> bool:
            return (await Siblings(folder).list_uploads(EVERYTHING)).unreachable == 0

        await until(answers_again)


async def test_socket_of_a_dead_worker_is_removed_by_who_finds_it(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    dead = str(uuid4())
    folder.listen(dead).close()  # as a process leaves it that is killed
    with socket.socket() as old:
        old.bind(("127.0.0.1", 0))
    (folder.path / "notes.txt").write_text("kept")
    (folder.path / ".new-half").write_text("")
    (folder.path / ".new-old").write_text("")
    os.utime(folder.path / ".new-old", (0, 0))
    async with worker(folder) as living:
        answers = await Siblings(folder).list_uploads(EVERYTHING)
        assert (answers.uploads, answers.unreachable) == ((), 0)
        assert {path.name for path in folder.path.iterdir()} == {f"{living}.sock", "notes.txt", ".new-half"}
        with pytest.raises(UploadNotRunning):
            await Live(Siblings(folder)).find(str(uuid4()))


async def test_worker_that_does_not_answer_is_counted_and_delays_nobody_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LiveFolder(tmp_path / "live")
    running = Running()
    upload_id = enter(running)
    stopped = str(uuid4())
    async with worker(folder, running):
        with folder.listen(stopped):
            began = time.monotonic()
            answers = await Siblings(folder).list_uploads(EVERYTHING)
            assert time.monotonic() - began < 5
            assert ([upload.upload_id for upload in answers.uploads], answers.unreachable) == ([upload_id], 1)
            monkeypatch.setattr("relay.uploads.siblings.PATIENCE_SECONDS", 0.1)
            with pytest.raises(WorkerUnreachable):
                await Live(Siblings(folder)).find(str(uuid4()))
            with pytest.raises(WorkerUnreachable):
                await Siblings(folder).cut(stopped, upload_id)


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\n", b'{"upload_id":"1"}\n', b"x" * (1 << 20), b'{"end":true}', b'{"end":true}\n' * 2],
    ids=["nothing", "nonsense", "half", "huge", "unfinished", "more than asked"],
)
async def test_worker_that_talks_nonsense_is_unreachable(answer: bytes, tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    liar = str(uuid4())

    async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(lie, sock=folder.listen(liar))
    try:
        is_fine = answer.startswith(b'{"end":true}\n')
        assert (await Siblings(folder).list_uploads(EVERYTHING)).unreachable == (0 if is_fine else 1)
        with pytest.raises(WorkerUnreachable):
            await Siblings(folder).cut(liar, str(uuid4()))
    finally:
        server.close()
        await asyncio.sleep(0)


async def test_worker_that_dies_over_a_cut_leaves_its_outcome_unknown(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "live")
    name = str(uuid4())

    async def take_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"cut":null}\n')
        writer.close()

    server = await asyncio.start_unix_server(take_and_die, sock=folder.listen(name))
    try:
        with pytest.raises(TimeoutError):
            await Siblings(folder).cut(name, str(uuid4()))
    finally:
        server.close()
        await asyncio.sleep(0)


async def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / ("d" * 120) / "live")
    assert len(str(folder.path)) > ADDRESS_BYTES
    running = Running()
    upload_id = enter(running)
    async with worker(folder, running) as name:
        answers = await Siblings(folder).list_uploads(EVERYTHING)
        assert [upload.upload_id for upload in answers.uploads] == [upload_id]
        assert [path.name for path in folder.path.iterdir()] == [f"{name}.sock"]
    assert list(folder.path.iterdir()) == []


async def test_nobody_else_reaches_the_socket() -> None:
    private = make_private_folder()
    private.chmod(0o755)
    folder = LiveFolder(private / "live")
    folder.path.mkdir(mode=0o777)
    folder.path.chmod(0o777)
    try:
        async with worker(folder) as name:
            path = folder.path / f"{name}.sock"
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            if os.geteuid() == 0:  # only root can be somebody else
                assert await try_as_nobody(path) == "PermissionError"
                folder.path.chmod(0o777)
                path.chmod(0o777)
                assert await try_as_nobody(path) == "b''", "the socket itself asks who it is, where the folder would let them in"
    finally:
        if folder.path.exists():
            folder.path.rmdir()
        private.rmdir()


async def try_as_nobody(path: Path) -> str:
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(5)\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "try:\n"
        '    s.connect(sys.argv[1]); s.sendall(b\'{"ask":"list","limit":5}\\n\'); print(s.recv(100))\n'
        "except OSError as error: print(b'' if isinstance(error, ConnectionError) else type(error).__name__)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(path), str(NOBODY)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    return str(done.stdout.decode().strip())


async def test_worker_that_may_not_listen_says_so_and_serves_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "live").write_text("no folder")
    async with worker(LiveFolder(tmp_path / "live")):
        assert "cannot ask this one" in caplog.text
        assert (await Siblings(LiveFolder(tmp_path / "live")).list_uploads(EVERYTHING)).uploads == ()
