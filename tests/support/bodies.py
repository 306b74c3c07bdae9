"""Items and bodies as a destination sees them, without a client or a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from urllib.parse import quote
from uuid import uuid4

from relay.destinations.destination import Headers, Item
from relay.wire.pieces import Take


def make_item(
    path: str = "photos/cat.jpg",
    *,
    declared_bytes: int | None = None,
    content_type: str | None = "application/octet-stream",
    headers: Headers = (),
    segments: tuple[str, ...] | None = None,
    method: str = "POST",
    query: bytes = b"",
) -> Item:
    """An item for this path; ``segments`` says them outright, for what no path can express."""
    parts = tuple(path.split("/")) if segments is None else segments
    raw = "/".join(quote(part, safe="", errors="surrogatepass") for part in parts)
    return Item(str(uuid4()), "acme", method, raw.encode(), parts, query, headers, declared_bytes, content_type, [])


class ScriptedBody:
    """A body of given chunks, which may fail, wait at a gate, and tells whether it was asked for anything."""

    is_at_hand = False
    is_claimed = False

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        declared_bytes: int | None = None,
        fault: BaseException | None = None,
        gate: asyncio.Event | None = None,
    ) -> None:
        self._chunks = chunks
        self.declared_bytes = declared_bytes
        self._fault = fault
        self._gate = gate
        self.given_bytes = 0
        self.is_asked = False
        self.has_given_all = asyncio.Event()
        self._poured: AsyncIterator[bytes] | None = None

    def leave_digests(self, names: Collection[str]) -> None:
        """It takes none anyway."""

    def judge(self, taken: Mapping[str, bytes]) -> None:
        """Nothing was claimed."""

    async def pour(self, take: Take) -> bool:
        """Give the chunks away until ``take`` says that it takes no more; true at the end."""
        self._poured = self._poured or aiter(self)
        async for chunk in self._poured:
            if not take(chunk):
                return False
        return True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_asked = True
        for chunk in self._chunks:
            self.given_bytes += len(chunk)
            yield chunk
            await asyncio.sleep(0)
        self.has_given_all.set()
        if self._gate is not None:
            await self._gate.wait()
        if self._fault is not None:
            raise self._fault


Read = Callable[[], Awaitable[bytes | None]]


class SourceOf:
    """What a request's body reads from, made of one function."""

    is_at_hand = False

    def __init__(self, read: Read) -> None:
        self._read = read

    async def pour(self, take: Take) -> bool:
        """Give what the function gives."""
        while (chunk := await self._read()) is not None:
            if not take(chunk):
                return False
        return True
