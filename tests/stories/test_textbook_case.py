"""The case that everybody knows: a main server, another server, and a form with files that goes through one to the other."""

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import multipart
import uvicorn
from fastapi import FastAPI, Request

from tests.support.running_relay import running_relay


def other_server() -> FastAPI:
    """An ordinary application that knows nothing of a relay, and tells what it was sent."""
    app = FastAPI()

    @app.post("/upload/{p1}/{p2}")
    async def upload(p1: str, p2: str, q1: str, request: Request) -> dict[str, Any]:
        content_type, options = multipart.parse_options_header(request.headers["content-type"])  # type: ignore[no-untyped-call]  # the package's own gap
        assert content_type == "multipart/form-data"
        parts: list[dict[str, Any]] = []
        with multipart.PushMultipartParser(options["boundary"]) as parser:
            digest = hashlib.sha256()
            async for chunk in request.stream():
                for event in parser.parse(chunk):
                    if isinstance(event, multipart.MultipartSegment):
                        digest = hashlib.sha256()
                        parts.append({"name": event.name, "filename": event.filename, "content_type": event.content_type})
                    elif event is None:
                        parts[-1]["sha256"] = digest.hexdigest()
                    else:
                        digest.update(event)
        return {"p1": p1, "p2": p2, "q1": q1, "parts": parts, "length": request.headers.get("content-length")}

    return app


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an application on uvicorn, in a thread and a loop of its own, as another server is."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: asyncio sets TCP_NODELAY
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


async def test_the_textbook_case(database_url: str, tmp_path: Path) -> None:
    large = bytes(range(256)) * 8192
    files: list[tuple[str, tuple[str, bytes, str]]] = [
        ("file", ("report.pdf", large, "application/pdf")),
        ("file", ("Übersicht 東京.txt", "grüße\n".encode(), "text/plain; charset=utf-8")),
        ("empty", ("empty.bin", b"", "application/octet-stream")),
        ("hostile", ("a.bin", b"\r\n--not-the-boundary\r\n\x00\xff", "application/x-thing")),
    ]
    p1, p2 = "first", "zweites ü"
    with serving(other_server()) as other:
        async with running_relay(database_url, tmp_path) as relay:
            tenant = await relay.tenant()
            await relay.http_destination(tenant, f"{other}/upload")

            def upload() -> httpx.Response:
                with httpx.Client(trust_env=False, timeout=20) as client:
                    return client.post(
                        f"{relay.url}/upload/{p1}/{p2}",
                        params={"q1": "a b&c=ü"},
                        data={"note": "früh"},
                        files=files,
                        headers=tenant.headers,
                    )

            answer = await asyncio.to_thread(upload)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["p1"], told["p2"], told["q1"]) == (p1, p2, "a b&c=ü")
            note, *parts = told["parts"]
            assert (note["name"], note["filename"], note["sha256"]) == ("note", None, hashlib.sha256("früh".encode()).hexdigest())
            assert [(part["name"], part["filename"], part["content_type"], part["sha256"]) for part in parts] == [
                (field, name, media_type.partition(";")[0], hashlib.sha256(content).hexdigest())
                for field, (name, content, media_type) in files
            ]
            entry = await relay.entry(upload_id=answer.headers["relay-upload-id"])
            assert (entry["outcome"], entry["status"], entry["upstream_status"]) == ("delivered", 200, 200)
            assert entry["bytes_in"] == entry["bytes_delivered"] == entry["declared_length"] == int(told["length"])
            assert entry["bytes_out"] == len(answer.content)
