"""Who reads when, by a clock of our own."""

import asyncio
from collections.abc import Iterator

import pytest

from relay.wire import rota as module
from relay.wire.rota import BEGUN_MOST, BEGUN_SHARE, TURN_SECONDS, Rota

LOOK_SECONDS = TURN_SECONDS / 3.5
LOOKS = 4


class Time:
    """A clock that only looks move."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(module, "perf_counter", time)
    return time


class Reader:
    """One for whom so many looks have come. It writes down its name, and in which turn of the loop."""

    def __init__(self, name: str, time: Time, looks: int, seen: list[tuple[int, str]], turns: Iterator[int]) -> None:
        self.name = name
        self.looks = looks
        self._time = time
        self._seen = seen
        self._turns = turns
        self.failure: Exception | None = None

    def look(self) -> bool:
        self._time.now += LOOK_SECONDS
        self._seen.append((next(self._turns), self.name))
        if self.failure is not None:
            raise self.failure
        self.looks -= 1
        return self.looks > 0


class Play:
    """Readers on one rota, and the loop's turns."""

    def __init__(self, time: Time) -> None:
        self.rota = Rota()
        self.seen: list[tuple[int, str]] = []
        self._time = time
        self._turn = 0

    def _turns(self) -> Iterator[int]:
        while True:
            yield self._turn

    def reader(self, name: str, looks: int) -> Reader:
        reader = Reader(name, self._time, looks, self.seen, self._turns())
        self.rota.queue(reader, asyncio.get_running_loop())
        return reader

    async def run(self, turns: int) -> list[str]:
        """Let the loop turn; returns who looked, a word for each turn in which anybody did."""
        for self._turn in range(1, turns + 1):
            await asyncio.sleep(0)
        words = {turn: "".join(name for at, name in self.seen if at == turn) for turn, _ in self.seen}
        return [words[turn] for turn in sorted(words)]


async def test_one_goes_on_until_nothing_is_left_and_then_the_next_does(time: Time) -> None:
    play = Play(time)
    for name in "ab":
        play.reader(name, 2)
    assert "".join(await play.run(4)) == "aabb"


async def test_a_turn_is_no_longer_than_it_may_be_and_nobody_is_passed_over(time: Time) -> None:
    play = Play(time)
    for name in "abc":
        play.reader(name, 1000)
    words = await play.run(30)
    assert len(words) > 20
    assert {len(word) for word in words} == {LOOKS}
    assert [word[0] for word in words[:9]] == list("abcabcabc")


async def test_many_for_whom_little_has_come_do_not_make_a_turn_longer(time: Time) -> None:
    play = Play(time)
    names = [chr(ord("a") + number) for number in range(20)]
    for name in names:
        play.reader(name, 1)
    words = await play.run(10)
    assert "".join(words) == "".join(names)
    assert max(map(len, words)) == LOOKS


async def test_who_is_queued_twice_keeps_its_place_and_looks_once(time: Time) -> None:
    play = Play(time)
    first = play.reader("a", 1)
    play.reader("b", 1)
    play.rota.queue(first, asyncio.get_running_loop())
    assert "".join(await play.run(4)) == "ab"


async def test_one_that_fails_is_asked_no_more_and_the_others_are(time: Time) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    play = Play(time)
    failing = play.reader("a", 5)
    failing.failure = ZeroDivisionError("look")
    play.reader("b", 2)
    assert "".join(await play.run(5)) == "abb"
    assert reported == [failing.failure]


class Waiting:
    """One whose request waits to begin."""

    def __init__(self, name: int, begun: list[int]) -> None:
        self._name = name
        self._begun = begun

    def begin_late(self) -> None:
        self._begun.append(self._name)
        if not self._name:
            raise ZeroDivisionError("begin")


async def test_so_many_begin_in_a_turn_and_the_others_in_their_order() -> None:
    """One that fails delays the others by a turn, and no more."""
    loop, rota, begun = asyncio.get_running_loop(), Rota(), list[int]()
    loop.set_exception_handler(lambda *_: None)
    for name in range(-BEGUN_MOST, 2 * BEGUN_MOST + 1):
        if rota.may_begin(loop):
            begun.append(name)
        else:
            rota.let_wait(Waiting(name, begun))
    assert begun == list(range(-BEGUN_MOST, 0))
    await asyncio.sleep(0)
    assert begun[BEGUN_MOST:] == [0]
    for _ in range(2):
        assert not rota.may_begin(loop)  # who comes now is behind those who wait
        await asyncio.sleep(0)
    assert begun == list(range(-BEGUN_MOST, 2 * BEGUN_MOST + 1))
    await asyncio.sleep(0)
    assert rota.may_begin(loop)


async def test_of_a_long_line_more_begin() -> None:
    loop, rota, begun = asyncio.get_running_loop(), Rota(), list[int]()
    line = 100 * BEGUN_MOST * BEGUN_SHARE
    for name in range(1, line + 1):
        rota.let_wait(Waiting(name, begun))
    rota.may_begin(loop)
    turns = 0
    while len(begun) < line:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 8 * BEGUN_SHARE
    assert begun == list(range(1, line + 1))
