"""TLS with destinations, on real sockets: whom it trusts, what it shows, and which connection is whose."""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relay.destinations.http_config import HttpConfig
from relay.destinations.http_upstream import HttpUpstream
from relay.destinations.tls_config import make_terms
from relay.errors import DestinationBroke, DestinationRefusedTls, EgressDenied, RelayError
from relay.settings import DnsSettings
from relay.wire import tls
from relay.wire.client import Account, Place, Transport, make_client
from relay.wire.names import Names
from relay.wire.tls import Contexts, TlsTerms
from tests.support.bodies import ScriptedBody, make_item
from tests.support.certificates import Certificate, make_authority, make_certificate
from tests.support.upstreams import Conduct, Upstream
from tests.support.waiting import until

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Destinations:
    """Destinations over one transport, as in a process; every name leads to this host."""

    def __init__(self, names: Names, transport: Transport) -> None:
        self.client = make_client(transport)
        self.names = names

    def of(self, url: str, key: str | None = None, *, name: str = "main", **members: Any) -> HttpUpstream:
        config = HttpConfig.model_validate({"base_url": url, **members})
        return HttpUpstream(self.client, Account("acme", name), config, {}, make_terms(config.tls, key))


@contextlib.asynccontextmanager
async def destinations(permit: Callable[[str, str], bool] = lambda _host, _address: True) -> AsyncIterator[Destinations]:
    names = Names(DnsSettings(), lambda _host: ["127.0.0.1"])
    made = Destinations(names, Transport(names, permit, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))  # no public authorities: quicker
    async with made.client:
        yield made
    names.close()


async def deliver(to: HttpUpstream, content: bytes = b"abc") -> int:
    async with to.deliver(make_item(declared_bytes=len(content)), ScriptedBody([content], declared_bytes=len(content))) as delivery:
        await delivery.settled()
        return delivery.status


@pytest.fixture
def authority(tmp_path: Path) -> Certificate:
    return make_authority(tmp_path)


# ── whom it trusts ───────────────────────────────────────────────────────────────────────────────


async def test_its_own_authority_is_trusted_and_the_connection_kept(authority: Certificate) -> None:
    content = bytes(range(256)) * 20_000
    async with Upstream(tls=authority.issue("127.0.0.1").server_context()) as upstream, destinations() as made:
        to = made.of(upstream.url, tls={"ca": authority.pem})
        for _ in range(3):
            assert await deliver(to, content) == 200
        assert upstream.connections == 1
        assert {request.sha256 for request in upstream.requests} == {hashlib.sha256(content).hexdigest()}
        assert (await to.check()).ok


async def test_a_certificate_that_has_signed_itself_is_trusted_when_it_is_given(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    async with Upstream(tls=own.server_context()) as upstream, destinations() as made:
        assert await deliver(made.of(upstream.url, tls={"ca": own.pem})) == 200


async def test_a_certificate_that_an_unknown_authority_has_signed_is_trusted_when_it_is_given(authority: Certificate) -> None:
    own = authority.issue("127.0.0.1")
    async with Upstream(tls=own.server_context()) as upstream, destinations() as made:
        assert await deliver(made.of(upstream.url, tls={"ca": own.pem})) == 200


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("nothing given", "The authority of its certificate is not trusted"),
        ("signed by itself", "signed by itself"),
        ("another authority", "The authority of its certificate is not trusted"),
        ("another name", "another address"),
        ("expired", "has expired"),
        ("another server name", "another name"),
    ],
)
async def test_whom_it_cannot_trust_gets_nothing_and_the_reason_is_told(
    wrong: str, told: str, authority: Certificate, tmp_path: Path
) -> None:
    terms = {"ca": authority.pem}
    shown = authority.issue("127.0.0.1", "upload.test")
    match wrong:
        case "nothing given":
            terms = {"server_name": "upload.test"}
        case "signed by itself":
            shown = make_certificate(tmp_path)
        case "another authority":
            terms = {"ca": make_authority(tmp_path).pem}
        case "another name":
            shown = authority.issue("127.0.0.2")
        case "expired":
            shown = authority.issue("127.0.0.1", until=YESTERDAY)
        case "another server name":
            terms["server_name"] = "other.test"
        case _:
            pytest.fail(wrong)
    async with Upstream(tls=shown.server_context()) as upstream, destinations() as made:
        to = made.of(upstream.url, tls=terms)
        with pytest.raises(DestinationRefusedTls) as refused:
            await deliver(to)
        assert told in refused.value.detail
        found = await to.check()
        assert (found.ok, found.code, found.detail) == (False, "destination_refused_tls", refused.value.detail)
        assert not upstream.requests


async def test_a_service_without_tls_is_told_from_one_with_a_bad_certificate() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, destinations() as made:
        found = await made.of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}").check()
    assert (found.code, found.detail.endswith("It does not speak TLS at that port.")) == ("destination_refused_tls", True)


async def test_the_name_that_is_asked_for_is_the_urls_or_the_given_one_and_never_the_host(authority: Certificate) -> None:
    asked: list[str | None] = []
    context = authority.issue("files.test", "other.test").server_context()
    context.sni_callback = lambda _connection, name, _context: asked.append(name)
    async with Upstream(tls=context) as upstream, destinations() as made:
        url = upstream.url.replace("127.0.0.1", "files.test")
        assert await deliver(made.of(url, host="public.test:8443", tls={"ca": authority.pem})) == 200
        assert await deliver(made.of(upstream.url, host="files.test", tls={"ca": authority.pem, "server_name": "other.test"})) == 200
        with pytest.raises(DestinationRefusedTls):
            await deliver(made.of(upstream.url, host="files.test", tls={"ca": authority.pem}))
        assert asked == ["files.test", "other.test", None]
        assert [request.values("host") for request in upstream.requests] == [[b"public.test:8443"], [b"files.test"]]


async def test_an_address_that_is_not_permitted_is_not_connected_to_over_tls_either(authority: Certificate) -> None:
    context = authority.issue("127.0.0.1").server_context()
    async with Upstream(tls=context) as upstream, destinations(lambda _host, _address: False) as made:
        to = made.of(upstream.url, tls={"ca": authority.pem, "server_name": "allowed.test"})
        with pytest.raises(EgressDenied):
            await deliver(to)
        assert not upstream.connections


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "cut"])
async def test_an_answer_without_a_length_counts_only_if_tls_says_that_it_has_ended(authority: Certificate, *, is_told: bool) -> None:
    """Whoever sits between could end a connection wherever an answer would still look whole."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        if is_told:
            writer.close()
        else:
            await asyncio.sleep(0.1)
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as plain:
                plain.shutdown(socket.SHUT_WR)
                await reader.read()
            writer.transport.abort()

    context = authority.issue("127.0.0.1").server_context()
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server, destinations() as made:
        to = made.of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", tls={"ca": authority.pem})
        if is_told:
            assert await deliver(to) == 200
        else:
            with pytest.raises(DestinationBroke):
                await deliver(to)


# ── what it shows ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("shown", ["the right one", "none", "one of another authority", "an expired one"])
async def test_a_client_certificate_that_is_demanded(shown: str, version: ssl.TLSVersion, authority: Certificate, tmp_path: Path) -> None:
    context = authority.issue("127.0.0.1").server_context(clients_of=authority)
    context.maximum_version = version
    issuer = make_authority(tmp_path) if shown == "one of another authority" else authority
    client = issuer.issue("client.test", until=YESTERDAY if shown == "an expired one" else None) if shown != "none" else None
    async with Upstream(tls=context) as upstream, destinations() as made:
        terms = {"ca": authority.pem} | ({"client_certificate": client.pem} if client is not None else {})
        to = made.of(upstream.url, client.key_pem if client is not None else None, tls=terms)
        if shown == "the right one":
            assert await deliver(to) == 200
            assert (await to.check()).ok
            return
        # With TLS 1.3 the refusal comes after the handshake, and a reset may outrun it.
        with pytest.raises((DestinationRefusedTls, DestinationBroke)):
            await deliver(to)
        found = await to.check()
        assert not found.ok
        if shown == "an expired one":
            assert "The client certificate expired at " in found.detail
        assert not upstream.requests


@contextlib.contextmanager
def outspoken(context: ssl.SSLContext) -> Iterator[int]:
    """A server that says why it refuses a handshake, as most do; asyncio's closes without a word."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                plain.settimeout(5)
                with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as secured:
                    try:
                        secured.do_handshake()
                        secured.recv(1)
                    except OSError:  # what it says of the certificate is on its way: a reset would overtake it
                        with contextlib.suppress(OSError):
                            while os.read(secured.fileno(), 4096):
                                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_why_a_client_certificate_was_refused_is_told(version: ssl.TLSVersion, authority: Certificate, tmp_path: Path) -> None:
    context = authority.issue("127.0.0.1").server_context(clients_of=authority)
    context.maximum_version = version
    stranger, expired = make_authority(tmp_path).issue("client.test"), authority.issue("client.test", until=YESTERDAY)
    told = []
    with outspoken(context) as port:
        async with destinations() as made:
            for client in (None, stranger, expired):
                terms = {"ca": authority.pem} | ({"client_certificate": client.pem} if client is not None else {})
                to = made.of(f"https://127.0.0.1:{port}", client.key_pem if client is not None else None, tls=terms)
                told.append((await to.check()).detail)
    assert "want a client certificate" in told[0] or "wants a client certificate" in told[0]
    assert "It does not know the authority of the client certificate." in told[1]
    assert "The client certificate expired at" in told[2] and "It says that the client certificate has expired." in told[2]


async def test_an_expired_client_certificate_is_found_though_the_service_takes_it(authority: Certificate) -> None:
    client = authority.issue("client.test", until=YESTERDAY)
    async with Upstream(tls=authority.issue("127.0.0.1").server_context()) as upstream, destinations() as made:
        to = made.of(upstream.url, client.key_pem, tls={"ca": authority.pem, "client_certificate": client.pem})
        assert await deliver(to) == 200
        found = await to.check()
    assert (found.ok, found.code) == (False, "destination_misconfigured")
    assert found.detail.startswith("The client certificate expired at ")


# ── which connection is whose ────────────────────────────────────────────────────────────────────


async def test_no_connection_is_shared_between_two_sets_of_terms(authority: Certificate) -> None:
    """A connection on which one identity was shown must never carry what another one sends."""
    context = authority.issue("127.0.0.1", "other.test").server_context(clients_of=authority)
    first, second = authority.issue("first.test"), authority.issue("second.test")
    async with Upstream(tls=context) as upstream, destinations() as made:
        # The same account: only the terms differ, as after a change of the configuration.
        one = made.of(upstream.url, first.key_pem, tls={"ca": authority.pem, "client_certificate": first.pem})
        two = made.of(upstream.url, second.key_pem, tls={"ca": authority.pem, "client_certificate": second.pem})
        named = made.of(
            upstream.url, second.key_pem, tls={"ca": authority.pem, "client_certificate": second.pem, "server_name": "other.test"}
        )
        for to in (one, two, named, one, two, named):
            assert await deliver(to) == 200
        assert [request.connection for request in upstream.requests] == [1, 2, 3, 1, 2, 3]
        # Another destination with the very same terms has connections of its own too.
        twin = made.of(upstream.url, first.key_pem, name="twin", tls={"ca": authority.pem, "client_certificate": first.pem})
        assert await deliver(twin) == 200
        assert upstream.connections == 4


async def test_a_destination_whose_authority_was_taken_away_gets_nothing_over_its_old_connection(
    authority: Certificate, tmp_path: Path
) -> None:
    async with Upstream(tls=authority.issue("127.0.0.1").server_context()) as upstream, destinations() as made:
        assert await deliver(made.of(upstream.url, tls={"ca": authority.pem})) == 200
        with pytest.raises(DestinationRefusedTls):
            await deliver(made.of(upstream.url, tls={"ca": make_authority(tmp_path).pem}))
        assert len(upstream.requests) == 1


async def test_a_context_is_made_once_for_each_set_of_terms_and_few_are_kept(
    authority: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = tls.make_context

    def counting(terms: TlsTerms) -> ssl.SSLContext:
        made.append(terms.digest)
        return make(terms)

    monkeypatch.setattr(tls, "make_context", counting)
    monkeypatch.setattr(tls, "KEPT", 2)
    contexts = Contexts(ssl.create_default_context())
    terms = TlsTerms(ca=authority.pem)
    got = await asyncio.gather(*(contexts.get(TlsTerms(ca=authority.pem)) for _ in range(10)))
    assert len(set(map(id, got))) == len(made) == 1
    others = [TlsTerms(ca=authority.pem, server_name=name) for name in ("a", "b")]
    for each in others:
        await contexts.get(each)
    assert await contexts.get(others[0]) is await contexts.get(others[0])
    assert len(made) == 3
    assert await contexts.get(terms) is not got[0]
    assert await contexts.get(TlsTerms(server_name="c")) is await contexts.get(TlsTerms())


def test_no_secret_is_in_the_text_of_terms_and_places(authority: Certificate) -> None:
    client = authority.issue("client.test")
    terms = TlsTerms(authority.pem, "files.test", client.pem + client.key_pem)
    place = Place(Account("acme", "main"), "https", "files.test", 443, terms)
    assert "PRIVATE" not in repr(place) and "CERTIFICATE" not in repr(place)
    assert client.key_pem.splitlines()[2] not in repr(place)
    assert place == replace(place, terms=TlsTerms(authority.pem, "files.test", client.pem + client.key_pem))
    variants = [
        TlsTerms(),
        TlsTerms(ca="x"),
        TlsTerms(server_name="x"),
        TlsTerms(identity="x"),
        TlsTerms(ca=""),
        TlsTerms(ca="x", identity=""),
    ]
    assert len({replace(place, terms=each) for each in (None, terms, *variants)}) == 8


def test_an_international_host_is_asked_for_as_it_is_written() -> None:
    client = make_client(Transport(Names(DnsSettings()), lambda _host, _address: True, ssl.create_default_context()))
    request = client.build_request("GET", "https://xn--strae-oqa.example/")
    assert Place.of(request.url, Account("a", "b")).host == "xn--strae-oqa.example"


# ── early answers ────────────────────────────────────────────────────────────────────────────────


async def test_an_early_refusal_over_tls_is_mostly_heard(authority: Certificate, record_property: Callable[[str, object], None]) -> None:
    """Best effort: what lies unread in the socket of a broken connection is not only read but deciphered by the loop, or lost."""
    rounds, heard = 20, 0
    conduct = Conduct(status=413, answer_after=1, then="close")
    async with Upstream(conduct, tls=authority.issue("127.0.0.1").server_context()) as upstream, destinations() as made:
        to = made.of(upstream.url, tls={"ca": authority.pem})
        for _ in range(rounds):
            with contextlib.suppress(RelayError):
                async with to.deliver(make_item(), ScriptedBody([b"x" * 65536] * 100)) as delivery:
                    heard += delivery.status == 413
        await until(lambda: not upstream.open_connections)
    print(f"early answers over TLS: {heard} of {rounds} heard")
    record_property("heard", heard)
    assert heard > 0
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "pump"]
