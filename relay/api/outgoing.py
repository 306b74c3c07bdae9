"""The answer's way out: ASGI ``send``, refusals with their bounded discard, answers that are cut.

An answer whose last message is never sent is cut: the server closes the connection, and the client can
see that the answer is not whole.
"""

import asyncio
from collections.abc import Iterable

from starlette.types import Message, Send

from relay.api.incoming import Incoming
from relay.api.problems import problem
from relay.errors import ClientTooSlow, FramingInvalid, HeadTooLarge, RelayError
from relay.protocols.header_rules import Field, answer_fields
from relay.settings import RefusalSettings
from relay.telemetry import RequestContext

SEND_SECONDS = 60.0
CLOSE: Field = (b"connection", b"close")


class Outgoing:
    """One answer to one request; keeps the promise of ``uploads/answer.py``."""

    def __init__(self, send: Send, incoming: Incoming, context: RequestContext, refusal: RefusalSettings) -> None:
        self._send = send
        self._incoming = incoming
        self._context = context
        self._refusal = refusal
        self.is_started = False
        self.sent_bytes = 0

    async def start(self, status: int, headers: Iterable[Field], length: int | None, *, close: bool) -> None:
        """Send the head of a destination's answer, its fields by rule; ``length`` is in bytes.

        Raises:
            TimeoutError: the client does not take the answers of its earlier requests.
        """
        await self._start(status, answer_fields(headers), length, close=close)

    async def _start(self, status: int, fields: list[Field], length: int | None, *, close: bool) -> None:
        if length is not None and status not in {204, 304}:
            fields.append((b"content-length", b"%d" % length))
        if close:
            fields.append(CLOSE)
        self.is_started = True
        await self._tell({"type": "http.response.start", "status": status, "headers": fields})

    async def send(self, chunk: bytes) -> None:
        """Send a piece that is not the last.

        Raises:
            TimeoutError: the client does not take it.
        """
        await self._tell({"type": "http.response.body", "body": chunk, "more_body": True})
        self.sent_bytes += len(chunk)

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last piece; throw away what is left of the body, within the bounds; finish the answer.

        The connection of a body that is still going after the bounds is cut, not kept, and so is that of a client that takes nothing.
        """
        try:
            await self._end(chunk)
        except TimeoutError:
            return

    async def _end(self, chunk: bytes) -> None:
        if self._incoming.is_whole:
            self.sent_bytes += len(chunk)
            await self._finish(chunk)
            return
        await self.send(chunk)
        is_clean = await self._incoming.discard(
            most_bytes=self._refusal.discard_bytes, seconds=self._refusal.discard_seconds.total_seconds()
        )
        if is_clean or self._incoming.awaits_continue:
            await self._finish(b"")

    async def _finish(self, chunk: bytes) -> None:
        await self._tell({"type": "http.response.body", "body": chunk, "more_body": False})

    async def _tell(self, message: Message) -> None:
        exchange = self._incoming.exchange
        if exchange is not None and exchange.is_writable:
            await self._send(message)
            return
        async with asyncio.timeout(SEND_SECONDS):
            await self._send(message)

    async def refuse(self, error: RelayError) -> None:
        """Answer with a problem, or cut an answer that has begun."""
        self._context.code = error.code
        if self.is_started:
            return
        refusal = problem(error, request_id=self._context.request_id)
        is_hopeless = isinstance(error, FramingInvalid | HeadTooLarge | ClientTooSlow)
        close = is_hopeless or not self._incoming.can_discard(self._refusal.discard_bytes)
        try:
            await self._start(refusal.status, refusal.headers, len(refusal.body), close=close)
        except TimeoutError:
            return
        await self.end(refusal.body)

    async def client_left(self) -> bool:
        """True when the client is known to be gone."""
        return await self._incoming.has_left()
