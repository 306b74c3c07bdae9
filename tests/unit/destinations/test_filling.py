"""Parts that are filled with what comes: whatever it comes in, the same bytes are sent, and nobody else's."""

import asyncio
import hashlib
import random
from dataclasses import dataclass, field

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.destinations import filling, slabs
from relay.destinations.filling import Filling, Part
from relay.destinations.part_digests import DigestThreads, PartDigests
from relay.destinations.parts import PartMemory
from relay.errors import UploadTooLarge
from relay.wire.pieces import PLENTY, Room, Scattered

PART = 1_000
MOST = 20
OWNERS = ("one", "two")


@dataclass
class Tools:
    """What a process has, and little of it."""

    memory: PartMemory = field(default_factory=lambda: PartMemory(6_000))
    digests: DigestThreads = field(default_factory=DigestThreads)
    parallel: int = 2


class Keeper:
    """A store that takes a part's bytes when it likes, and may look at them for longer than it says."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.parts: dict[int, tuple[bytes, str | None, int]] = {}
        self.looks: list[tuple[memoryview, bytes]] = []
        self.is_prepared = False

    def plan(self, number: int) -> tuple[int, PartDigests]:
        if number > MOST:
            raise UploadTooLarge
        return PART, PartDigests(is_signed=True)

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        self.is_prepared = True

    async def send(self, part: Part) -> None:
        for _ in range(self._chance.randint(0, 5)):
            await asyncio.sleep(0)
        assert self.is_prepared
        self.parts[part.number] = (b"".join(part.pieces), part.digests.sha256, part.digests.crc32c)
        if self._chance.random() < 0.3:
            self.looks += [(memoryview(piece), bytes(piece)) for piece in part.pieces]


async def fill(tools: Tools, owner: str, content: bytes, *, is_declared: bool, seed: int) -> tuple[Filling, Keeper, bytes]:
    """Give an object's bytes as a client may send them; returns what is sent of it when it is sealed."""
    chance = random.Random(seed)
    keeper = Keeper(chance)
    filled = Filling(tools, owner, PART, len(content) if is_declared else None, keeper)
    rest = memoryview(content)
    while rest:
        await filled.ready()
        room: Room = PLENTY
        while rest and room:
            count = min(len(rest), chance.choice([1, 7, 99, 100, 500, 3_000]))
            if isinstance(room, memoryview) and chance.random() < 0.8:
                given = room[:count]
                given[:] = rest[: len(given)]
                room = filled.take(given)
            else:
                given = rest[:count]
                middle = len(given) // 2
                room = filled.take(Scattered([given[:middle], given[middle:]]) if chance.random() < 0.5 else given)
            rest = rest[len(given) :]
            assert filled.size == len(content) - len(rest)
        await asyncio.sleep(0)
    await filled.seal()
    whole = filled.whole
    sent = b"".join(keeper.parts[number][0] for number in sorted(keeper.parts))
    assert (whole is None) == bool(keeper.parts)
    return filled, keeper, sent if whole is None else b"".join(whole.pieces)


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in chunks of which few bytes need several."""
    monkeypatch.setattr(slabs, "SLAB_BYTES", 400)
    for name, size in {"SLAB_BYTES": 400, "FEW_BYTES": 100, "LEAST_BYTES": 10}.items():
        monkeypatch.setattr(filling, name, size)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(OWNERS), st.integers(0, 2_500) | st.sampled_from([PART - 1, PART, PART + 1, 2 * PART]), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 1 << 30),
)
def test_whatever_it_comes_in_the_same_bytes_are_sent(objects: list[tuple[str, int, bool]], seed: int) -> None:
    async def run() -> None:
        tools = Tools()
        contents = [random.Random(seed + index).randbytes(size) for index, (_, size, _) in enumerate(objects)]
        filling = [
            fill(tools, owner, content, is_declared=is_declared, seed=seed + index)
            for index, ((owner, _, is_declared), content) in enumerate(zip(objects, contents, strict=True))
        ]
        looks: list[tuple[memoryview, bytes]] = []
        async with asyncio.timeout(20):
            for done in asyncio.as_completed([asyncio.ensure_future(each) for each in filling]):
                filled, keeper, sent = await done
                assert sent in contents and filled.size == len(sent)
                assert (filled.sha256, filled.crc32c) == (hashlib.sha256(sent).hexdigest(), f"{crc32c(sent):08x}")
                for data, sha256, crc in keeper.parts.values():
                    assert (sha256, crc) == (hashlib.sha256(data).hexdigest(), crc32c(data)) and len(data) <= PART
                looks += keeper.looks
                filled.release()
                filled.release()
        assert all(view == before for view, before in looks), "somebody else's bytes are where one still looks"
        assert tools.memory.held_bytes == tools.memory.waiting == tools.memory.open_objects == 0
        tools.digests.shutdown()

    asyncio.run(run())


async def give(filled: Filling, parts: int) -> None:
    """Give so many parts' worth, one by one."""
    for _ in range(parts):
        await filled.ready()
        filled.take(bytes(PART))
        await asyncio.sleep(0.001)
    await filled.ready()


async def test_too_many_parts_are_said_while_waiting_and_not_in_the_hands_of_the_wire() -> None:
    tools, keeper = Tools(), Keeper(random.Random(1))
    filled = Filling(tools, "one", PART, None, keeper)
    with pytest.raises(UploadTooLarge):
        await give(filled, MOST + 2)
    await asyncio.gather(*filled.cut(), return_exceptions=True)
    filled.release()
    assert tools.memory.held_bytes == 0
    tools.digests.shutdown()


async def test_what_a_store_refuses_is_raised_to_whoever_writes() -> None:
    class Refusing(Keeper):
        async def send(self, part: Part) -> None:
            raise UploadTooLarge(f"part {part.number}")

    tools = Tools()
    filled = Filling(tools, "one", PART, 3 * PART, Refusing(random.Random(1)))
    with pytest.raises(UploadTooLarge, match="part 1"):
        await give(filled, 3)
    filled.release()
    assert tools.memory.held_bytes == 0
    tools.digests.shutdown()


async def test_a_part_that_failed_is_told_to_the_next_bytes_whatever_room_there_is() -> None:
    """Else a slow client would send to the end of its part before it heard of it."""
    refused = asyncio.Event()

    class Refusing(Keeper):
        async def send(self, part: Part) -> None:
            refused.set()
            raise UploadTooLarge(f"part {part.number}")

    tools = Tools()
    filled = Filling(tools, "one", PART, 3 * PART, Refusing(random.Random(1)))
    await filled.ready()
    filled.take(bytes(PART))
    await filled.ready()
    assert filled.take(b"x")
    await refused.wait()
    await asyncio.sleep(0.01)
    assert not filled.take(b"x")
    with pytest.raises(UploadTooLarge, match="part 1"):
        await filled.ready()
    filled.release()
    assert tools.memory.held_bytes == 0
    tools.digests.shutdown()


async def test_a_client_that_sends_little_at_a_time_holds_little() -> None:
    tools = Tools()
    filled = Filling(tools, "one", PART, 100 * PART, Keeper(random.Random(1)))
    await filled.ready()
    assert tools.memory.held_bytes == 0
    for sent in range(1, 2 * PART):
        if not filled.take(b"x"):
            await filled.ready()
        assert tools.memory.held_bytes <= max(10, 2 * sent)
    filled.release()
    await asyncio.gather(*filled.cut(), return_exceptions=True)
    assert tools.memory.held_bytes == 0
    tools.digests.shutdown()
