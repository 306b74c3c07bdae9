"""Connecting: look the name up, judge each address, connect to it, make TLS.

The address that is judged is the address that is connected to: nothing is looked up twice, so a name that changes
between judging and connecting gains nothing.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from relay.errors import DestinationRefusedTls, DestinationTimeout, DestinationUnreachable, EgressDenied
from relay.wire.channel import Channel
from relay.wire.kernel import unpaced_socket
from relay.wire.names import Names
from relay.wire.tls import Contexts, TlsTerms, explain

Permit = Callable[[str, str], bool]
"""``permit(host, address)``: may this host be reached at this address?"""

HANDSHAKE_SECONDS: Final = 30.0


class Dialler:
    """Makes connections, each on one tenant's account."""

    def __init__(self, names: Names, permit: Permit, contexts: Contexts) -> None:
        self._names = names
        self._permit = permit
        self._contexts = contexts

    async def dial(self, host: str, port: int, *, owner: str, terms: TlsTerms | None, timeout: float | None) -> Channel:
        """Connect to the first permitted address that answers; ``timeout`` (seconds) bounds them all together.

        With ``terms`` TLS is made on them, for their name or else for the host, whatever address was connected to.

        Raises:
            EgressDenied: no address of the host is permitted.
            DestinationUnreachable: none answers.
            DestinationRefusedTls: it answers, but no trusted connection could be made.
            DestinationMisconfigured: the terms cannot be used.
            DestinationTimeout: none answered in time.
        """
        permitted = [address for address in await self._names.addresses(host, owner) if self._permit(host, address)]
        if not permitted:
            raise EgressDenied
        try:
            async with asyncio.timeout(timeout):
                if terms is None:
                    return (await _first_that_answers(permitted, port))[1]
                context = await self._contexts.get(terms)
                transport, channel = await _first_that_answers(permitted, port)
                return await _secured(transport, channel, context, terms.server_name or host.rstrip("."))
        except TimeoutError:
            raise DestinationTimeout("The tenant's destination did not accept a connection in time. Nothing was delivered.") from None


async def _first_that_answers(addresses: list[str], port: int) -> tuple[asyncio.Transport, Channel]:
    loop = asyncio.get_running_loop()
    for address in addresses:
        try:
            unpaced = unpaced_socket(address)
            if unpaced is None:
                return await loop.create_connection(Channel, address, port)
            return await _on_socket(unpaced, address, port)
        except OSError:
            continue
    raise DestinationUnreachable


async def _on_socket(plain: socket.socket, address: str, port: int) -> tuple[asyncio.Transport, Channel]:
    """Connect a socket that was set up before, as the loop does not.

    Raises:
        OSError: nobody answers there.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(plain, (address, port))
        return await loop.create_connection(Channel, sock=plain)
    except BaseException:
        plain.close()
        raise


async def _secured(transport: asyncio.Transport, channel: Channel, context: ssl.SSLContext, name: str) -> Channel:
    """Make TLS on a connection.

    Raises:
        DestinationRefusedTls: the peer, its certificate or the handshake is no good.
    """
    loop = asyncio.get_running_loop()
    try:
        secured = await loop.start_tls(transport, channel, context, server_hostname=name, ssl_handshake_timeout=HANDSHAKE_SECONDS)
    except (OSError, ValueError) as error:  # ValueError, of which UnicodeError is one: a name that TLS cannot ask for
        transport.abort()
        raise explain(error) from None
    except BaseException:
        transport.abort()
        raise
    if secured is None:
        raise DestinationRefusedTls
    channel.secure(transport, secured)
    return channel
