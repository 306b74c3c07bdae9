"""The transport under the one shared ``httpx.AsyncClient`` that carries every outgoing byte.

A pool for each account (a tenant's destination): connections are never shared across tenants, and there
is no common limit that one tenant could exhaust. Pools that nobody uses are closed after a while.

A request names its account in ``extensions["account"]``. Retries, redirects, cookies and proxies do
not exist here: what is sent again, and when, is decided where it is known whether a byte was written.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast

import httpcore
import httpx

from relay.wire.names import Names
from relay.wire.stream import Dialler, Permit

IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Account:
    """On whose behalf a request goes out."""

    tenant: str
    destination: str


class _Answer(httpx.AsyncByteStream):
    """An answer's body; its pool counts as used until this is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, pool: "_Pool") -> None:
        self._stream = stream
        self._pool = pool
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            self._pool.release()
            await self._stream.aclose()


class _Connection(httpcore.AsyncHTTPConnection):
    """A connection that is not used again when more came on it than one answer: the rest would pass for the next one."""

    def has_expired(self) -> bool:
        inner = self._connection
        # Only the parser knows what it has not parsed, and httpcore does not ask it.
        has_rest = isinstance(inner, httpcore.AsyncHTTP11Connection) and inner.is_idle() and bool(inner._h11_state.trailing_data[0])  # noqa: SLF001
        return has_rest or super().has_expired()


class _Connections(httpcore.AsyncConnectionPool):
    """A pool of such connections."""

    def __init__(self, context: ssl.SSLContext, dialler: Dialler) -> None:
        super().__init__(ssl_context=context, max_connections=None, keepalive_expiry=IDLE_SECONDS, retries=0, network_backend=dialler)
        self._make = functools.partial(_Connection, ssl_context=context, keepalive_expiry=IDLE_SECONDS, network_backend=dialler)

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        return self._make(origin)


class _Pool(httpx.AsyncHTTPTransport):
    """The connections of one account."""

    def __init__(self, context: ssl.SSLContext, dialler: Dialler) -> None:
        # Not calling httpx's own constructor is deliberate: it builds a TLS context for every pool
        # (20 ms) and offers no way to say how to connect. May go when httpx takes a network backend.
        self._pool = _Connections(context, dialler)
        self._running = 0
        self._released_at = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._running += 1
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            self.release()
            raise
        response.stream = _Answer(cast("httpx.AsyncByteStream", response.stream), self)
        return response

    def release(self) -> None:
        self._running -= 1
        self._released_at = asyncio.get_running_loop().time()

    def is_idle_since(self, moment: float) -> bool:
        return not self._running and self._released_at < moment


class Transport(httpx.AsyncBaseTransport):
    """Sends each request through the pool of its account."""

    def __init__(self, names: Names, permit: Permit, context: ssl.SSLContext | None = None) -> None:
        self._names = names
        self._permit = permit
        self._context = context or httpx.create_ssl_context()
        self._pools: dict[Account, _Pool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and give its answer as soon as the head is there.

        Raises:
            DependencyFault: no connection could be made; nothing was sent.
            httpx.TransportError: the connection broke or fell silent later.
        """
        account: Account = request.extensions["account"]
        pool = self._pools.get(account)
        if pool is None:
            pool = self._pools[account] = _Pool(self._context, Dialler(self._names, self._permit, account.tenant))
        return await pool.handle_async_request(request)

    async def close_idle(self) -> None:
        """Close the pools that nobody used for a while. Called from time to time."""
        moment = asyncio.get_running_loop().time() - IDLE_SECONDS
        for account, pool in list(self._pools.items()):
            if pool.is_idle_since(moment):
                del self._pools[account]
                await pool.aclose()

    async def aclose(self) -> None:
        while self._pools:
            _, pool = self._pools.popitem()
            await pool.aclose()


def make_client(transport: Transport) -> httpx.AsyncClient:
    """The one client of a process: no cookies, no redirects, nothing from the environment."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(transport=transport, cookies=no_cookies, follow_redirects=False, trust_env=False, timeout=None)  # noqa: S113 - every request carries its own timeouts
