"""A tenant's HTTP service: the request goes on as it came, the answer comes back as it comes.

Body and answer go their own ways (``wire/turn.py``): an answer of 300 or more before the body's end ends the body there; a
success that comes early streams back while the body goes on, and counts only if the whole body got through.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from relay.destinations.destination import Body, Finding, Headers, Item, Receipt
from relay.destinations.http_config import HttpConfig
from relay.errors import AnsweredEarly, DependencyFault, DestinationBroke, DestinationBusy, DestinationMisconfigured, DestinationTimeout
from relay.protocols.certificates import describe_time, parse_certificates
from relay.protocols.header_rules import Field, as_read, find_value
from relay.wire.client import Account, Answer, Client, Place
from relay.wire.tls import PUBLIC, TlsTerms
from relay.wire.turn import NoBody, Outgoing, OutgoingBody, Turn


@dataclass(frozen=True, slots=True)
class Base:
    """A base URL, parsed once."""

    url: httpx.URL
    host: bytes
    base_path: bytes

    @classmethod
    def of(cls, base_url: str, host: str | None = None) -> "Base":
        """Parse a base URL that was checked when it was configured; ``host`` is another ``Host`` than its own."""
        url = httpx.URL(base_url)
        parts = urlsplit(str(url))
        return cls(url, host.encode("ascii") if host is not None else url.netloc, parts.path.rstrip("/").encode("ascii"))

    def target(self, path: bytes, query: bytes) -> bytes:
        """The request target for a path below the base."""
        target = self.base_path + b"/" + path
        return target + b"?" + query if query else target


class HttpDelivery:
    """One answer of a tenant's service, and its body as an iterator."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._has_ended = False
        self.status = turn.status
        self.headers: Headers = turn.headers
        self.answer_bytes = _length_of(turn)
        """The declared length of the answer; 0 for those that have no body."""
        self.is_settled = False

    @classmethod
    def of(cls, turn: Turn) -> Self:
        """The delivery that an answer makes.

        Raises:
            DestinationBroke: its status answers no upload.
        """
        if not 200 <= turn.status < 600:
            raise DestinationBroke("The destination's answer has a status that answers no upload. What it kept is unknown.")
        return cls(turn)

    @property
    def is_body_taken(self) -> bool:
        """True once the whole body was handed over."""
        return self._turn.is_sent

    def answer(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes, undecoded."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._turn.next_piece()
        except _BROKEN as error:
            raise _translated(error) from None
        if piece is None:
            self._has_ended = True
            raise StopAsyncIteration
        return piece

    async def settled(self) -> Receipt:
        """Say what was handed over, once the whole answer was seen."""
        if not self._has_ended:
            async for _ in self:
                pass
        try:
            is_sent = self._turn.is_sent or await self._turn.sent()
        except _BROKEN as error:
            raise _translated(error) from None
        if not is_sent:
            raise AnsweredEarly
        self.is_settled = True
        return Receipt(bytes=self._turn.body_bytes)


def _length_of(turn: Turn) -> int | None:
    if turn.status in {204, 304}:
        return 0
    declared = find_value(turn.headers, b"content-length")
    return int(declared) if declared is not None and find_value(turn.headers, b"transfer-encoding") is None else None


_BROKEN: Final = (httpx.TransportError, httpx.StreamError, httpx.InvalidURL)


def _translated(error: Exception) -> DependencyFault:
    """Say in our words what httpx and the sockets below it say in theirs."""
    return DestinationTimeout() if isinstance(error, httpx.TimeoutException) else DestinationBroke()


class _Delivering:
    """One delivery: entering sends the request, leaving stops both directions."""

    def __init__(self, upstream: "HttpUpstream", item: Item, body: Body, total_seconds: float | None) -> None:
        self._upstream = upstream
        self._item = item
        self._body = body
        self._total = asyncio.timeout(total_seconds) if total_seconds is not None else None
        self._answer: Answer | None = None

    async def __aenter__(self) -> HttpDelivery:
        self._upstream.enter(self._item)
        try:
            if self._total is not None:
                await self._total.__aenter__()
            self._answer = await self._upstream.send(self._item, self._body)
            return HttpDelivery.of(self._answer.turn)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._total is not None:
                await self._total.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DestinationTimeout("The upload took longer than the destination's total timeout.") from None
        finally:
            self._upstream.leave()
            if self._answer is not None:
                # Closing what has ended waits for nothing, so there is nothing to shield.
                closing = self._answer.aclose()
                await (closing if self._answer.turn.is_over else asyncio.shield(closing))


class HttpUpstream:
    """One tenant's HTTP service."""

    def __init__(
        self, client: Client, account: Account, config: HttpConfig, headers: Mapping[str, str], terms: TlsTerms | None = None
    ) -> None:
        self._client = client
        self._config = config
        self._base = Base.of(config.base_url, config.host)
        self._pooled = Place.of(self._base.url, account, terms or PUBLIC)
        self._own_headers = [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]
        self._own_names = {as_read(name.lower()) for name, _ in self._own_headers}
        self._running = 0

    def check_item(self, item: Item) -> None:
        """Refuse an item while all the connections that the destination may have are in use.

        Raises:
            DestinationBusy: as it says.
        """
        del item
        if self._running >= self._config.max_connections:
            raise DestinationBusy

    def deliver(self, item: Item, body: Body) -> _Delivering:
        """Send the item on; entering returns with the head of the answer.

        Raises:
            DestinationBusy: all the connections it may have are in use.
            DependencyFault: it could not be reached, broke, or was too slow.
        """
        return _Delivering(self, item, body, self._config.total_timeout_seconds)

    def enter(self, item: Item) -> None:
        """A delivery begins.

        Raises:
            DestinationBusy: see ``check_item``.
        """
        self.check_item(item)
        self._running += 1

    def leave(self) -> None:
        """It has ended."""
        self._running -= 1

    async def send(self, item: Item, body: Body) -> Answer:
        """Send the request of a delivery; returns with the head of the answer.

        Raises:
            DependencyFault: as ``deliver``.
        """
        framing = (b"transfer-encoding", b"chunked")
        if item.declared_bytes is not None:
            framing = (b"content-length", b"%d" % item.declared_bytes)
        passed = item.headers
        if self._own_names:
            passed = [(name, value) for name, value in passed if as_read(name) not in self._own_names]
        fields = [(b"host", self._base.host), *passed, *self._own_headers, framing]
        return await self._send(item.method, self._base.target(item.path, item.query), fields, body)

    async def _send(self, method: str, target: bytes, fields: Sequence[Field], body: OutgoingBody) -> Answer:
        config = self._config
        try:
            return await self._client.exchange(
                self._pooled, Outgoing(method, target, fields, body, config.connect_timeout_seconds, config.idle_timeout_seconds)
            )
        except _BROKEN as error:
            raise _translated(error) from None

    async def check(self) -> Finding:
        """Look the name up, connect, make TLS, and ask ``HEAD`` of the base URL."""
        finding = await self._ask()
        expired = self._find_expired(datetime.now(UTC))
        if expired is None:
            return finding
        detail = expired if finding.ok else f"{expired} {finding.detail}"
        return Finding(ok=False, code=finding.code or DestinationMisconfigured.code, detail=detail)

    def _find_expired(self, now: datetime) -> str | None:
        """Say so when a certificate of the configuration is not valid: a service may take it all the same, until it does not."""
        tls = self._config.tls
        if tls is not None and tls.client_certificate is not None:
            problem = describe_time(parse_certificates(tls.client_certificate), now)
            if problem is not None:
                return f"The client certificate {problem}: set config.tls.client_certificate and secrets.tls.client_key anew."
        if tls is not None and tls.ca is not None and (last := parse_certificates(tls.ca).last_ends_at) <= now:
            return f"What config.tls.ca trusts expired at {last:%Y-%m-%d %H:%M} UTC: set it anew."
        return None

    async def _ask(self) -> Finding:
        try:
            async with asyncio.timeout(self._config.connect_timeout_seconds * 2):
                answer = await self._send("HEAD", self._base.url.raw_path, [(b"host", self._base.host), *self._own_headers], NoBody())
        except TimeoutError:
            return Finding(ok=False, code=DestinationTimeout.code, detail="The service accepts connections but does not answer HEAD.")
        except DependencyFault as error:
            return Finding(ok=False, code=error.code, detail=error.detail)
        await answer.aclose()
        status = answer.turn.status
        if status >= 500:
            return Finding(ok=False, code=DestinationBroke.code, detail=f"The service answers HEAD with {status}.")
        return Finding(ok=True, code=None, detail=f"The service answers HEAD with {status}.")

    async def close(self) -> None:
        """Nothing is held here: connections belong to the shared client."""
