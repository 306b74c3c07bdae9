"""What a client claims of its body holds, or nothing of it arrives: RFC 9530 over sockets, to an HTTP service and to a folder.

The numbers in the names are the points of the standard that a test checks: D1 dictionaries of several algorithms, D2 deprecated ones,
D3 the refusals that the standard leaves to us, D4 parts, D5 wishes, D6 trailers, D7 how much is verified.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from crc32c import crc32c

from relay.protocols.digests import SUPPORTED
from tests.stories.speech import chunked, client_of, head, raw_problem_of, say
from tests.support.disks import tree
from tests.support.fault_proxy import FaultProxy
from tests.support.raw_client import Answer, RawClient
from tests.support.running_relay import RunningRelay, TestTenant
from tests.support.upstreams import Conduct, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = os.urandom(300_000)
KINDS = ("http", "disk")
UNVERIFIABLE = [
    "Content-Digest: sha=:07CavjDP4u3/TungoUHJO/Wzr4c=:",
    "Repr-Digest: unixsum=:GQU=:, adler=:OZkGFw==:",
    "Content-Digest: sha-256=abc",
    "Content-Digest: sha-256=:AAAA:",
    "Content-MD5: nonsense",
    "Content-Digest: \x80\xff",
]
SENSELESS = ["sha-512=11", "sha-512=-1", "sha-512", "=", "\xff", "sha=10", "sha-512=0, md5=0", "sha-512=10, " * 1_000 + "md5=1"]


def claim(content: bytes, name: str = "sha-256") -> str:
    """A member of a claim."""
    digest = crc32c(content).to_bytes(4, "big") if name == "crc32c" else hashlib.new(name.replace("-", ""), content).digest()
    return f"{name}=:{base64.b64encode(digest).decode()}:"


class Place:
    """A tenant with both kinds of destinations, and what has arrived there."""

    def __init__(self, relay: RunningRelay, tenant: TestTenant, upstream: Upstream, folder: Path) -> None:
        self.relay = relay
        self.tenant = tenant
        self.upstream = upstream
        self.folder = folder

    def request(self, kind: str, *lines: str, body: bytes = BODY, chunks: int = 0, name: str = "a") -> bytes:
        """A whole request: with a length, or in so many chunks."""
        lines = (f"X-API-Key: {self.tenant.key}", *lines)
        if not chunks:
            return head(f"/upload/{kind}/{name}", *lines, f"Content-Length: {len(body)}") + body
        size = -(-len(body) // chunks) or 1
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        return head(f"/upload/{kind}/{name}", *lines, "Transfer-Encoding: chunked") + chunked(pieces)

    async def entry(self, answer: Answer) -> dict[str, Any]:
        """The account of an answered upload."""
        (entry,) = await self.relay.every_entry(upload_id=answer.value("relay-upload-id") or "")
        return entry

    async def has_nothing(self) -> bool:
        """True when nothing has arrived as if it were whole, and nothing is left over."""
        assert (await say(self.relay, self.request("http", body=b"what was sent before this has come before it"))).status == 200
        assert self.upstream.requests.pop().is_whole
        await self.upstream.until(lambda: all(request.ending != "open" for request in self.upstream.requests))
        root = self.relay.settings.disk.root
        assert root is not None
        left = [name for name, content in tree(root).items() if content is not None and ".relay-tmp/" in name]
        is_cut = all(request.ending == "cut" for request in self.upstream.requests)
        return is_cut and not left and not any(path.is_file() for path in self.folder.rglob("*"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_place(shared_relay: RunningRelay) -> AsyncIterator[Place]:
    async with Upstream() as upstream:
        tenant = await shared_relay.tenant()
        await shared_relay.http_destination(tenant, upstream.url)
        folder = await shared_relay.disk_destination(tenant)
        await shared_relay.post(f"/tenants/{tenant.slug}/routes", {"prefix": "disk", "destination": "disk", "strip_prefix": True})
        yield Place(shared_relay, tenant, upstream, folder)


@pytest.fixture
def place(shared_place: Place) -> Place:
    """The place, empty."""
    shared_place.upstream.conduct = Conduct()
    shared_place.upstream.requests.clear()
    shutil.rmtree(shared_place.folder, ignore_errors=True)
    return shared_place


@pytest.mark.parametrize("kind", KINDS)
async def test_d1_what_is_as_claimed_arrives_and_the_claim_with_it(place: Place, kind: str) -> None:
    both = f"{claim(BODY)}, sha=:AAAA:, {claim(BODY, 'sha-512')}"
    lines = (f"Content-Digest: {both}", f"Content-Digest: {claim(BODY, 'crc32c')}", f"Repr-Digest: {claim(BODY)}")
    for chunks in (0, 7):
        answer = await say(place.relay, place.request(kind, *lines, chunks=chunks, name=f"a{chunks}"))
        assert answer.status == (200 if kind == "http" else 201), answer.body
        entry = await place.entry(answer)
        sha256 = hashlib.sha256(BODY).hexdigest()
        assert (entry["outcome"], entry["bytes_delivered"]) == ("delivered", len(BODY))
        assert entry["digests"] == {"crc32c": f"{crc32c(BODY):08x}", "sha256": sha256, "sha512": hashlib.sha512(BODY).hexdigest()}
        if kind == "http":
            request = await place.upstream.ended(-1)
            assert (request.is_whole, request.sha256) == (True, sha256)
            assert [value.decode() for value in request.values("content-digest")] == [both, claim(BODY, "crc32c")], "as it was sent"
            assert request.values("repr-digest") == [claim(BODY).encode()]
        else:
            assert (place.folder / f"a{chunks}").read_bytes() == BODY


@pytest.mark.parametrize("kind", KINDS)
async def test_d1_one_wrong_digest_among_right_ones_is_enough(place: Place, kind: str) -> None:
    for chunks, size in itertools.product((0, 1, 7), (1, 300, len(BODY))):
        body, name = BODY[:size], f"{chunks}-{size}"
        wrong = f"Content-Digest: {claim(body)}, {claim(body + b'x', 'sha-512')}"
        before = len(place.upstream.requests)
        async with RawClient(*place.relay.address) as client:
            await client.send(place.request(kind, wrong, body=body, chunks=chunks, name=name))
            answer = await client.answer()
            assert "sha-512" in raw_problem_of(answer, 422, "digest_mismatch")["detail"]
            await client.send(place.request(kind, body=body, name=f"after-{name}"))
            assert (await client.answer()).status in {200, 201}, "the body was whole, so the connection stays"
        entry = await place.entry(answer)
        assert (entry["outcome"], entry["code"], entry["status"]) == ("client_fault", "digest_mismatch", 422)
        assert (entry["bytes_in"], entry["bytes_delivered"], entry["digests"]) == (size, 0, None)
        if kind == "http":
            *cut, after = place.upstream.requests[before:]
            assert after.is_whole
            assert all(request.ending == "cut" and (chunks or request.body_bytes < size) for request in cut)
    assert all(path.name.startswith("after-") for path in place.folder.rglob("*"))


async def test_d1_the_last_piece_is_held_until_the_claim_has_proved_right(place: Place) -> None:
    endings = ((BODY[-1:], "whole"), (bytes([BODY[-1] ^ 1]), "cut"))
    for chunks, (last, ending) in itertools.product((0, 1), endings):
        content = place.request("http", f"Repr-Digest: {claim(BODY)}", body=BODY[:-1] + last, chunks=chunks)
        tail = len(last) if not chunks else len(last + b"\r\n0\r\n\r\n")
        index = len(place.upstream.requests)
        async with RawClient(*place.relay.address) as client:
            await client.send(content[:-tail])
            request = await place.upstream.received(len(BODY) - 1, index)
            assert request.ending == "open"
            await client.send(content[-tail:])
            answer = await client.answer()
        assert answer.status == (200 if ending == "whole" else 422)
        request = await place.upstream.ended(index)
        assert request.ending == ending
        assert ending == "whole" or chunks or request.body_bytes == len(BODY) - 1, "what would have completed it was never sent"


@pytest.mark.parametrize("kind", KINDS)
async def test_one_bit_that_flips_on_the_way_is_caught(place: Place, kind: str) -> None:
    for chunks, at in itertools.product((0, 1), (0, len(BODY) // 2, len(BODY) - 1)):
        request = place.request(kind, f"Content-Digest: {claim(BODY)}", chunks=chunks)
        async with FaultProxy(place.relay.address) as proxy, RawClient("127.0.0.1", proxy.port) as client:
            proxy.flip(request.index(BODY) + at)
            await client.send(request)
            answer = await client.answer()
        raw_problem_of(answer, 422, "digest_mismatch")
        assert await place.has_nothing()
        assert (await place.entry(answer))["outcome"] == "client_fault"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_empty_body_is_held_to_its_claim(place: Place, kind: str) -> None:
    for chunks in (0, 1):
        wrong = await say(place.relay, place.request(kind, f"Content-Digest: {claim(b'x')}", body=b"", chunks=chunks))
        raw_problem_of(wrong, 422, "digest_mismatch")
        assert (await place.entry(wrong))["outcome"] == ("client_fault" if chunks else "refused")
        assert await place.has_nothing()
    assert len(place.upstream.requests) <= 1, "with a length it is known before anything is begun"
    for chunks in (0, 1):
        right = place.request(kind, f"Content-Digest: {claim(b'')}", body=b"", chunks=chunks, name=f"right{chunks}")
        assert (await say(place.relay, right)).status in {200, 201}


@pytest.mark.parametrize("kind", KINDS)
async def test_d2_deprecated_algorithms_are_good_against_corruption(place: Place, kind: str) -> None:
    md5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
    right = (f"Content-MD5: {md5}", f"Content-Digest: {claim(BODY, 'md5')}", f"Repr-Digest: {claim(BODY, 'crc32c')}")
    for number, line in enumerate(right):
        assert (await say(place.relay, place.request(kind, line, name=str(number)))).status in {200, 201}
        wrong = await say(place.relay, place.request(kind, line, body=BODY[:-1] + b"\0\0", name="wrong"))
        raw_problem_of(wrong, 422, "digest_mismatch")
    assert not (place.folder / "wrong").exists()


@pytest.mark.parametrize("kind", KINDS)
async def test_d3_what_nobody_can_verify_is_refused_before_the_body(place: Place, kind: str) -> None:
    for line in UNVERIFIABLE:
        async with RawClient(*place.relay.address) as client:
            fields = (f"X-API-Key: {place.tenant.key}", line, "Content-Length: 5", "Expect: 100-continue")
            await client.send(head(f"/upload/{kind}/a", *fields))
            answer = await client.answer()
        problem = raw_problem_of(answer, 400, "digest_unsupported")
        assert "sha-256" in problem["detail"]
        assert (answer.value("want-content-digest"), answer.value("want-repr-digest")) == (SUPPORTED.decode(), SUPPORTED.decode())
        entry = await place.entry(answer)
        assert (entry["outcome"], entry["bytes_in"]) == ("refused", 0)
    assert not place.upstream.requests
    assert await place.has_nothing()


async def test_d3_claims_that_contradict_each_other_are_refused_before_the_body(place: Place) -> None:
    lines = (f"Content-Digest: {claim(b'a')}", f"Repr-Digest: {claim(b'b')}", f"X-API-Key: {place.tenant.key}", "Content-Length: 1")
    answer = await say(place.relay, head("/upload/http/a", *lines, "Expect: 100-continue"))
    raw_problem_of(answer, 422, "digest_mismatch")
    assert (await place.entry(answer))["outcome"] == "refused"
    assert not place.upstream.requests


async def test_d4_the_digest_of_the_whole_is_not_asked_of_a_part(place: Place) -> None:
    part = ("Content-Range: bytes 0-4/10", f"Repr-Digest: {claim(b'the whole!')}", "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==")
    right = await say(place.relay, place.request("http", *part, f"Content-Digest: {claim(b'the w')}", body=b"the w"))
    assert right.status == 200
    assert place.upstream.requests[0].values("repr-digest") == [claim(b"the whole!").encode()]
    wrong = await say(place.relay, place.request("http", *part, f"Content-Digest: {claim(b'other')}", body=b"the w"))
    raw_problem_of(wrong, 422, "digest_mismatch")


async def test_d4_coded_content_is_what_its_digest_is_of(place: Place) -> None:
    for kind in KINDS:
        lines = ("Content-Encoding: gzip", f"Repr-Digest: {claim(BODY)}")
        assert (await say(place.relay, place.request(kind, *lines))).status in {200, 201}


async def test_d5_a_wish_that_makes_no_sense_or_cannot_be_met_changes_nothing(place: Place) -> None:
    for number, wish in enumerate(SENSELESS):
        lines = (f"Want-Repr-Digest: {wish}", f"Want-Content-Digest: {wish}")
        answer = await say(place.relay, place.request("disk", *lines, body=b"x", name=str(number)))
        assert answer.status == 201
        assert not answer.values("repr-digest") + answer.values("content-digest")
        assert set((await place.entry(answer))["digests"]) == {"crc32c", "sha256"}, "the folder's own"
        passed = await say(place.relay, place.request("http", *lines, body=b"x"))
        assert passed.status == 200
        assert set((await place.entry(passed))["digests"]) == {"crc32c"}, "nobody asked for more, so no more was taken"


async def test_d5_what_is_asked_for_is_taken_and_told(place: Place) -> None:
    lines = ("Want-Content-Digest: md5=3, sha-256=2", "Want-Repr-Digest: sha-512=10, sha-256=1")
    place.upstream.conduct = Conduct(headers=[("Repr-Digest", "sha=:AAAA:"), ("Want-Repr-Digest", "sha=1")])
    taken = {"crc32c", "sha512", "md5"}
    for kind in KINDS:
        answer = await say(place.relay, place.request(kind, *lines))
        entry = await place.entry(answer)
        assert set(entry["digests"]) == (taken | {"sha256"} if kind == "disk" else taken)
        assert entry["digests"]["sha512"] == hashlib.sha512(BODY).hexdigest()
        async with client_of(place.relay) as client:
            report = (await client.get(f"/uploads/{answer.value('relay-upload-id')}", headers=place.tenant.headers)).json()
        assert report["digests"] == {"sha256": None} | entry["digests"]
        if kind == "disk":  # of the answer, which describes what became of the request: the file's digest is in it
            assert answer.values("content-digest") == [claim(answer.body, "md5")]
            assert answer.values("repr-digest") == [claim(answer.body, "sha-512")]
            assert json.loads(answer.body)["objects"][0]["sha256"] == entry["digests"]["sha256"] == hashlib.sha256(BODY).hexdigest()
        else:
            assert (answer.values("content-digest"), answer.values("repr-digest")) == ([], ["sha=:AAAA:"]), "the service's own"
            assert place.upstream.requests[0].values("want-repr-digest") == [b"sha-512=10, sha-256=1"]


async def test_d6_a_digest_in_a_trailer_is_no_claim(place: Place) -> None:
    for kind in KINDS:
        request = place.request(kind, "Trailer: Content-Digest", chunks=2)
        trailed = request.removesuffix(b"\r\n") + f"Content-Digest: {claim(b'other')}\r\n\r\n".encode()
        assert (await say(place.relay, trailed)).status in {200, 201}


async def test_d7_how_much_is_verified_is_bounded(place: Place) -> None:
    many = ", ".join(f"a{number}=:AA==:" for number in range(4_000))
    answer = await say(place.relay, place.request("http", f"Content-Digest: {many}", body=b"x"))
    raw_problem_of(answer, 400, "digest_unsupported")
    lines = [f"Repr-Digest: a{number}=:AA==:" for number in range(200)]
    raw_problem_of(await say(place.relay, place.request("http", *lines, body=b"x")), 400, "digest_unsupported")
    too_many = ", ".join(f"a{number}=:AA==:" for number in range(10_000))
    raw_problem_of(await say(place.relay, place.request("http", f"Content-Digest: {too_many}", body=b"x")), 431, "head_too_large")
    repeated = ", ".join([claim(b"other")] * 20 + [claim(b"x")])
    assert (await say(place.relay, place.request("http", f"Content-Digest: {repeated}", body=b"x"))).status == 200, "one for an algorithm"
    assert len(place.upstream.requests) == 1


async def test_a_success_that_comes_before_the_body_proves_wrong_is_cut(place: Place) -> None:
    place.upstream.conduct = Conduct(answer_after=1_000, pieces=[b"taken"])
    request = place.request("http", f"Content-Digest: {claim(BODY)}", body=BODY[:-1] + b"\0\0"[: 1 + (BODY[-1] == 0)])
    async with RawClient(*place.relay.address) as client:
        await client.send(request[:-1])
        begun = asyncio.create_task(client.answer())
        await place.upstream.received(len(BODY) - 100_000)
        await client.send(request[-1:])
        answer = await begun
    assert (answer.status, answer.is_whole) == (200, False)
    entry = await place.entry(answer)
    assert (entry["outcome"], entry["code"], entry["bytes_delivered"]) == ("client_fault", "digest_mismatch", 0)
    assert (await place.upstream.ended()).ending == "cut"


@pytest.mark.full
@pytest.mark.timeout(120)
async def test_whatever_the_fields_hold_nothing_breaks(place: Place) -> None:
    chance = random.Random(9530)
    marks = ["sha-256=", ":", "=", ",", ";", "(", ")", " ", "\t", "10", "?1", "@9", '"', "\xff", "\x80", "a", "*"]
    words = [claim(b"x"), claim(b"x", "md5"), claim(b"y")] * 5 + marks
    statuses = set()
    async with RawClient(*place.relay.address) as client:
        for _ in range(1_000):
            fields = chance.choices(
                ["Content-Digest", "Repr-Digest", "Content-MD5", "Want-Repr-Digest", "Want-Content-Digest"], k=chance.randrange(1, 4)
            )
            lines = [f"{field}: {''.join(chance.choices(words, k=chance.choice((0, 1, 1, 2, 5))))}" for field in fields]
            await client.send(place.request("http", *lines, body=b"x"))
            statuses.add((await client.answer()).status)
    assert statuses == {200, 400, 422}
