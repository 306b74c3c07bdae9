"""TLS at the door, on real sockets: handshakes good and bad, uploads through it on both sides, a certificate that changes."""

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from uvicorn.server import ServerState

from relay.cli import http_server
from relay.cli.serve import check_front
from relay.settings import SettingsInvalid, load_settings
from relay.telemetry import REGISTRY
from relay.wire import front as module
from relay.wire.front import FrontCertificate, Handshake, Handshakes
from tests.support.certificates import Certificate, make_authority, make_certificate
from tests.support.loops import LOOPS, run_in
from tests.support.postgres import TemplateServer
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, running_relay
from tests.support.upstreams import Upstream
from tests.support.waiting import until

LIVE = b"GET /livez HTTP/1.1\r\nHost: relay\r\n\r\n"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def handshakes(result: str) -> float:
    return REGISTRY.get_sample_value("relay_tls_handshakes_total", {"result": result}) or 0.0


@dataclass
class Front:
    """A relay that speaks TLS, and the certificate it shows."""

    relay: RunningRelay
    certificate: Certificate
    key_path: Path

    @property
    def trust(self) -> ssl.SSLContext:
        return self.certificate.client_context()

    def show(self, other: Certificate, *, key: str | None = None) -> None:
        """Put another certificate into the files, one after the other."""
        self.certificate.path.write_text(other.pem, encoding="ascii")
        self.key_path.write_text(key or other.key_pem, encoding="ascii")


@contextlib.asynccontextmanager
async def front(database_url: str, folder: Path, **variables: str) -> AsyncIterator[Front]:
    certificate = make_certificate(folder)
    key_path = folder / "key.pem"
    key_path.write_text(certificate.key_pem, encoding="ascii")
    named = {"RELAY_TLS_CERTIFICATE": str(certificate.path), "RELAY_TLS_KEY": str(key_path)}
    async with running_relay(database_url, folder, **named, **variables) as relay:
        yield Front(relay, certificate, key_path)


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────


async def test_bodies_through_tls_on_both_sides_arrive_as_they_were_sent(database_url: str, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    size, uploads = 6_000_000, 3
    async with (
        Upstream(tls=authority.issue("127.0.0.1").server_context()) as upstream,
        front(database_url, tmp_path) as door,
        httpx.AsyncClient(verify=door.trust, trust_env=False, timeout=20) as client,
    ):
        tenant = await door.relay.tenant()
        await door.relay.http_destination(tenant, upstream.url, tls={"ca": authority.pem})
        bodies = [os.urandom(1_000) * (size // 1_000) for _ in range(uploads)]

        async def send(body: bytes, number: int) -> httpx.Response:
            return await client.post(f"{door.relay.url}/upload/{number}", content=body, headers=tenant.headers)

        answers = await asyncio.gather(*(send(body, number) for number, body in enumerate(bodies)))
        assert [answer.status_code for answer in answers] == [200] * uploads
        assert {request.sha256 for request in upstream.requests} == {hashlib.sha256(body).hexdigest() for body in bodies}
        assert {request.values("x-forwarded-proto")[0] for request in upstream.requests} == {b"https"}
        entries = await door.relay.every_entry()
        assert {(entry["outcome"], entry["bytes_delivered"]) for entry in entries} == {("delivered", size)}


async def test_a_request_in_one_packet_with_the_end_of_the_handshake_is_whole(database_url: str, tmp_path: Path) -> None:
    """The loop hands over what it deciphers before it says that the handshake is done."""
    body = os.urandom(100_000)
    async with Upstream() as upstream, front(database_url, tmp_path) as door:
        tenant = await door.relay.tenant()
        await door.relay.http_destination(tenant, upstream.url)
        head = (
            f"POST /upload/a HTTP/1.1\r\nHost: relay\r\nX-API-Key: {tenant.key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        answer = await asyncio.to_thread(_in_one_packet, door.relay.address, door.trust, head.encode() + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert upstream.requests[0].sha256 == hashlib.sha256(body).hexdigest()


def _in_one_packet(address: tuple[str, int], trust: ssl.SSLContext, request: bytes) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = trust.wrap_bio(incoming, outgoing, server_hostname=address[0])
    with socket.create_connection(address, 10) as plain:
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65_536))
        secured.write(request)
        plain.sendall(outgoing.read())
        answer = b""
        while b"taken" not in answer and (data := plain.recv(65_536)):
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                answer += secured.read(65_536)
        return answer


async def test_a_refusal_before_the_body_is_read_over_tls(database_url: str, tmp_path: Path) -> None:
    async with front(database_url, tmp_path) as door:
        tenant = await door.relay.tenant(limits={"max_upload_bytes": 1_000})
        await door.relay.disk_destination(tenant)
        head = f"POST /upload/a HTTP/1.1\r\nHost: relay\r\nX-API-Key: {tenant.key}\r\nContent-Length: 12000000\r\n\r\n"
        heard = 0
        for _ in range(2):
            async with RawClient(*door.relay.address, tls=door.trust) as client:
                sending = asyncio.create_task(client.try_to_send(head.encode() + b"x" * 12_000_000))
                with contextlib.suppress(Exception):
                    heard += (await client.final_answer()).status == 413
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        print(f"early refusals over TLS: {heard} of 2 heard")
        assert heard > 0


# ── handshakes ───────────────────────────────────────────────────────────────────────────────────


async def test_what_is_spoken_at_the_door(database_url: str, tmp_path: Path) -> None:
    async with front(database_url, tmp_path) as door:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            trust = door.trust
            trust.minimum_version = trust.maximum_version = version
            trust.set_alpn_protocols(["h2", "http/1.1"])
            reader, writer = await asyncio.open_connection(*door.relay.address, ssl=trust)
            secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert secured.selected_alpn_protocol() == "http/1.1"
            cipher = secured.cipher()
            assert cipher is not None and cipher[0].startswith(("ECDHE-", "TLS_")) and ("GCM" in cipher[0] or "CHACHA20" in cipher[0])
            writer.write(LIVE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.transport.abort()
        weak = door.trust
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(*door.relay.address, ssl=weak)


async def test_what_is_no_tls_at_the_door_is_closed_with_an_alert_at_most(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with front(database_url, tmp_path) as door:
        before = handshakes("failed")
        caplog.clear()
        for what in (LIVE, b"\x16\x03\x01\xff\xff" + b"\0" * 3000, b"x"):
            async with RawClient(*door.relay.address) as client:
                await client.send(what)
                if what == b"x":
                    client.half_close()
                with contextlib.suppress(ConnectionResetError):
                    heard = await client.rest()
                    assert heard == b"" or (heard[:1] == b"\x15" and len(heard) == 7), heard  # a record that is one alert
        await until(lambda: handshakes("failed") == before + 3)
        assert not [record for record in caplog.records if not record.name.startswith("relay.tenants")]


async def test_a_handshake_that_is_not_finished_holds_nothing_for_long(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with front(database_url, tmp_path, RELAY_TLS_HANDSHAKE_TIMEOUT="0.4") as door, contextlib.AsyncExitStack() as stack:
        before = handshakes("too_slow")
        hello = _hello(door.trust)
        clients = [await stack.enter_async_context(RawClient(*door.relay.address)) for _ in range(30)]
        caplog.clear()
        slow = [asyncio.create_task(_trickle(client, hello)) for client in clients[:10]]
        for client in clients[10:20]:
            await client.send(hello)
        for client in clients:
            assert await client.end() in {"fin", "rst", "data"}
        await asyncio.gather(*slow)
        await until(lambda: handshakes("too_slow") == before + 30)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "handshake"]
        assert not [record for record in caplog.records if not record.name.startswith("relay.tenants")]
        async with RawClient(*door.relay.address, tls=door.trust) as client:
            await client.send(LIVE)
            assert (await client.answer("GET")).status == 200


async def _trickle(client: RawClient, hello: bytes) -> None:
    with contextlib.suppress(OSError):
        await client.send_slowly(hello, pause_seconds=0.02)


def _hello(trust: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trust.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("has_had_its_time", [True, False])
@pytest.mark.parametrize("loop", LOOPS)
def test_beyond_so_many_handshakes_the_oldest_is_dropped_or_else_the_newest(
    loop: str, has_had_its_time: bool, postgres_server: TemplateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKES_MOST", 3)
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.2 if has_had_its_time else 60)

    async def run() -> None:
        async with postgres_server.database() as url, front(url, tmp_path) as door, contextlib.AsyncExitStack() as stack:
            dropped, completed = handshakes("dropped"), handshakes("completed")
            hello = _hello(door.trust)
            idle = [await stack.enter_async_context(RawClient(*door.relay.address)) for _ in range(3)]
            await asyncio.sleep(0.3)
            late = await stack.enter_async_context(RawClient(*door.relay.address))
            if has_had_its_time:
                await late.send(hello)
                assert await late.end() == "data"
                assert await idle[0].end() in {"fin", "rst"}
                assert await idle[1].is_kept()
            else:
                assert await late.end() in {"fin", "rst"}
                assert await idle[0].is_kept()
            assert (handshakes("dropped") - dropped, handshakes("completed")) == (1, completed)
            await idle[2].send(hello)
            assert await idle[2].end() == "data"
            for client in (*idle, late):
                client.close()
            await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "handshake"])
            async with RawClient(*door.relay.address, tls=door.trust) as client:
                await client.send(LIVE)
                assert (await client.answer("GET")).status == 200

    run_in(loop, run)


async def test_a_handshake_that_hangs_does_not_hold_up_the_end(database_url: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with front(database_url, tmp_path, RELAY_SHUTDOWN_TIMEOUT="10") as door:
            client = await stack.enter_async_context(RawClient(*door.relay.address))
            await client.send(_hello(door.trust)[:20])
            await asyncio.sleep(0.1)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 5


async def test_a_handshake_given_up_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    class Hasty(Handshake):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.shutdown()

    certificate, key = _files(tmp_path)
    shared, state = Handshakes(FrontCertificate(certificate.path, key), 5, asyncio.Protocol), ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Hasty(shared, {"server_state": state}), "127.0.0.1", 0)
    async with server, RawClient(*server.sockets[0].getsockname()) as client:
        assert await client.end() in {"fin", "rst"}
        await until(lambda: not shared.running and not state.connections)


# ── another certificate ──────────────────────────────────────────────────────────────────────────


async def test_a_new_certificate_is_taken_up_while_uploads_run(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LOOK_SECONDS", 0)  # at every beat of the server, which is a second
    second = make_certificate(tmp_path)
    async with Upstream() as upstream, front(database_url, tmp_path) as door:
        tenant = await door.relay.tenant()
        await door.relay.http_destination(tenant, upstream.url)
        sha256, goes_on = hashlib.sha256(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            while not goes_on.is_set():
                piece = os.urandom(50_000)
                sha256.update(piece)
                yield piece
                await asyncio.sleep(0.01)

        old_trust = door.trust
        async with httpx.AsyncClient(verify=old_trust, trust_env=False) as client:
            running = asyncio.create_task(client.post(f"{door.relay.url}/upload/a", content=body(), headers=tenant.headers, timeout=20))
            await upstream.received(100_000)
            door.show(second)
            await until(lambda: _shows(door, second), seconds=15)
            assert not running.done()
            goes_on.set()
            assert (await running).status_code == 200
            # The connection of before serves on.
            assert (await client.get(f"{door.relay.url}/livez")).status_code == 200
        assert upstream.requests[0].sha256 == sha256.hexdigest()


async def _shows(door: Front, expected: Certificate) -> bool:
    with contextlib.suppress(OSError):
        async with RawClient(*door.relay.address, tls=expected.client_context()):
            return True
    return False


def _files(folder: Path) -> tuple[Certificate, Path]:
    first = make_certificate(folder)
    key = folder / "key.pem"
    key.write_text(first.key_pem, encoding="ascii")
    return first, key


def test_what_is_half_written_or_no_good_is_told_once_and_the_one_of_before_stays(tmp_path: Path) -> None:
    first, key = _files(tmp_path)
    second = make_certificate(tmp_path)
    kept = FrontCertificate(first.path, key)
    before = kept.context
    kept.look_now()
    assert kept.context is before
    first.path.write_text(second.pem, encoding="ascii")  # the key is still to come
    kept.look_now()  # it may not have come to rest
    with pytest.raises(SettingsInvalid, match="not that of the first certificate"):
        kept.look_now()
    kept.look_now()
    assert kept.context is before
    key.write_text(second.key_pem, encoding="ascii")
    kept.look_now()
    kept.look_now()
    assert kept.context is not before
    assert kept.certificates.pem == second.pem
    taken = kept.context
    key.unlink()
    kept.look_now()
    with pytest.raises(SettingsInvalid, match=r"RELAY_TLS_KEY: .* cannot be read"):
        kept.look_now()
    expired = make_certificate(tmp_path, until=YESTERDAY)
    first.path.write_text(expired.pem, encoding="ascii")
    key.write_text(expired.key_pem, encoding="ascii")
    kept.look_now()
    with pytest.raises(SettingsInvalid, match="expired at"):
        kept.look_now()
    assert kept.context is taken


async def test_a_bad_certificate_is_logged_and_nothing_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, key = _files(tmp_path)
    kept = FrontCertificate(first.path, key)
    first.path.write_text("nothing", encoding="ascii")
    for _ in range(5):
        await kept.look()
        await asyncio.sleep(0.05)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "PRIVATE" not in caplog.text


# ── the start ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["missing", "folder", "another key", "garbage", "garbage key", "passphrase", "expired", "only one"])
def test_a_start_with_a_certificate_that_is_no_good_says_why(wrong: str, tmp_path: Path) -> None:
    first, key = _files(tmp_path)
    path = first.path
    expected = {
        "missing": r"RELAY_TLS_CERTIFICATE: .*none\.pem cannot be read \(No such file or directory\)",
        "folder": r"RELAY_TLS_CERTIFICATE: .* cannot be read \(Is a directory\)",
        "another key": r"RELAY_TLS_KEY: .*: the key is not that of the first certificate",
        "garbage": r"RELAY_TLS_CERTIFICATE: .*: use certificates in PEM",
        "garbage key": r"RELAY_TLS_KEY: .*: use a private key in PEM",
        "passphrase": r"RELAY_TLS_KEY: .*: use a key without a passphrase",
        "expired": r"RELAY_TLS_CERTIFICATE: .* expired at 20.* UTC\. Put a valid certificate there\.",
        "only one": r"RELAY_TLS_CERTIFICATE and RELAY_TLS_KEY belong together",
    }[wrong]
    match wrong:
        case "missing":
            path = tmp_path / "none.pem"
        case "folder":
            path = tmp_path
        case "another key":
            key.write_text(make_certificate(tmp_path).key_pem, encoding="ascii")
        case "garbage":
            path.write_bytes(b"\xff\0garbage")
        case "garbage key":
            key.write_bytes(b"\xff\0garbage")
        case "passphrase":
            key.write_text(first.key_pem_with(b"secret"), encoding="ascii")
        case "expired":
            old = make_certificate(tmp_path, until=YESTERDAY)
            path, key = old.path, old.path
        case _:
            pass
    given = {"RELAY_TLS_CERTIFICATE": str(path)} | ({"RELAY_TLS_KEY": str(key)} if wrong != "only one" else {})
    with pytest.raises(SettingsInvalid, match=expected) as refused:
        check_front(load_settings(given))
    assert first.key_pem.splitlines()[1] not in str(refused.value)
