"""What stores promise of servers that refuse, wait, lie or break, asked of every kind that is one: an object whole, or not at all."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest

from relay.destinations.object_store import NewObject
from relay.errors import DependencyFault, DestinationBroke, DestinationMisconfigured, DestinationTimeout, RelayError
from tests.contract.keepers import SERVERS, ServerKeeper, of
from tests.support.objects import SHORT, cut_up, store_object
from tests.support.store_proxy import Asked, Cut, Flip, Hold, Lose, StoreProxy, Whim
from tests.support.waiting import until

by_shape = pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "parts"])
ALWAYS = 1_000


class Front:
    """A proxy in front of the keeper's server. ``for_the_next`` says what becomes of so many requests of a kind."""

    def __init__(self, keeper: ServerKeeper) -> None:
        self._is_meant: Callable[[Asked], bool] = lambda _: False
        self._whim: Whim = None
        self._left = 0
        self.proxy = StoreProxy(keeper.port, self._choose)

    def for_the_next(self, count: int, is_meant: Callable[[Asked], bool], whim: Whim) -> None:
        self._left, self._is_meant, self._whim = count, is_meant, whim

    @property
    def url(self) -> str:
        return self.proxy.url

    def _choose(self, asked: Asked) -> Whim:
        if not self._left or not self._is_meant(asked):
            return None
        self._left -= 1
        return self._whim


@pytest.fixture
async def front(keeper: ServerKeeper) -> AsyncIterator[Front]:
    made = Front(keeper)
    async with made.proxy:
        yield made


def some(keeper: ServerKeeper, *, is_whole: bool) -> bytes:
    return os.urandom(10_000 if is_whole else 2 * keeper.part_bytes + 1)


async def is_refused(keeper: ServerKeeper, url: str | None, content: bytes, error: type[RelayError], *, idle_seconds: float = 60) -> str:
    """That nothing is made of an upload; what it is told."""
    store = keeper.open("replace", url=url, idle_seconds=idle_seconds)
    with pytest.raises(error) as caught:
        await store_object(store, NewObject("never.bin"), cut_up(content))
    assert keeper.objects() == {} and not keeper.left()
    return caught.value.detail


@of(SERVERS)
@by_shape
@pytest.mark.parametrize("trouble", ["busy", "cut", "lost answer"])
async def test_what_passes_is_outlasted(keeper: ServerKeeper, front: Front, trouble: str, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    whims: dict[str, Whim] = {"busy": keeper.manner.busy, "cut": Cut(after=5_000), "lost answer": Lose()}
    front.for_the_next(2, keeper.manner.is_publication if is_whole else keeper.manner.is_part, whims[trouble])
    await store_object(keeper.open(url=front.url), NewObject("again.bin", len(content)), cut_up(content))
    assert keeper.objects() == {"again.bin": content}
    assert front.proxy.count(keeper.manner.is_content) == (1 if is_whole else 3) + 2


@of(SERVERS)
@pytest.mark.parametrize("overwrite", ["refuse", "replace"])
@by_shape
async def test_a_lost_answer_to_the_publication_is_no_failure(
    keeper: ServerKeeper, front: Front, overwrite: str, *, is_whole: bool
) -> None:
    content = some(keeper, is_whole=is_whole)
    front.for_the_next(1, keeper.manner.is_publication, Lose())
    store = keeper.open(overwrite, url=front.url)
    if is_whole or keeper.knows_all:
        published, _ = await store_object(store, NewObject("once.bin"), cut_up(content))
        assert published.etag
    else:
        with pytest.raises(DestinationBroke, match="cannot be told"):
            await store_object(store, NewObject("once.bin"), cut_up(content))
    assert keeper.objects() == {"once.bin": content}
    assert front.proxy.count(keeper.manner.is_publication) == 2


@of(SERVERS)
@by_shape
async def test_a_publication_whose_every_answer_is_lost_is_no_failure(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    front.for_the_next(ALWAYS, keeper.manner.is_publication, Lose())
    store = keeper.open("replace", url=front.url)
    if is_whole or keeper.knows_all:
        published, _ = await store_object(store, NewObject("silent.bin"), cut_up(content))
        assert published.etag
    else:
        with pytest.raises(DestinationBroke):
            await store_object(store, NewObject("silent.bin"), cut_up(content))
    assert keeper.objects() == {"silent.bin": content}
    assert front.proxy.count(keeper.manner.is_publication) == SHORT.tries


@of(SERVERS)
@by_shape
async def test_what_does_not_pass_is_given_up_in_bounded_time(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    meant = keeper.manner.is_publication if is_whole else keeper.manner.is_part
    front.for_the_next(ALWAYS, meant, keeper.manner.busy)
    told = await is_refused(keeper, front.url, some(keeper, is_whole=is_whole), DestinationBroke)
    assert "503" in told
    sent = {each.target for each in front.proxy.asked if meant(each)}
    assert front.proxy.count(meant) <= SHORT.tries * len(sent)


@of(SERVERS)
@by_shape
async def test_connections_that_are_cut_again_and_again_are_told(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    front.for_the_next(ALWAYS, keeper.manner.is_content, Cut(after=5_000))
    await is_refused(keeper, front.url, some(keeper, is_whole=is_whole), DependencyFault)


@of(SERVERS)
@by_shape
async def test_a_store_that_does_not_answer_is_not_waited_for(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    front.for_the_next(ALWAYS, keeper.manner.is_content, Hold(asyncio.Event()))
    await is_refused(keeper, front.url, some(keeper, is_whole=is_whole), DestinationTimeout, idle_seconds=0.3)


@of(SERVERS)
@by_shape
async def test_bits_that_flip_on_the_way_are_found(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    front.for_the_next(ALWAYS, keeper.manner.is_content, Flip())
    await is_refused(keeper, front.url, some(keeper, is_whole=is_whole), DestinationBroke)


@of(SERVERS)
@by_shape
async def test_a_bit_that_flips_once_is_mended_or_told(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    front.for_the_next(1, keeper.manner.is_content, Flip())
    try:
        await store_object(keeper.open(url=front.url), NewObject("a.bin", len(content)), cut_up(content))
    except DestinationBroke:  # not every store takes the same once more
        assert keeper.objects() == {}
    else:
        assert keeper.objects() == {"a.bin": content}


@of(SERVERS)
@by_shape
@pytest.mark.parametrize("number", [0, 1], ids=["first lie", "second lie"])
async def test_a_store_that_says_it_has_something_else_is_not_believed(
    keeper: ServerKeeper, front: Front, number: int, *, is_whole: bool
) -> None:
    lie = keeper.manner.lies[number % len(keeper.manner.lies)]
    front.for_the_next(ALWAYS, keeper.manner.is_content, lie)
    told = await is_refused(keeper, front.url, some(keeper, is_whole=is_whole), DestinationBroke)
    assert "not what was sent" in told


@of(SERVERS)
@by_shape
async def test_a_store_that_does_not_permit_it_is_told(keeper: ServerKeeper, front: Front, *, is_whole: bool) -> None:
    content = some(keeper, is_whole=is_whole)
    front.for_the_next(ALWAYS, lambda asked: asked.method in {"PUT", "POST"}, keeper.manner.denied)
    told = await is_refused(keeper, front.url, content, DestinationMisconfigured)
    assert "permit" in told
    finding = await keeper.open(url=front.url).check()
    assert (finding.ok, finding.code) == (False, "destination_misconfigured") and "permit" in finding.detail


@of(SERVERS)
@by_shape
async def test_a_place_that_is_not_there_is_told(keeper: ServerKeeper, *, is_whole: bool) -> None:
    keeper.remove()
    assert "does not exist" in await is_refused(keeper, None, some(keeper, is_whole=is_whole), DestinationMisconfigured)
    assert "does not exist" in (await keeper.open().check()).detail


@of(SERVERS)
async def test_an_upload_that_is_given_up_while_parts_go_leaves_nothing(keeper: ServerKeeper, front: Front) -> None:
    going = asyncio.Event()
    front.for_the_next(ALWAYS, keeper.manner.is_part, Hold(going))
    content = some(keeper, is_whole=False)
    sending = asyncio.create_task(store_object(keeper.open(url=front.url), NewObject("late.bin", 2 * len(content)), [content, content]))
    await until(lambda: front.proxy.count(keeper.manner.is_part))
    assert keeper.held_bytes >= keeper.part_bytes
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    going.set()
    assert keeper.objects() == {} and not keeper.left()
