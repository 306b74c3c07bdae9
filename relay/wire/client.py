"""The transport under the one shared ``httpx.AsyncClient`` that carries every outgoing byte.

A pool for each account (a tenant's destination), address and set of TLS terms: connections are never shared across
tenants, nor taken by a destination whose terms have changed, and there is no common limit that one tenant could exhaust.
An idle connection closes itself when the peer does, or after a while.

A request goes to a place, made once for many; one of httpx's names it in ``extensions["place"]``. It is sent again only when
that cannot do it twice:

(a) a connection that was closed before the first write is passed over; nothing was sent on it;
(b) on a reused connection that ended without a byte of answer, before any of a body that is not empty was asked for.

Redirects, cookies and proxies do not exist here.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

from relay.wire.channel import Channel
from relay.wire.dialling import Dialler, Permit
from relay.wire.names import Names
from relay.wire.tls import PUBLIC, Contexts, TlsTerms
from relay.wire.turn import Outgoing, Turn

IDLE_SECONDS: Final = 30.0
IDLE_MOST: Final = 100
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Account:
    """On whose behalf a request goes out."""

    tenant: str
    destination: str


@dataclass(frozen=True, slots=True)
class Place:
    """What connections are pooled by: whose, where to, and on which terms TLS was made; ``None`` without TLS."""

    account: Account
    scheme: str
    host: str
    port: int
    terms: TlsTerms | None

    @classmethod
    def of(cls, url: httpx.URL, account: Account, terms: TlsTerms = PUBLIC) -> "Place":
        """Where requests to a URL go, on an account."""
        # The host as it is written on the wire: the decoded form of an international name may be looked up as another one.
        host = url.raw_host.decode("ascii")
        return cls(account, url.scheme, host, url.port or PORTS[url.scheme], terms if url.scheme == "https" else None)


class Answer(httpx.AsyncByteStream):
    """An answer whose head has come. Closing it ends its turn, and gives the connection back if it is still good."""

    def __init__(self, turn: Turn, channel: Channel, place: Place, transport: "Transport") -> None:
        self.turn = turn
        self._channel = channel
        self._place = place
        self._transport = transport
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self.turn.next_piece()) is not None:
            yield piece

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            if await self.turn.close():
                self._transport.keep(self._place, self._channel)


class Transport(httpx.AsyncBaseTransport):
    """Sends each request on a connection of its account."""

    def __init__(self, names: Names, permit: Permit, context: ssl.SSLContext | None = None) -> None:
        self._dialler = Dialler(names, permit, Contexts(context))
        self._idle: dict[Place, list[Channel]] = {}
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send any request of httpx. Raises what ``exchange`` raises."""
        answer = await self.exchange(request.extensions["place"], Outgoing.of(request))
        return httpx.Response(answer.turn.status, headers=answer.turn.headers, stream=answer)

    async def exchange(self, place: Place, request: Outgoing) -> Answer:
        """Send a request and give its answer as soon as the head is there.

        Raises:
            DependencyFault: no connection could be made; nothing was sent.
            httpx.TransportError: the connection broke or stood still later.
            RelayError: the request's body broke.
        """
        while True:
            channel = self._reuse(place) or await self._connect(place, request.connect_seconds)
            turn = Turn(channel, request)
            try:
                await turn.run()
            except httpx.ReadError:
                await turn.close()
                if channel.is_reused and turn.declared_bytes != 0 and turn.is_silent and not turn.is_body_asked:
                    continue
                raise
            except BaseException:
                if await turn.close():  # given up in the moment in which all was there
                    self.keep(place, channel)
                raise
            return Answer(turn, channel, place, self)

    def _reuse(self, place: Place) -> Channel | None:
        idle = self._idle.get(place, [])
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while idle:
            channel = idle.pop()
            if channel.is_open and channel.idle_since > oldest and channel.is_quiet:
                return channel
            channel.abort()
        return None

    async def _connect(self, place: Place, timeout: float | None) -> Channel:
        return await self._dialler.dial(place.host, place.port, owner=place.account.tenant, terms=place.terms, timeout=timeout)

    def keep(self, place: Place, channel: Channel) -> None:
        """Keep a connection for the next request to the same place."""
        idle = self._idle.setdefault(place, [])
        if self._is_closed or len(idle) >= IDLE_MOST:
            channel.abort()
        else:
            idle.append(channel)

    async def close_idle(self) -> None:
        """Close the connections that nobody used for a while. Called from time to time."""
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        for place, channels in list(self._idle.items()):
            for channel in channels:
                if channel.idle_since <= oldest:
                    channel.abort()
            still = [channel for channel in channels if channel.is_open]
            if still:
                self._idle[place] = still
            else:
                del self._idle[place]

    async def aclose(self) -> None:
        self._is_closed = True
        for channels in self._idle.values():
            for channel in channels:
                channel.abort()
        self._idle.clear()


class Client(httpx.AsyncClient):
    """The one client of a process. What it sends goes to the transport as it is, and the answer comes back as it is.

    ``httpx.AsyncClient.send`` asks cookies, authentication and redirects for every request. None of them exists here, and
    to find that out costs as much as the rest of a small upload. An upload, whose fields pass as they are on the wire, is
    not made a request of httpx at all (``exchange``).
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport=transport, follow_redirects=False, trust_env=False, timeout=None)
        self.exchange = transport.exchange

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request; ``stream=True`` is the only way.

        Raises:
            DependencyFault, httpx.TransportError: see ``Transport.handle_async_request``.
        """
        if self.is_closed or not options.get("stream"):
            raise RuntimeError("the client is closed, or was asked for more than a stream")
        response = await self._transport.handle_async_request(request)
        response.request = request
        return response


def make_client(transport: Transport) -> Client:
    """The one client of a process: no cookies, no redirects, nothing from the environment."""
    return Client(transport)
