"""The socket at which a worker answers the other processes of its host: what runs here, and end this one.

Whoever connects must be this user or root: the folder's mode sees to it, and where the system tells the peer's user it
is asked, too. Every question is bounded in size and time, and so is the number of those who ask at once: nothing that is
sent here can hold this worker up. What is not understood is answered by closing the connection.
"""

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Self

from relay.uploads.live_folder import LiveFolder
from relay.uploads.questions import END, QUESTION_BYTES, CutAnswer, CutQuestion, ListQuestion, parse_question, upload_line
from relay.uploads.running import Running

logger = logging.getLogger(__name__)

ASKING_MOST: Final = 64
QUESTION_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0
PIECE_BYTES: Final = 64 << 10
_CREDENTIALS: Final = struct.Struct("3i")


class LiveSocket:
    """The listening socket of one worker; made by ``open``, removed by ``close``."""

    def __init__(self, folder: LiveFolder, worker: str, running: Running) -> None:
        self._folder = folder
        self._worker = worker
        self._running = running
        self._asking: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, folder: LiveFolder, worker: str, running: Running) -> Self:
        """Listen. A worker that cannot says so, and goes on: only the others' listings miss what runs in it."""
        opened = cls(folder, worker, running)
        try:
            listening = folder.listen(worker)
        except OSError as error:
            fields = {"folder": str(folder.path), "reason": error.strerror or str(error)}
            logger.warning("other workers cannot ask this one for its running uploads", extra={"fields": fields})
            return opened
        opened._server = await _serve(opened._accept, listening)
        return opened

    async def close(self) -> None:
        """Listen no more, and end every conversation."""
        self._folder.remove(self._worker)
        if self._server is not None:
            self._server.close()
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._asking) >= ASKING_MOST or not _is_permitted(writer.get_extra_info("socket")):
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer), name="live question")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                line = await reader.readline()
            await self._answer(line, writer)
            writer.close()
        except (ValueError, OSError):  # no question, too long a one, too slow a one (TimeoutError), or nobody there any more
            pass
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        match parse_question(line):
            case ListQuestion() as question:
                lines = (upload_line(upload) for upload in self._running.list_uploads(question.wanted))
                async with asyncio.timeout(ANSWER_SECONDS):
                    await _write(writer, lines)
            case CutQuestion() as question:
                if time.monotonic() > question.until:
                    return
                writer.write(CutAnswer(cut=None).line())
                is_cut = await self._running.cut(question.upload_id)
                writer.write(CutAnswer(cut=is_cut).line())


async def _serve(accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], listening: socket.socket) -> asyncio.Server:
    if sys.version_info >= (3, 13):  # it would clean up by the name that the socket was bound to
        return await asyncio.start_unix_server(accept, sock=listening, limit=QUESTION_BYTES, cleanup_socket=False)
    return await asyncio.start_unix_server(accept, sock=listening, limit=QUESTION_BYTES)


async def _write(writer: asyncio.StreamWriter, lines: Iterable[bytes]) -> None:
    """Write the lines piece by piece: a peer that reads slowly makes nobody hold the whole answer."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= PIECE_BYTES:
            writer.write(bytes(piece))
            piece.clear()
            await writer.drain()
    writer.write(bytes(piece) + END)
    await writer.drain()


def _is_permitted(peer: Any) -> bool:
    """True for processes of this user and of root, where the system tells whose they are; else the folder's mode has said it."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    with suppress(OSError):
        _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
        return user in {0, os.geteuid()}
    return False
