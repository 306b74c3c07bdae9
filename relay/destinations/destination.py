"""The promise every destination keeps; ``tests/contract`` is its other half.

A destination takes one item and its body and gives back a delivery: the answer, while it is being
given, and the promise of a receipt. It never learns which protocol the client speaks, and it never
decides what the client did: a broken body raises out of the iteration and ends the delivery.

All or nothing: an object is visible whole or not at all; an upstream request whose body breaks is cut
and never ended cleanly. Nothing of a delivery runs on after its context has been left.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from relay.wire.pieces import Take


@dataclass(frozen=True, slots=True)
class DestinationSpec:
    """A destination as it is configured. ``sealed`` holds its credentials, encrypted; ``version`` changes with every edit."""

    id: UUID
    tenant: str
    name: str
    kind: str
    config: Mapping[str, Any]
    sealed: bytes | None = field(repr=False)
    secret_names: tuple[str, ...]
    created_at: datetime
    version: datetime


Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One finished thing in a store. ``size`` is in bytes, ``sha256`` in hex; ``version`` is that of a store that keeps several."""

    key: str
    size: int
    content_type: str | None
    filename: str | None
    field: str | None
    sha256: str
    etag: str | None
    version: str | None = None


class Item(NamedTuple):
    """What is being delivered.

    ``path`` is the percent-encoded rest of the client's path after the route's mapping, without a
    leading slash; ``segments`` the same, percent-decoded. ``query`` is raw, without the question mark.
    ``headers`` are those of the request that may be passed on, in their order. ``landed`` is filled while it is being
    delivered: what a store has made visible of it, also where the rest fails.
    """

    upload_id: str
    tenant: str
    method: str
    path: bytes
    segments: tuple[str, ...]
    query: bytes
    headers: Headers
    declared_bytes: int | None
    content_type: str | None
    landed: list[StoredObject]


class Body(Protocol):
    """All that a destination sees of a request's body."""

    @property
    def declared_bytes(self) -> int | None: ...

    @property
    def is_at_hand(self) -> bool:
        """True when all of it has come: taking it waits for nothing."""
        ...

    @property
    def is_claimed(self) -> bool:
        """True when its digest was claimed: it may turn out to be wrong with its last byte."""
        ...

    def leave_digests(self, names: Collection[str]) -> None:
        """Say, before any of it is taken, which digests whoever takes it takes for the receipt: once is enough. They must be judged."""
        ...

    def judge(self, taken: Mapping[str, bytes]) -> None:
        """Compare them with what was claimed of the body; nothing of it may be visible before.

        Raises:
            DigestMismatch: it is not the one that was claimed.
        """
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's chunks once. Raises, and never ends, when the body breaks."""
        ...

    async def pour(self, take: Take) -> bool:
        """The same without waiting between chunks: give each to ``take`` as it comes, until it says that it takes no more.

        True at the end of the body. Raises when the body breaks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What can be proved of a finished delivery: bytes handed over, digests in hex of the body, objects made, plain fields of a form."""

    bytes: int
    digests: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[StoredObject, ...] = ()
    fields: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``check`` found: ok, or a code of the error tree and what to do."""

    ok: bool
    code: str | None
    detail: str


class Delivery(Protocol):
    """A destination's answer while it is being given."""

    @property
    def status(self) -> int:
        """The final status. A store says 201, after publishing."""
        ...

    @property
    def headers(self) -> Headers:
        """The answer's fields as the destination sent them, framing and hop-by-hop fields included."""
        ...

    @property
    def answer_bytes(self) -> int | None:
        """The answer's declared length in bytes, ``None`` when unknown."""
        ...

    @property
    def is_settled(self) -> bool:
        """True once nothing can go wrong any more. A store is settled on entering."""
        ...

    @property
    def is_body_taken(self) -> bool:
        """True once the whole body was handed over."""
        ...

    def answer(self) -> AsyncIterator[bytes]:
        """Yield the answer's body once.

        Raises:
            DependencyFault: the answer broke off or came too slowly.
        """
        ...

    async def settled(self) -> Receipt:
        """Wait until the whole body was taken and the whole answer seen.

        Raises:
            DependencyFault: the destination did not take the whole body.
        """
        ...


class Destination(Protocol):
    """Where one tenant's bytes go. Safe for any number of deliveries at once."""

    def check_item(self, item: Item) -> None:
        """Refuse, before anything is begun, what can be known to be undeliverable from the item alone.

        Raises:
            ClientFault: the destination does not take such an item.
            DestinationBusy: it takes nothing more at the moment.
        """
        ...

    def deliver(self, item: Item, body: Body) -> AbstractAsyncContextManager[Delivery]:
        """Deliver the item; entering returns with the answer's head.

        Leaving stops both directions; a delivery that has not settled by then is aborted.

        Raises:
            ClientFault: the destination does not take such an item (nothing was delivered).
            DependencyFault: the destination could not be reached, broke, or was too slow.
        """
        ...

    async def check(self) -> Finding:
        """Say whether the destination is reachable, permitted and writable. Leaves nothing behind."""
        ...

    async def close(self) -> None:
        """Release what the destination holds (connections); deliveries under way are not waited for."""
        ...
