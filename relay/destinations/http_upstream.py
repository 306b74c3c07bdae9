"""A tenant's HTTP service: the request goes on as it came, the answer comes back as it comes.

Body and answer go their own ways (``wire/turn.py``): an answer of 300 or more before the body's end ends the body there; a
success that comes early streams back while the body goes on, and counts only if the whole body got through.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, cast
from urllib.parse import urlsplit

import httpx

from relay.destinations.destination import Body, Delivery, Finding, Headers, Item, Receipt
from relay.destinations.http_config import HttpConfig
from relay.errors import AnsweredEarly, DependencyFault, DestinationBroke, DestinationBusy, DestinationMisconfigured, DestinationTimeout
from relay.protocols.certificates import describe_time, parse_certificates
from relay.protocols.header_rules import as_read, find_value
from relay.wire.client import Account, Place
from relay.wire.pieces import Piece, Take
from relay.wire.tls import PUBLIC, TlsTerms
from relay.wire.turn import OutgoingBody, Turn


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


class _Handover(OutgoingBody):
    """The body as httpx takes it; counts what was handed over."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.bytes = 0

    @property
    def is_at_hand(self) -> bool:
        return self._body.is_at_hand

    async def pour(self, take: Take) -> bool:
        def count(piece: Piece) -> bool:
            self.bytes += len(piece)
            return take(piece)

        return await self._body.pour(count)


class HttpDelivery:
    """One answer of a tenant's service."""

    def __init__(self, response: httpx.Response, handover: _Handover) -> None:
        self._response = response
        self._handover = handover
        self._turn: Turn = response.extensions["turn"]
        self._has_ended = False
        self.status = self._turn.status
        self.headers: Headers = self._turn.headers
        self.is_settled = False

    @property
    def answer_bytes(self) -> int | None:
        """The declared length of the answer; 0 for those that have no body."""
        if self.status in {204, 304}:
            return 0
        declared = find_value(self.headers, b"content-length")
        return int(declared) if declared is not None and find_value(self.headers, b"transfer-encoding") is None else None

    @property
    def is_body_taken(self) -> bool:
        """True once the whole body was handed over."""
        return self._turn.is_sent

    async def answer(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes, undecoded."""
        with _translated:
            # Not aiter_raw(): that closes the response at the answer's end, and the body may still be going.
            async for chunk in cast("httpx.AsyncByteStream", self._response.stream):
                yield chunk
        self._has_ended = True

    async def settled(self) -> Receipt:
        """Say what was handed over, once the whole answer was seen."""
        if not self._has_ended:
            async for _ in self.answer():
                pass
        with _translated:
            is_sent = await self._turn.sent()
        if not is_sent:
            raise AnsweredEarly
        self.is_settled = True
        return Receipt(bytes=self._handover.bytes)


class _Translation:
    """Says in our words what httpx and the sockets below it say in theirs."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, httpx.TimeoutException):
            raise DestinationTimeout from None
        if isinstance(error, httpx.TransportError | httpx.InvalidURL | httpx.StreamError):
            raise DestinationBroke from None


_translated: Final = _Translation()
"""One for all: it keeps nothing, and a generator for each use would cost a small upload more than its body does."""


class HttpUpstream:
    """One tenant's HTTP service."""

    def __init__(
        self, client: httpx.AsyncClient, account: Account, config: HttpConfig, headers: Mapping[str, str], terms: TlsTerms | None = None
    ) -> None:
        self._client = client
        self._config = config
        self._base = Base.of(config.base_url, config.host)
        self._pooled = Place.of(self._base.url, account, terms or PUBLIC)
        idle = config.idle_timeout_seconds
        self._timeouts = {"connect": config.connect_timeout_seconds, "read": idle, "write": idle, "pool": None}
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

    @contextlib.asynccontextmanager
    async def deliver(self, item: Item, body: Body) -> AsyncIterator[Delivery]:
        """Send the item on; entering returns with the head of the answer.

        Raises:
            DestinationBusy: all the connections it may have are in use.
            DependencyFault: it could not be reached, broke, or was too slow.
        """
        self.check_item(item)
        self._running += 1
        response: httpx.Response | None = None
        total = asyncio.timeout(self._config.total_timeout_seconds)
        try:
            async with total:
                response, handover = await self._send(item, body)
                if not 200 <= response.status_code < 600:
                    raise DestinationBroke("The destination's answer has a status that answers no upload. What it kept is unknown.")
                yield HttpDelivery(response, handover)
        except TimeoutError:
            if total.expired():
                raise DestinationTimeout("The upload took longer than the destination's total timeout.") from None
            raise
        finally:
            self._running -= 1
            if response is not None:
                turn: Turn = response.extensions["turn"]
                # Closing what has ended waits for nothing, so there is nothing to shield.
                await (_close(response) if turn.is_over else asyncio.shield(_close(response)))

    async def _send(self, item: Item, body: Body) -> tuple[httpx.Response, _Handover]:
        handover = _Handover(body)
        with _translated:
            return await self._client.send(self._request(item, handover), stream=True), handover

    def _request(self, item: Item, handover: _Handover) -> httpx.Request:
        framing = [(b"transfer-encoding", b"chunked")]
        if item.declared_bytes is not None:
            framing = [(b"content-length", b"%d" % item.declared_bytes)]
        passed = item.headers
        if self._own_names:
            passed = [(name, value) for name, value in passed if as_read(name) not in self._own_names]
        return httpx.Request(
            item.method,
            self._base.url,
            stream=handover,
            extensions={
                "fields": [(b"host", self._base.host), *passed, *self._own_headers, *framing],
                "target": self._base.target(item.path, item.query),
                "timeout": self._timeouts,
                "place": self._pooled,
            },
        )

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
        request = httpx.Request(
            "HEAD",
            self._base.url,
            headers=[(b"host", self._base.host), *self._own_headers],
            extensions={"timeout": self._timeouts, "place": self._pooled},
        )
        try:
            async with asyncio.timeout(self._config.connect_timeout_seconds * 2):
                with _translated:
                    response = await self._client.send(request, stream=True)
        except TimeoutError:
            return Finding(ok=False, code=DestinationTimeout.code, detail="The service accepts connections but does not answer HEAD.")
        except DependencyFault as error:
            return Finding(ok=False, code=error.code, detail=error.detail)
        await _close(response)
        if response.status_code >= 500:
            return Finding(ok=False, code=DestinationBroke.code, detail=f"The service answers HEAD with {response.status_code}.")
        return Finding(ok=True, code=None, detail=f"The service answers HEAD with {response.status_code}.")

    async def close(self) -> None:
        """Nothing is held here: connections belong to the shared client."""


async def _close(response: httpx.Response) -> None:
    with contextlib.suppress(httpx.HTTPError, OSError):
        await response.aclose()
