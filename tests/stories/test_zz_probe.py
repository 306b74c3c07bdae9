import asyncio, json
from pathlib import Path
from tests.conftest import *
from tests.stories.speech import *
from tests.support.upstreams import *
from tests.support.running_relay import *


async def test_probe(database_url, tmp_path):
    async with Upstream() as up, running_relay(database_url, tmp_path) as relay:
        t = await relay.tenant()
        await relay.http_destination(t, up.url)
        k = f"X-API-Key: {t.key}"

        async def go(name, req, conduct=None):
            if conduct is not None:
                up.conduct = conduct
            try:
                a = await say(relay, req)
                print(
                    name,
                    a.status,
                    a.is_whole,
                    a.body[:150],
                    [h for h in a.headers if h[0].lower() not in ("relay-request-id", "relay-upload-id", "date")],
                )
            except Exception as e:
                print(name, "EXC", repr(e))

        n = head("/upload/a", k, "Content-Length: 1") + b"x"
        await go("absolute", head("http://relay/upload/a", k, "Content-Length: 1") + b"x")
        await go("two content types", head("/upload/a", k, "Content-Type: a/b", "Content-Type: c/d", "Content-Length: 1") + b"x")
        print(up.requests[-1].headers)
        await go("obs-text", n, Conduct(headers=(("X", "caf\xe9"), ("Content-Type", "text/plain"))))
        await go("bad length", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nhello", then="close"))
        await go("two lengths", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"))
        await go("list length", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"))
        await go(
            "both",
            n,
            Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
        await go(
            "gzip,chunked",
            n,
            Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", then="close"),
        )
        await go("204 with length", n, Conduct(raw_answer=b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n"))
        await go("204 with length 5", n, Conduct(raw_answer=b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"))
        await go("304 with length", n, Conduct(raw_answer=b"HTTP/1.1 304 No\r\nContent-Length: 5\r\nETag: x\r\n\r\n"))
        await go("205", n, Conduct(raw_answer=b"HTTP/1.1 205 No\r\nContent-Length: 0\r\n\r\n"))
        await go("status 600", n, Conduct(raw_answer=b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n"))
        await go("status 999", n, Conduct(raw_answer=b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"))
        await go("1.0 until close", n, Conduct(raw_answer=b"HTTP/1.0 200 OK\r\n\r\nhello", then="close"))
        await go("huge head", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200000 + b"\r\nContent-Length: 0\r\n\r\n"))
        await go("big head 60k", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 60000 + b"\r\nContent-Length: 0\r\n\r\n"))
        await go("bare lf", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"))
        await go("folded", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"))
        await go(
            "trailers", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
        )
        await go("extra bytes", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA"))
        await go("after extra", n, Conduct())
        await go("no reason", n, Conduct(raw_answer=b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"))
        await go("negative", n, Conduct(raw_answer=b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", then="close"))
        await go("key in path", head(f"/upload/{t.key}", k, "Content-Length: 0"), Conduct())
        await go("NUL header", head("/upload/a", k, "X: a\0b", "Content-Length: 0"))
        await go("date none", head("/upload/a", k, "Content-Length: 0"), Conduct(headers=()))
        await go(
            "conn te names",
            head(
                "/upload/a",
                k,
                "Connection: content-type, via, traceparent, x-forwarded-for, content-length",
                "Content-Type: a/b",
                "Content-Length: 1",
            )
            + b"x",
            Conduct(),
        )
        print(up.requests[-1].headers)
        await go(
            "connection: x-api-key",
            head("/upload/a", k, "Connection: x-api-key, transfer-encoding", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
            Conduct(),
        )
        print(up.requests[-1].headers)
        await go(
            "trailers req",
            head("/upload/a", k, "Transfer-Encoding: chunked", "Trailer: X-API-Key") + b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n",
            Conduct(),
        )
        await go("chunk ext", head("/upload/a", k, "Transfer-Encoding: chunked") + b"1;a=b\r\nx\r\n0\r\n\r\n", Conduct())
        await go("TE Chunked", head("/upload/a", k, "Transfer-Encoding: Chunked") + b"1\r\nx\r\n0\r\n\r\n", Conduct())
        await go("PUT no length", head("/upload/a", k, method="PUT"), Conduct())
        print(up.requests[-1].headers)
        await go("expect weird", head("/upload/a", k, "Expect: 200-ok", "Content-Length: 1") + b"x", Conduct())
        await go("unauth chunked", head("/upload/a", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n", Conduct())
        await asyncio.sleep(1.2)
        for e in reversed(await relay.entries()):
            print(e["outcome"], e["code"], e["status"], e["upstream_status"], e["path"][:20])
