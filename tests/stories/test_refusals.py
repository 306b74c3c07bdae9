"""How Relay says no: one form for every refusal, ids as soon as somebody is known, and the ledger to match."""

import socket
from pathlib import Path

import httpx

from tests.stories.speech import client_of, head, problem_of, raw_problem_of, say
from tests.support.raw_client import RawClient
from tests.support.running_relay import RunningRelay, TestTenant, running_relay
from tests.support.upstreams import Conduct, Upstream


async def check_told(relay: RunningRelay, answer: httpx.Response, status: int, code: str, outcome: str = "refused") -> dict[str, object]:
    """A problem of a known tenant, and the entry that says the same."""
    problem = problem_of(answer, status, code)
    entry = await relay.entry(upload_id=answer.headers["relay-upload-id"])
    assert (entry["request_id"], entry["status"], entry["code"], entry["outcome"]) == (problem["request_id"], status, code, outcome)
    assert (entry["bytes_delivered"], entry["upstream_status"], entry["early"]) == (0, None, False)
    return entry


async def test_other_methods_are_405_and_say_which_are_allowed(database_url: str, tmp_path: Path) -> None:
    async with running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        for method in ("GET", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"):
            for headers in ({}, tenant.headers):
                answer = await client.request(method, "/upload/x/y?q=1", headers=headers)
                assert answer.status_code == 405
                assert answer.headers["allow"] == "POST, PUT"
                assert answer.headers["content-type"] == "application/problem+json"
                assert "relay-request-id" in answer.headers
                assert "relay-upload-id" not in answer.headers
                if method == "HEAD":
                    assert not answer.content
                else:
                    problem_of(answer, 405, "method_not_allowed")
        for path in ("/", "/upload", "/nothing", "/admin", "//upload/x"):
            problem_of(await client.post(path, headers=tenant.headers, content=b"x"), 404, "not_found")
        problem_of(await client.post("/livez", content=b"x"), 405, "method_not_allowed")
        assert not await relay.every_entry(), "neither of these is an upload"


async def test_size_and_type_are_judged_before_the_body_and_kept_watch_over(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path, RELAY_UPLOAD_MAX_BYTES="2000") as relay:
        limited = await relay.tenant("limited", limits={"max_upload_bytes": 1000}, content_types=["image/*", "Text/Plain"])
        wide = await relay.tenant("wide", limits={"max_upload_bytes": 5000})
        for tenant in (limited, wide):
            await relay.http_destination(tenant, upstream.url)
        async with client_of(relay) as client:
            await check_sizes(relay, client, limited, wide)
            assert len(upstream.requests) == 2
            await check_types(relay, client, limited)

        # What a body of unknown length turns out to be: the request to the destination never ends cleanly.
        before = len(upstream.requests)
        for tenant, most in ((limited, 1000), (wide, 2000)):
            request = head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Type: image/png", "Transfer-Encoding: chunked")
            chunks = [b"%x\r\n" % size + b"x" * size + b"\r\n" for size in (most, 1)]
            whole = await say(relay, request + chunks[0] + b"0\r\n\r\n")
            assert whole.status == 200
            async with RawClient(*relay.address) as raw:
                await raw.send(request + chunks[0])
                await upstream.received(most, before + 1)
                await raw.send(chunks[1] + b"0\r\n\r\n")
                refused = await raw.final_answer()
            raw_problem_of(refused, 413, "upload_too_large")
            entry = await relay.entry(upload_id=refused.value("relay-upload-id") or "")
            assert (entry["outcome"], entry["code"], entry["bytes_in"]) == ("client_fault", "upload_too_large", most + 1)
            assert (await upstream.ended(before + 1)).ending == "cut"
            before += 2


async def check_sizes(relay: RunningRelay, client: httpx.AsyncClient, limited: TestTenant, wide: TestTenant) -> None:
    for tenant, most in ((limited, 1000), (wide, 2000)):
        headers = {**tenant.headers, "Content-Type": "image/png"}
        assert (await client.post("/upload/a", content=b"x" * most, headers=headers)).status_code == 200
        entry = await check_told(relay, await client.post("/upload/a", content=b"x" * (most + 1), headers=headers), 413, "upload_too_large")
        assert (entry["declared_length"], entry["bytes_in"], entry["first_byte_at"]) == (most + 1, 0, None)


async def check_types(relay: RunningRelay, client: httpx.AsyncClient, limited: TestTenant) -> None:
    for given, is_taken in (
        ("image/png", True),
        ("IMAGE/SVG+XML; x=y", True),
        ("text/plain; charset=utf-8", True),
        ("text/html", False),
        ("image", False),
        ("imagex/png", False),
        ("application/octet-stream", False),
        (None, False),
    ):
        headers = {**limited.headers, **({"Content-Type": given} if given else {})}
        answer = await client.post("/upload/a", content=b"x", headers=headers)
        if is_taken:
            assert answer.status_code == 200, given
            continue
        entry = await check_told(relay, answer, 415, "content_type_refused")
        assert entry["content_type"] == given


async def test_a_destination_that_cannot_be_reached_is_told_by_its_reason(database_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: a connection is refused
        closed = taken.getsockname()[1]
        async with Upstream() as upstream, running_relay(database_url, tmp_path / "a") as relay, client_of(relay) as client:
            for slug, base_url, code in (
                ("closed", f"http://127.0.0.1:{closed}", "destination_unreachable"),
                ("plain", f"https://127.0.0.1:{relay.address[1]}", "destination_refused_tls"),
                ("inside", "http://169.254.169.254/latest", "egress_denied"),
                ("mapped", "http://[::ffff:10.0.0.1]/", "egress_denied"),
            ):
                tenant = await relay.tenant(slug)
                await relay.http_destination(tenant, base_url)
                answer = await client.post("/upload/a", content=b"x", headers=tenant.headers)
                entry = await check_told(relay, answer, 502, code, "destination_failed")
                assert entry["destination"] == "main"
                assert "169.254" not in answer.text
                finding = (await relay.admin.post(f"/tenants/{slug}/destinations/main/check")).json()
                assert (finding["ok"], finding["code"]) == (False, code)
            assert not upstream.requests

            # "destination_timeout": it takes the body and says nothing.
            upstream.conduct = Conduct(is_answering=False)
            silent = await relay.tenant("silent")
            await relay.http_destination(silent, upstream.url, idle_timeout_seconds=0.3)
            answer = await client.post("/upload/a", content=b"x", headers=silent.headers)
            await check_told(relay, answer, 504, "destination_timeout", "destination_failed")
            capped = await relay.tenant("capped")
            await relay.http_destination(capped, upstream.url, total_timeout_seconds=0.3)
            answer = await client.post("/upload/a", content=b"x", headers=capped.headers)
            await check_told(relay, answer, 504, "destination_timeout", "destination_failed")
        async with running_relay(database_url, tmp_path / "b", RELAY_EGRESS_ALLOW="") as relay, client_of(relay) as client:
            tenant = await relay.tenant("loopback")
            await relay.http_destination(tenant, f"http://localhost:{closed}")
            answer = await client.post("/upload/a", content=b"x", headers=tenant.headers)
            await check_told(relay, answer, 502, "egress_denied", "destination_failed")


async def test_a_destination_has_no_more_connections_than_it_may(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant, sibling = await relay.tenant(), await relay.tenant("sibling")
        await relay.http_destination(tenant, upstream.url, max_connections=1)
        await relay.http_destination(sibling, upstream.url, max_connections=1)
        async with RawClient(*relay.address) as first:
            await first.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 10") + b"12345")
            await upstream.received(5)
            busy = await client.post("/upload/b", content=b"x", headers=tenant.headers)
            assert int(busy.headers["retry-after"]) >= 1
            await check_told(relay, busy, 503, "destination_busy")
            assert (await client.post("/upload/b", content=b"x", headers=sibling.headers)).status_code == 200, "another tenant's is free"
            await first.send(b"67890")
            assert (await first.answer()).status == 200
        assert (await client.post("/upload/c", content=b"x", headers=tenant.headers)).status_code == 200
        assert len(upstream.requests) == 3


async def test_a_process_that_shuts_down_refuses_and_finishes_what_runs(database_url: str, tmp_path: Path) -> None:
    async with Upstream() as upstream, running_relay(database_url, tmp_path) as relay, client_of(relay) as client:
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        async with RawClient(*relay.address) as running:
            await running.send(head("/upload/a", f"X-API-Key: {tenant.key}", "Content-Length: 10") + b"12345")
            await upstream.received(5)
            relay.services.begin_shutdown()
            refused = await client.post("/upload/b", content=b"x", headers=tenant.headers)
            problem_of(refused, 503, "shutting_down")
            assert int(refused.headers["retry-after"]) >= 1
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"], ready.json()["checks"]["shutdown"]) == (503, "not_ready", "yes")
            await running.send(b"67890")
            answer = await running.answer()
            assert answer.status == 200
        assert (await relay.entry(upload_id=answer.value("relay-upload-id") or ""))["outcome"] == "delivered"


async def test_a_journal_that_is_full_takes_no_new_upload(database_url: str, tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        running_relay(database_url, tmp_path, RELAY_JOURNAL_MAX_BYTES="1") as relay,
        client_of(relay) as client,
    ):
        tenant = await relay.tenant()
        await relay.http_destination(tenant, upstream.url)
        full = await client.post("/upload/a", content=b"x", headers=tenant.headers)
        problem_of(full, 503, "journal_full")
        assert int(full.headers["retry-after"]) >= 1
        assert "relay-upload-id" in full.headers
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["journal"]) == (503, "full")
        assert not upstream.requests
