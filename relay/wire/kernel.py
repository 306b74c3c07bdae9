"""What the kernel does for a TCP connection, and tells of it, and the loop does not. Where it does not either, the answer does no harm."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

from relay.wire.pieces import PLENTY

_TCP_CLOSE: Final = 7
_SO_MEMINFO: Final = 55
_MEMORY: Final = struct.Struct("9I")
_SNDBUF, _WMEM_QUEUED = 3, 5
"""Of ``SO_MEMINFO`` (``linux/sock_diag.h``): what the buffer of what is to be sent may take, and what it does (bytes)."""

PACING: Final = frozenset({b"bbr", b"bbr2", b"bbr3"})
"""Ways to control congestion that pace what is sent."""
_UNPACED: Final = b"reno"
"""The one that every kernel has, and everybody may choose (``tcp_congestion_control``, tcp(7))."""
_NAME_BYTES: Final = 16


def socket_of(transport: asyncio.BaseTransport) -> socket.socket | None:
    """The socket of a connection, as far as the loop shows it."""
    plain: socket.socket | None = transport.get_extra_info("socket")
    return plain


def is_reset(plain: socket.socket | None) -> bool:
    """Whether the peer has reset the connection: nothing is told of that while nothing is read."""
    if plain is None or sys.platform != "linux":
        return False
    state: int = struct.unpack("B", plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))[0]
    return state == _TCP_CLOSE


def room_of(plain: socket.socket | None) -> int:
    """About how many bytes would be taken at once; below 0 while more waits than should."""
    if plain is None or sys.platform != "linux":
        return PLENTY
    memory = _MEMORY.unpack(plain.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))
    return int(memory[_SNDBUF]) - int(memory[_WMEM_QUEUED])


def unacknowledged_bytes(file: int) -> int:
    """How many bytes were sent, or are to be, that the peer has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(file, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


def end_by_reset(plain: socket.socket | None) -> None:
    """Have the close of a connection be a reset, whatever waits to be sent."""
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def unpaced_socket(address: str) -> socket.socket | None:
    """A socket to connect to this host itself; None for any other host, and where the system paces nothing anyway.

    Between processes of one host nothing can be congested, but a system that is set to BBR sets a timer there, too, for every
    segment, which costs more than the segment does. It has to be chosen before the connection is made.

    Raises:
        OSError: the system has no socket left.
    """
    if sys.platform != "linux" or not (address.startswith("127.") or address == "::1"):
        return None
    plain = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        chosen = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
        if chosen.rstrip(b"\0") in PACING:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)
            plain.setblocking(False)
            return plain
    except OSError:
        pass  # it is connected as it is
    plain.close()
    return None
