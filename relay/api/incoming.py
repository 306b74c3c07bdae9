"""ASGI ``receive`` → the client's bytes; the client's disconnect → ClientGone."""

import asyncio
from typing import NamedTuple, NoReturn

from starlette.types import Receive, Scope

from relay.errors import BodyIncomplete, ClientGone, RelayError
from relay.protocols.header_rules import Field, Framing, check_size, parse_framing
from relay.wire.exchange import EXTENSION, Exchange, Poured
from relay.wire.pieces import Take


class Head(NamedTuple):
    """The head of a request as the server parsed it."""

    method: str
    raw_path: bytes
    query: bytes
    headers: list[Field]
    http_version: str
    exchange: Exchange | None
    """What the server of our own tells beside; ``None`` under another one."""

    @classmethod
    def of(cls, scope: Scope) -> "Head":
        """Read the head out of an ASGI scope."""
        return cls(
            method=scope["method"],
            raw_path=scope["raw_path"],
            query=scope["query_string"],
            headers=scope["headers"],
            http_version=scope["http_version"],
            exchange=scope.get("extensions", {}).get(EXTENSION),
        )

    def framing(self) -> Framing:
        """Read how the body is framed, where the server has not.

        Raises:
            FramingInvalid: it could be read in two ways.
            HeadTooLarge: as its name says.
        """
        if self.exchange is not None:
            return self.exchange.framing
        check_size(self.headers)
        return parse_framing(self.headers, self.http_version)


class Incoming:
    """The body's bytes as they come from the server. Nothing is asked for before the first ``read``."""

    def __init__(self, receive: Receive, framing: Framing, exchange: Exchange | None) -> None:
        self._receive = receive
        self.exchange = exchange
        self.framing = framing
        self._read_bytes = 0
        self._has_ended = framing.length == 0
        self._is_gone = False
        self._is_asked = False
        self.fault: RelayError | None = None
        """Why the body broke, where the client can still be told: it may have closed its sending side only."""

    async def read(self) -> bytes | None:
        """Read what has come, maybe nothing yet; ``None`` at the end.

        Raises:
            ClientGone: the client closed the connection first.
            ClientFault: the body cannot become whole any more; the client can still be told.
        """
        if self._has_ended:
            return None
        self._is_asked = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._part(message.get("fault"))
        body: bytes = message.get("body", b"")
        self._read_bytes += len(body)
        if not message.get("more_body", False):
            self._has_ended = True
            return body or None
        return body

    def _part(self, fault: RelayError | None) -> NoReturn:
        """Say that no more comes."""
        self.fault = fault
        if fault is not None and not isinstance(fault, BodyIncomplete):
            raise fault
        self._is_gone = True
        raise ClientGone

    async def pour(self, take: Take) -> bool:
        """Give each piece to ``take`` as it comes, until it says that it takes no more; true when the body has ended.

        Raises:
            ClientGone, ClientFault: as ``read``.
        """
        if self.exchange is None:
            return await self._pour_messages(take)
        self._is_asked = True
        poured = await self.exchange.pour(take)
        if poured is Poured.BROKEN:
            self._part(self.exchange.fault)
        self._has_ended = poured is Poured.ENDED
        return self._has_ended

    async def _pour_messages(self, take: Take) -> bool:
        while (piece := await self.read()) is not None:
            if piece and not take(piece):
                return False
        return True

    @property
    def _rest_bytes(self) -> int | None:
        come = self._read_bytes if self.exchange is None else self.exchange.received_bytes
        return None if self.framing.length is None else self.framing.length - come

    @property
    def is_whole(self) -> bool:
        """True once nothing of the body is left to come."""
        return self._has_ended or self.is_at_hand or self._rest_bytes == 0

    @property
    def awaits_continue(self) -> bool:
        """True while the client waits for a 100 that was not sent."""
        return self.framing.expects_continue and not self._is_asked

    @property
    def is_at_hand(self) -> bool:
        """True when the whole body has come, read or not."""
        return self.exchange is not None and self.exchange.is_whole

    def can_discard(self, most_bytes: int) -> bool:
        """True when the rest of the body is known to be short enough to throw away and keep the connection."""
        rest = self._rest_bytes
        return self.is_whole or (not self.awaits_continue and rest is not None and rest <= most_bytes)

    async def discard(self, *, most_bytes: int, seconds: float) -> bool:
        """Read the rest and throw it away, within both bounds; true when the body ended within them."""
        if self.awaits_continue:
            return False
        try:
            async with asyncio.timeout(seconds):
                while not self.is_whole and most_bytes > 0:
                    most_bytes -= len(await self.read() or b"")
        except (TimeoutError, ClientGone):
            return False
        return self.is_whole

    async def has_left(self) -> bool:
        """True when the client is known to be gone. Does not wait; asked only once the body is whole."""
        if self.exchange is not None:
            return self.exchange.has_left
        while not self._is_gone:
            asking = asyncio.ensure_future(self._receive())
            await asyncio.sleep(0)
            if not asking.done():
                asking.cancel()
                return False
            message = asking.result()
            self._is_gone = message["type"] == "http.disconnect"
            if not self._is_gone and message.get("body"):
                return False
        return True
