"""A network of the run's own: a loopback with what the kernel comes with, whatever the host is set to, and nobody's packet filter.

A host that is set to BBR sets a timer for every segment, on the loopback too. That may cost more than the whole transfer, a server
that does little the more of its time, and says nothing of any of them.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.processes import BrokenError

CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
KERNELS_OWN: Final = "cubic"
OWN, HOSTS = "a network of its own", "the host"

_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_INTERFACE: Final = struct.Struct("16sh14x")


def enter_network() -> str:
    """Have this process, and all that it starts, live in a network of its own; return which one it is in.

    That needs a right that root has, though seldom in a container; without it everything stays as it is. To be called while the
    process has one thread.

    Raises:
        BrokenError: there is a new network, but its loopback may not be set up.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(_CLONE_NEWNET):
        return HOSTS
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(b"lo", _IFF_UP))
    except OSError as error:
        raise BrokenError(f"no loopback in a network of its own ({error.strerror}): use --host-network") from None
    with contextlib.suppress(OSError):  # the page tells what it is
        CONGESTION.write_text(KERNELS_OWN, encoding="ascii")
    return OWN


def congestion_control() -> str:
    """How connections are kept from congesting what lies between, as the system is set."""
    try:
        return CONGESTION.read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown ({os.uname().sysname})"


def told_network(about: Mapping[str, Any]) -> str:
    """Which network a run was in, and how connections there are kept from congesting it."""
    return f"the loopback of {about['network']}, {about['congestion']}"
