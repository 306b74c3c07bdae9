"""The listening sockets: bound once by the supervisor, inherited by every worker.

A port stays ours as long as the supervisor lives: connections that come while a worker is being
replaced wait in the backlog.
"""

import errno
import socket

from relay.settings import parse_listen

BACKLOG = 2_048


class PortBusy(Exception):
    """A socket cannot be bound; the message names the variable, the address and what to do."""


def bind(variable: str, listen: str) -> socket.socket:
    """Bind and listen on ``host:port``, the value of ``variable``.

    Raises:
        PortBusy: the address is in use, not ours, or not permitted.
    """
    host, port = parse_listen(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortBusy(f"{variable} {listen} cannot be used: {error.strerror}. Set {variable} to an address of this machine.") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(f"{variable} {listen} is in use. Stop what uses it, or set {variable} to another port.") from None
        raise PortBusy(f"{variable} {listen} cannot be used: {error.strerror}. Set {variable} to another address.") from None
    bound.set_inheritable(True)
    return bound


def url_of(bound: socket.socket, *, is_tls: bool = False) -> str:
    """The URL under which a client on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    return url_at(host, port, is_tls=is_tls)


def url_at(host: str, port: int, *, is_tls: bool) -> str:
    """The URL of a listener, for a client on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - every interface includes the loopback
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
