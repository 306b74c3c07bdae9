"""The promise of a place that keeps objects: a bucket, a container, a folder.

``store.py`` is the story of an upload to such a place and knows no kind of store; a kind knows how one object is
written there, and nothing of requests, forms or templates. Adding a kind is a class that keeps this promise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from relay.destinations.destination import Finding
from relay.wire.pieces import Piece, Room

WORD_LONGEST: Final = 1_024
"""The answer to a form holds the words of its store a thousand times."""


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that is to be made.

    ``key`` is relative to the destination's prefix, in plain text, judged already: no empty, dot or control segments.
    ``declared_bytes`` is its size where that is known before. ``fields`` are header fields to be kept with it, by lower-case
    name: content-type, content-disposition, content-encoding, content-language, cache-control. ``metadata`` are the client's
    own pairs, names of letters, digits and hyphens in lower case, values in printable ASCII.
    """

    key: str
    declared_bytes: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """What a store says of an object that it has made visible; ``None`` where it says nothing, or more than anybody would keep."""

    etag: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        for name in ("etag", "version"):
            if len(getattr(self, name) or "") > WORD_LONGEST:
                object.__setattr__(self, name, None)


class ObjectWriter(Protocol):
    """One object on its way. Calls come one at a time: open, (ready, take…)…, seal, publish; discard may follow any of them."""

    @property
    def size(self) -> int:
        """Bytes written."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hex. Meant to be asked after ``seal``."""
        ...

    @property
    def crc32c(self) -> str:
        """CRC-32C of what was written, in hex. Meant to be asked after ``seal``."""
        ...

    async def open(self) -> None:
        """Say, before the first byte is asked for, what can be known of the object's fate. May do nothing.

        Raises:
            ObjectExists: the key is taken and the destination refuses to replace.
            PathInvalid: the store does not take such a key.
            DependencyFault: the store cannot be reached, or refuses.
        """
        ...

    def take(self, piece: Piece) -> Room:
        """Take the next bytes, all of them, or a copy; returns for how many more there is room: with 0, ``ready`` is to be asked first."""
        ...

    async def ready(self) -> None:
        """Wait until there is room for more. To be asked before the first bytes, too.

        Raises:
            DependencyFault: the store cannot be reached, refuses, or is too slow.
        """
        ...

    async def seal(self) -> None:
        """All bytes are written: wait until the store has them. The object is not visible yet, and holds no memory to speak of.

        Raises:
            DependencyFault: as ``ready``.
        """
        ...

    async def publish(self) -> Published:
        """Make the object visible, durable and whole, at once or not at all.

        Raises:
            ObjectExists: the key is taken and the destination refuses to replace.
            DependencyFault: as ``ready``; or what the store says it has is not what was sent.
        """
        ...

    async def discard(self) -> Published | None:
        """Leave nothing behind. Harmless twice, and after a publication; never raises, and ends within a bounded time.

        Returns what is visible all the same: a publication that was given up on its way may have come to its end.
        """
        ...


class ObjectStore(Protocol):
    """One destination's place. Safe for any number of objects at once."""

    def check_key(self, key: str) -> None:
        """Refuse a key that this kind of store cannot keep.

        Raises:
            PathInvalid: says why.
        """
        ...

    def begin(self, new: NewObject) -> ObjectWriter:
        """Begin an object. Nothing is done before the writer is opened."""
        ...

    async def check(self) -> Finding:
        """Write a probe, read it back, remove it; say what is missing."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...
