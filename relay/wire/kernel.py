"""What the kernel tells of a TCP connection, and the loop does not. Where it does not tell either, the answer is what does no harm."""

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
