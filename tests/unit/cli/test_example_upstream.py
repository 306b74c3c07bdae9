"""The example upstream tells what it was sent, without credentials and without holding a body."""

import asyncio
import hashlib
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from relay.cli.example_upstream import app
from tests.support.waiting import until


async def ask(
    chunks: Sequence[bytes] = (b"",),
    *,
    method: str = "POST",
    path: str = "/upload/a",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> tuple[int, bytes]:
    """Call the app with a body of these chunks; ``(0, b"")`` when it does not answer."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return messages.pop(0) if messages else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
    await app(scope, receive, send)
    return (sent[0]["status"], b"".join(message["body"] for message in sent[1:])) if sent else (0, b"")


def form(boundary: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    pieces = [b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, about, content) for about, content in parts]
    return b"".join(pieces) + b"--%b--\r\n" % boundary


async def test_a_raw_body_is_told_by_size_and_digest() -> None:
    status, answer = await ask([b"ab", b"c"], method="PUT", path="/upload/x/y", query=b"q1=x&q1=y&q2=&z=%20")
    told = json.loads(answer)
    assert status == 200
    assert told["body"] == {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert (told["method"], told["path"]) == ("PUT", "/upload/x/y")
    assert told["query"] == {"q1": ["x", "y"], "q2": "", "z": " "}
    assert "parts" not in told


async def test_a_forms_parts_are_told_wherever_the_chunks_are_cut() -> None:
    content = bytes(range(256)) * 4
    whole = form(b"XX", (b'name="file"; filename="a.bin"', content), (b'name="field"', b""))
    for size in (1, 7, 64, len(whole)):
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
        _, answer = await ask(chunks, headers=[(b"content-type", b"multipart/form-data; boundary=XX")])
        assert json.loads(answer)["parts"] == [
            {
                "name": "file",
                "filename": "a.bin",
                "content_type": None,
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            },
            {"name": "field", "filename": None, "content_type": None, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()},
        ]


async def test_a_broken_form_is_refused() -> None:
    broken = form(b"XX", (b'name="file"', b"x"))[:-8]
    for content_type in (b"multipart/form-data; boundary=XX", b"multipart/form-data"):
        assert (await ask([broken], headers=[(b"content-type", content_type)]))[0] == 400


async def test_credentials_are_masked_and_repeated_fields_joined() -> None:
    names = [b"authorization", b"proxy-authorization", b"x-api-key", b"cookie", b"x-auth-token", b"x-secret"]
    _, answer = await ask(headers=[*((name, b"hush") for name in names), (b"x-plain", b"1"), (b"x-plain", b"2")])
    told = json.loads(answer)["headers"]
    assert told == {**{name.decode(): "***" for name in names}, "x-plain": "1, 2"}


async def test_what_is_not_an_upload_is_answered_too() -> None:
    assert (await ask(method="GET", path="/"))[0] == 200
    assert await ask(method="HEAD", path="/upload") == (200, b"")
    assert (await ask(method="GET", path="/elsewhere"))[0] == 404
    assert (await ask(path="/uploads"))[0] == 404


async def test_a_client_that_leaves_gets_no_answer() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/upload/a", "query_string": b"", "headers": []}, receive, send)
    assert sent == []


async def test_a_large_form_is_never_held() -> None:
    chunk = bytes(65_536)
    head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tracemalloc.start()
    try:
        chunks = [head, *([chunk] * 256), b"\r\n--XX--\r\n"]
        _, answer = await ask(chunks, headers=[(b"content-type", b"multipart/form-data; boundary=XX")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert json.loads(answer)["parts"][0]["size"] == 16 << 20
    assert peak < 2 << 20


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await task


async def test_it_serves_a_real_client() -> None:
    async with served() as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/upload/hello/world", params={"q1": "x"}, files={"file": ("README.md", b"# hi", "text/markdown")})
        told = answer.json()
        assert (told["path"], told["query"]) == ("/upload/hello/world", {"q1": "x"})
        assert told["parts"][0] == {
            "name": "file",
            "filename": "README.md",
            "content_type": "text/markdown",
            "size": 4,
            "sha256": hashlib.sha256(b"# hi").hexdigest(),
        }
        assert (await client.head("/upload")).status_code == 200
