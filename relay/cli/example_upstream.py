"""The example upstream of ``relay demo``: a small HTTP service that tells what it was sent.

    POST, PUT /upload/…   200  {"method","path","query","headers", and "parts" of a form or "body"}
    HEAD, GET /, /upload  200

It stands for a tenant's own service, so it imports nothing of Relay but how an address is written, and holds
no body: forms are parsed and hashed as they stream. Credentials are masked in what it tells, and it logs
no request.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import multipart
import uvicorn

from relay.settings import parse_listen

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MASK = "***"
MOST_PARTS = 1_000
_CREDENTIALS = ("auth", "cookie", "key", "password", "secret", "token")


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer one request; nothing is answered to a client that left before its body was whole."""
    method, path = scope["method"], scope["path"]
    is_below = path == "/upload" or path.startswith("/upload/")
    if method in {"POST", "PUT"} and is_below:
        try:
            content = await _told(scope, receive)
        except _ClientLeft:
            return
        except (multipart.MultipartError, UnicodeError):
            await _answer(send, 400, "text/plain", b"The form cannot be parsed.\n")
            return
        await _answer(send, 200, "application/json", json.dumps(content).encode() + b"\n")
    elif method in {"GET", "HEAD"} and (is_below or path == "/"):
        content_bytes = b"The example upstream of Relay. POST or PUT below /upload/ and it tells what came.\n"
        await _answer(send, 200, "text/plain", content_bytes, is_head=method == "HEAD")
    else:
        await _answer(send, 404, "text/plain", b"There is nothing here.\n")


def run(listen: str) -> None:
    """Serve on ``host:port`` until the process is told to stop."""
    host, port = parse_listen(listen)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False)


class _ClientLeft(Exception):
    pass


class _Digest:
    """Size and SHA-256 of bytes that pass by."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._size = 0

    def take(self, data: bytes | bytearray) -> None:
        self._sha256.update(data)
        self._size += len(data)

    def told(self) -> dict[str, Any]:
        return {"size": self._size, "sha256": self._sha256.hexdigest()}


async def _told(scope: Message, receive: Receive) -> dict[str, Any]:
    headers = _joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    content_type, options = multipart.parse_options_header(headers.get("content-type", ""))  # type: ignore[no-untyped-call]  # the package's own gap
    told: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"],
        "query": _gathered(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        "headers": {name: MASK if any(word in name for word in _CREDENTIALS) else value for name, value in headers.items()},
    }
    if content_type == "multipart/form-data":
        told["parts"] = await _parts(_body(receive), options.get("boundary", ""))
    else:
        digest = _Digest()
        async for chunk in _body(receive):
            digest.take(chunk)
        told["body"] = digest.told()
    return told


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        if chunk := message.get("body", b""):
            yield chunk
        has_more = message.get("more_body", False)


async def _parts(body: AsyncIterator[bytes], boundary: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    with multipart.PushMultipartParser(boundary, max_segment_count=MOST_PARTS) as parser:
        digest = _Digest()
        async for chunk in body:
            for event in parser.parse(chunk):
                if isinstance(event, multipart.MultipartSegment):
                    digest = _Digest()
                    parts.append({"name": event.name, "filename": event.filename, "content_type": event.content_type})
                elif event is None:
                    parts[-1].update(digest.told())
                else:
                    digest.take(event)
    return parts


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join the values of a repeated field as HTTP does."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """One value for a name as it is, several as a list."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


async def _answer(send: Send, status: int, content_type: str, content: bytes, *, is_head: bool = False) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else content})
