"""A client of the main door: sends one body, once, and gives back the answer, be it one that came early.

Theory of operation
    The request announces its body by ``Expect: 100-continue`` and waits a moment for the door's verdict. While
    the body goes out, the line is looked at between chunks: a final answer of 300 and above ends the sending,
    and that answer is what the caller gets, not the broken connection that would follow. httpcore reads the
    answer after a write error; so the body stops itself by raising one.

What must stay true: nothing is sent again by itself, for an upload is not idempotent; no redirect is followed,
for it would take the key elsewhere; proxy variables of the environment are not obeyed.
"""

import contextlib
import re
import select
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import Any, Protocol

import httpcore

from relay.cli.progress import Progress

CHUNK_BYTES = 128 * 1024
EXPECT_FROM_BYTES = 64 * 1024
"""A body smaller than this is sent at once: waiting for a verdict costs more than sending it."""

VERDICT_SECONDS = 1.0
CONNECT_SECONDS = 10.0
AHEAD_BYTES = 1 << 20
"""Most of an answer that is read while the body still goes out."""

MOST_INTERIM = 1000
"""So many 1xx come before a final answer; who sends more will never send one."""

HEAD_END = re.compile(rb"\n\r?\n")


class Source(Protocol):
    """Where the body's bytes come from."""

    def read1(self, size: int, /) -> bytes: ...


class BodyChanged(Exception):
    """The file became shorter while it was sent."""


class BodyUnreadable(Exception):
    """The system would not read on."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to send, and where to."""

    method: str
    url: httpcore.URL
    fields: tuple[tuple[bytes, bytes], ...]
    body_bytes: int | None
    """``None``: not known before its end; sent chunked."""

    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer; ``body`` yields the rest."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: Iterable[bytes]

    def find(self, name: str) -> str | None:
        """The first value of a field."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.fields if key.lower() == wanted), None)


class Line(httpcore.NetworkStream):
    """A connection that can be looked at while it is being written to."""

    def __init__(self, inner: httpcore.NetworkStream, lines: "Lines") -> None:
        self._inner = inner
        self._lines = lines
        self._ahead = b""
        self._has_ended = False
        self._is_answered = False
        self._interim_count = 0
        self.has_go = False
        lines.newest = self

    def look(self, seconds: float = 0.0) -> int | None:
        """Wait so long for an answer; return the status of a final one. 1xx are taken note of and dropped."""
        deadline = monotonic() + seconds
        while (status := self._status()) is None and not self._has_ended and len(self._ahead) < AHEAD_BYTES:
            left = max(0.0, deadline - monotonic())
            if self.has_go and seconds:
                return None
            if not self._is_readable(left):
                return None
            with contextlib.suppress(httpcore.ReadTimeout):  # TLS spoke for itself: nothing of the answer has come
                data = self._inner.read(CHUNK_BYTES, max(left, 0.01))
                self._ahead += data
                self._has_ended = not data
            if monotonic() >= deadline:  # whoever speaks without end holds nothing up
                return self._status() or None
        return status or None

    def _status(self) -> int | None:
        """The status of the final answer: ``None`` when it has not come, 0 when what came is not HTTP."""
        while end := HEAD_END.search(self._ahead):
            words = self._ahead.split(b" ", 2)
            status = int(words[1][:3]) if len(words) > 2 and words[1][:3].isdigit() else 0  # not HTTP: the parser will say so
            if not 100 <= status < 200 or status == 101:
                return status
            self.has_go = True
            self._ahead = self._ahead[end.end() :]
            self._interim_count += 1
            if self._interim_count > MOST_INTERIM:
                raise httpcore.RemoteProtocolError("1xx without end")
        return None

    def _is_readable(self, seconds: float) -> bool:
        tls: Any = self._inner.get_extra_info("ssl_object")
        if tls is not None and tls.pending():
            return True
        poll = select.poll()
        poll.register(self._inner.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while not self._is_answered:  # 1xx go no further than here, where they are counted
            self._is_answered = self._status() is not None or self._has_ended or len(self._ahead) >= AHEAD_BYTES
            if not self._is_answered:
                data = self._inner.read(max_bytes, timeout)
                self._ahead += data
                self._has_ended = not data
        if self._ahead:
            data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
            return data
        return b"" if self._has_ended else self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return Line(self._inner.start_tls(ssl_context, server_hostname, timeout), self._lines)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Lines(httpcore.SyncBackend):
    """Makes connections and remembers the newest one: there is one at a time."""

    newest: Line | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        return Line(super().connect_tcp(host, port, timeout, local_address, socket_options), self)


class SentBody:
    """The body as it goes out; stops when the door has refused it."""

    def __init__(self, source: Source, order: Order, lines: Lines, progress: Progress) -> None:
        self._source = source
        self._left_bytes = order.body_bytes
        self._waits_for_verdict = is_announced(order.body_bytes)
        self._lines = lines
        self._progress = progress
        self._digest = sha256()

    @property
    def sha256(self) -> str:
        """Digest of what went out, in hex."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        if self._waits_for_verdict:
            self._stop_if_refused(VERDICT_SECONDS)
        while chunk := self._read():
            yield chunk
            self._digest.update(chunk)
            self._progress.advance(len(chunk))
            self._stop_if_refused(0.0)
        self._progress.wait()

    def _stop_if_refused(self, seconds: float) -> None:
        status = self._lines.newest.look(seconds) if self._lines.newest is not None else None
        if status is not None and status >= 300:
            raise httpcore.WriteError("refused before the body's end")

    def _read(self) -> bytes:
        # What a pipe has is sent on as it comes; nothing waits for a full chunk.
        try:
            chunk = self._source.read1(CHUNK_BYTES if self._left_bytes is None else min(CHUNK_BYTES, self._left_bytes))
        except OSError as error:
            raise BodyUnreadable(error.strerror) from None
        if self._left_bytes is None:
            return chunk
        self._left_bytes -= len(chunk)
        if not chunk and self._left_bytes:
            raise BodyChanged
        return chunk


def is_announced(body_bytes: int | None) -> bool:
    """True for a body that waits for the door's verdict."""
    return body_bytes is None or body_bytes >= EXPECT_FROM_BYTES


@contextlib.contextmanager
def send(order: Order, source: Source, tls: ssl.SSLContext, progress: Progress) -> Iterator[tuple[Answer, SentBody]]:
    """Send the body, once; give the answer, however early it came.

    Raises:
        httpcore.ConnectError: no connection, or a certificate that is not trusted.
        httpcore.TimeoutException: no byte went either way for the order's timeout.
        httpcore.NetworkError, httpcore.ProtocolError: the connection broke and no answer came.
        BodyChanged: the file is shorter than it was.
        BodyUnreadable: the file cannot be read to its end.
    """
    lines = Lines()
    body = SentBody(source, order, lines, progress)
    fields = [(b"Host", _authority(order.url)), *order.fields]
    size = order.body_bytes
    fields.append((b"Transfer-Encoding", b"chunked") if size is None else (b"Content-Length", str(size).encode()))
    if is_announced(size):
        fields.append((b"Expect", b"100-continue"))
    waits = {"connect": CONNECT_SECONDS, "write": order.timeout_seconds, "read": order.timeout_seconds}
    with (
        httpcore.ConnectionPool(ssl_context=tls, network_backend=lines) as pool,
        pool.stream(order.method, order.url, headers=fields, content=iter(body), extensions={"timeout": waits}) as response,
    ):
        yield Answer(response.status, tuple(response.headers), response.iter_stream()), body


def _authority(url: httpcore.URL) -> bytes:
    host = b"[" + url.host + b"]" if b":" in url.host else url.host
    return host if url.port is None else host + b":" + str(url.port).encode()
