"""The files of a form, one after another, out of a request's body while it comes.

A file is read to its end before the next one begins; nothing of it is held. Whatever breaks, the form or the
body, raises out of the file that is being read and out of every reading after it: a file that ended was whole, and a form
whose ``files`` ended was whole to the last byte of its body. Only then may anything of it be made visible.

Small pieces are joined before they are parsed, so a form that comes byte by byte costs no more than its bytes.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Self

from relay.destinations.destination import Body
from relay.errors import RelayError
from relay.protocols.form import FileHead, FormEvent, FormParser
from relay.settings import FormSettings
from relay.wire.pieces import Piece, views_of

JOINED_BYTES: Final = 8 << 10


class FormReader:
    """One pass over the form that a body holds."""

    def __init__(self, body: Body, content_type: str, limits: FormSettings) -> None:
        """Begin; the body is not asked for anything yet.

        Raises:
            FormInvalid: the type is no form's, or has no good boundary.
        """
        self._body = body
        self._parser = FormParser(content_type, limits)
        self._events: Iterator[FormEvent] = iter(())
        self._part: FilePart | None = None
        self._joined = bytearray()
        self._chunk = b""
        self._has_ended = False
        self._fault: RelayError | None = None

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values of the plain fields seen so far, in their order; all of them when ``files`` has ended."""
        return self._parser.fields

    def files(self) -> Self:
        """The files as they come, each once."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "FilePart":
        """The next file. What was not read of the one before is skipped.

        Ends with the body, not before: what follows the form is read and dropped.

        Raises:
            FormInvalid: the form is malformed, cut off, or more than the limits permit.
            RelayError: whatever the body raises.
        """
        if self._part is not None:
            async for _ in self._part:
                pass
        while (event := await self._next()) is not None:
            if isinstance(event, FileHead):
                self._part = FilePart(self._next, event)
                return self._part
        raise StopAsyncIteration

    async def _next(self) -> FormEvent | None:
        """The next event; ``None`` behind the last."""
        if self._fault is not None:
            raise self._fault
        try:
            while (event := next(self._events, None)) is None and not self._has_ended:
                self._events = await self._read()
        except RelayError as error:
            self._fault = error
            raise
        return event

    async def _read(self) -> Iterator[FormEvent]:
        has_ended = False if self._chunk else await self._body.pour(self._keep)  # a chunk is left where a reading was cancelled
        chunk = self._chunk or bytes(self._joined)
        self._chunk = b""
        self._joined.clear()
        if has_ended:
            return self._last(chunk)
        return self._parser.feed(chunk)

    def _last(self, chunk: bytes) -> Iterator[FormEvent]:
        yield from self._parser.feed(chunk)
        self._parser.end()
        self._has_ended = True

    def _keep(self, piece: Piece) -> int:
        """Take a piece of the body; 0 when there is enough to parse. The one copy that a byte of a large piece sees here."""
        if not self._joined and len(piece) >= JOINED_BYTES:
            self._chunk = bytes(piece)
            return 0
        for view in views_of(piece):
            self._joined += view
        return max(0, JOINED_BYTES - len(self._joined))


class FilePart:
    """One file of a form: ``field`` is its part's name, ``filename`` one segment of a path. Iterating yields its bytes, once."""

    def __init__(self, read: Callable[[], Awaitable[FormEvent | None]], head: FileHead) -> None:
        self.field = head.field
        self.filename = head.filename
        self.content_type = head.content_type
        self._read = read
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes; never empty. Raises, and never ends, when the form or the body breaks."""
        if self._has_ended:
            raise StopAsyncIteration
        event = await self._read()
        if isinstance(event, bytes):
            return event
        self._has_ended = True
        raise StopAsyncIteration
