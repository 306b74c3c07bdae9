"""What is sent: one shape of traffic, and the bytes of its requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
BLOCK_BYTES = MIB
CHUNK_BYTES = 64 * KIB
WARM_BYTES = 16 * MIB
"""Most that a request of the warm-up sends."""

BOUNDARY = "a-boundary-of-the-benchmark"
FORM_HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'.encode()
FORM_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()

Framing = Literal["length", "chunked", "form"]
SinkName = Literal["plain", "closing", "narrow", "disk", "bucket", "bucket-unsigned"]
"""``closing`` ends each connection after its answer; ``narrow`` has a receive buffer of 64 KiB; the others keep what they are sent."""

BUCKETS: Final[Sequence[SinkName]] = ("bucket", "bucket-unsigned")
"""One bucket, whose requests have bodies that are signed, or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One shape of traffic. ``rate`` (a second) makes it an open loop; ``tenants`` is of how many each request draws one."""

    size: int
    connections: int
    framing: Framing = "length"
    rate: float | None = None
    tenants: int = 0
    is_tls: bool = False
    sink: SinkName = "plain"

    @property
    def is_kept(self) -> bool:
        """Whether what is sent is kept, not dropped."""
        return self.sink == "disk" or self.sink in BUCKETS

    @property
    def is_small(self) -> bool:
        """Whether it is told in requests, not in bytes."""
        return self.size <= 256 * KIB


def request_head(path: str, key: str, framing: Framing, length: int) -> bytes:
    """The head of one upload, the same for every server."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        f"Authorization: Bearer {key}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}" if framing == "form" else "Content-Type: application/octet-stream",
        "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {length}",
        "User-Agent: bench/1",
        "Accept: */*",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


def body_pieces(size: int) -> list[memoryview]:
    """So many bytes. Large bodies are one block, named as often as it takes."""
    block = memoryview(b"x" * min(size, BLOCK_BYTES))
    body = [block] * (size // len(block)) if size else []
    if rest := size - sum(map(len, body)):
        body.append(block[:rest])
    return body


def request_pieces(path: str, key: str, framing: Framing, size: int) -> list[memoryview]:
    """One whole request as pieces to send."""
    body = body_pieces(size)
    if framing == "chunked":
        chunk = b"%x\r\n" % CHUNK_BYTES + b"x" * CHUNK_BYTES + b"\r\n"
        in_a_block = BLOCK_BYTES // CHUNK_BYTES
        chunks, rest = divmod(size, CHUNK_BYTES)
        gathered = memoryview(chunk * in_a_block)
        body = [gathered] * (chunks // in_a_block)
        body.append(memoryview(chunk * (chunks % in_a_block) + (b"%x\r\n" % rest + b"x" * rest + b"\r\n" if rest else b"") + b"0\r\n\r\n"))
    length = size
    if framing == "form":
        body = [memoryview(FORM_HEAD), *body, memoryview(FORM_TAIL)]
        length += len(FORM_HEAD) + len(FORM_TAIL)
    head = request_head(path, key, framing, length)
    if sum(map(len, body)) <= BLOCK_BYTES:
        return [memoryview(head + b"".join(body))]
    return [memoryview(head), *body]
