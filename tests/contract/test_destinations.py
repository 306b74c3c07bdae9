"""The promise of a destination, asked of every kind alike.

What only stores promise is asked beside this, in ``test_stores.py`` and ``test_store_servers.py``; what only one kind does (names on disk,
early answers over HTTP) is tested beside that kind.
"""

import asyncio
import hashlib
import os

import pytest

from relay.errors import BodyIncomplete, ClientGone, DependencyFault
from tests.contract.keepers import EVERY, Keeper, of
from tests.support.bodies import ScriptedBody, make_item
from tests.support.objects import cut_up
from tests.support.waiting import until

CONTENT = os.urandom(3_000_001)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@of(EVERY)
@pytest.mark.parametrize("size", [0, 1, len(CONTENT)], ids=["empty", "one", "large"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
async def test_a_body_arrives_whole_and_is_receipted(keeper: Keeper, size: int, *, is_declared: bool) -> None:
    content = CONTENT[:size]
    declared = size if is_declared else None
    item = make_item("photos/höhle & cat.jpg", declared_bytes=declared)
    async with keeper.destination.deliver(item, ScriptedBody(cut_up(content), declared_bytes=declared)) as delivery:
        assert 200 <= delivery.status < 300
        answer = b"".join([chunk async for chunk in delivery.answer()])
        receipt = await delivery.settled()
        assert delivery.answer_bytes in {None, len(answer)}
        assert delivery.is_body_taken
    assert receipt.bytes == size
    assert receipt.digests.get("sha256") in {None, digest_of(content)}
    assert keeper.arrived() == [digest_of(content)]
    assert not keeper.left()


@of(EVERY)
async def test_settling_does_not_need_the_answer_to_be_read(keeper: Keeper) -> None:
    async with keeper.destination.deliver(make_item(), ScriptedBody([b"x"])) as delivery:
        assert (await delivery.settled()).bytes == 1


@of(EVERY)
@pytest.mark.parametrize("fault", [ClientGone(), BodyIncomplete(), asyncio.CancelledError()], ids=["gone", "incomplete", "cancelled"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("size", [0, 1, len(CONTENT) - 1], ids=["nothing", "little", "all but one"])
async def test_a_body_that_breaks_is_never_delivered_and_its_fault_passes_through(
    keeper: Keeper, fault: BaseException, size: int, *, is_declared: bool
) -> None:
    declared = len(CONTENT) if is_declared else None
    body = ScriptedBody(cut_up(CONTENT[:size]), declared_bytes=declared, fault=fault)
    with pytest.raises(type(fault)):
        async with keeper.destination.deliver(make_item(declared_bytes=declared), body):
            pytest.fail("a broken body was delivered")
    await until(lambda: not keeper.left())
    assert not keeper.arrived()


@of(EVERY)
async def test_a_cancelled_delivery_is_aborted(keeper: Keeper) -> None:
    body = ScriptedBody(cut_up(CONTENT[:1_000_000]), gate=asyncio.Event())

    async def deliver() -> None:
        async with keeper.destination.deliver(make_item(), body):
            pass

    task = asyncio.create_task(deliver())
    await body.has_given_all.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not keeper.left())
    assert not keeper.arrived()


@of(EVERY)
async def test_deliveries_at_once_do_not_mix(keeper: Keeper) -> None:
    destination = keeper.destination
    contents = [os.urandom(400_000) for _ in range(6)]

    async def deliver(number: int) -> None:
        async with destination.deliver(make_item(f"file-{number}"), ScriptedBody(cut_up(contents[number], 10_000))) as delivery:
            await delivery.settled()

    await asyncio.gather(*(deliver(number) for number in range(6)))
    assert sorted(keeper.arrived()) == sorted(map(digest_of, contents))
    assert not keeper.left()


@of(EVERY)
async def test_the_destination_serves_on_after_a_broken_body(keeper: Keeper) -> None:
    destination = keeper.destination
    with pytest.raises(ClientGone):
        async with destination.deliver(make_item("a"), ScriptedBody([b"half"], fault=ClientGone())):
            pass
    async with destination.deliver(make_item("a"), ScriptedBody([b"whole"])) as delivery:
        await delivery.settled()
    assert keeper.arrived() == [digest_of(b"whole")]


@of(EVERY)
async def test_the_check_finds_it_well_and_leaves_nothing(keeper: Keeper) -> None:
    finding = await keeper.destination.check()
    assert (finding.ok, finding.code) == (True, None), finding.detail
    assert not keeper.arrived()
    assert not keeper.left()


@of(EVERY)
async def test_one_that_is_not_there_is_told_without_asking_for_the_body(keeper: Keeper) -> None:
    body = ScriptedBody([b"x"])
    with pytest.raises(DependencyFault):
        async with keeper.lost.deliver(make_item(), body):
            pass
    assert not body.is_asked
    finding = await keeper.lost.check()
    assert not finding.ok
    assert finding.code
    assert finding.detail
