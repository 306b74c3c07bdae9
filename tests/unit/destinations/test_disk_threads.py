"""The threads for disk work: a tenant whose calls hang keeps a quarter of them, and nobody else waits for it."""

import concurrent.futures
import threading
from collections.abc import Iterator

import pytest

from relay.destinations.disk_threads import DiskThreads

THREADS = 8
SECONDS = 10.0


class Hanging:
    """A call that hangs until it is let go, and how many of them run."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.running = threading.Semaphore(0)
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        self.running.release()
        assert self.let_go.wait(SECONDS)
        return self.count


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.let_go.set()


@pytest.fixture
def threads(hanging: Hanging) -> Iterator[DiskThreads]:
    threads = DiskThreads(THREADS)
    yield threads
    hanging.let_go.set()
    threads.shutdown()


def test_one_tenant_holds_a_quarter_and_another_goes_on(threads: DiskThreads, hanging: Hanging) -> None:
    dead = [threads.share("dead").submit(hanging) for _ in range(100)]
    for _ in range(THREADS // 4):
        assert hanging.running.acquire(timeout=SECONDS)
    living = [threads.share("living").submit(int, "7") for _ in range(100)]
    assert [future.result(SECONDS) for future in living] == [7] * 100
    assert hanging.count == THREADS // 4
    hanging.let_go.set()
    assert len([future.result(SECONDS) for future in dead]) == 100


def test_what_waits_may_be_cancelled_and_is_forgotten(threads: DiskThreads, hanging: Hanging) -> None:
    share = threads.share("dead")
    for _ in range(THREADS // 4):
        share.submit(hanging)
        assert hanging.running.acquire(timeout=SECONDS)
    waiting = [share.submit(int) for _ in range(1000)]
    assert all(future.cancel() for future in waiting)
    assert not threads._lines
    last = share.submit(int, "7")
    hanging.let_go.set()
    assert last.result(SECONDS) == 7


def test_one_cancelled_call_takes_no_other_with_it(threads: DiskThreads, hanging: Hanging) -> None:
    share = threads.share("acme")
    begun: list[int] = []
    for _ in range(THREADS // 4):
        share.submit(hanging)
        assert hanging.running.acquire(timeout=SECONDS)
    first, second, third = (share.submit(begun.append, number) for number in range(3))
    assert second.cancel()
    hanging.let_go.set()
    concurrent.futures.wait([first, third], SECONDS)
    assert sorted(begun) == [0, 2]


def test_a_failure_belongs_to_its_caller_and_frees_the_thread(threads: DiskThreads) -> None:
    share = threads.share("acme")
    failing = [share.submit(int, "x") for _ in range(20)]
    assert all(isinstance(future.exception(SECONDS), ValueError) for future in failing)
    assert share.submit(int, "7").result(SECONDS) == 7


def test_shut_down_finishes_what_was_taken_and_takes_no_more(hanging: Hanging) -> None:
    threads = DiskThreads(4)
    share = threads.share("acme")
    share.submit(hanging)
    assert hanging.running.acquire(timeout=SECONDS)
    taken = [share.submit(int, "7") for _ in range(2000)]
    closing = threading.Thread(target=threads.shutdown)
    closing.start()
    hanging.let_go.set()
    closing.join(SECONDS)
    assert [future.result(0) for future in taken] == [7] * 2000
    with pytest.raises(RuntimeError):
        share.submit(int)
