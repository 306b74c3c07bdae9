"""The fault proxy does what the tests that use it believe."""

import asyncio

import pytest

from tests.support.fault_proxy import FaultProxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1024):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def test_bytes_pass_wait_while_frozen_and_go_on_after_thaw() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, FaultProxy(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.freeze()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.2)
        proxy.thaw()
        assert await reader.readexactly(3) == b"two"
        writer.close()


async def test_cut_connection_is_reset_and_refused_ones_get_nothing() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, FaultProxy(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        proxy.refuse()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        proxy.allow()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        writer.close()


async def test_one_bit_of_one_byte_flips_on_its_way_there_and_none_on_its_way_back() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, FaultProxy(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.flip(after=4)
        for sent, got in ((b"012", b"012"), (b"345", b"3$5"), (b"678", b"678")):
            writer.write(sent)
            assert await reader.readexactly(3) == got
        writer.close()
