"""The other workers of this host, as one of them or a command asks them: all at once, each for a bounded time.

One that is stopped, too busy, or of a release that speaks otherwise is *unreachable*; it delays nobody by more than
``PATIENCE_SECONDS``. One that is gone is not counted: its uploads went with it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from relay.errors import WorkerUnreachable
from relay.uploads.live_folder import LiveFolder
from relay.uploads.questions import ANSWER_LINE_BYTES, END, CutQuestion, ListQuestion, parse_cut, parse_upload
from relay.uploads.running import ENDING_SECONDS, RunningUpload

PATIENCE_SECONDS: Final = 1.0
ANSWER_BYTES: Final = 8 << 20
"""The longest answer that is read of one worker: five hundred uploads with the longest paths."""
ASKED_AT_ONCE: Final = 32
CUT_SECONDS: Final = ENDING_SECONDS + 2 * PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Answers:
    """What the siblings have answered; ``unreachable`` says how many did not."""

    uploads: tuple[RunningUpload, ...]
    unreachable: int


class Siblings:
    """The workers whose sockets lie in a folder, but for ``own``."""

    def __init__(self, folder: LiveFolder, own: str | None = None) -> None:
        self._folder = folder
        self.own = own
        self._turns = asyncio.Semaphore(ASKED_AT_ONCE)

    @property
    def workers(self) -> list[str]:
        """Those that have a socket, living or not."""
        return [worker for worker in self._folder.workers() if worker != self.own]

    async def list_uploads(self, question: ListQuestion) -> Answers:
        """Ask everybody for their running uploads."""
        answers = await asyncio.gather(*(self._list_of(worker, question) for worker in self.workers))
        uploads = tuple(upload for answer in answers if answer is not None for upload in answer)
        return Answers(uploads, sum(answer is None for answer in answers))

    async def cut(self, worker: str, upload_id: str) -> bool:
        """Have a worker end an upload; false if it ended by itself, or with its worker.

        Raises:
            WorkerUnreachable: it did not take the question, and will not act on it later.
            TimeoutError: it took the question, and what became of it is unknown.
        """
        question = CutQuestion(upload_id=upload_id, until=time.monotonic() + PATIENCE_SECONDS)
        is_taken = False
        try:
            async with self._connected(worker, CUT_SECONDS) as streams:
                if streams is None:
                    return False
                reader, writer = streams
                writer.write(question.line())
                async with asyncio.timeout(PATIENCE_SECONDS * 1.5):  # longer than it may take the question
                    is_taken = parse_cut(await reader.readline()) is None
                return parse_cut(await reader.readline()) is True
        except (OSError, ValueError):
            raise (TimeoutError if is_taken else WorkerUnreachable) from None

    async def _list_of(self, worker: str, question: ListQuestion) -> list[RunningUpload] | None:
        try:
            async with self._turns, self._connected(worker, PATIENCE_SECONDS) as streams:
                if streams is None:
                    return []
                reader, writer = streams
                writer.write(question.line())
                return [replace(upload, worker=worker) for upload in await _read_uploads(reader, question.limit)]
        except (OSError, ValueError):  # TimeoutError is an OSError
            return None

    @asynccontextmanager
    async def _connected(self, worker: str, seconds: float) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
        """Talk to a worker, at most so long; ``None`` when it is gone."""
        connection = self._folder.connect(worker)
        if connection is None:
            yield None
            return
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=ANSWER_LINE_BYTES)
            try:
                yield reader, writer
            finally:
                writer.transport.abort()


async def _read_uploads(reader: asyncio.StreamReader, most: int) -> list[RunningUpload]:
    """Read the lines of a listing to its end.

    Raises:
        ValueError: it is no listing, or larger than any may be.
    """
    uploads: list[RunningUpload] = []
    taken = 0
    while (line := await reader.readline()) != END:
        taken += len(line)
        if len(uploads) >= most or taken > ANSWER_BYTES:
            raise ValueError("the answer is too long")
        uploads.append(parse_upload(line))
    return uploads
