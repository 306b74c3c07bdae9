"""Digests of an object and of its parts, taken while it passes, in threads of their own.

The digests of an object are taken in its order by one job at a time, whatever thread runs it; a job takes a bounded
number of bytes, so that the threads are shared out among the objects. Nothing is copied: what is fed must not change.
"""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from crc32c import crc32c
from cryptography.hazmat.primitives.hashes import MD5, Hash

from relay.destinations.parts import OwnedPiece
from relay.protocols.crc import join_crc32c

JOB_BYTES: Final = 4 << 20
"""A job is begun once there are so many bytes, or no more to come: waking a thread is what a job costs."""
INLINE_BYTES: Final = 64 << 10
"""Fewer bytes than this take less time than a thread would take to begin."""

THREADS_MOST: Final = 4


class PartDigests:
    """The digests of one part; complete once ``ObjectDigests.reach`` says so."""

    def __init__(self, *, is_signed: bool) -> None:
        self._sha256 = hashlib.sha256() if is_signed else None
        self._is_first = False
        self.crc32c = 0
        self.size = 0

    @property
    def sha256(self) -> str | None:
        """SHA-256 in hex, where it is wanted to sign the part."""
        return None if self._sha256 is None else self._sha256.hexdigest()

    def begin_whole(self, sha256: "hashlib._Hash") -> None:
        """It is the object's first part, whose SHA-256 is that of the object so far: it is taken once, by the object."""
        self._is_first = True
        if self._sha256 is not None:
            self._sha256 = sha256

    def update(self, piece: OwnedPiece) -> None:
        """Take the next bytes."""
        self.crc32c = crc32c(piece, self.crc32c)
        self.size += len(piece)
        if self._sha256 is not None and not self._is_first:
            self._sha256.update(piece)


Md5Job = concurrent.futures.Future[str]
_Job = concurrent.futures.Future[int]


class DigestThreads:
    """The threads of a process that take digests."""

    def __init__(self) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(min(THREADS_MOST, os.cpu_count() or 1), thread_name_prefix="digests")

    def open(self) -> "ObjectDigests":
        """The digests of one object."""
        return ObjectDigests(self._executor)

    def start_md5(self, pieces: Sequence[OwnedPiece]) -> Md5Job:
        """Begin to take the MD5 of what a store does not check otherwise: only its own ETag is compared with it."""
        return self._executor.submit(_md5, pieces)

    async def md5(self, pieces: Sequence[OwnedPiece], started: Md5Job | None = None) -> str:
        """The same in hex, now or when it is done, if it was started."""
        job = started or self.start_md5(pieces)
        return job.result() if job.done() else await asyncio.wrap_future(job)

    def shutdown(self) -> None:
        """Let the threads go."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class ObjectDigests:
    """The digests of one object."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self._sha256 = hashlib.sha256()
        self._crc32c = 0
        self._first: PartDigests | None = None
        self._last: PartDigests | None = None
        self._is_past_first = False
        self._fed: deque[tuple[PartDigests, OwnedPiece]] = deque()
        self._fed_bytes = 0
        self._done_bytes = 0
        self._failure: BaseException | None = None
        self._job: _Job | None = None
        self._news = asyncio.Event()

    @property
    def sha256(self) -> str:
        """SHA-256 of the object, in hex."""
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        """CRC-32C of the object, in hex."""
        last = self._last
        return f"{self._crc32c if last is None else join_crc32c(self._crc32c, last.crc32c, last.size):08x}"

    def feed(self, part: PartDigests, pieces: Sequence[OwnedPiece]) -> None:
        """These bytes come next; they belong to this part. They do not change until they are digested."""
        for piece in pieces:
            self._fed.append((part, piece))
            self._fed_bytes += len(piece)
        if self._job is None and self._fed_bytes - self._done_bytes >= JOB_BYTES:
            self._start()

    async def reach(self) -> None:
        """Wait until all that was fed so far is digested."""
        target = self._fed_bytes
        while self._done_bytes < target:
            if self._failure is not None:
                raise self._failure
            if self._job is None and target - self._done_bytes < INLINE_BYTES:
                self._done_bytes += self._digest(self._take_some())
            else:
                if self._job is None:
                    self._start()
                self._news.clear()
                await self._news.wait()

    def drop(self) -> None:
        """Digest nothing more of it; nobody reaches the end any more."""
        self._fed.clear()
        self._failure = self._failure or asyncio.CancelledError()

    def _take_some(self) -> list[tuple[PartDigests, OwnedPiece]]:
        taken, size = [], 0
        while self._fed and size < JOB_BYTES:
            taken.append(self._fed.popleft())
            size += len(taken[-1][1])
        return taken

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._job = self._executor.submit(self._digest, self._take_some())
        self._job.add_done_callback(partial(_tell, loop, self._end))

    def _end(self, job: _Job) -> None:
        self._job = None
        if job.cancelled() or (failure := job.exception()) is not None:
            self._failure = asyncio.CancelledError() if job.cancelled() else failure
        else:
            self._done_bytes += job.result()
            if self._fed:
                self._start()
        self._news.set()

    def _digest(self, work: list[tuple[PartDigests, OwnedPiece]]) -> int:
        size = 0
        for part, piece in work:
            if self._first is None:
                self._first = part
                part.begin_whole(self._sha256)
            elif part is not self._first and not self._is_past_first:
                self._is_past_first = True
                self._sha256 = self._sha256.copy()  # the first part keeps what it has
            if part is not self._last:
                if self._last is not None:
                    self._crc32c = join_crc32c(self._crc32c, self._last.crc32c, self._last.size)
                self._last = part
            part.update(piece)
            self._sha256.update(piece)
            size += len(piece)
        return size


def _tell(loop: asyncio.AbstractEventLoop, end: Callable[[_Job], None], job: _Job) -> None:
    """Have the loop told of a job, by the thread that has done it. A loop that has ended needs no telling."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end, job)


def _md5(pieces: Sequence[OwnedPiece]) -> str:
    digest = Hash(MD5())  # noqa: S303 - what ETags are made of
    for piece in pieces:
        digest.update(piece)
    return digest.finalize().hex()
