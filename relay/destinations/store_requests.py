"""One request to a store of objects and its answer, whole: over the shared client, within limits, sent again where that helps.

Knows no kind of store: who signs, and what a refusal means, is its caller's. What is sent is held by the caller until it is
acknowledged, so any request may be sent again; how often and how long one tries is bounded. Redirects are not followed.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import httpx

from relay.destinations.parts import OwnedPiece
from relay.errors import DestinationBroke, DestinationTimeout, DestinationUnreachable
from relay.wire import client as wire
from relay.wire.client import Account, Client, Place
from relay.wire.pieces import PLENTY, Room, Take
from relay.wire.tls import PUBLIC, TlsTerms
from relay.wire.turn import Outgoing

ANSWER_MOST: Final = 1 << 20
"""More than any answer to what is asked here should have (bytes)."""
LEAST_BYTES: Final = 256 << 10
"""So much is given where nobody knows of room for more, as over TLS: what is given there is encrypted at once."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a store, whole. ``fields`` have lower-case names."""

    status: int
    fields: Mapping[str, str]
    body: bytes = b""


class Refusal(Exception):
    """A store said no. Each kind has its own, and says it to others in our words."""

    @property
    def is_transient(self) -> bool:
        """True when asking again may help."""
        raise NotImplementedError

    @property
    def retry_after(self) -> float:
        """How long the store wants to be left alone (seconds), within reason."""
        raise NotImplementedError


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

    async def insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Try until it succeeds, or is hopeless.

        Raises:
            Refusal: the store said no.
            DependencyFault: it cannot be reached, broke, or is too slow.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.total
        count = 0
        while True:
            count += 1
            pause = self.pause(count)
            try:
                return await attempt()
            except (Refusal, DestinationUnreachable, DestinationTimeout, DestinationBroke) as error:
                if isinstance(error, Refusal):
                    pause = max(pause, error.retry_after)
                    if not error.is_transient:
                        raise
                if count >= self.tries or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)


class Limits(Protocol):
    """What a store's owner says of time and connections."""

    @property
    def connect_timeout_seconds(self) -> float: ...
    @property
    def idle_timeout_seconds(self) -> float: ...
    @property
    def max_connections(self) -> int: ...


class StoreLine:
    """The way to one store."""

    def __init__(self, client: Client, account: Account, url: str, limits: Limits, terms: TlsTerms | None = None) -> None:
        self._client = client
        self._url = httpx.URL(url)
        self._place = Place.of(self._url, account, terms or PUBLIC)
        self._connect_seconds, self._idle_seconds = limits.connect_timeout_seconds, limits.idle_timeout_seconds
        self._connections = asyncio.Semaphore(limits.max_connections)

    @property
    def host(self) -> str:
        """The ``Host`` of requests."""
        return self._url.netloc.decode("ascii")

    async def send(
        self, method: str, target: str, fields: Mapping[str, str], pieces: Sequence[OwnedPiece], total_seconds: float | None = None
    ) -> Reply:
        """Send a request, once there is a connection for it; from then on it may take so long.

        Raises:
            DependencyFault: the store cannot be reached, broke, or is too slow.
        """
        lines = [(b"host", self.host.encode("ascii")), *((name.encode("ascii"), value.encode("latin-1")) for name, value in fields.items())]
        request = Outgoing(method, target.encode("ascii"), lines, _HeldBody(pieces), self._connect_seconds, self._idle_seconds)
        async with self._connections:
            try:
                async with asyncio.timeout(total_seconds):
                    return await self._exchange(request)
            except (TimeoutError, httpx.TimeoutException):
                raise DestinationTimeout from None
            except (httpx.TransportError, httpx.StreamError):
                raise DestinationBroke from None

    async def _exchange(self, request: Outgoing) -> Reply:
        answer = await self._client.exchange(self._place, request)
        turn = answer.turn
        try:
            body = await _read(answer)
            if turn.status < 300 and not await turn.sent():
                raise DestinationBroke
            return Reply(turn.status, _joined(turn.headers), body)
        finally:
            await _close(answer)


class _HeldBody:
    """Pieces that are held. Each sending has a body of its own. It gives what there is room for: what is more would be copied."""

    def __init__(self, pieces: Sequence[OwnedPiece]) -> None:
        self._pieces = pieces
        self._next = 0
        self._at = 0

    @property
    def is_at_hand(self) -> bool:
        return True

    async def pour(self, take: Take) -> bool:
        room: Room = LEAST_BYTES
        while room and self._next < len(self._pieces):
            piece = memoryview(self._pieces[self._next]).toreadonly()
            end = self._at + (room if isinstance(room, int) and LEAST_BYTES < room < PLENTY else LEAST_BYTES)
            view, self._at = piece[self._at : end], end
            if end >= len(piece):
                self._next, self._at = self._next + 1, 0
            room = take(view)
        return self._next >= len(self._pieces)  # of what is given up nothing is left


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for raw, value in headers:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        fields[name] = f"{fields[name]},{text}" if name in fields else text
    return fields


async def _read(answer: wire.Answer) -> bytes:
    body = bytearray()
    async for piece in answer:
        body += piece
        if len(body) > ANSWER_MOST:
            raise DestinationBroke("The store's answer is longer than any answer should be.")
    return bytes(body)


async def _close(answer: wire.Answer) -> None:
    with contextlib.suppress(httpx.HTTPError, OSError):
        await answer.aclose()
