"""Bytes pass while they come, both ways; nothing is gathered, and the end waits for the journal."""

import asyncio
import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import pytest
from crc32c import crc32c

from relay.ledger.entry import Entry
from relay.ledger.journal import Journal
from tests.stories.speech import chunked, head, say
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

MIB = 1 << 20
PIECE = b"x" * 65_536


class Pieces(Sequence[bytes]):
    """The pieces of an answer; knows how many of them the upstream has begun to send."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.begun = 0

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "Pieces": ...
    def __getitem__(self, index: int | slice) -> "bytes | Pieces":
        return self if isinstance(index, slice) else self._pieces[index]

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.begun += 1
            yield piece


async def read_head(client: RawClient) -> bytes:
    """The raw head of an answer, and nothing beyond it."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += await client.read(1)
    return received


async def test_the_first_bytes_arrive_before_the_last_are_sent_both_ways(database_url: str, tmp_path: Path) -> None:
    pieces = Pieces([b"first", b"second", b"third", b"fourth"])
    async with Upstream(Conduct(pieces=pieces, pause_seconds=0.5)) as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address) as client:
            await client.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 30"))
            for sent in (10, 20, 30):
                await client.send(b"0123456789")
                await upstream.received(sent)
            assert b"transfer-encoding: chunked" in (await read_head(client)).lower()
            assert await client.read(10) == b"5\r\nfirst\r\n"
            assert pieces.begun < 4, "the answer's last piece is still to come"
        upstream.conduct = Conduct()
        async with RawClient(*relay.address) as client:
            await client.send(head("/upload/b", f"X-API-Key: {tenant.key}", "Transfer-Encoding: chunked"))
            for sent in (10, 20, 30):
                await client.send(b"a\r\n0123456789\r\n")
                await upstream.received(sent, 1)
            await client.send(b"0\r\n\r\n")
            assert (await client.answer()).status == 200
            assert (await upstream.ended(1)).is_whole


async def test_chunks_of_every_size_arrive_as_one_body(database_url: str, tmp_path: Path) -> None:
    sizes = (1, 8_191, 8_192, 8_193, 65_536, 65_536, 3, 300_000, 20, 16_384, 700_000, 5)
    content = os.urandom(sum(sizes))
    starts = itertools.accumulate(sizes, initial=0)
    chunks = [content[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    form = [b"--B\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n", *chunks, b"\r\n--B--\r\n"]
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        folder = await relay.disk_destination(tenant, "in")
        await relay.post(f"/tenants/{tenant.slug}/routes", {"prefix": "disk", "destination": "disk", "strip_prefix": True})
        fields = (f"X-API-Key: {tenant.key}", "Transfer-Encoding: chunked")
        assert (await say(relay, head("/upload/passed", *fields) + chunked(chunks))).status == 200
        assert (await upstream.ended(0)).sha256 == hashlib.sha256(content).hexdigest()
        assert (await say(relay, head("/upload/disk/raw", *fields) + chunked(chunks))).status == 201
        assert (folder / "raw").read_bytes() == content
        type_ = "Content-Type: multipart/form-data; boundary=B"
        assert (await say(relay, head("/upload/disk/form/", *fields, type_) + chunked(form))).status == 201
        assert (folder / "form/f").read_bytes() == content
        passed = await relay.entry(path_prefix="passed")
        assert (passed["bytes_in"], passed["bytes_delivered"]) == (len(content), len(content))
        assert passed["digests"] == {"crc32c": f"{crc32c(content):08x}"}


class HeldJournal:
    """The relay's journal with a gate before *finished*."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()

    def begin(self, entry: Entry) -> None:
        self._journal.begin(entry)

    async def finish(self, entry: Entry) -> None:
        self.asked.set()
        await self.gate.wait()
        await self._journal.finish(entry)


@contextlib.contextmanager
def held(relay: RunningRelay) -> Iterator[HeldJournal]:
    """Hold *finished* back for the uploads of this block."""
    story = relay.services.relay
    journal = story.journal
    gate = HeldJournal(journal)
    story.journal = gate  # type: ignore[assignment]  # the two methods that the story uses
    try:
        yield gate
    finally:
        story.journal = journal


@pytest.mark.parametrize("sync", ["process", "group"])
async def test_a_client_cannot_believe_before_the_journal_knows(database_url: str, tmp_path: Path, sync: str) -> None:
    kinds = {
        "known length": Conduct(answer=b"0123456789"),
        "large known length": Conduct(answer=b"x" * 3_000_000),
        "refusal": Conduct(status=403, answer=b"no"),
        "unknown length": Conduct(pieces=[b"one", b"two"]),
        "no content": Conduct(status=204),
        "length 0": Conduct(answer=b""),
        "store": Conduct(),
    }
    async with Upstream() as upstream, running_relay(database_url, tmp_path, RELAY_JOURNAL_SYNC=sync) as relay:
        tenant, disk = await relay.tenant(), await relay.tenant("disk")
        await relay.http_destination(tenant, upstream.url)
        await relay.disk_destination(disk)
        for kind, conduct in kinds.items():
            upstream.conduct = conduct
            key = disk.key if kind == "store" else tenant.key
            with held(relay) as journal:
                async with RawClient(*relay.address) as client:
                    await client.send(head(f"/upload/{kind.replace(' ', '-')}", f"X-API-Key: {key}", "Content-Length: 1") + b"x")
                    await check_held(kind, conduct, client, journal)
        outcomes = {}

        async def are_told() -> bool:
            outcomes.update({entry["path"]: (entry["outcome"], entry["client_left"]) for entry in await relay.entries()})
            return len(outcomes) == len(kinds)

        await until(are_told)
        assert outcomes.pop("refusal") == ("rejected", False)
        assert set(outcomes.values()) == {("delivered", False)}


async def check_held(kind: str, conduct: Conduct, client: RawClient, journal: HeldJournal) -> None:
    """What may be seen before *finished* is seen; what would let a client believe comes after it."""
    if ("length" in kind and kind != "length 0") or kind == "refusal":
        answer_head = await read_head(client)
        if kind == "unknown length":
            assert await client.read(16) == b"3\r\none\r\n3\r\ntwo\r\n"
            await journal.asked.wait()
            assert await client.is_kept(), kind
            journal.gate.set()
            assert await client.read(5) == b"0\r\n\r\n"
            return
        assert b"content-length: %d" % len(conduct.answer) in answer_head
        rest = asyncio.create_task(client.read(len(conduct.answer)))
        await journal.asked.wait()
        await asyncio.wait({rest}, timeout=0.2)
        assert not rest.done(), kind
        journal.gate.set()
        assert await rest == conduct.answer
        return
    await journal.asked.wait()
    assert await client.is_kept(), kind
    journal.gate.set()
    answer = await client.answer()
    assert answer.is_whole
    assert answer.status == {"no content": 204, "length 0": 200, "store": 201}[kind]


async def test_whoever_does_not_read_holds_the_other_up(database_url: str, tmp_path: Path) -> None:
    conduct = Conduct(stop_reading_after=0)
    async with Upstream(conduct, receive_buffer=65_536) as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address, seconds=1.0) as client:
            await client.send(head("/upload/a", f"X-API-Key: {tenant.key}", f"Content-Length: {32 * MIB}"))
            accepted = 0
            with contextlib.suppress(TimeoutError):
                while accepted < 32 * MIB:
                    await client.send(PIECE)
                    accepted += len(PIECE)
        assert accepted < 16 * MIB, "the client was held up"

        # The other way: a client that does not read its answer holds the upstream up, and can still have it whole.
        pieces = Pieces([PIECE] * (32 * MIB // len(PIECE)))
        upstream.conduct = Conduct(pieces=pieces)
        async with RawClient(*relay.address, receive_buffer=65_536) as client:
            await client.send(head("/upload/b", f"X-API-Key: {tenant.key}", "Content-Length: 0"))
            before = -1
            while before != pieces.begun:
                before = pieces.begun
                await asyncio.sleep(0.5)
            assert 0 < pieces.begun * len(PIECE) < 16 * MIB, "the upstream was held up"
            answer = await client.answer()
        assert (answer.status, len(answer.body), answer.is_whole) == (200, 32 * MIB, True)
        entry = await relay.entry(upload_id=answer.value("relay-upload-id") or "")
        assert (entry["outcome"], entry["bytes_out"], entry["client_left"]) == ("delivered", 32 * MIB, False)


async def test_a_body_is_relayed_byte_for_byte_whatever_its_pieces(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        for index, body in enumerate((b"", b"\0", bytes(range(256)) * 4096, b"0\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n")):
            answer = await say(relay, head("/upload/a", f"X-API-Key: {tenant.key}", f"Content-Length: {len(body)}", method="PUT") + body)
            assert answer.status == 200
            request = await upstream.ended(index)
            assert (request.method, request.first_bytes, request.body_bytes) == ("PUT", body[:65_536], len(body))


async def test_a_connection_that_went_away_while_idle_costs_nobody_an_upload(database_url: str, tmp_path: Path) -> None:
    async with Upstream(Conduct(then="close")) as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        for index in range(10):
            body = b"" if index % 2 else b"body"
            answer = await say(relay, head("/upload/a", f"X-API-Key: {tenant.key}", f"Content-Length: {len(body)}") + body)
            assert answer.status == 200, answer.body
        assert [request.body_bytes for request in upstream.requests] == [4, 0] * 5, "each once"
        upstream.conduct = Conduct()
        for _ in range(3):
            assert (await say(relay, head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 0"))).status == 200
        assert len({request.connection for request in upstream.requests[10:]}) == 1, "and one that stays is used again"
