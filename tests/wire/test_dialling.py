"""Connections to this host itself: never paced, whatever the system is set to; to other hosts, as the system is set."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.errors import DestinationTimeout, DestinationUnreachable
from relay.settings import DnsSettings
from relay.wire import kernel
from relay.wire.channel import Channel
from relay.wire.dialling import Dialler
from relay.wire.kernel import unpaced_socket
from relay.wire.names import Names
from relay.wire.tls import Contexts
from tests.support.loops import LOOPS, run_in
from tests.wire.test_client import server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's: run the tests there")

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


def way_of(plain: socket.socket) -> bytes:
    """How a socket controls congestion."""
    return plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def way_of_system() -> bytes:
    with socket.socket() as plain:
        return way_of(plain)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system is set to counts as one that paces: setting it to another would be everybody's business."""
    monkeypatch.setattr(kernel, "PACING", {way_of_system()})


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close when the other side does."""
    await reader.read()
    writer.close()


async def dialled(port: int, host: str = "127.0.0.1", seconds: float = 10.0) -> Channel:
    names = Names(DnsSettings())
    try:
        dialler = Dialler(names, lambda _host, _address: True, Contexts(None))
        return await dialler.dial(host, port, owner="acme", terms=None, timeout=seconds)
    finally:
        names.close()


async def way_to(port: int, host: str) -> bytes:
    channel = await dialled(port, host)
    try:
        assert channel._plain is not None
        return way_of(channel._plain)
    finally:
        channel.abort()


async def way_to_server(host: str = "127.0.0.1") -> bytes:
    async with server(hang_up, host=host) as port:
        return await way_to(port, host)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@on_both_loops
@pytest.mark.usefixtures("paced")
def test_a_connection_to_this_host_is_not_paced(loop: str) -> None:
    assert run_in(loop, way_to_server) == b"reno"


@on_both_loops
@pytest.mark.usefixtures("paced")
@pytest.mark.skipif(not has_ipv6(), reason="no ::1 here: `sysctl net.ipv6.conf.lo.disable_ipv6=0` enables it")
def test_nor_is_one_over_ipv6(loop: str) -> None:
    assert run_in(loop, lambda: way_to_server("::1")) == b"reno"


@on_both_loops
def test_where_the_system_paces_nothing_a_connection_is_as_the_system_is_set(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PACING", frozenset[bytes]())
    assert run_in(loop, way_to_server) == way_of_system()


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::12", "::ffff:127.0.0.1"])
@pytest.mark.usefixtures("paced")
def test_connections_to_other_hosts_are_left_as_they_are(address: str) -> None:
    assert unpaced_socket(address) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "::1"])
@pytest.mark.usefixtures("paced")
def test_every_address_of_this_host_is_meant(address: str) -> None:
    plain = unpaced_socket(address)
    assert plain is not None
    with plain:
        assert way_of(plain) == b"reno"
        assert plain.family == (socket.AF_INET6 if ":" in address else socket.AF_INET)


@on_both_loops
@pytest.mark.usefixtures("paced")
def test_nobody_there_is_told_as_on_any_other_connection(loop: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        before = open_files()
        with pytest.raises(DestinationUnreachable):
            run_in(loop, lambda: dialled(port))
        assert open_files() <= before


@on_both_loops
@pytest.mark.usefixtures("paced")
def test_a_host_that_does_not_answer_is_given_up_and_leaves_nothing(loop: str) -> None:
    async def run() -> None:
        with full_backlog() as port:
            before = open_files()
            with pytest.raises(DestinationTimeout):
                await dialled(port, seconds=0.2)
            assert open_files() <= before

    run_in(loop, run)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port that takes no further connection, and refuses none."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
