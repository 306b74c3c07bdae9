"""The way back to the client, as the story sees it; the edge keeps the promise (``api/outgoing.py``)."""

from collections.abc import Iterable
from typing import Protocol


class Answer(Protocol):
    """One answer to one request. What was not ended is cut: the client can see that it is not whole."""

    @property
    def is_started(self) -> bool:
        """True once the head was sent."""
        ...

    @property
    def sent_bytes(self) -> int:
        """Body bytes sent so far."""
        ...

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None, *, close: bool) -> None:
        """Send the head; ``length`` is the body's length in bytes, ``close`` ends the connection afterwards.

        Raises:
            TimeoutError: the client does not take what was sent before.
        """
        ...

    async def send(self, chunk: bytes) -> None:
        """Send a piece that is not the last.

        Raises:
            TimeoutError: the client does not take it.
        """
        ...

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last piece and finish the answer."""
        ...

    async def client_left(self) -> bool:
        """True when the client is known to be gone."""
        ...
