"""Requests to one store: signed, sent over the shared client, answered whole, and sent again where that helps.

Every request may be sent again: what is sent is held until it is acknowledged, and the rest of the house knows what to make of
a request that was done twice. How long one tries is bounded in number and in time. Redirects are not followed.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from relay.destinations.parts import OwnedPiece
from relay.destinations.s3_answers import ANSWER_MOST, Refused, Reply, read_refusal
from relay.destinations.s3_config import BucketConfig
from relay.destinations.s3_signing import EMPTY_SHA256, Signer, Unsigned
from relay.errors import DestinationBroke, DestinationTimeout, DestinationUnreachable
from relay.wire.client import Account, Answer, Client, Place
from relay.wire.pieces import Take
from relay.wire.tls import PUBLIC, TlsTerms
from relay.wire.turn import Outgoing

_UNRESERVED: Final = "-_.~"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and for how long, a request is sent again (seconds)."""

    tries: int = 7
    first_pause: float = 0.2
    longest_pause: float = 10.0
    total: float = 120.0

    def pause(self, attempt: int) -> float:
        """How long to wait after this attempt: at random up to a bound that doubles."""
        return random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** (attempt - 1)))  # noqa: S311 - spreads load


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a store, of an object or of the bucket. ``sha256`` is that of the body, in hex, where it is known."""

    method: str
    key: str | None
    query: Sequence[tuple[str, str]] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[OwnedPiece] = ()
    size: int = 0
    sha256: str | None = EMPTY_SHA256


Judge = Callable[[Reply], Awaitable[None]]
"""Raises, as the request itself would, where an answer of success is none."""


class _HeldBody:
    """Pieces that are held. Each sending has a body of its own."""

    def __init__(self, pieces: Sequence[OwnedPiece]) -> None:
        self._pieces = pieces
        self._next = 0

    @property
    def is_at_hand(self) -> bool:
        return True

    async def pour(self, take: Take) -> bool:
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            if not take(memoryview(piece) if isinstance(piece, bytearray) else piece):
                break
        return self._next == len(self._pieces)


class Requests:
    """Sends requests to one tenant's bucket."""

    def __init__(self, client: Client, account: Account, config: BucketConfig, signer: Signer, terms: TlsTerms | None = None) -> None:
        self._client = client
        self._signer = signer
        parts = urlsplit(config.url)
        url = httpx.URL(config.url)
        host = url.netloc.decode("ascii")
        if not config.is_path_style:
            host = f"{config.bucket}.{host}"
        self._origin = f"{url.scheme}://{host}"
        origin = httpx.URL(self._origin)
        self._host = origin.netloc.decode("ascii")
        self._base = parts.path.rstrip("/") + (f"/{quote(config.bucket, safe=_UNRESERVED)}" if config.is_path_style else "")
        self._place = Place.of(origin, account, terms or PUBLIC)
        self._is_secret = url.scheme == "https"
        self._connect_seconds, self._idle_seconds = config.connect_timeout_seconds, config.idle_timeout_seconds
        self._total_seconds = config.total_timeout_seconds
        self._connections = asyncio.Semaphore(config.max_connections)
        self.patience = Patience()

    @property
    def signs_bodies(self) -> bool:
        """True when the digest of every body is part of the signature: nothing else protects it on the way."""
        return not self._is_secret

    async def call(self, ask: Ask, patience: Patience | None = None, judge: Judge | None = None) -> Reply:
        """Send a request until it is done, or hopeless.

        Raises:
            Refused: the store said no.
            DependencyFault: it cannot be reached, broke, or is too slow.
        """
        patience = patience or self.patience
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience.total
        attempt = 0
        while True:
            attempt += 1
            pause = patience.pause(attempt)
            is_last = attempt >= patience.tries or loop.time() + pause > deadline
            try:
                return await self._attempt(ask, attempt, judge)
            except Refused as refused:
                refused.attempts = attempt
                if is_last or not refused.is_transient:
                    raise
                pause = max(pause, refused.retry_after)
            except (DestinationUnreachable, DestinationTimeout, DestinationBroke):
                if is_last:
                    raise
            await asyncio.sleep(pause)

    async def _attempt(self, ask: Ask, attempt: int, judge: Judge | None) -> Reply:
        reply = replace(await self._send(ask), attempts=attempt)
        if judge is not None:
            await judge(reply)
        return reply

    async def _send(self, ask: Ask) -> Reply:
        target = self._target(ask)
        signed_digest = ask.sha256 if not self._is_secret or not ask.size else None
        unsigned = Unsigned(ask.method, self._origin + target, {"host": self._host, **ask.fields}, signed_digest)
        fields = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in (await self._signer.sign(unsigned)).items()]
        if ask.size or ask.method in {"PUT", "POST"}:
            fields.append((b"content-length", b"%d" % ask.size))
        request = Outgoing(ask.method, target.encode("ascii"), fields, _HeldBody(ask.pieces), self._connect_seconds, self._idle_seconds)
        async with self._connections:
            try:
                async with asyncio.timeout(self._total_seconds):
                    return await self._exchange(request)
            except TimeoutError:
                raise DestinationTimeout from None
            except httpx.TimeoutException:
                raise DestinationTimeout from None
            except (httpx.TransportError, httpx.StreamError):
                raise DestinationBroke from None

    async def _exchange(self, request: Outgoing) -> Reply:
        answer = await self._client.exchange(self._place, request)
        turn = answer.turn
        try:
            reply = Reply(turn.status, _joined(turn.headers), await _read(answer))
            if not 200 <= reply.status < 300:
                raise read_refusal(reply)
            if not await turn.sent():
                raise DestinationBroke
            return reply
        finally:
            await asyncio.shield(_close(answer))

    def _target(self, ask: Ask) -> str:
        """The request's target: every octet but the unreserved ones is encoded, once."""
        path = self._base + (f"/{quote(ask.key, safe=_UNRESERVED + '/')}" if ask.key is not None else "")
        query = "&".join(f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}" for name, value in ask.query)
        return (path or "/") + (f"?{query}" if query else "")


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for raw, value in headers:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        fields[name] = f"{fields[name]},{text}" if name in fields else text
    return fields


async def _read(answer: Answer) -> bytes:
    """Read an answer.

    Raises:
        DestinationBroke: it is longer than any answer should be.
    """
    body = bytearray()
    pieces: AsyncIterator[bytes] = aiter(answer)
    async for piece in pieces:
        body += piece
        if len(body) > ANSWER_MOST:
            raise DestinationBroke("The store's answer is longer than any answer should be.")
    return bytes(body)


async def _close(answer: Answer) -> None:
    with contextlib.suppress(httpx.HTTPError, OSError):
        await answer.aclose()
