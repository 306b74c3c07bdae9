"""The pipe between two sockets: what goes through, what does not, and that nothing stays in it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.wire.kernel import is_reset, room_of, unacknowledged_bytes
from relay.wire.pipe import Pipe

Pair = tuple[socket.socket, socket.socket]
SIZE = 30_000
"""Of a body: so much fits into a socket at once (bytes)."""


def connect() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    near.settimeout(5)
    far.settimeout(5)
    return near, far


@pytest.fixture
def pairs() -> Iterator[tuple[Pair, Pair]]:
    """Whoever sends, and where that is received; where it is passed on, and who receives it there."""
    first, second = connect(), connect()
    first[1].setblocking(False)
    second[0].setblocking(False)
    yield first, second
    for each in (*first, *second):
        each.close()


def looked_at(source: socket.socket, count: int) -> memoryview:
    view = memoryview(bytearray(count))
    assert source.recv_into(view, count, socket.MSG_PEEK) == count
    return view


def send(sender: socket.socket, source: socket.socket, body: bytes) -> memoryview:
    sender.sendall(body)
    while len(source.recv(len(body), socket.MSG_PEEK)) < len(body):
        pass
    return looked_at(source, len(body))


def read(receiver: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        got += receiver.recv(count - len(got))
    return got


def fill(target: socket.socket) -> int:
    """Send until nothing more is taken."""
    filled = 0
    try:
        while True:
            filled += target.send(bytes(1 << 20))
    except BlockingIOError:
        return filled


def test_what_was_looked_at_is_moved_and_gone(pairs: tuple[Pair, Pair]) -> None:
    (sender, source), (target, receiver) = pairs
    body = os.urandom(SIZE)
    view = send(sender, source, body)
    assert Pipe().move(source.fileno(), target.fileno(), view[:20_000]) == (20_000, 20_000)
    assert read(receiver, 20_000) == body[:20_000]
    assert source.recv(SIZE) == body[20_000:]


@pytest.mark.parametrize("is_gone", [False, True], ids=["full", "gone"])
def test_what_the_target_does_not_take_is_in_the_view_and_not_in_the_pipe(pairs: tuple[Pair, Pair], is_gone: bool) -> None:
    (sender, source), (target, receiver) = pairs
    filled = 0
    if is_gone:
        target.shutdown(socket.SHUT_WR)
    else:
        filled = fill(target)
    body = os.urandom(SIZE)
    view, pipe = send(sender, source, body), Pipe()
    gone, moved = pipe.move(source.fileno(), target.fileno(), view)
    assert (gone, bytes(view)) == (SIZE, body)
    assert moved < SIZE
    if not is_gone:
        assert read(receiver, filled + moved)[filled:] == body[:moved]
    again, other = connect()
    with again, other:  # of what was left nothing is mixed with what comes by the same pipe
        assert pipe.move(source.fileno(), again.fileno(), send(sender, source, b"next")) == (4, 4)
        assert read(other, 4) == b"next"


def test_a_pipe_in_which_something_may_be_left_is_thrown_away(pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next body in it would be another tenant's."""
    (sender, source), (target, receiver) = pairs
    before, pipe, calls, splice = set(Path("/proc/self/fd").iterdir()), Pipe(), 0, os.splice

    def fail(*given: Any, **named: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:  # out of the pipe
            raise MemoryError
        return splice(*given, **named)

    view = send(sender, source, b"lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", fail)
        with pytest.raises(MemoryError):
            pipe.move(source.fileno(), target.fileno(), view)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert pipe.move(source.fileno(), target.fileno(), send(sender, source, b"next")) == (4, 4)
    assert receiver.recv(SIZE) == b"next"


def test_without_a_pipe_nothing_is_moved_until_one_can_be_had(pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(24, "no descriptor is left")

    (sender, source), (target, receiver) = pairs
    view = send(sender, source, b"body")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", fail)
        pipe = Pipe()
        assert pipe.move(source.fileno(), target.fileno(), view) == (0, 0)
    assert pipe.move(source.fileno(), target.fileno(), view) == (4, 4)
    assert receiver.recv(SIZE) == b"body"


def test_a_pipe_that_is_let_go_is_closed() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    near, far = connect()
    with near, far:
        near.sendall(b"a")
        Pipe().move(far.fileno(), far.fileno(), looked_at(far, 1))
        assert near.recv(1) == b"a"
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_the_kernel_tells_how_much_it_would_take_and_what_waits(pairs: tuple[Pair, Pair]) -> None:
    (_, _), (target, receiver) = pairs
    empty = room_of(target)
    assert empty >= 64 * 1024
    filled = fill(target)
    assert room_of(target) < empty // 10
    assert unacknowledged_bytes(target.fileno()) > 0
    assert len(read(receiver, filled)) == filled
    assert room_of(target) > empty // 2


def test_a_reset_is_told_though_nothing_is_read(pairs: tuple[Pair, Pair]) -> None:
    (sender, source), _ = pairs
    send(sender, source, b"unread")
    assert not is_reset(source)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sender.close()
    assert is_reset(source)
    assert not is_reset(None)
