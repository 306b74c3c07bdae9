"""The way between two sockets: what goes through, what does not, and that nothing stays in the pipes."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.protocols.framed import Span
from relay.wire import mover as mover_module
from relay.wire.kernel import is_reset, room_of, unacknowledged_bytes
from relay.wire.mover import Mover

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


SPANS: dict[str, list[Span]] = {
    "all": [(0, 20_000)],
    "behind something": [(9, 20_000)],
    "with something between": [(0, 7_000), (7_009, 12_345), (12_346, 20_000)],
    "bytes": [(number, number + 1) for number in range(0, 20_000, 1_111)] + [(19_999, 20_000)],
}


@pytest.fixture(params=[mover_module.CAPACITY, 2 * resource.getpagesize()], ids=["pipes", "small pipes"])
def mover(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mover:
    monkeypatch.setattr(mover_module, "CAPACITY", request.param)
    return Mover()


def parts_of(body: bytes, spans: list[Span]) -> bytes:
    return b"".join(body[start:stop] for start, stop in spans)


@pytest.mark.parametrize("before", [b"", b"before"])
@pytest.mark.parametrize("spans", SPANS.values(), ids=list(SPANS))
def test_what_was_looked_at_is_moved_and_what_lies_between_is_dropped(
    pairs: tuple[Pair, Pair], mover: Mover, spans: list[Span], before: bytes
) -> None:
    (sender, source), (target, receiver) = pairs
    body = os.urandom(SIZE)
    send(sender, source, body)
    wanted = before + parts_of(body, spans)
    assert mover.move(source.fileno(), target.fileno(), spans, before) == (20_000, len(wanted))
    assert read(receiver, len(wanted)) == wanted
    assert source.recv(SIZE) == body[20_000:]


def test_more_parts_than_a_pipe_has_places_are_moved(pairs: tuple[Pair, Pair], mover: Mover) -> None:
    (sender, source), (target, receiver) = pairs
    body = os.urandom(SIZE)
    for at in range(0, SIZE, 50):  # the pages of each lie elsewhere
        sender.sendall(body[at : at + 50])
    while len(source.recv(SIZE, socket.MSG_PEEK)) < SIZE:
        pass
    spans = [(at, at + 20) for at in range(10, SIZE, 30)]
    wanted = b"before" + parts_of(body, spans)
    assert mover.move(source.fileno(), target.fileno(), spans, b"before") == (SIZE, len(wanted))
    assert read(receiver, len(wanted)) == wanted


@pytest.mark.parametrize("before", [b"", b"before"])
@pytest.mark.parametrize("spans", [[(0, SIZE)], [(0, 10_000), (10_009, SIZE)]], ids=["all", "parts"])
@pytest.mark.parametrize("is_gone", [False, True], ids=["full", "gone"])
def test_what_the_target_does_not_take_is_told_and_not_left_in_the_pipes(
    pairs: tuple[Pair, Pair], mover: Mover, spans: list[Span], before: bytes, is_gone: bool
) -> None:
    (sender, source), (target, receiver) = pairs
    filled = 0
    if is_gone:
        target.shutdown(socket.SHUT_WR)
    else:
        filled = fill(target)
    body = os.urandom(SIZE)
    view = send(sender, source, body)
    gone, moved = mover.move(source.fileno(), target.fileno(), spans, before)
    assert bytes(view) == body
    wanted = before + parts_of(body, spans)
    assert moved < len(wanted)
    if not is_gone:
        assert read(receiver, filled + moved)[filled:] == wanted[:moved]
    if gone < SIZE:
        assert source.recv(SIZE) == body[gone:]
    again, other = connect()
    with again, other:  # of what was left nothing is mixed with what comes by the same pipes
        send(sender, source, b"next")
        assert mover.move(source.fileno(), again.fileno(), [(0, 4)]) == (4, 4)
        send(sender, source, b"!next")
        assert mover.move(source.fileno(), again.fileno(), [(1, 5)]) == (5, 4)
        assert read(other, 8) == b"nextnext"


@pytest.mark.parametrize("spans", [[(0, 2 * SIZE)], [(1, 2 * SIZE)]], ids=["all", "parts"])
def test_what_does_not_lie_there_is_not_waited_for_and_what_stood_before_it_not_left(
    pairs: tuple[Pair, Pair], mover: Mover, spans: list[Span]
) -> None:
    (sender, source), (target, receiver) = pairs
    skipped = spans[0][0]
    send(sender, source, bytes(SIZE))
    assert mover.move(source.fileno(), target.fileno(), spans) == (SIZE, SIZE - skipped)
    assert mover.move(source.fileno(), target.fileno(), spans, b"lost") == (0, 0)
    sender.shutdown(socket.SHUT_WR)
    assert mover.move(source.fileno(), target.fileno(), spans, b"lost") == (0, 0)
    target.shutdown(socket.SHUT_WR)
    assert read(receiver, SIZE - skipped) + receiver.recv(1) == bytes(SIZE - skipped)


@pytest.mark.parametrize(("spans", "failing"), [([(0, 4)], 1), ([(0, 4)], 2), ([(1, 4)], 2), ([(1, 4)], 3)])
def test_pipes_in_which_something_may_be_left_are_thrown_away(
    pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch, spans: list[Span], failing: int
) -> None:
    """The next body in them would be another tenant's."""
    (sender, source), (target, receiver) = pairs
    before, mover, calls, splice = set(Path("/proc/self/fd").iterdir()), Mover(), 0, os.splice

    def fail(*given: Any, **named: Any) -> int:
        nonlocal calls
        calls += 1
        count = splice(*given, **named)
        if calls == failing:
            raise MemoryError
        return count

    send(sender, source, b"lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", fail)
        with pytest.raises(MemoryError):
            mover.move(source.fileno(), target.fileno(), spans)
    assert set(Path("/proc/self/fd").iterdir()) == before
    send(sender, source, b"next")
    assert mover.move(source.fileno(), target.fileno(), [(0, 4)]) == (4, 4)
    target.shutdown(socket.SHUT_WR)
    assert receiver.recv(SIZE).removeprefix(b"lost").removeprefix(b"ost") == b"next"


@pytest.mark.parametrize("made", [0, 1])
def test_without_pipes_nothing_is_moved_until_they_can_be_had(pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    """And of two none is kept while the other one cannot be had."""
    pipe2, calls, before = os.pipe2, 0, set(Path("/proc/self/fd").iterdir())

    def fail(flags: int) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        if calls > made:
            raise OSError(24, "no descriptor is left")
        return pipe2(flags)

    (sender, source), (target, receiver) = pairs
    send(sender, source, b"body")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", fail)
        mover = Mover()
        assert mover.move(source.fileno(), target.fileno(), [(0, 4)]) == (0, 0)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert mover.move(source.fileno(), target.fileno(), [(0, 4)]) == (4, 4)
    assert receiver.recv(SIZE) == b"body"


def test_pipes_that_are_let_go_are_closed() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    near, far = connect()
    with near, far:
        near.sendall(b"a")
        looked_at(far, 1)
        Mover().move(far.fileno(), far.fileno(), [(0, 1)])
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
