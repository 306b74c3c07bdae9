import asyncio
import hashlib
import socket
from collections.abc import Callable
from datetime import timedelta

import pytest

from relay.errors import BodyIncomplete, ClientGone, ClientTooSlow, DigestMismatch, RelayError, UploadTooLarge
from relay.protocols.digests import Claims
from relay.settings import UploadSettings
from relay.uploads.body import RequestBody
from relay.wire.mover import Mover
from relay.wire.pieces import Piece, Scattered, Take, Unread
from tests.support.bodies import Read, SourceOf


def reads(*chunks: bytes | type[RelayError] | None) -> Read:
    left = list(chunks)

    async def read() -> bytes | None:
        item = left.pop(0) if left else None
        if isinstance(item, type):
            raise item
        return item

    return read


def body(read: Read, *, declared: int | None = None, limit: int | None = None, **settings: timedelta | int) -> RequestBody:
    return RequestBody(SourceOf(read), declared_bytes=declared, limit_bytes=limit, settings=UploadSettings.model_validate(settings))


async def test_an_abandoned_body_is_the_clients_fault_unless_it_learns_of_that_by_itself() -> None:
    source = body(reads(b"a", b"b"))
    assert await anext(source) == b"a"
    assert source.abandon()
    assert not source.abandon()
    with pytest.raises(ClientGone):
        await anext(source)

    gate = asyncio.Event()

    async def wait() -> bytes | None:
        await gate.wait()
        raise ClientGone

    waiting = body(wait)
    asking = asyncio.ensure_future(anext(waiting))
    await asyncio.sleep(0)
    assert not waiting.abandon()
    gate.set()
    with pytest.raises(ClientGone):
        await asking

    whole = body(reads(b"a"), declared=1)
    assert await anext(whole) == b"a"
    assert not whole.abandon()


async def taken(source: RequestBody) -> bytes:
    return b"".join([chunk async for chunk in source])


async def test_the_chunks_come_through_and_are_counted() -> None:
    source = body(reads(b"ab", b"", b"c", None))
    assert await taken(source) == b"abc"
    assert source.received_bytes == 3
    assert source.is_whole
    assert source.digests == {"crc32c": "364b3fb7"}


async def test_the_body_remembers_its_own_failure() -> None:
    source = body(reads(b"a", ClientGone))
    with pytest.raises(ClientGone):
        await taken(source)
    assert isinstance(source.fault, ClientGone)
    with pytest.raises(ClientGone):
        await anext(source)
    assert not source.is_whole


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: body(reads(b"ab", b"cd", None), limit=3), UploadTooLarge),
        (lambda: body(reads(b"ab", None), declared=3), BodyIncomplete),
    ],
)
async def test_a_body_that_breaks_raises_and_never_ends(make: Callable[[], RequestBody], fault: type[RelayError]) -> None:
    source = make()
    with pytest.raises(fault):
        await taken(source)
    assert isinstance(source.fault, fault)


async def test_silence_of_the_client_ends_the_body() -> None:
    async def read() -> bytes | None:
        await asyncio.sleep(10)
        return b""

    with pytest.raises(ClientTooSlow):
        await taken(body(read, idle_timeout=timedelta(milliseconds=50)))


async def test_a_trickle_below_the_least_rate_ends_the_body() -> None:
    async def read() -> bytes | None:
        await asyncio.sleep(0.01)
        return b"x"

    source = body(read, min_rate=1_000_000, rate_window=timedelta(milliseconds=100))
    with pytest.raises(ClientTooSlow):
        await taken(source)
    assert source.received_bytes > 1


async def test_time_that_the_destination_takes_is_not_charged_to_the_client() -> None:
    source = body(reads(*[b"x"] * 5, None), min_rate=1_000, rate_window=timedelta(milliseconds=50), idle_timeout=timedelta(milliseconds=50))
    received = 0
    async for chunk in source:
        received += len(chunk)
        await asyncio.sleep(0.04)
    assert received == 5


async def test_what_is_scattered_is_counted_digested_and_given_on_as_one() -> None:
    async def pour(take: Take) -> bool:
        return bool(take(Scattered([memoryview(b"a"), memoryview(b"bc")])))

    source = body(reads(), declared=3)
    source.expect(claim(b"abc"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source._source, "pour", pour)
        assert await anext(source) == b"abc"
    assert source.is_whole
    assert source.fault is None


async def test_an_empty_body_is_whole_before_it_is_asked() -> None:
    source = body(reads(), declared=0)
    assert source.is_whole
    assert await taken(source) == b""
    assert not source.is_asked


def claim(content: bytes) -> Claims:
    return Claims({"sha-256": hashlib.sha256(content).digest(), "crc32c": bytes.fromhex("364b3fb7")}, {b"repr-digest": "md5"})


@pytest.mark.parametrize("declared", [3, None])
async def test_a_body_that_is_as_claimed_comes_through_and_its_digests_are_told(declared: int | None) -> None:
    source = body(reads(b"ab", b"c", None), declared=declared)
    source.expect(claim(b"abc"))
    assert await taken(source) == b"abc"
    assert source.fault is None
    assert source.digests == {
        "crc32c": "364b3fb7",
        "sha256": hashlib.sha256(b"abc").hexdigest(),
        "md5": hashlib.md5(b"abc", usedforsecurity=False).hexdigest(),
    }


@pytest.mark.parametrize(("chunks", "declared", "given"), [((b"ab", b"c"), 3, b"ab"), ((b"abc",), 3, b""), ((b"ab", b"c"), None, b"abc")])
@pytest.mark.parametrize("is_poured", [True, False], ids=["poured", "iterated"])
async def test_what_would_complete_a_body_that_is_not_as_claimed_is_not_given_away(
    chunks: tuple[bytes, ...], declared: int | None, given: bytes, is_poured: bool
) -> None:
    source = body(reads(*chunks, None), declared=declared)
    source.expect(claim(b"other"))
    got = bytearray()

    def take(piece: Piece) -> bool:
        got.extend(bytes(piece))
        return True

    async def iterate() -> None:
        async for chunk in source:
            take(chunk)

    with pytest.raises(DigestMismatch):
        await (source.pour(take) if is_poured else iterate())
    assert got == given
    assert isinstance(source.fault, DigestMismatch)
    with pytest.raises(DigestMismatch):
        await source.pour(take)
    with pytest.raises(DigestMismatch):
        await anext(source)
    assert got == given


async def test_an_empty_body_that_is_not_as_claimed_is_known_at_once_or_at_its_end() -> None:
    with pytest.raises(DigestMismatch):
        body(reads(), declared=0).expect(claim(b"abc"))
    chunked = body(reads(None))
    chunked.expect(claim(b"abc"))
    with pytest.raises(DigestMismatch):
        await taken(chunked)


async def test_a_body_that_is_cut_short_is_the_clients_departure_whatever_it_claimed() -> None:
    source = body(reads(b"ab", ClientGone), declared=3)
    source.expect(claim(b"abc"))
    with pytest.raises(ClientGone):
        await taken(source)
    assert isinstance(source.fault, ClientGone)


@pytest.mark.parametrize("is_claimed", [False, True])
async def test_what_was_claimed_is_proved_of_the_bytes_that_are_handed_on(is_claimed: bool) -> None:
    """What still lies in a socket may change there: of a claimed body the copy is given away, of which the digest was taken."""
    given: list[Piece] = []

    async def pour(take: Take) -> bool:
        with socket.socket() as plain:
            take(Unread(memoryview(bytearray(b"abc")), [(0, 3)], plain, Mover()))
        return True

    def keep(piece: Piece) -> int:
        given.append(piece)
        return 0

    source = body(reads(), declared=3)
    if is_claimed:
        source.expect(claim(b"abc"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source._source, "pour", pour)
        assert await source.pour(keep)
    assert [bytes(piece) for piece in given] == [b"abc"]
    assert isinstance(given[0], Unread) != is_claimed
