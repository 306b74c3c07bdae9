"""Bytes that no honest peer sends: from clients, and from destinations that are hostile or broken."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.api import outgoing
from relay.wire.turn import INTERIM_BYTES, INTERIM_MOST
from tests.support.postgres import TemplateServer
from tests.support.raw_client import Answer, RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(postgres_server: TemplateServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningRelay]:
    """One relay for requests that change nothing."""
    async with postgres_server.database() as url, running_relay(url, tmp_path_factory.mktemp("attacks")) as running:
        yield running


def head(tenant: TestTenant, *lines: str, target: str = "/upload/a", version: str = "1.1", host: str | None = "Host: relay") -> bytes:
    """A request's head with the tenant's key."""
    first = [f"POST {target} HTTP/{version}", *([host] if host else []), f"Authorization: Bearer {tenant.key}"]
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


async def ask(relay: RunningRelay, request: bytes) -> Answer:
    """Send a request on a connection of its own and read its answer."""
    async with RawClient(*relay.address) as client:
        await client.send(request)
        return await client.final_answer()


# ── destinations ─────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_was_refused_before_its_last_chunk_does_not_swallow_the_next(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(answer_after=5, status=413)) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address) as client:
            await client.send(head(tenant, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
            await upstream.received(5)
            await asyncio.sleep(0.2)  # the refusal must have come before the body's end is passed on; if not, this tests nothing
            await client.send(b"0\r\n\r\n")
            assert (await client.final_answer()).status == 413
        upstream.conduct = Conduct()
        answer = await ask(relay, head(tenant, "Content-Length: 3", target="/upload/b") + b"abc")
        assert (answer.status, answer.body) == (200, b"taken")
        assert [request.target for request in upstream.requests] == ["/a", "/b"]


async def test_what_follows_an_answer_is_not_the_answer_to_the_next_upload(database_url: str, tmp_path: Path) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(raw_answer=OK + poison)) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        for _ in range(3):
            assert (await ask(relay, head(tenant, "Content-Length: 3") + b"abc")).body == b"ok"
        assert upstream.connections == 3


@pytest.mark.parametrize(
    "flood",
    [INTERIM * (INTERIM_MOST + 1) + OK, b"HTTP/1.1 103 Early Hints\r\n" + b"Link: <x>\r\n" * (INTERIM_BYTES // 11 + 1)],
    ids=["many", "one without end"],
)
async def test_interim_answers_without_end_are_no_answer(flood: bytes, database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(raw_answer=flood)) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        answer = await ask(relay, head(tenant, "Content-Length: 3") + b"abc")
        assert (answer.status, json.loads(answer.body)["code"]) == (502, "destination_broke")
        assert (await relay.entry(tenant=tenant.slug))["outcome"] == "destination_failed"


async def test_an_answer_behind_interim_ones_is_found_however_it_is_cut(database_url: str, tmp_path: Path) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        for byte in INTERIM * 3 + OK:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with running_relay(database_url, tmp_path) as relay, server:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        answer = await ask(relay, head(tenant, "Content-Length: 3") + b"abc")
        assert (answer.status, answer.body) == (200, b"ok")


# ── clients that do not read ─────────────────────────────────────────────────────────────────────


async def test_an_answer_with_a_hole_is_never_ended(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SEND_SECONDS", 0.3)
    pieces = [b"x" * 200_000] * 60
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(pieces=pieces)) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address, receive_buffer=4096) as client:
            await client.send(head(tenant, "Content-Length: 3") + b"abc")
            client.pause()
            entry = await relay.entry(tenant=tenant.slug)
            client.resume()
            answer = await client.final_answer()
        assert not answer.is_whole
        assert (entry["outcome"], entry["client_left"]) == ("delivered", True)


async def test_uploads_end_though_the_client_never_reads_their_answers(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "SEND_SECONDS", 0.3)
    async with running_relay(database_url, tmp_path) as relay, Upstream(Conduct(answer=b"x" * 60_000)) as upstream:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address, receive_buffer=4096) as client:
            client.pause()
            await client.send((head(tenant, "Content-Length: 3") + b"abc") * 200)

            async def has_a_client_left() -> bool:
                return any(entry["client_left"] for entry in await relay.entries(tenant=tenant.slug))

            await until(has_a_client_left)
            assert relay.services.journal.running == 0


# ── clients that write oddly ─────────────────────────────────────────────────────────────────────


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("lines", "version", "host"),
    [
        (["Transfer-Encoding: chunked"], "0.9", "Host: relay"),
        (["Content-Length: 3"], "2.0", "Host: relay"),
        (["Content-Length: 3"], "1.2", None),
        (["Content-Length: 3"], "1.1", "Host: a b"),
        (["Content-Length: 3"], "1.1", "Host: user@relay"),
        (["Content-Length: 3"], "1.1", 'Host: relay", for="10.0.0.1'),
        (["Content-Length: 3"], "1.1", "Host: relay/path"),
    ],
)
@pytest.mark.parametrize("target", ["/upload/a", "/livez", "/admin/v1/tenants"])
async def test_an_ambiguous_request_is_refused_everywhere_and_closes(
    lines: list[str], version: str, host: str | None, target: str, relay: RunningRelay
) -> None:
    tenant = TestTenant("nobody", "rk_none")
    async with RawClient(*relay.address) as client:
        await client.send(head(tenant, *lines, version=version, host=host, target=target) + b"3\r\nabc\r\n0\r\n\r\n")
        answer = await client.final_answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "framing_invalid")
        assert await client.end() in {"fin", "rst"}


@pytest.mark.asyncio(loop_scope="module")
async def test_both_framings_are_refused_beside_the_door_too(relay: RunningRelay) -> None:
    both = b"GET /livez HTTP/1.1\r\nHost: relay\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with RawClient(*relay.address) as client:
        await client.send(both + b"GET /readyz HTTP/1.1\r\nHost: relay\r\n\r\n")
        assert (await client.final_answer()).status == 400
        assert await client.end() in {"fin", "rst"}


async def test_a_field_disguised_by_underscores_does_not_pass(database_url: str, tmp_path: Path) -> None:
    disguised = ["X_Forwarded_For: 6.6.6.6", "Relay_Upload_Id: x", "Content_Length: 99", "X_Api_Key: q", "X_Token: theirs"]
    async with running_relay(database_url, tmp_path) as relay, Upstream() as upstream:
        tenant = await relay.tenant()
        document = {"name": "main", "kind": "http", "config": {"base_url": upstream.url}, "secrets": {"headers": {"X-Token": "ours"}}}
        await relay.post(f"/tenants/{tenant.slug}/destinations", document)
        answer = await ask(relay, head(tenant, "Content-Length: 3", "X_Plain: kept", *disguised) + b"abc")
        assert answer.status == 200
        recorded = upstream.requests[0]
        assert [name for name, _ in recorded.headers if b"_" in name] == [b"x_plain"]
        assert recorded.values("x-token") == [b"ours"]
