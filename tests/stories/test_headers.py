"""What a destination and a client are told in header fields: everything that is theirs, and nothing else."""

import base64
import re
from pathlib import Path
from typing import Any

from tests.stories.speech import head, raw_problem_of, say
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Recorded, Upstream

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def deliver(relay: RunningRelay, tenant: TestTenant, upstream: Upstream, *lines: str, target: str = "/upload/a") -> Recorded:
    """Send five bytes with these lines and give what arrived."""
    index = len(upstream.requests)
    answer = await say(relay, head(target, f"Authorization: Bearer {tenant.key}", *lines, "Content-Length: 5") + b"hello")
    assert answer.status == 200, answer.body
    return await upstream.ended(index)


def fields(request: Recorded) -> list[tuple[str, str]]:
    return [(name.decode().lower(), value.decode("latin-1")) for name, value in request.headers]


def text(request: Recorded, name: str) -> str:
    """The one value of a field."""
    values = request.values(name)
    assert len(values) == 1, (name, values)
    return values[0].decode("latin-1")


async def test_a_destination_gets_every_field_in_its_order_but_those_of_the_hop(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, f"{upstream.url}/base")

        bare = await deliver(relay, tenant, upstream)
        assert {name for name, _ in fields(bare)} == {
            *("host", "content-length", "via", "traceparent", "x-request-id", "relay-upload-id"),
            *("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
        }, "nothing of a client library's own"
        assert text(bare, "host") == f"127.0.0.1:{upstream.port}"
        assert text(bare, "content-length") == "5"
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", text(bare, "traceparent"))
        assert re.fullmatch(r"1\.1 relay-\S+", text(bare, "via"))
        assert text(bare, "x-forwarded-for") == "127.0.0.1"

        passed = [
            ("content-type", "text/plain; charset=latin-1"),
            ("x-one", "1"),
            ("accept-encoding", "br"),
            ("x-one", "2"),
            ("user-agent", "caf\xe9/1.0"),
            ("content-encoding", "gzip"),
            ("range", "bytes=0-1"),
            ("if-none-match", "*"),
            ("x-forwarded-port", "99"),
            ("origin", "https://example.org"),
            ("referer", "https://example.org/?q"),
            ("max-forwards", "7"),
            ("x-empty", ""),
        ]
        dropped = [
            ("Connection", "close, X-Hop, x-OTHER-hop"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("Upgrade", "h2c"),
            ("X-Hop", "1"),
            ("X-Other-Hop", "1"),
            ("Cookie", "session=1"),
            ("Expect", "something-else"),
            ("Proxy-Authorization", "Basic eDp5"),
            ("Relay-Upload-Id", "mine"),
            ("Relay-Anything", "mine"),
        ]
        lines = [f"{name}: {value}" for pair in zip(passed, dropped, strict=True) for name, value in pair]
        request = await deliver(relay, tenant, upstream, *lines)
        names = {name for name, _ in passed}
        assert [pair for pair in fields(request) if pair[0] in names] == passed
        assert not {name.lower() for name, _ in dropped if name != "Relay-Upload-Id"} & {name for name, _ in fields(request)}
        assert request.version == "HTTP/1.1"

        async with RawClient(*relay.address) as client:  # chunked stays chunked, and is never both
            await client.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n")
            answer = await client.answer()
        chunked = await upstream.ended(2)
        assert (text(chunked, "transfer-encoding"), chunked.values("content-length"), chunked.body_bytes) == ("chunked", [], 5)
        assert text(chunked, "relay-upload-id") == answer.value("relay-upload-id")


async def test_ids_and_traces_go_on(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)

        lines = (f"traceparent: 00-{TRACE_ID}-00f067aa0ba902b7-01", "tracestate: a=1,b=2", "X-Request-ID: order 7")
        traced = await deliver(relay, tenant, upstream, *lines)
        parts = text(traced, "traceparent").split("-")
        assert (parts[1], parts[3]) == (TRACE_ID, "01")
        assert parts[2] != "00f067aa0ba902b7"
        assert text(traced, "tracestate") == "a=1,b=2"
        assert text(traced, "x-request-id") == "order 7"
        entry = await relay.entry(upload_id=text(traced, "relay-upload-id"))
        assert (entry["client_request_id"], entry["trace_id"]) == ("order 7", TRACE_ID)
        assert entry["request_id"] != "order 7"

        fresh = await deliver(relay, tenant, upstream, "traceparent: 00-zz-1-1", "tracestate: a=1")
        told = await relay.entry(upload_id=text(fresh, "relay-upload-id"))
        assert text(fresh, "x-request-id") == told["request_id"]
        assert text(fresh, "traceparent").split("-")[1] == told["trace_id"] != TRACE_ID
        assert not fresh.values("tracestate"), "the state of a trace that was not continued"
        assert told["client_request_id"] is None


async def test_a_request_that_comes_back_is_refused_but_another_installations_is_not(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        own = text(await deliver(relay, tenant, upstream), "via")
        other = await deliver(relay, tenant, upstream, "Via: 1.0 fred, 1.1 relay-another (comment)", "Via: HTTP/1.1 cache")
        assert text(other, "via") == f"1.0 fred, 1.1 relay-another (comment), HTTP/1.1 cache, {own}"
        for value in (own, f"1.0 fred, {own}", f"{own} (a comment), 1.1 p.example.net"):
            request = head("/upload/a", f"X-API-Key: {tenant.key}", f"Via: {value}", "Content-Length: 0")
            raw_problem_of(await say(relay, request), 508, "loop_detected")
        assert len(upstream.requests) == 2

        # The real thing: a destination that is the relay itself.
        loop = await relay.tenant("loop")
        await relay.post(
            "/tenants/loop/destinations",
            {
                "name": "self",
                "kind": "http",
                "config": {"base_url": f"{relay.url}/upload"},
                "secrets": {"headers": {"X-API-Key": loop.key}},
            },
        )
        answer = await say(relay, head("/upload/a", f"X-API-Key: {loop.key}", "Content-Length: 3") + b"abc")
        assert answer.status == 508
        assert answer.value("content-type") == "application/problem+json"


async def test_who_forwarded_is_replaced_unless_the_peer_is_trusted(database_url: str, tmp_path: Path) -> None:
    given = (
        "Forwarded: for=198.51.100.9;proto=https",
        "X-Forwarded-For: 203.0.113.5, 198.51.100.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: files.example.org",
    )
    async with Upstream() as upstream:
        async with running_relay(database_url, tmp_path / "a") as relay:
            tenant = await relay.tenant()
            await relay.http_destination(tenant, upstream.url)
            replaced = await deliver(relay, tenant, upstream, *given)
            assert text(replaced, "forwarded") == 'for=127.0.0.1;host="relay";proto=http'
            assert text(replaced, "x-forwarded-for") == "127.0.0.1"
            assert text(replaced, "x-forwarded-proto") == "http"
            assert text(replaced, "x-forwarded-host") == "relay"
            entry = await relay.entry(upload_id=text(replaced, "relay-upload-id"))
            assert entry["client_address"] == "127.0.0.1"
        async with running_relay(database_url, tmp_path / "b", RELAY_TRUSTED_PROXIES="127.0.0.1/32,198.51.100.0/24") as relay:
            extended = await deliver(relay, tenant, upstream, *given)
            assert text(extended, "forwarded") == 'for=198.51.100.9;proto=https, for=127.0.0.1;host="relay";proto=http'
            assert text(extended, "x-forwarded-for") == "203.0.113.5, 198.51.100.9, 127.0.0.1"
            assert text(extended, "x-forwarded-proto") == "https"
            assert text(extended, "x-forwarded-host") == "files.example.org"
            entry = await relay.entry(upload_id=text(extended, "relay-upload-id"))
            assert entry["client_address"] == "203.0.113.5", "the last one that no trusted proxy has"


async def test_the_destinations_own_fields_win(database_url: str, tmp_path: Path) -> None:
    own = {
        "Authorization": "Basic " + base64.b64encode(b"relay:of-the-tenant").decode(),
        "X-Api-Key": "of-the-tenant",
        "X-Source": "relay",
        "Cookie": "of=the-tenant",
        "User-Agent": "tenant/1",
        "X-Request-ID": "fixed",
    }
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        document = {"name": "main", "kind": "http", "config": {"base_url": upstream.url}, "secrets": {"headers": own}}
        made = await relay.post(f"/tenants/{tenant.slug}/destinations", document)
        assert made["secret_names"] == list(own)
        assert "secrets" not in made
        request = await deliver(relay, tenant, upstream, "X-Source: client", "x-source: again", "User-Agent: curl", "X-Request-ID: client")
        assert {name: text(request, name) for name in own} == own


async def test_a_client_gets_the_answers_fields_but_those_that_speak_for_the_relays_own_site(database_url: str, tmp_path: Path) -> None:
    passed = [
        ("Content-Type", "text/html"),
        ("Date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ("Server", "tenant/9"),
        ("Location", "/elsewhere"),
        ("ETag", '"x"'),
        ("Content-Encoding", "gzip"),
        ("WWW-Authenticate", "Basic realm=tenant"),
        ("Vary", "accept"),
        ("Link", "</a>; rel=a"),
        ("Link", "</b>; rel=b"),
        ("Retry-After", "7"),
        ("X-Frame-Options", "DENY"),
    ]
    dropped = [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Clear-Site-Data", '"*"'),
        ("Strict-Transport-Security", "max-age=1"),
        ("Alt-Svc", 'h3=":443"'),
        ("Service-Worker-Allowed", "/"),
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Expose-Headers", "x"),
        ("Relay-Request-Id", "theirs"),
        ("Relay-Upload-Id", "theirs"),
        ("Relay-Thing", "theirs"),
        ("X-Content-Type-Options", "sniff"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "x"),
        ("Trailer", "X-Sum"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
    ]
    conduct = Conduct(status=203, headers=(*passed, *dropped), answer=b"not really gzip")
    async with Upstream(conduct) as upstream, running_relay(database_url, tmp_path) as relay:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        request = head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 1") + b"x"
        answer = await say(relay, request)
        assert (answer.status, answer.body) == (203, b"not really gzip")
        seen = [(name.lower(), value) for name, value in answer.headers]
        ours = ("x-content-type-options", "content-length", "relay-request-id", "relay-upload-id")
        assert [pair for pair in seen if pair[0] not in ours] == [(name.lower(), value) for name, value in passed]
        assert answer.values("x-content-type-options") == ["nosniff"]
        assert answer.values("content-length") == ["15"]
        entry = await relay.entry(upload_id=answer.value("relay-upload-id") or "")
        assert answer.values("relay-request-id") == [entry["request_id"]]

        # Bare: the destination says nothing of itself, and nobody speaks in its name.
        upstream.conduct = Conduct(status=200, headers=(), answer=b"")
        bare = await say(relay, request)
        assert "server" not in {name.lower() for name, _ in bare.headers}

        await check_answers_of_every_kind(relay, upstream, request)


async def check_answers_of_every_kind(relay: RunningRelay, upstream: Upstream, request: bytes) -> None:
    """Any status comes back as it is, with the outcome that it means."""
    kinds: list[tuple[int, dict[str, Any], str]] = [
        (204, {}, "delivered"),
        (202, {"pieces": [b"one", b"two"]}, "delivered"),
        (307, {"answer": b"moved"}, "delivered"),
        (304, {}, "delivered"),
        (404, {"answer": b"no"}, "rejected"),
        (409, {"pieces": [b"a", b"b"]}, "rejected"),
        (503, {"answer": b""}, "rejected"),
    ]
    for status, members, outcome in kinds:
        upstream.conduct = Conduct(status=status, **members)
        answer = await say(relay, request)
        assert answer.status == status
        assert answer.is_whole
        expected = b"" if status in {204, 304} else b"".join(members.get("pieces", [])) or members.get("answer", b"")
        assert answer.body == expected
        entry = await relay.entry(upload_id=answer.value("relay-upload-id") or "")
        assert (entry["outcome"], entry["status"], entry["upstream_status"], entry["code"]) == (outcome, status, status, None)
        assert (entry["bytes_delivered"], entry["bytes_out"]) == (1 if outcome == "delivered" else 0, len(expected))
